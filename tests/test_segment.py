"""Masks for images that have none: in the image's own frame, where all readers agree, and with the reason where not."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from segcft.cli.entry import main
from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.data.crop import Crop
from segcft.data.resize import fit_image, frame_of
from segcft.errors import Code, DataError, RunError
from segcft.importers.folder import import_folder
from segcft.measures.measurements import Measurements
from segcft.pipeline.readers import Read, Readers, agreement
from segcft.pipeline.run import Run
from segcft.pipeline.segment import AGREED, DISAGREEMENT, Settings, segment
from segcft.readers.reader import MaskReader
from tests.conftest import changed, small_mapping

BACKGROUND, LEFT, RIGHT, HEART = 20, 60, 100, 220
"""Grey levels of what the pictures of these tests show: lungs dark, the heart bright."""


class ByGrey(MaskReader):
    """Sees structures by their grey levels, those of a heart only ``upwards`` of a share of the image's rows."""

    def __init__(self, study: Study, upwards: float = 1.0) -> None:
        super().__init__()
        self.measurements, self.upwards = Measurements.of(study), upwards

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.tensor([LEFT, RIGHT, HEART]).reshape(1, 3, 1, 1) / 127.5 - 1
        logits = 40 * (0.12 - (x - levels).abs())
        logits[:, 2, round(self.upwards * x.shape[2]) :] = -40
        return logits


def study(size: tuple[int, int] = (64, 64)) -> Study:
    return parse_study(changed(small_mapping(), {"image.size": list(size)}))


def readers(*several: tuple[Study, float]) -> Readers:
    names = list(several[0][0].masked)
    assert names == ["left_lung", "right_lung", "heart"]
    every = [Read(one, ByGrey(one, upwards), [0, 1, 2]) for one, upwards in several]
    return Readers(every, names, torch.device("cpu"), {"readers": [upwards for _, upwards in several]})


def chest(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A chest of blocks and its mask: the left lung is on the right of the picture, the heart between and below."""
    image, mask = np.full((height, width), BACKGROUND, np.uint8), np.zeros((height, width), np.uint8)
    for bit, grey, rows, columns in (
        (1, LEFT, (0.2, 0.8), (0.62, 0.87)),
        (2, RIGHT, (0.2, 0.8), (0.12, 0.37)),
        (4, HEART, (0.45, 0.8), (0.4, 0.6)),
    ):
        part = tuple(slice(round(a * n), round(b * n)) for (a, b), n in ((rows, height), (columns, width)))
        image[part], mask[part] = grey, bit
    return image, mask


def write(folder: Path, name: str, image: np.ndarray) -> None:
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def dice(one: np.ndarray, other: np.ndarray, bit: int) -> float:
    a, b = one & bit > 0, other & bit > 0
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("shape", [(64, 64), (128, 96), (90, 200), (300, 260)])
def test_a_mask_lies_on_its_image_whatever_its_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    image, mask = chest(*shape)
    write(tmp_path / "in", "one", image)
    segment(readers((study(), 1.0), (study((96, 64)), 1.0)), tmp_path / "in", tmp_path / "out")
    assert np.array_equal(read(tmp_path / "out/images/one.png"), image)
    found = read(tmp_path / "out/masks/one.png")
    assert found.shape == shape
    for bit in (1, 2, 4):
        assert dice(found, mask, bit) > 0.9  # a grid of 64 pixels sees borders to a pixel of its own


def test_the_columns_of_the_table_come_along(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "in/images", name, chest(64, 64)[0])
    rows = [["id", "patient", "age", "split"], ["a", "p1", "61", "test"], ["b.png", "p1", "", "test"]]
    with (tmp_path / "in/metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    summary = segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/metadata.csv")
    assert table["id"].tolist() == ["a", "b"]
    assert table["patient"].tolist() == ["p1", "p1"]
    assert table["age"].tolist()[0] == 61
    assert np.isnan(table["age"].tolist()[1])
    assert summary.samples["test"] == 2
    assert (table[f"heart{AGREED}"] == 1).all()


def test_where_readers_disagree_there_is_no_mask(tmp_path: Path) -> None:
    write(tmp_path / "in", "one", chest(64, 64)[0])
    two = readers((study(), 1.0), (study(), 0.65))  # one sees the upper half of the heart alone
    with pytest.raises(DataError) as caught:
        segment(two, tmp_path / "in", tmp_path / "out")
    assert caught.value.code is Code.EMPTY
    rejected = pd.read_csv(tmp_path / "out/rejected.csv")
    assert rejected["kind"].tolist() == [DISAGREEMENT]
    assert "heart" in rejected["reason"][0]
    segment(two, tmp_path / "in", tmp_path / "trusting", settings=Settings(agreement=0.5))
    assert pd.read_csv(tmp_path / "trusting/metadata.csv")[f"heart{AGREED}"][0] == pytest.approx(0.73, abs=0.03)


def test_what_no_chest_looks_like_is_left_out(tmp_path: Path) -> None:
    image, _ = chest(64, 64)
    for name, picture in (("right", image), ("mirrored", image[:, ::-1]), ("negative", 255 - image)):
        write(tmp_path / "in", name, picture)
    (tmp_path / "in/broken.png").write_bytes(b"no picture")
    segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out")
    assert pd.read_csv(tmp_path / "out/metadata.csv")["id"].tolist() == ["right"]
    assert sorted(pd.read_csv(tmp_path / "out/rejected.csv")["id"]) == ["broken", "mirrored", "negative"]


def test_a_chest_that_does_not_fill_its_film_is_no_negative(tmp_path: Path) -> None:
    film = np.full((64, 160), 255, np.uint8)  # bright where arms or a bare film would be
    film[:, 48:112] = chest(64, 64)[0]
    write(tmp_path / "in", "wide", film)
    segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out")
    assert pd.read_csv(tmp_path / "out/metadata.csv")["id"].tolist() == ["wide"]


def test_it_goes_on_where_it_was_and_not_with_other_readers(tmp_path: Path) -> None:
    write(tmp_path / "in", "one", chest(64, 64)[0])
    segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out/masks/one.png").stat().st_mtime_ns
    write(tmp_path / "in", "two", chest(64, 64)[0])
    summary = segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out")
    assert sum(summary.samples.values()) == 2
    assert (tmp_path / "out/masks/one.png").stat().st_mtime_ns == before
    with pytest.raises(DataError):
        segment(readers((study(), 0.9)), tmp_path / "in", tmp_path / "out")


def test_the_folder_is_one_that_a_study_reads(tmp_path: Path) -> None:
    people = 8
    for number in range(people):
        write(tmp_path / "in/images", f"{number}", np.roll(chest(64, 64)[0], number % 3, axis=0))
    rows = [["id", "sex", "age"], *([number, "FM"[number % 2], 50 + number] for number in range(people))]
    with (tmp_path / "in/metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out")
    raw = changed(small_mapping(), {"image.size": [64, 64], "data": {"source": "folder"}})
    for name, bit in (("left_lung", 1), ("right_lung", 2), ("heart", 4)):
        raw["structures"][name]["bit"] = bit
    store = import_folder(parse_study(raw), tmp_path / "out", tmp_path / "store", split="test")
    assert len(store) == people
    assert (store.masks.sum(axis=(2, 3)) > 0).all()


def test_what_has_changed_is_read_again(tmp_path: Path) -> None:
    """Another file, and another row: who is in the test part must not stay where he was."""
    table = tmp_path / "in/metadata.csv"
    for name in ("a", "b"):
        write(tmp_path / "in/images", name, chest(64, 64)[0])
    table.write_text("id,patient,split\na,p1,train\nb,p2,train\n")
    segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out")
    write(tmp_path / "in/images", "a", chest(96, 96)[0])
    table.write_text("id,patient,split\na,p1,train\nb,p3,test\n")
    segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out")
    found = pd.read_csv(tmp_path / "out/metadata.csv").set_index("id")
    assert found["split"].to_dict() == {"a": "train", "b": "test"}
    assert found["patient"].to_dict() == {"a": "p1", "b": "p3"}
    assert read(tmp_path / "out/masks/a.png").shape == (96, 96)


def test_the_command_says_what_became_of_every_image(tmp_path: Path, small_run: Run) -> None:
    """With the readers of a trained run, which see what they see."""
    for number in range(3):
        write(tmp_path / "in", f"sub/{number}", chest(40, 50 + number)[0])
    code = main(
        ["segment", str(small_run.folder), str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--agreement", "0"]
    )
    taken = [f"sub/{path.stem}" for path in (tmp_path / "out/masks").rglob("*.png")]
    told = pd.read_csv(tmp_path / "out/rejected.csv")["id"].tolist()
    assert sorted([*taken, *told]) == ["sub/0", "sub/1", "sub/2"]
    assert code == (0 if taken else 1)


def test_masks_are_not_written_among_the_images(tmp_path: Path, small_run: Run) -> None:
    """The next call would take them for images."""
    write(tmp_path / "in", "0", chest(40, 50)[0])
    segment = ["segment", str(small_run.folder), str(tmp_path / "in"), "--out"]
    assert main([*segment, str(tmp_path / "in/masked")]) == 1
    assert not (tmp_path / "in/masked").exists()
    assert main([*segment, str(tmp_path / "out"), "--window", "99", "1"]) == 1
    assert not (tmp_path / "out").exists()


def test_readers_of_other_structures_are_refused(small_run: Run, plaque_run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        Readers.of([small_run.folder, plaque_run.folder], torch.device("cpu"))
    assert caught.value.code is Code.CONFLICT
    both = Readers.of([small_run.folder], torch.device("cpu"))
    assert len(both.readers) == 2
    with pytest.raises(DataError):
        segment(both, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as found:
        segment(both, tmp_path / "empty", tmp_path / "out")
    assert found.value.code is Code.EMPTY


def test_agreement_is_of_the_two_that_agree_least() -> None:
    masks = np.zeros((3, 2, 4, 4), dtype=bool)
    masks[0, 0, :2], masks[1, 0, :2], masks[2, 0, :1] = True, True, True
    assert agreement(masks).tolist() == pytest.approx([2 * 4 / 12, 1.0])
    assert agreement(masks[:1]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("shape", [(64, 64), (100, 40), (31, 77)])
def test_the_frame_of_an_image_is_where_it_was_put(shape: tuple[int, int]) -> None:
    grid = study((64, 96)).image
    white = np.ones((1, *shape))
    white[:, 0], white[:, -1], white[:, :, 0], white[:, :, -1] = 0, 0, 0, 0  # the canvas is filled with the border
    fitted = fit_image(white, grid)[0] / 255
    start, extent = frame_of(shape, grid)
    inner = Crop(start, extent, (20, 20)).average(fitted)[2:-2, 2:-2]
    assert inner.min() > 0.75
    assert 0 <= start[0] <= start[0] + extent[0] <= grid.size[0] + 1e-9
    assert fitted.sum() == pytest.approx((extent[0] * (1 - 2 / shape[0])) * (extent[1] * (1 - 2 / shape[1])), rel=0.02)
