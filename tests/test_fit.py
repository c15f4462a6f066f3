"""Images of any shape and scale on one grid: filled up, cut, stretched, or as large as they are."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

import segcft
from segcft.api.question import Sized, own_pixels, read_pixels
from segcft.app.payload import Asked, ask, encode, parse_question
from segcft.cli.entry import main
from segcft.config.image import Image
from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.data.resize import Pixel, fit_image, fit_masks, frame_of, window_of
from segcft.errors import Code, DataError, StudyError
from segcft.importers.folder import import_folder
from segcft.io.reject import Rejected

RADIUS = 30.0
"""Of the disc that every picture shows, in mm."""
SCALES = [(1.0, 1.0), (0.5, 0.5), (0.8, 0.8), (1.2, 0.6)]
"""Height and width of a pixel, in mm: what differs between the pictures."""


def disc(shape: tuple[int, int], scale: tuple[float, float]) -> np.ndarray:
    """Whether pixels of a picture, ``scale`` mm large, are in a disc in its middle."""
    rows, columns = (scale[k] * (np.arange(shape[k]) + 0.5 - shape[k] / 2) for k in (0, 1))
    return np.hypot(rows[:, None], columns) < RADIUS


def study(fit: str, spacing: Any = None, size: tuple[int, int] = (64, 48), **more: Any) -> Study:
    step: dict[str, Any] = {"steps": 1, "batch_size": 2}
    data = {"source": "folder"} | ({"spacing": spacing} if spacing else {}) | more
    return parse_study(
        {
            "name": "fitted",
            "image": {"size": list(size), "field_of_view": [128, 96], "length_unit": "mm", "fit": fit},
            "variables": {"disc_area": {"kind": "continuous"}},
            "structures": {"disc": {"variable": "disc_area", "bit": 1}},
            "data": data,
            "splits": {"train": 0.5, "validation": 0, "test": 0.5},
            "segmentor": step | {"seed": 1, "widths": [4, 8]},
            "judge": step | {"seed": 2, "widths": [4, 8]},
            "regressor": step,
            "scm": step,
            "hvae": step | {"levels": [{"width": 8}]},
            "finetune": step,
        }
    )


def write_discs(root: Path) -> None:
    """Pictures of one disc at several scales; the table says which."""
    rows: list[list[Any]] = [["id", "mm_y", "mm_x"]]
    for number, (down, across) in enumerate(SCALES * 3):
        shape = (round(140 / down) + number, round(110 / across))
        inside = disc(shape, (down, across))
        for kind, pixels in (("images", np.where(inside, 200, 50)), ("masks", inside.astype(int))):
            (root / kind).mkdir(exist_ok=True)
            Picture.fromarray(pixels.astype(np.uint8)).save(root / kind / f"{number}.png")
        rows.append([number, down, across])
    with (root / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_discs(tmp_path)
    return tmp_path


def test_what_is_as_large_has_as_many_square_millimetres(root: Path) -> None:
    store = import_folder(study("physical", ["mm_y", "mm_x"]), root, root / "store")
    assert len(store) == 3 * len(SCALES)
    assert store.table["disc_area"].to_numpy() == pytest.approx(math.pi * RADIUS**2, rel=0.01)
    assert store.area_unit == "mm²"
    for image, mask in zip(store.images[:, 0], store.masks[:, 0], strict=True):
        assert np.abs(np.argwhere(mask > 127).mean(axis=0) - (31.5, 23.5)).max() < 0.6  # in the middle
        assert abs(int(image[mask == 255].mean()) - 200) <= 1
    filled = import_folder(study("pad"), root, root / "filled")
    assert np.ptp(filled.table["disc_area"]) > 0.3 * math.pi * RADIUS**2  # without it they differ


def test_one_scale_for_all_may_be_a_number(root: Path) -> None:
    store = import_folder(study("physical", [0.5, 0.5]), root, root / "store")
    first = store.table["disc_area"][0]  # of pixels that are 1 mm large
    assert first == pytest.approx(math.pi * RADIUS**2 / 4, rel=0.02)


def test_who_does_not_say_how_large_it_is_is_left_out(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        import_folder(study("physical"), root, root / "store")
    assert caught.value.code is Code.EMPTY
    assert "data.spacing" in str(caught.value)
    with pytest.raises(DataError) as missing:
        import_folder(study("physical", ["mm_y", "mm_z"]), root, root / "store")
    assert missing.value.code is Code.MISSING
    table = (root / "metadata.csv").read_text().splitlines()
    broken = [table[0], "0,,1", "1,-2,1", "2,wide,1", *table[4:]]
    (root / "metadata.csv").write_text("\n".join(broken))
    store = import_folder(study("physical", ["mm_y", "mm_x"]), root, root / "store")
    assert sorted(store.rejected["id"]) == ["0", "1", "2"]


def test_a_size_in_mm_needs_a_field_of_view_in_mm() -> None:
    with pytest.raises(StudyError):
        study("sideways")
    with pytest.raises(ValueError, match="field_of_view"):
        Image(size=(8, 8), fit="physical")
    assert "fit" not in Image(size=(8, 8)).model_dump()


shapes = st.tuples(st.integers(10, 300), st.integers(10, 300))
lengths = st.floats(0.2, 3)


@given(shape=shapes, fit=st.sampled_from(["pad", "crop", "stretch", "physical"]), down=lengths, across=lengths)
def test_window_and_frame_are_one_rectangle_seen_from_both_sides(
    shape: tuple[int, int], fit: Any, down: float, across: float
) -> None:
    grid = Image(size=(40, 56), field_of_view=(200, 280), length_unit="mm", fit=fit)
    pixel = Pixel(down / across, (down, across))
    start, extent = window_of(shape, grid, pixel)
    first, size = frame_of(shape, grid, pixel)
    for axis in (0, 1):
        per = grid.size[axis] / extent[axis]
        assert first[axis] == pytest.approx(-start[axis] * per, abs=1e-6)
        assert size[axis] == pytest.approx(shape[axis] * per)
        assert start[axis] + extent[axis] / 2 == pytest.approx(shape[axis] / 2, abs=0.51)  # half a pixel
    inside = all(start[k] >= -1e-9 and start[k] + extent[k] <= shape[k] + 1e-9 for k in (0, 1))
    if fit in ("crop", "stretch"):
        assert inside
    if fit == "pad":
        assert all(start[k] <= 0 and start[k] + extent[k] >= shape[k] for k in (0, 1))
    if fit == "stretch":
        assert extent == shape
    if fit == "physical":
        assert extent[0] * down == pytest.approx(200)
        assert extent[1] * across == pytest.approx(280)


@pytest.mark.parametrize("fit", ["crop", "stretch", "physical"])
def test_image_and_masks_are_fitted_alike(fit: Any) -> None:
    grid = Image(size=(40, 56), field_of_view=(100, 140), length_unit="mm", fit=fit)
    inside = disc((110, 90), (1.0, 1.5)).astype(float)[None]
    image, mask = (made(inside, grid, Pixel(1 / 1.5, (1.0, 1.5))).astype(int) for made in (fit_image, fit_masks))
    assert np.abs(image - mask).max() <= 1
    assert set(np.unique(mask[:, 19:21, 27:29])) == {255}


def test_a_question_says_how_large_its_image_is(root: Path) -> None:
    fitted = study("physical", ["mm_y", "mm_x"])
    path = root / "images" / "1.png"
    with pytest.raises(DataError) as caught:
        read_pixels(fitted, path)
    assert "1.png" in str(caught.value)
    large = read_pixels(fitted, Sized(path, (0.5, 0.5)))
    assert (large > 125).mean() * 128 * 96 == pytest.approx(math.pi * RADIUS**2, rel=0.02)
    grey, pixel = own_pixels(fitted, Sized(np.asarray(Picture.open(path)), (0.5, 0.5)))
    assert pixel == Pixel(1.0, (0.5, 0.5))
    assert np.array_equal(fit_image(grey, fitted.image, pixel), large)
    assert segcft.Sized is Sized


@pytest.mark.parametrize("fit", ["pad", "physical"])
def test_what_a_study_says_of_its_pixels_holds_for_questions(root: Path, fit: str) -> None:
    """The file that was imported is the image that is asked about."""
    fitted = study(fit, [1.2, 0.6], ignore_spacing=True)
    store = import_folder(fitted, root, root / "store")
    row = store.table["id"].tolist().index("3")
    assert np.array_equal(read_pixels(fitted, root / "images" / "3.png"), store.images[row])


@pytest.mark.parametrize("millimetres", [0.5, ("a", "b"), None, (1, 2, 3, 4), (0, 1), (math.nan, 1), (-1, 1)])
def test_what_is_no_size_is_refused(millimetres: Any) -> None:
    with pytest.raises(DataError) as caught:
        Sized("chest.png", millimetres)
    assert caught.value.code is Code.OUT_OF_RANGE


def test_an_image_has_as_many_lengths_as_axes(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_pixels(study("physical", [2.0, 2.0]), Sized(root / "images" / "3.png", (1, 2, 3)))
    assert caught.value.code is Code.INVALID
    assert caught.value.field == "millimetres"


def test_structures_that_the_grid_cuts_off_are_told_of(root: Path) -> None:
    store = import_folder(study("physical", [2.0, 2.0]), root, root / "store")  # the disc is wider than the grid
    told = store.remarks[store.remarks["kind"] == "structures are cut off"]["id"].tolist()
    assert "0" in told
    rows = [(root / "masks" / f"{number}.png", number) for number in range(3 * len(SCALES))]
    for path, _ in rows[:2]:
        corner = np.zeros_like(np.asarray(Picture.open(path)))
        corner[:2, :2] = 1
        Picture.fromarray(corner).save(path)
    again = import_folder(study("physical", [3.0, 3.0]), root, root / "again")
    assert {"0", "1"} <= set(again.rejected["id"])
    assert all("image.fit" in reason for reason in again.rejected["reason"][:2])


def test_a_size_that_is_not_known_is_refused_by_name() -> None:
    grid = Image(size=(8, 8), field_of_view=(8, 8), length_unit="mm", fit="physical")
    with pytest.raises(Rejected):
        window_of((10, 10), grid)


@pytest.fixture(scope="module")
def physical_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run whose images are as large as they are."""
    root = tmp_path_factory.mktemp("physical")
    write_discs(root)
    run = root / "run"
    (root / "study.yaml").write_text(yaml.safe_dump(study("physical", ["mm_y", "mm_x"]).model_dump(mode="json")))
    assert main(["run", str(root / "study.yaml"), "--data", str(root), "--out", str(run), "--device", "cpu"]) == 0
    return root


def test_the_command_line_is_told_how_large_an_image_is(physical_run: Path, tmp_path: Path) -> None:
    image = physical_run / "images" / "1.png"
    asking = ["counterfactual", str(physical_run / "run"), str(image), "--do", "disc_area=+5%"]
    assert main([*asking, "--out", str(tmp_path / "unknown")]) == 1
    sized = ["--pixel-mm", "0.5", "0.5", "--full-resolution", "--draws", "0"]
    assert main([*asking, *sized, "--out", str(tmp_path / "answer")]) == 0
    with Picture.open(tmp_path / "answer" / "counterfactual-full.png") as full, Picture.open(image) as own:
        assert full.size == own.size


def test_the_page_asks_about_pixels_that_are_on_the_grid(physical_run: Path) -> None:
    model = segcft.load(physical_run / "run")
    pixels = read_pixels(model.study, Sized(physical_run / "images" / "1.png", (0.5, 0.5)))
    sent = {"model": "a", "pixels": encode(pixels), "do": {"disc_area": 2500.0}}
    asked = parse_question(json.dumps(sent).encode(), Asked)
    answer = ask(model, asked)
    assert np.array_equal(answer.original, pixels)
