"""The server of the web page: what it answers, whom it refuses, and that it keeps nothing."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
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

from segcft.app.catalogue import Catalogue
from segcft.app.guard import RateLimit
from segcft.app.payload import decode, encode, outlines
from segcft.app.refused import RefusedError
from segcft.app.server import MOST_UPLOADED, make_app
from segcft.app.worker import Worker
from segcft.cli import main
from segcft.errors import SegcftError
from segcft.provenance import SYNTHETIC, dicom_bytes
from segcft.study import Image as Grid
from segcft.study import load_study

MODELS = Path(__file__).parents[1] / "models"
STUDY = load_study(MODELS / "chest-sim/study.yaml")
ADDRESS = "http://127.0.0.1:8000"
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue([MODELS / "chest-sim", MODELS / "coronary-quickstart", MODELS / "jsrt"])


@pytest.fixture
def client(catalogue: Catalogue) -> TestClient:
    return TestClient(make_app(catalogue), base_url=ADDRESS)


@pytest.fixture
def question(client: TestClient) -> dict[str, Any]:
    example = client.get("/api/models/chest-sim").json()["examples"][0]
    return {"model": "chest-sim", "pixels": example["pixels"], "known": example["known"], "do": {"heart_area": 1800}}


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


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/static//etc/passwd",
        "/static/nothing.js",
        "/server.py",
        "/api/nothing",
    ],
)
def test_serves_its_own_files_alone(client: TestClient, path: str) -> None:
    assert error(client.get(path), 404)


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
    assert "there is no model 'other', only chest-sim" in error(client.get("/api/models/other"), 404)


def test_answer(client: TestClient, catalogue: Catalogue, question: dict[str, Any]) -> None:
    told = client.post("/api/question", json=question | {"draws": 3}).json()
    grid = catalogue["chest-sim"].study
    expected = catalogue["chest-sim"].counterfactual(
        MODELS / "chest-sim/examples/1.png", question["known"], {"heart_area": 1800}, draws=3
    )
    assert (decode(told["image"], grid) == expected.image[0]).all()
    assert len(told["draws"]) == 3
    assert (decode(told["draws"][1], grid) == expected.draws[1][0]).all()
    spread = np.frombuffer(base64.b64decode(told["uncertainty"]), "<f4").reshape(grid.image.size)
    assert expected.uncertainty is not None
    assert (spread == expected.uncertainty[0]).all()
    heart = told["record"]["variables"]["heart_area"]
    assert heart["after"] == 1800
    assert heart["obtained"] == pytest.approx(expected.areas["heart_area"])
    assert set(told["outlines"]) == {"left_lung", "right_lung", "heart"}
    assert told["outlines"]["heart"]["before"] != told["outlines"]["heart"]["after"]


def test_without_a_question_the_image_stays(client: TestClient, question: dict[str, Any]) -> None:
    told = client.post("/api/question", json=question | {"do": {}}).json()
    assert told["image"] == question["pixels"]
    assert told["record"]["do"] == []
    assert told["uncertainty"] is None


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"do": {"hart_area": 1}}, 400, "did you mean 'heart_area'"),
        ({"do": {"heart_area": "big"}}, 400, "'big' is none of"),
        ({"do": {"heart_area": -3}}, 400, "below 0"),
        ({"do": {"sex": "X"}}, 400, "one of F, M"),
        ({"do": {"heart_area": f"match:{MODELS / 'chest-sim/examples/2.png'}"}}, 400, "is none of"),
        ({"known": {"age": "match:/etc/passwd"}}, 400, "is none of"),
        ({"known": {"age": "+5"}}, 400, "not a change"),
        ({"method": "best"}, 400, "method 'best' is not here"),
        ({"model": "other"}, 404, "there is no model 'other'"),
        ({"pixels": "AAAA"}, 422, "expected 128 x 128 x 1 bytes, not 3"),
        ({"pixels": "no base64!"}, 422, "pixels: not base64"),
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
    assert "written as png, dcm, json" in error(client.post("/api/file/exe", json=question), 404)


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


def large_png(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it has many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def large_dicom(syntax: str = "") -> bytes:
    dataset = dcmread(io.BytesIO(dicom_bytes(np.zeros((1, 8, 8), np.uint8), {})))
    dataset.Rows = dataset.Columns = 30_000
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def deflated_dicom() -> bytes:
    dataset = dcmread(io.BytesIO(dicom_bytes(np.zeros((1, 8, 8), np.uint8), {})))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def large_nifti() -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_shape((30_000, 30_000, 1))
    return gzip.compress(header.binaryblock + b"\0" * 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"not an image", "no image that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image that can be read"),
        (picture()[:3000], "cannot read this image"),
        (large_png(30_000, 30_000), "more than the 32 million"),
        (large_dicom(), "more than the 32 million"),
        (large_nifti(), "more than the 32 million"),
        (deflated_dicom(), "deflated"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 500, "holds no image"),
        (b"\0" * 128 + b"DICM" + b"\x02\x00", "cannot read this DICOM file"),
        (gzip.compress(b"no volume" * 100), "NIfTI"),
        (b"\x1f\x8bbroken", "NIfTI"),
    ],
)
def test_broken_uploads(client: TestClient, content: bytes, message: str) -> None:
    assert message in error(upload(client, content), 400)


def test_what_follows_a_nifti_image_is_not_unpacked(client: TestClient) -> None:
    volume = nibabel.Nifti1Image(np.arange(4096, dtype=np.int16).reshape(64, 64, 1), np.eye(4)).to_bytes()
    padded = gzip.compress(volume + b"\0" * 50_000_000)
    assert (decode_upload(client, padded) == decode_upload(client, volume)).all()


def test_sizes_are_limited(client: TestClient, question: dict[str, Any]) -> None:
    assert "at most 64 MB" in error(upload(client, b"\0" * (MOST_UPLOADED + 1)), 413)

    def endless() -> Iterator[bytes]:  # says no length before
        for _ in range(100):
            yield b" " * 100_000

    response = client.post("/api/question", content=endless(), headers={"Content-Type": "application/json"})
    assert "too large" in error(response, 413)
    assert "too large" in error(client.post("/api/question", json=question | {"method": "x" * 10**6}), 413)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost.evil.example", "[::1"]
)
def test_other_names_of_the_server_are_refused(client: TestClient, host: str) -> None:
    assert "does not go by that name" in error(client.get("/api/models", headers={"Host": host}), 403)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "10.1.2.3:8000", "box"])
def test_own_names_of_the_server(catalogue: Catalogue, host: str) -> None:
    client = TestClient(make_app(catalogue, ["Box"]), base_url=ADDRESS)
    assert client.get("/api/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8001"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_pages_of_other_sites_are_refused(
    client: TestClient, question: dict[str, Any], headers: dict[str, str]
) -> None:
    assert "another site" in error(client.post("/api/question", json=question, headers=headers), 403)
    assert "another site" in error(client.get("/api/models", headers=headers), 403)


def test_the_page_itself_may_ask(client: TestClient, question: dict[str, Any]) -> None:
    headers = {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/question", json=question, headers=headers).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=link).status_code == 200


def test_bodies_that_a_form_could_send_are_refused(client: TestClient, question: dict[str, Any]) -> None:
    text = {"Content-Type": "text/plain"}
    assert error(client.post("/api/question", content=json.dumps(question), headers=text), 415)
    assert error(client.post("/api/upload?model=chest-sim", files={"file": picture()}), 415)
    assert error(client.get("/api/question"), 405)


def test_too_many_questions_are_refused(client: TestClient, question: dict[str, Any]) -> None:
    statuses = [client.get("/api/models/jsrt").status_code for _ in range(400)]
    assert 429 in statuses


def test_an_error_of_ours_is_told_without_its_cause(
    client: TestClient, question: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "Jane Doe"

    def broken(*_: Any) -> None:
        raise ValueError(name)

    monkeypatch.setattr("segcft.app.payload.outlines", broken)
    assert "segcft itself" in error(client.post("/api/question", json=question), 500)
    assert "ValueError" in caplog.text
    assert "in broken" in caplog.text
    assert name not in caplog.text


_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        _opened.append(str(arguments[0]))


sys.addaudithook(_watch)  # for good: it does nothing unless a test listens


def test_nothing_is_written(
    client: TestClient, question: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use() -> None:
        assert upload(client, picture()).status_code == 200
        big = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (2500, 2500), np.uint8)).save(big, "png")
        assert upload(client, big.getvalue()).status_code == 200
        assert error(upload(client, picture()[:3000]), 400)
        for format in ("png", "dcm", "json"):
            assert client.post(f"/api/file/{format}", json=question).status_code == 200

    use()  # modules that are imported late write their byte code
    global _opened
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(tmp_path)
    _opened = []
    try:
        use()
        assert _opened == []
        (tmp_path / "watched").write_text("x")
        assert _opened == [str(tmp_path / "watched")]
    finally:
        _opened = None
    assert [path.name for path in tmp_path.iterdir()] == ["watched"]


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outlines_enclose_the_pixels_of_a_mask(mask: np.ndarray) -> None:
    rows, columns = mask.shape
    centres = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), axis=-1).reshape(-1, 2)
    inside = np.zeros(rows * columns, bool)
    for line in outlines(mask):
        points = np.reshape(line, (-1, 2))
        assert (points[0] == points[-1]).all()
        inside ^= points_in_poly(centres, points)
    assert (inside.reshape(mask.shape) == mask).all()


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_pixels_return_as_they_were(height: int, width: int, channels: int, seed: int) -> None:
    study = STUDY.model_copy(update={"image": Grid(size=(height, width), channels=channels)})
    pixels = np.random.default_rng(seed).integers(0, 256, (channels, height, width), np.uint8)
    back = decode(encode(pixels), study)
    assert (back == (pixels[0] if channels == 1 else np.moveaxis(pixels, 0, -1))).all()


def test_rate_limit() -> None:
    limit = RateLimit(rate=0, burst=3)
    assert [limit.take() for _ in range(5)] == [True] * 3 + [False] * 2


def test_worker_computes_one_at_a_time() -> None:
    worker, running, most = Worker(3), [], []
    refused: list[int] = []

    async def ask(gone: bool = False) -> None:
        def compute() -> None:
            running.append(1)
            most.append(len(running))
            running.pop()

        async def is_gone() -> bool:
            return gone

        try:
            await worker.run(compute, is_gone)
        except RefusedError as error:
            refused.append(error.status)

    async def crowd() -> None:
        async with anyio.create_task_group() as group:
            for k in range(5):
                group.start_soon(ask, k == 1)

    anyio.run(crowd)
    assert most == [1, 1]
    assert sorted(refused) == [499, 503, 503]
    anyio.run(ask)  # there is room again
    assert most == [1, 1, 1]


def test_two_models_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "chest-sim").symlink_to(MODELS / "chest-sim")
    other = tmp_path / "other" / "chest-sim"
    other.mkdir(parents=True)
    with pytest.raises(SegcftError, match="another model is called 'chest-sim'"):
        Catalogue([MODELS / "chest-sim", other])


def test_command_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", str(tmp_path), "--port", "0", "--no-open"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert main(["app", str(MODELS / "jsrt"), "--host", "no.such.host.invalid", "--no-open"]) == 1
    assert "cannot listen on no.such.host.invalid" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["app", "--port", "99999"])
    assert "a port is a whole number" in capsys.readouterr().err
