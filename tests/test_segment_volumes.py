"""Masks for volumes that have none: in each file's own voxels, wherever and however these lie."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from nibabel.orientations import axcodes2ornt, ornt_transform
from numpy.typing import NDArray
from pydicom.uid import generate_uid
from torch import Tensor

from refused import refused
from segcft.cli.entry import main
from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.errors import Code, DataError, RunError
from segcft.importers.folder import import_folder
from segcft.importers.masks import BITS
from segcft.io.lie import Lie
from segcft.io.scan import read_array
from segcft.io.volumeout import nifti_bytes, series_bytes
from segcft.measures.measurements import Measurements
from segcft.pipeline.readers import Read, Readers
from segcft.pipeline.run import Run
from segcft.pipeline.segment import AGREED, DISAGREEMENT, SEGMENTATION, Settings, segment
from segcft.pipeline.segmenter import RunSegmenter
from segcft.readers.reader import MaskReader
from tests import small_volumes
from tests.test_coronary_volumes import name_of, write_series
from tests.test_scan import CODES
from tests.test_segment import dice
from tests.test_segment import readers as readers_of_images
from tests.test_segment import study as study_of_images

BACKGROUND, FRONT, BACK = 120, 20, 220
"""Grey levels of what the volumes of these tests show; between the boxes and what is around lies no other box."""
SIZE = (12, 16, 20)
"""In mm."""


class ByGrey(MaskReader):
    """Sees structures by their grey levels, the second one only in slices below ``below`` of the volume's depth."""

    def __init__(self, study: Study, below: float = 1.0) -> None:
        super().__init__()
        self.measurements, self.below = Measurements.of(study), below

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.tensor([FRONT, BACK]).reshape(1, 2, 1, 1, 1) / 127.5 - 1
        logits = 40 * (50 / 127.5 - (x[:, :1] - levels).abs())  # up to half way to what is around it
        logits[:, 1, round(self.below * x.shape[2]) :] = -40
        return logits


def study(size: tuple[int, ...] = SIZE, channels: int = 1, **data: Any) -> Study:
    """Of volumes that are shown as large as they are, in a field of :data:`SIZE` mm."""
    raw = small_volumes.mapping()
    raw["image"] = {"size": size, "field_of_view": SIZE, "length_unit": "mm", "fit": "physical", "channels": channels}
    raw["structures"]["anterior"]["bit"], raw["structures"]["posterior"]["bit"] = 1, 2
    raw["hvae"]["levels"] = raw["hvae"]["levels"][:1]
    return parse_study(raw | {"data": {"source": "folder", "grey_range": [0, 255]} | data})


def readers(*several: tuple[Study, float]) -> Readers:
    every = [Read(one, ByGrey(one, below), [0, 1]) for one, below in several]
    return Readers(every, list(several[0][0].masked), torch.device("cpu"), {"readers": [one[1] for one in several]})


def phantom(shape: tuple[int, ...] = SIZE) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A volume of two boxes that no turn or mirror brings onto themselves, and its mask."""
    image, mask = np.full(shape, BACKGROUND, np.uint8), np.zeros(shape, np.uint8)
    for bit, grey, box in (
        (1, FRONT, ((0.25, 0.75), (0.125, 0.5), (0.2, 0.6))),
        (2, BACK, ((0.25, 0.5), (0.5, 0.875), (0.4, 0.8))),
    ):
        part = tuple(slice(round(a * n), round(b * n)) for (a, b), n in zip(box, shape, strict=True))
        image[part], mask[part] = grey, bit
    return image, mask


def save(path: Path, values: NDArray[Any], spacing: tuple[float, ...] = (1, 1, 1), codes: str = "LPS") -> Path:
    """A file of a volume that is seen so, whose axes go to what ``codes`` say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1, -1, 1, 1]) @ Lie.straight(spacing).affine
    image = nibabel.Nifti1Image(values, affine)
    turn = ornt_transform(nibabel.io_orientation(affine), axcodes2ornt(tuple(codes)))
    image = image.as_reoriented(turn)
    image.affine[:3, 3] += 30, -20, 10
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine), path)
    return path


def test_whatever_its_axes_a_mask_is_that_of_the_volume_on_its_own(tmp_path: Path) -> None:
    image, mask = phantom()
    for codes in CODES:
        save(tmp_path / f"in/{codes}.nii.gz", image, codes=codes)
        save(tmp_path / f"truth/{codes}.nii.gz", mask, codes=codes)
    segment(readers((study(), 1.0), (study((24, 32, 40)), 1.0)), tmp_path / "in", tmp_path / "out")
    assert len(CODES) == len(list((tmp_path / "out/masks").iterdir())) == 48
    for codes in CODES:
        found, truth = (nibabel.load(tmp_path / part / f"{codes}.nii.gz") for part in ("out/masks", "truth"))
        assert np.array_equal(np.asanyarray(found.dataobj), np.asanyarray(truth.dataobj))
        np.testing.assert_array_equal(found.affine, truth.affine)
        for part in ("in", "out/images"):
            assert (tmp_path / part / f"{codes}.nii.gz").read_bytes() == (tmp_path / f"in/{codes}.nii.gz").read_bytes()


@pytest.mark.parametrize("shape", [(12, 16, 20), (30, 40, 50), (6, 40, 50), (24, 16, 10)])
@pytest.mark.parametrize("grid", [SIZE, (24, 16, 20)])
def test_a_mask_lies_on_its_volume_whatever_its_voxels(
    tmp_path: Path, shape: tuple[int, ...], grid: tuple[int, ...]
) -> None:
    """Few thick slices, too: along no axis is it coarser than the file or the grid."""
    image, mask = phantom(shape)
    spacing = tuple(mm / n for mm, n in zip(SIZE, shape, strict=True))
    save(tmp_path / "in/one.nii.gz", image, spacing)
    segment(readers((study(grid), 1.0)), tmp_path / "in", tmp_path / "out")
    found, lie, _ = read_array(tmp_path / "out/masks/one.nii.gz")
    assert found.shape[:3] == shape
    assert lie.spacing == pytest.approx(spacing)
    for bit in (1, 2):
        assert dice(found[..., 0], mask, bit) > 0.85  # a voxel of 1 mm is a tenth of a box


def test_what_the_grid_does_not_show_is_outside(tmp_path: Path) -> None:
    image, mask = phantom()
    beside = np.pad(image, 5, constant_values=FRONT)
    save(tmp_path / "in/one.nii.gz", beside)
    segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out")
    assert np.array_equal(read_array(tmp_path / "out/masks/one.nii.gz")[0][..., 0], np.pad(mask, 5))


def test_a_series_becomes_a_file_with_its_mask(tmp_path: Path) -> None:
    image, mask = phantom()
    lie = Lie.straight((1, 1, 1), said=True)
    for number, content in enumerate(series_bytes(image[None], lie, {"do": []})):
        (tmp_path / "in/ct").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"in/ct/{number}.dcm").write_bytes(content)
    save(tmp_path / "in/beside/t1.nii", image)
    (tmp_path / "in/beside/._t1.nii.gz").write_bytes(b"of the system")
    segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out")
    assert pd.read_csv(tmp_path / "out/metadata.csv")["id"].tolist() == ["beside/t1", "ct"]
    for id in ("beside/t1", "ct"):
        values, own, _ = read_array(tmp_path / f"out/images/{id}.nii.gz")
        found, same, _ = read_array(tmp_path / f"out/masks/{id}.nii.gz")
        assert np.array_equal(values[..., 0], image)
        assert np.array_equal(found[..., 0], mask)
        assert same.apart(own, SIZE) < 1e-3
    assert read_array(tmp_path / "out/masks/ct.nii.gz")[1].apart(lie, SIZE) < 1e-3
    with refused(DataError, Code.EMPTY, "ct"):  # the folder of folders is to be named
        segment(readers((study(), 1.0)), tmp_path / "in/ct", tmp_path / "other")
    stamp = (tmp_path / "out/masks/beside/t1.nii.gz").stat().st_mtime_ns
    for number, content in enumerate(series_bytes(np.roll(image, 1, axis=2)[None], lie, {"do": []})):
        (tmp_path / f"in/ct/{number}.dcm").write_bytes(content)
    segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out")  # goes on, with what has changed
    assert np.array_equal(read_array(tmp_path / "out/masks/ct.nii.gz")[0][..., 0], np.roll(mask, 1, axis=2))
    assert (tmp_path / "out/masks/beside/t1.nii.gz").stat().st_mtime_ns == stamp


def test_the_folder_is_one_that_a_study_reads(tmp_path: Path) -> None:
    """Whatever the headers say of values, and also where they say nothing of the patient."""
    image, mask = phantom()
    rows = ["id,sex,age"]
    for number in range(6):
        path = save(tmp_path / f"in/images/{number}.nii.gz", np.roll(image, number % 3, axis=0), codes="RAS")
        rows.append(f"{number},{'FM'[number % 2]},{50 + number}")
    for number, kind in ((1, nibabel.Nifti2Image), (2, nibabel.Nifti1Image)):
        path = tmp_path / f"in/images/{number}.nii.gz"
        stored = nibabel.load(path)
        scaled = kind(np.asanyarray(stored.dataobj).astype(np.int16), stored.affine if number == 1 else None)
        scaled.header.set_slope_inter(0.5, 10.0)
        nibabel.save(scaled, path)
    (tmp_path / "in/metadata.csv").write_text("\n".join(rows) + "\n")
    read = study(grey_range=[0, 255])
    segment(readers((read, 1.0)), tmp_path / "in", tmp_path / "out", settings=Settings(window=(0, 100)))
    taken = pd.read_csv(tmp_path / "out/metadata.csv")
    assert taken["id"].tolist() == list(range(6))
    assert (taken[f"anterior{AGREED}"] == 1).all()
    assert not {"pixel_height_mm", "pixel_width_mm"} & set(taken)
    store = import_folder(study(window=[0, 100], grey_range=None), tmp_path / "out", tmp_path / "store", split="test")
    assert not len(store.rejected)
    for row, id in enumerate(store.table["id"]):
        truth = np.roll(mask, int(id) % 3, axis=0)
        truth = truth[..., ::-1] if id == "2" else truth  # which says nothing, and is taken by NIfTI's default
        assert np.array_equal(store.masks[row] > 127, [truth & bit > 0 for bit in (1, 2)])


def test_where_readers_disagree_there_is_no_mask(tmp_path: Path) -> None:
    save(tmp_path / "in/one.nii.gz", phantom()[0])
    two = readers((study(), 1.0), (study(), 1 / 3))  # one sees the lowest third of the second box alone
    with refused(DataError, Code.EMPTY):
        segment(two, tmp_path / "in", tmp_path / "out")
    rejected = pd.read_csv(tmp_path / "out/rejected.csv")
    assert rejected["kind"].tolist() == [DISAGREEMENT]
    assert "posterior" in rejected["reason"][0]


def test_channels_are_those_of_the_readers(tmp_path: Path) -> None:
    image, mask = phantom()
    for name, second in (("two", image[::-1]), ("one", None)):
        values = image[None] if second is None else np.stack([image, second])
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/{name}.nii.gz").write_bytes(nifti_bytes(values, Lie.straight((1, 1, 1), said=True), None))
    segment(readers((study(channels=2), 1.0)), tmp_path / "in", tmp_path / "out")
    assert np.array_equal(read_array(tmp_path / "out/masks/two.nii.gz")[0][..., 0], mask)
    assert pd.read_csv(tmp_path / "out/rejected.csv")["id"].tolist() == ["one"]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "RPI", "AIR", "PSL", "SAL", "ILP"])
def test_a_series_gets_a_dicom_segmentation_on_its_own_slices(tmp_path: Path, codes: str) -> None:
    """Whatever the direction of its axes, and from whichever end its slices are counted."""
    image, mask = (nibabel.load(save(tmp_path / f"{k}.nii.gz", x, codes=codes)) for k, x in enumerate(phantom()))
    stored, truth = (np.asanyarray(one.dataobj).astype(np.int16) for one in (image, mask))
    folder = tmp_path / "in/ct"
    folder.parent.mkdir()
    write_series(folder, stored, np.diag([-1, -1, 1, 1]) @ image.affine, StudyInstanceUID=generate_uid())
    save(tmp_path / "in/t1.nii.gz", phantom()[0])  # which is no DICOM file
    wanted = Settings(dicom_seg=True)
    segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out", settings=Settings())
    summary = segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out", settings=wanted)
    assert summary.files == {SEGMENTATION: 1}
    path = tmp_path / "out" / SEGMENTATION.format(id="ct")
    content, found = path.read_bytes(), highdicom.seg.segread(path)
    slices = [pydicom.dcmread(folder / name_of(k)) for k in range(stored.shape[2])]
    assert found.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    shared = found.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == slices[0].ImageOrientationPatient
    pixels = found.get_pixels_by_source_instance([one.SOPInstanceUID for one in slices])
    for bit in (1, 2):
        assert np.array_equal(pixels[..., bit - 1] > 0, truth.transpose(2, 1, 0) & bit > 0)
    path.unlink()
    segment(readers((study(), 1.0)), tmp_path / "in", tmp_path / "out", settings=wanted)
    assert path.read_bytes() == content


def test_what_volumes_do_not_have_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "in/one.nii.gz", phantom()[0])
    (tmp_path / "pictures").mkdir()
    with refused(DataError, Code.EMPTY, "pictures"):
        segment(readers((study(), 1.0)), tmp_path / "pictures", tmp_path / "out")
    Run(tmp_path / "run", chest_study()).write_study()
    with refused(DataError, Code.UNSUPPORTED, "run"):  # who gives radiographs their masks
        RunSegmenter(tmp_path / "run", torch.device("cpu"))
    of_images = readers_of_images((study_of_images(), 1.0)).readers
    of_volumes = readers((study(), 1.0)).readers
    with refused(RunError, Code.CONFLICT, "image"):
        Readers([*of_volumes, *of_images], ["anterior", "posterior"], torch.device("cpu"), {})


def chest_study() -> Study:
    """Of the lungs and the heart in a volume."""
    raw = small_volumes.mapping()
    raw["image"] = {"size": SIZE, "field_of_view": SIZE, "length_unit": "mm"}
    raw["variables"] = {f"{name}_volume": {"kind": "continuous", "unit": "mm³"} for name in BITS}
    raw["structures"] = {name: {"variable": f"{name}_volume", "bit": bit} for name, bit in BITS.items()}
    raw["hvae"]["levels"] = raw["hvae"]["levels"][:1]
    return parse_study(raw | {"data": {"source": "folder", "grey_range": [0, 255]}})


def test_lungs_and_a_heart_in_a_volume_are_no_radiograph(tmp_path: Path) -> None:
    """Of which there is one each, but the shares of a film are not theirs, nor is it upside down."""
    chest = chest_study()

    class Seen(ByGrey):
        def forward(self, x: Tensor) -> Tensor:
            return 40 * (0.1 - (x - torch.tensor([60, 100, 220]).reshape(1, 3, 1, 1, 1) / 127.5 + 1).abs())

    image = np.full(SIZE, BACKGROUND, np.uint8)
    image[2:10, 4:12, 12:18], image[2:10, 4:12, 2:8], image[2:6, 4:10, 9:11] = 60, 100, 220
    truth = np.select([image == 60, image == 100, image == 220], [1, 2, 4])
    image[0, 0, 0] = 220  # a speck elsewhere
    save(tmp_path / "in/one.nii.gz", image)
    every = Readers([Read(chest, Seen(chest), [0, 1, 2])], list(BITS), torch.device("cpu"), {})
    segment(every, tmp_path / "in", tmp_path / "out")
    assert np.array_equal(read_array(tmp_path / "out/masks/one.nii.gz")[0][..., 0], truth)


def test_the_command_says_what_became_of_every_volume(tmp_path: Path, volumes: Run, volume_files: Path) -> None:
    """With the readers of a trained run, which see what they see."""
    for path in sorted((volume_files / "images").iterdir())[:3]:
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "in")
    out = ["--out", str(tmp_path / "out"), "--agreement", "0"]
    code = main(["segment", str(volumes.folder), str(tmp_path / "in"), *out])
    masks = [path.name for path in (tmp_path / "out/masks").rglob("*.nii.gz")]
    told = pd.read_csv(tmp_path / "out/rejected.csv", dtype=str)["id"].tolist()
    assert sorted([*masks, *(f"{id}.nii.gz" for id in told)]) == sorted(one.name for one in (tmp_path / "in").iterdir())
    assert code == (0 if masks else 1)
