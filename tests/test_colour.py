"""Studies in colour, from a run to all that is made of one: nothing becomes grey on the way, and nothing is refused."""

from __future__ import annotations

import io
import json
from base64 import b64decode
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import segcft
from refused import refused
from segcft.api.model import Model
from segcft.api.question import prepare_image
from segcft.app.payload import Asked, ask, decode, encode, encode_answer
from segcft.cli.entry import main
from segcft.config.loader import parse_study
from segcft.config.outline import Outline
from segcft.data.store import Store
from segcft.errors import Code, RunError
from segcft.export.onnx import export_onnx
from segcft.grey import GREY_LEVELS, largest_change, to_unit
from segcft.grid import Grid
from segcft.importers.folder import import_folder
from segcft.io.rendering import difference_colours
from segcft.measures.grey import MeanGrey
from segcft.pipeline.publish import publish
from segcft.pipeline.readers import Readers
from segcft.pipeline.run import Run
from segcft.pipeline.segment import Settings, segment
from segcft.planning.fingerprint import take_fingerprint
from segcft.report.pictures import difference
from segcft.simulate.files import write_people
from segcft.simulate.people import Population
from segcft.simulate.retina import RetinaSimulator
from segcft.utils.progress import Progress
from tests import small_retinas
from tests.conftest import MakeOnce
from tests.test_dicom_colour import dicom

WHITE = [247, 247, 247]
"""What has not changed."""


pytestmark = pytest.mark.slow  # a whole run is made for it


@pytest.fixture(scope="module")
def model(retinas: Run) -> Model:
    return segcft.load(retinas.folder)


@pytest.fixture(scope="module")
def pixels(retinas: Run) -> NDArray[np.uint8]:
    """A test image (3, H, W)."""
    store = retinas.store()
    return np.array(store.images[store.indices("test")[0]])


@pytest.fixture(scope="module")
def eyes(made_once: MakeOnce) -> Path:
    """A folder of eyes that nobody has seen, larger than the grid; only to be read."""
    return made_once(
        "eyes",
        lambda folder: write_people(
            folder, RetinaSimulator((48, 48)), 6, source="retina-simulator", population=Population(7)
        ),
    )


def stored(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(C, H, W) as files and arrays have it."""
    return np.moveaxis(pixels, 0, -1)


def is_coloured(picture: NDArray[np.uint8]) -> bool:
    """Whether the channels of a picture (H, W, 3) differ."""
    return picture.ndim == 3 and bool((picture != picture[..., :1]).any())


# --- a run --------------------------------------------------------------------------------------------------


def test_every_stage_is_of_three_channels(retinas: Run) -> None:
    assert retinas.store().images.shape[1:] == (3, *small_retinas.SIZE)
    assert set(retinas.methods()) == {"none", "segmentor"}
    rows = json.loads((retinas.evaluation / "table.json").read_text(encoding="utf-8"))
    found = {(row["metric"], row["method"], row["intervention"]) for row in rows}
    for method in retinas.methods():
        assert ("true counterfactual error", method, "cup_area") in found
        assert ("direct effect", method, "age, measures held") in found


def test_figures_show_colours(retinas: Run) -> None:
    figures = sorted((retinas.evaluation / "figures").glob("counterfactuals-*.png"))
    assert len(figures) == 2
    for path in figures:
        with Image.open(path) as picture:
            assert is_coloured(np.asarray(picture.convert("RGB")))


# --- changes of hue -----------------------------------------------------------------------------------------


def test_a_change_of_hue_alone_is_seen() -> None:
    """Which leaves the mean of the channels as it was."""
    before, after = np.full((3, 4, 4), 100, np.uint8), np.full((3, 4, 4), 100, np.uint8)
    after[:, 0, 0] = 140, 80, 80
    change = after.astype(np.int16) - before
    shown = difference_colours(change)
    assert shown[0, 0, 0] > shown[2, 0, 0]  # red: the channel that changes most is brighter
    assert shown[:, 1, 1].tolist() == WHITE
    units = (to_unit(torch.from_numpy(after)), to_unit(torch.from_numpy(before)))
    found = difference(*units)
    assert found[0, 0].item() == pytest.approx(40, abs=1e-4)
    assert found[1, 1].item() == 0


def test_the_largest_change_is_that_of_grey_where_there_is_one_channel() -> None:
    change = torch.randn(2, 1, 5, 5)
    assert torch.equal(largest_change(change, 1), change[:, 0])
    change[0, 0, 0, 0] = torch.nan
    assert largest_change(change.expand(2, 3, 5, 5), 1)[0, 0, 0].isnan()


def test_the_grey_level_of_a_structure_is_the_mean_of_its_channels() -> None:
    image = torch.stack([torch.full((8, 8), level / GREY_LEVELS - 1) for level in (30.0, 60.0, 120.0)])[None]
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:5, 2:6] = 1
    assert MeanGrey().inside(mask, image, Grid((8, 8))).item() == pytest.approx(70, abs=1e-3)


# --- questions ----------------------------------------------------------------------------------------------


def test_an_array_a_picture_and_a_file_are_the_same_question(
    model: Model, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(stored(pixels)).save(tmp_path / "eye.png")
    known, do = {"sex": "F", "age": 50, "vessel_calibre": 200}, {"age": 80}
    of_array = model.counterfactual(stored(pixels), attributes=known, do=do)
    of_file = model.counterfactual(tmp_path / "eye.png", attributes=known, do=do)
    np.testing.assert_array_equal(of_file.original, pixels)
    np.testing.assert_array_equal(of_array.image, of_file.image)
    assert of_array.image.shape == of_array.difference.shape == pixels.shape


def test_saved_answers_are_in_colour_and_say_what_they_are(
    model: Model, eyes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next((eyes / "images").glob("*.png"))
    answer = model.counterfactual(image, do={"cup_area": "+20%"}, draws=2)
    answer.save(tmp_path / "answer")
    with Image.open(tmp_path / "answer" / "counterfactual.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), stored(answer.image))
    full = answer.full_resolution()
    assert full.shape == (3, 48, 48)
    answer.save(tmp_path / "full.png", full_resolution=True)
    with Image.open(tmp_path / "full.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), stored(full))
    answer.save(tmp_path / "answer.dcm")
    dataset = pydicom.dcmread(tmp_path / "answer.dcm")
    assert dataset.PhotometricInterpretation == "RGB"
    np.testing.assert_array_equal(dataset.pixel_array, stored(answer.image))
    for name in ("full.png", "answer.dcm"):
        assert main(["inspect", str(tmp_path / name)]) == 0
        assert "cup_area" in capsys.readouterr().out
    assert is_coloured(stored(answer.draws[0]))


def test_a_dicom_file_in_colour_is_asked_about(model: Model, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    height, width = pixels.shape[1:]
    dicom("RGB", stored(pixels), Rows=height, Columns=width).save_as(tmp_path / "eye.dcm")
    np.testing.assert_array_equal(prepare_image(model.study, tmp_path / "eye.dcm").pixels, pixels)
    answer = model.counterfactual(tmp_path / "eye.dcm", do={"cup_area": "+20%"}, draws=0)
    same = model.counterfactual(stored(pixels), do={"cup_area": "+20%"}, draws=0)
    np.testing.assert_array_equal(answer.image, same.image)


def test_many_answers_are_files_in_colour(retinas: Run, eyes: Path, tmp_path: Path) -> None:
    images = sorted((eyes / "images").glob("*.png"))[:2]
    table = tmp_path / "questions.csv"
    pd.DataFrame({"image": [str(path) for path in images], "do": ["age=80", "cup_area=+20%"]}).to_csv(
        table, index=False
    )
    assert main(["counterfactual", str(retinas.folder), str(table), "--out", str(tmp_path / "out")]) == 0
    found = [path for path in sorted((tmp_path / "out").rglob("*.png")) if "difference" not in path.name]
    assert found
    for path in found:
        with Image.open(path) as picture:
            assert is_coloured(np.asarray(picture))


def test_samples_are_in_colour(model: Model) -> None:
    samples = model.sample(3, do={"age": 70})
    assert samples.images.shape == (3, 3, *small_retinas.SIZE)
    assert len(samples.sheet()) == 3


def test_the_page_gets_colours(model: Model, pixels: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(decode(encode(pixels), model.study), stored(pixels))
    answer = ask(model, Asked(model="retinas", pixels=encode(pixels), do={"age": 80.0}, draws=2))
    sent = encode_answer(answer, model.study)
    np.testing.assert_array_equal(decode(sent["image"], model.study), stored(answer.image))
    assert answer.spread is not None
    spread = np.frombuffer(b64decode(sent["spread"]), "<f4").reshape(small_retinas.SIZE)
    np.testing.assert_array_equal(spread, answer.spread.max(axis=0))


# --- what is made of a run ----------------------------------------------------------------------------------


def test_a_published_model_answers_as_its_run(
    retinas: Run, model: Model, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    publish(retinas, tmp_path / "model", ["segmentor"])
    published = segcft.load(tmp_path / "model")
    do = {"disc_area": "+10%"}
    expected = model.counterfactual(stored(pixels), do=do, method="segmentor")
    np.testing.assert_array_equal(published.counterfactual(stored(pixels), do=do).image, expected.image)
    for path in (tmp_path / "model" / "examples").glob("*.png"):
        with Image.open(path) as picture:
            assert is_coloured(np.asarray(picture))


def test_masks_are_made_for_images_in_colour(retinas: Run, eyes: Path, tmp_path: Path) -> None:
    """And the folder that is written is read as a study's."""
    readers = Readers.of([retinas.folder], torch.device("cpu"))
    segment(readers, eyes / "images", tmp_path, settings=Settings(agreement=0))
    written = sorted((tmp_path / "images").glob("*.png"))
    assert len(written) == 6
    for path in written:
        with Image.open(path) as one, Image.open(eyes / "images" / path.name) as other:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        with Image.open(tmp_path / "masks" / path.name) as mask:
            assert np.asarray(mask).shape == (48, 48)
    changes = {
        "variables": {name: {"kind": "continuous"} for name in ("disc_area", "cup_area")},
        "structures": {"disc": {"variable": "disc_area", "bit": 1}, "cup": {"variable": "cup_area", "bit": 2}},
        "data": {"source": "folder", "may_be_absent": ["disc", "cup"]},
        "splits": {"train": 0.5, "validation": 0.0, "test": 0.5},
    }
    raw = {key: value for key, value in small_retinas.mapping().items() if not key.startswith("predictor")}
    store = import_folder(parse_study(raw | changes), tmp_path, tmp_path / "store")
    assert isinstance(store, Store)
    assert len(store) == 6
    assert (store.images[0][0] != store.images[0][2]).any()


def test_readers_of_grey_and_of_colour_are_not_asked_together(retinas: Run, small_run: Run) -> None:
    grey, colour = ([*Readers.of([run.folder], torch.device("cpu")).readers] for run in (small_run, retinas))
    with refused(RunError, Code.CONFLICT, "image"):
        Readers([*grey, *colour], ["one"], torch.device("cpu"), {})


def test_networks_in_onnx_take_three_channels(retinas: Run, model: Model, tmp_path: Path) -> None:
    export_onnx(retinas, tmp_path, method="segmentor")
    session = onnxruntime.InferenceSession(str(tmp_path / "judge.onnx"), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert given.shape[1:] == [3, *small_retinas.SIZE]


def test_settings_are_planned_for_simulated_colours() -> None:
    raw = small_retinas.mapping()
    found = take_fingerprint(parse_study(raw), Outline(raw, "it.yaml"), None, Progress())
    assert found.images == raw["data"]["people"]
    assert found.exposure > 0


def test_the_report_shows_colours(retinas: Run, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert main(["report", str(retinas.folder), "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    pictures = [b64decode(part.partition('"')[0]) for part in text.split("data:image/png;base64,")[1:]]
    assert any(is_coloured(np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))) for png in pictures)


def test_balanced_sets_are_in_colour(retinas: Run, tmp_path: Path) -> None:
    command = ["--variable", "cup_area", "--label", "sex", "--method", "segmentor"]
    assert main(["augment", str(retinas.folder), str(tmp_path / "balanced"), *command]) == 0
    written = sorted((tmp_path / "balanced" / "images").rglob("*.png"))
    assert written
    with Image.open(written[-1]) as picture:
        assert is_coloured(np.asarray(picture))
