"""The web page about volumes: its server, and in a real browser."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright
from starlette.testclient import TestClient

import segcft
from segcft.app.catalogue import Catalogue
from segcft.app.payload import decode, encode
from segcft.app.server import make_app
from segcft.config.loader import load_study
from segcft.io.provenance import inspect
from segcft.io.scan import read_array
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from tests.conftest import MODELS, MakeOnce
from tests.small_volumes import SIZE
from tests.test_app_browser import CHROMIUM, FLAGS, PATIENCE

ROWS, COLUMNS = SIZE[0] + SIZE[1], SIZE[2] + SIZE[1]
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="session")
def volume_model(volumes: Run, made_once: MakeOnce) -> Path:
    """The small run of volumes, published; only to be read."""
    return made_once("volume-model", lambda folder: publish(volumes, folder / "volumes")) / "volumes"


@pytest.fixture(scope="module")
def volume_client(volume_model: Path) -> TestClient:
    return TestClient(make_app(Catalogue([volume_model])), base_url="http://127.0.0.1:8000")


@pytest.fixture
def asked(volume_client: TestClient) -> dict[str, Any]:
    example = volume_client.get("/api/models/volumes").json()["examples"][0]
    return {
        "model": "volumes",
        "pixels": example["pixels"],
        "known": example["known"],
        "do": {"anterior_volume": 1500},
        "draws": 2,
    }


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def bits(text: str) -> np.ndarray:
    count = int(np.prod(SIZE))
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))[:count].reshape(SIZE).astype(bool)


def test_a_model_of_volumes_is_described_by_its_planes(volume_client: TestClient) -> None:
    told = volume_client.get("/api/models/volumes").json()
    assert told["size"] == [ROWS, COLUMNS]
    assert told["volume"] == {"size": list(SIZE), "shown": list(SIZE)}
    assert told["formats"] == ["png", "nii.gz", "json"]
    assert told["aspect"] == COLUMNS / ROWS
    assert len(told["examples"]) > 0


def test_an_answer_is_the_whole_volume(volume_client: TestClient, volume_model: Path, asked: dict[str, Any]) -> None:
    told = volume_client.post("/api/question", json=asked).json()
    model = segcft.load(volume_model)
    example = volume_model / "examples" / "1.nii.gz"
    own = model.counterfactual(example, asked["known"], asked["do"], draws=2)
    assert np.array_equal(decode(told["image"], model.study), own.image[0])
    for k, name in enumerate(("anterior", "posterior")):
        assert np.array_equal(bits(told["masks"][name]["before"]), own.masks_before[k])
        assert np.array_equal(bits(told["masks"][name]["after"]), own.masks_after[k])
    assert own.spread is not None
    np.testing.assert_allclose(floats(told["spread"]).reshape(SIZE), own.spread[0], rtol=1e-6)
    assert "outlines" not in told


def test_files_of_a_volume(volume_client: TestClient, asked: dict[str, Any], tmp_path: Path) -> None:
    for format in ("nii.gz", "png", "json"):
        path = tmp_path / f"x.{format}"
        answer = volume_client.post(f"/api/file/{format}", json=asked)
        path.write_bytes(answer.content)
        record = inspect(path)
        assert record is not None
        assert record["do"] == ["anterior_volume=1500.0"]
    values, _, _ = read_array(tmp_path / "x.nii.gz")
    told = volume_client.post("/api/question", json=asked).json()
    assert encode(np.moveaxis(values, -1, 0)) == told["image"]
    assert volume_client.post("/api/file/dcm", json=asked).status_code == 422


@pytest.mark.parametrize("compressed", [True, False])
def test_a_volume_is_uploaded(volume_client: TestClient, volume_model: Path, asked: Any, compressed: bool) -> None:
    import gzip

    content = (volume_model / "examples" / "1.nii.gz").read_bytes()
    content = content if compressed else gzip.decompress(content)
    told = volume_client.post("/api/upload?model=volumes", content=content, headers=OCTETS)
    assert told.json()["pixels"] == asked["pixels"]
    for wrong in (content[: len(content) // 2], b"no volume", b"\x89PNG\r\n\x1a\n"):
        assert volume_client.post("/api/upload?model=volumes", content=wrong, headers=OCTETS).status_code == 400


def test_a_size_can_be_said_of_what_is_uploaded() -> None:
    """Of a model that shows images as large as they are."""
    client = TestClient(make_app(Catalogue([MODELS / "hippocampus"])), base_url="http://127.0.0.1:8000")
    assert client.get("/api/models/hippocampus").json()["sized"]
    content = (MODELS / "hippocampus" / "examples" / "1.nii.gz").read_bytes()

    def upload(more: str) -> Any:
        return client.post(f"/api/upload?model=hippocampus{more}", content=content, headers=OCTETS)

    known = upload("").json()["pixels"]
    assert upload("&millimetres=1,1,1").json()["pixels"] == known
    study = load_study(MODELS / "hippocampus" / "study.yaml")
    before, larger = (decode(one, study) for one in (known, upload("&millimetres=1,1,2").json()["pixels"]))
    middle = before[..., 8:24]  # twice as wide it fills the frame: of what was there the middle half is left
    assert abs(larger.reshape(*middle.shape, 2).mean(axis=-1) - middle).mean() < 4  # grey levels
    assert abs(larger[..., 8:24] - middle.astype(float)).mean() > 15
    for wrong in ("1,1", "1,1,0", "1,1,-1", "nan,1,1", "5e-324,1,1", "1e9,1,1"):
        assert upload(f"&millimetres={wrong}").status_code == 400
    for wrong in ("1,1,x", ",", "1,,1"):
        assert upload(f"&millimetres={wrong}").status_code == 422


# --- in a browser ---


@pytest.fixture
def page(volume_model: Path) -> Iterator[Page]:
    """The page with an example and its answer there; it must not complain."""
    command = [sys.executable, "-m", "segcft.cli", "app", str(volume_model), str(MODELS / "hippocampus")]
    command += ["--no-open", "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        address = server.stdout.readline().split()[0]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
            page = browser.new_page(viewport={"width": 1440, "height": 900}, accept_downloads=True)
            page.set_default_timeout(PATIENCE)
            expect.set_options(timeout=PATIENCE)
            complaints: list[str] = []
            page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(address)
            expect(page.locator("[data-pane=before]")).to_have_attribute("data-shown", "before")
            yield page
            assert complaints == []
            browser.close()
    finally:
        server.terminate()
        server.communicate(timeout=30)


def place(page: Page) -> list[int]:
    return [int(page.locator(f"#slices [data-axis='{axis}']").input_value()) for axis in range(3)]


def shot(page: Page) -> bytes:
    return page.locator("[data-pane=before]").screenshot()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)")
def test_three_linked_planes(page: Page, tmp_path: Path) -> None:
    canvas = page.locator("[data-pane=before]")
    box = canvas.bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(COLUMNS / ROWS, rel=0.02)

    def put(row: float, column: float) -> dict[str, float]:
        return {"x": (column + 0.5) / COLUMNS * box["width"], "y": (row + 0.5) / ROWS * box["height"]}

    before = shot(page)
    canvas.click(position=put(5, 7))  # of the coronal plane: the head is up
    _, y, _ = place(page)
    assert place(page) == [SIZE[0] - 1 - 5, y, 7]
    assert shot(page) != before
    canvas.click(position=put(5, SIZE[2] + 9))  # of the sagittal one
    assert place(page) == [SIZE[0] - 1 - 5, 9, 7]
    canvas.click(position=put(SIZE[0] + 20, 30))  # of the axial one
    assert place(page) == [SIZE[0] - 1 - 5, 20, 30]
    canvas.hover(position=put(SIZE[0] + 20, 30))
    before = shot(page)
    page.mouse.wheel(0, 100)
    expect(page.locator("#slices [data-axis='0']")).to_have_value(str(SIZE[0] - 5))
    assert shot(page) != before
    page.locator("#slices [data-axis='2']").fill("3")
    assert place(page) == [SIZE[0] - 5, 20, 3]
    canvas.click(position=put(SIZE[0] + 20, SIZE[2] + 20))  # where there is no plane
    assert place(page) == [SIZE[0] - 5, 20, 3]
    expect(page.locator("[data-format='dcm']")).to_be_hidden()
    row = page.locator("[data-variable=anterior_volume]")
    with page.expect_response("**/api/question"):
        row.locator("input[type=number]").last.fill("1500")
        page.keyboard.press("Enter")
    expect(page.locator("[data-format='nii.gz']")).to_be_enabled()
    assert place(page) == [SIZE[0] - 5, 20, 3]  # where it was
    with page.expect_download() as download:
        page.click("[data-format='nii.gz']")
    download.value.save_as(tmp_path / "x.nii.gz")
    values, _, _ = read_array(tmp_path / "x.nii.gz")
    assert values.shape == (*SIZE, 1)
    for mode in ("swipe", "flicker", "difference"):
        page.locator(f"[name=mode][value={mode}]").check()
        expect(page.locator("#stage canvas")).to_have_count(1)
    expect(page.locator("#draws canvas").first).to_be_visible()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)")
def test_the_page_asks_how_large_the_voxels_of_a_file_are(page: Page, volume_model: Path) -> None:
    """Where the model shows images as large as they are; what was said stays with the file."""
    expect(page.locator("#sized")).to_be_hidden()
    with page.expect_response("**/api/question"):
        page.select_option("#model", "hippocampus")
    expect(page.locator("#sized")).to_be_hidden()  # of an example it is known
    with page.expect_response("**/api/upload?model=hippocampus"), page.expect_response("**/api/question"):
        page.set_input_files("#file", MODELS / "hippocampus" / "examples" / "1.nii.gz")
    fields, volume = page.locator("#sized input"), page.locator("[data-node=anterior_volume] .value")
    expect(fields).to_have_count(3)
    before = volume.text_content() or ""
    fields.nth(0).fill("1")
    fields.nth(1).fill("1")
    with page.expect_response("**/api/upload?model=hippocampus&millimetres=1,1,2"):
        fields.nth(2).fill("2")
        fields.nth(2).press("Enter")
    expect(volume).not_to_have_text(before)  # twice as wide it is larger
    with page.expect_response("**/api/upload?model=volumes"):  # which shows no image as large as it is
        page.select_option("#model", "volumes")
    expect(page.locator("#sized")).to_be_hidden()
    with page.expect_response("**/api/upload?model=hippocampus&millimetres=1,1,2"):
        page.select_option("#model", "hippocampus")
    with page.expect_response("**/api/upload?model=hippocampus"):
        page.set_input_files("#file", MODELS / "hippocampus" / "examples" / "2.nii.gz")
    expect(fields.nth(2)).to_have_value("")
    with page.expect_response("**/api/question"):
        page.locator(".example").first.click()
    expect(page.locator("#sized")).to_be_hidden()
