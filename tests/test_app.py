"""The server of the web page: what it answers, whom it refuses, and that it keeps nothing."""

from __future__ import annotations

import base64
import gzip
import io
import json
import socket
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pydicom import dcmread
from skimage.measure import points_in_poly
from starlette.testclient import TestClient

from refused import refused
from segcft.app.catalogue import Catalogue
from segcft.app.payload import decode, encode
from segcft.cli import main
from segcft.config.loader import load_study
from segcft.config.study import Image as Grid
from segcft.errors import Code, SegcftError
from segcft.io.outline import outlines
from segcft.io.provenance import SYNTHETIC, dicom_bytes
from tests.conftest import MODELS

STUDY = load_study(MODELS / "chest-sim/study.yaml")
OCTETS = {"Content-Type": "application/octet-stream"}


def picture() -> bytes:
    return (MODELS / "chest-sim/examples/1.png").read_bytes()


def upload(client: TestClient, content: bytes, model: str = "chest-sim") -> Any:
    return client.post(f"/api/upload?model={model}", content=content, headers=OCTETS)


def error(response: Any, status: int) -> str:
    """The message of an error, which is JSON and holds no traceback."""
    assert response.status_code == status, response.text
    told = response.json()
    assert set(told) == {"error"}
    assert "Traceback" not in told["error"]
    return str(told["error"])


def test_page_and_its_files(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "For research only, not for clinical use." in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    script = client.get("/static/main.js")
    assert "javascript" in script.headers["content-type"]
    assert client.get("/static/page.css").headers["content-type"].startswith("text/css")


def test_description_of_a_model(client: TestClient) -> None:
    assert [model["name"] for model in client.get("/api/models").json()] == ["chest-sim", "coronary-quickstart", "jsrt"]
    told = client.get("/api/models/chest-sim").json()
    variables = {variable["name"]: variable for variable in told["variables"]}
    assert variables["sex"]["categories"] == ["F", "M"]
    heart = variables["heart_area"]
    assert heart["parents"] == ["sex", "age"]
    assert heart["low"] < heart["central"][0] < heart["central"][1] < heart["high"]
    assert len(told["examples"]) == 3
    assert set(told["examples"][0]["known"]) == {"sex", "age"}
    assert not told["wide"]
    assert client.get("/api/models/coronary-quickstart").json()["wide"]
    assert client.get("/api/models/jsrt").json()["examples"] == []
    assert "other: " in error(client.get("/api/models/other"), 404)


def test_answer(client: TestClient, catalogue: Catalogue, question: dict[str, Any]) -> None:
    told = client.post("/api/question", json=question | {"draws": 3}).json()
    grid = catalogue["chest-sim"].study
    expected = catalogue["chest-sim"].counterfactual(
        MODELS / "chest-sim/examples/1.png", question["known"], {"heart_area": 1800}, draws=3
    )
    assert (decode(told["image"], grid) == expected.image[0]).all()
    assert len(told["draws"]) == 3
    assert (decode(told["draws"][1], grid) == expected.draws[1][0]).all()
    spread = np.frombuffer(base64.b64decode(told["spread"]), "<f4").reshape(grid.image.size)
    assert expected.spread is not None
    assert (spread == expected.spread[0]).all()
    heart = told["record"]["variables"]["heart_area"]
    assert heart["after"] == 1800
    assert heart["obtained"] == pytest.approx(expected.areas["heart_area"])
    assert set(told["outlines"]) == {"left_lung", "right_lung", "heart"}
    assert told["outlines"]["heart"]["before"] != told["outlines"]["heart"]["after"]


def test_without_a_question_the_image_stays(client: TestClient, question: dict[str, Any]) -> None:
    told = client.post("/api/question", json=question | {"do": {}}).json()
    assert told["image"] == question["pixels"]
    assert told["record"]["do"] == []
    assert told["spread"] is None


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"do": {"hart_area": 1}}, 400, "did you mean 'heart_area'"),
        ({"do": {"heart_area": "big"}}, 400, "heart_area: "),
        ({"do": {"heart_area": -3}}, 400, "heart_area: "),
        ({"do": {"heart_area": 16385}}, 400, "heart_area: "),
        ({"do": {"sex": "X"}}, 400, "sex: "),
        ({"do": {"heart_area": f"match:{MODELS / 'chest-sim/examples/2.png'}"}}, 400, "is none of"),
        ({"known": {"age": "match:/etc/passwd"}}, 400, "is none of"),
        ({"known": {"age": "+5"}}, 400, "age: "),
        ({"method": "best"}, 422, "method: "),
        ({"model": "other"}, 404, "other: "),
        ({"pixels": "AAAA"}, 422, "pixels: "),
        ({"pixels": "no base64!"}, 422, "pixels: "),
        ({"draws": 10_000}, 422, "draws"),
        ({"do": [1]}, 422, "do"),
        ({"path": "/etc/passwd"}, 422, "path"),
    ],
)
def test_wrong_questions(
    client: TestClient, question: dict[str, Any], change: dict[str, Any], status: int, message: str
) -> None:
    assert message in error(client.post("/api/question", json=question | change), status)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": NaN}', b"\xff", b'{"a":' * 10_000])
def test_bodies_that_are_no_question(client: TestClient, body: bytes) -> None:
    response = client.post("/api/question", content=body, headers={"Content-Type": "application/json"})
    assert error(response, 422)


def test_files(client: TestClient, question: dict[str, Any]) -> None:
    shown = client.post("/api/question", json=question).json()
    png = client.post("/api/file/png", json=question)
    assert png.headers["content-disposition"] == 'attachment; filename="counterfactual.png"'
    with Image.open(io.BytesIO(png.content)) as file:
        assert encode(np.asarray(file)[None]) == shown["image"]
        assert file.info["Description"] == SYNTHETIC
        assert json.loads(file.info["segcft"])["do"] == ["heart_area=1800.0"]
    dataset = dcmread(io.BytesIO(client.post("/api/file/dcm", json=question).content))
    assert dataset.SyntheticData == "YES"
    assert dataset.PixelData == base64.b64decode(shown["image"])
    record = client.post("/api/file/json", json=question).json()
    assert record["variables"] == shown["record"]["variables"]
    assert "format: " in error(client.post("/api/file/exe", json=question), 404)
    assert "do: " in error(client.post("/api/file/png", json=question | {"do": {}}), 422)


def test_upload(client: TestClient, question: dict[str, Any]) -> None:
    assert upload(client, picture()).json() == {"pixels": question["pixels"], "known": {}}


def test_upload_of_every_kind(client: TestClient) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(picture())))
    for kind in ("png", "jpeg", "tiff", "bmp"):
        file = io.BytesIO()
        Image.fromarray(pixels).resize((300, 280)).save(file, kind)
        assert upload(client, file.getvalue()).status_code == 200, kind
    volume = nibabel.Nifti1Image(pixels[::-1, ::-1].T[..., None].astype(np.int16), np.eye(4)).to_bytes()
    for content in (volume, gzip.compress(volume)):
        # Grey values of 8 bits fill little of the file's 16: a study without a range of its own cannot know them.
        assert decode_upload(client, content, "jsrt").shape == (128, 128)
    assert decode_upload(client, volume).max() > 0


def decode_upload(client: TestClient, content: bytes, model: str = "chest-sim") -> np.ndarray:
    response = upload(client, content, model)
    assert response.status_code == 200, response.text
    return decode(response.json()["pixels"], load_study(MODELS / model / "study.yaml"))


def test_upload_of_dicom_tells_age_and_sex(client: TestClient) -> None:
    dataset = dcmread(io.BytesIO(dicom_bytes(np.arange(4096, dtype=np.uint8).reshape(1, 64, 64), {})))
    dataset.PatientAge, dataset.PatientSex = "061Y", "F"
    dataset.PatientName = "Doe^Jane"
    file = io.BytesIO()
    dataset.save_as(file)
    told = upload(client, file.getvalue())
    assert told.json()["known"] == {"age": 61.0, "sex": "F"}
    assert "Doe" not in told.text


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outlines_enclose_the_pixels_of_a_mask(mask: np.ndarray) -> None:
    rows, columns = mask.shape
    centres = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), axis=-1).reshape(-1, 2)
    inside = np.zeros(rows * columns, bool)
    for points in outlines(mask):
        assert (points[0] == points[-1]).all()
        inside ^= points_in_poly(centres, points)
    assert (inside.reshape(mask.shape) == mask).all()


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_pixels_return_as_they_were(height: int, width: int, channels: int, seed: int) -> None:
    study = STUDY.model_copy(update={"image": Grid(size=(height, width), channels=channels)})
    pixels = np.random.default_rng(seed).integers(0, 256, (channels, height, width), np.uint8)
    back = decode(encode(pixels), study)
    assert (back == (pixels[0] if channels == 1 else np.moveaxis(pixels, 0, -1))).all()


def test_two_models_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "chest-sim").symlink_to(MODELS / "chest-sim")
    other = tmp_path / "other" / "chest-sim"
    other.mkdir(parents=True)
    with refused(SegcftError, Code.DUPLICATE, other):
        Catalogue([MODELS / "chest-sim", other])


def test_command_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", str(tmp_path), "--port", "0", "--no-open"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert main(["app", str(MODELS / "jsrt"), "--host", "no.such.host.invalid", "--no-open"]) == 1
    assert "--host no.such.host.invalid" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:  # which is told before a model is looked for
        assert main(["app", str(tmp_path / "none"), "--port", str(taken.getsockname()[1]), "--no-open"]) == 1
    assert "Address already in use; choose another --port" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["app", "--port", "99999"])
    assert "a port is a whole number" in capsys.readouterr().err
