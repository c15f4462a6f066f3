"""A header's pixel spacing against the study's field of view: areas in mm² are never wrong without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

import segcft
from segcft.api.question import prepare_image
from segcft.config.image import Image
from segcft.config.study import Study
from segcft.data.extent import TOLERANCE, contradiction
from segcft.data.resize import SQUARE, Pixel
from segcft.data.store import Store
from segcft.importers.folder import import_folder
from tests.conftest import MODELS, MakeStudy


def contradicts(shape: tuple[int, int], extent: tuple[float, float], grid: Image) -> bool:
    """Whether an image of ``shape`` pixels and of ``extent`` in mm contradicts the grid's field of view."""
    height, width = extent[0] / shape[0], extent[1] / shape[1]
    return contradiction(shape, Pixel(height / width, (height, width)), grid, "a") is not None


@given(
    height=st.floats(10, 500),
    width=st.floats(10, 500),
    ratio=st.floats(0.2, 5),
    unit=st.sampled_from([("mm", 1), ("cm", 10)]),
)
def test_an_image_fits_its_field_of_view_or_is_told(height: float, width: float, ratio: float, unit: Any) -> None:
    name, millimetres = unit
    grid = Image(size=(8, 8), field_of_view=(height / millimetres, width / millimetres), length_unit=name)
    wrong = abs(ratio - 1) > TOLERANCE
    if abs(abs(ratio - 1) - TOLERANCE) > 1e-6:
        assert contradicts((200, 300), (height * ratio, width * ratio), grid) == wrong
    # One that is narrower than the field of view is filled up to it.
    assert not contradicts((200, 150), (height, width / 2), grid)
    assert contradiction((200, 300), SQUARE, grid, "a") is None


@pytest.mark.parametrize(
    ("fit", "extent", "wrong"),
    [
        ("pad", (300, 300), False),
        ("pad", (400, 300), True),
        ("pad", (300, 225), False),  # filled up to a square of 300 mm
        ("crop", (400, 300), False),  # cut to one
        ("crop", (300, 225), True),
        ("stretch", (300, 300), False),
        ("stretch", (400, 300), True),
        ("physical", (400, 225), False),
    ],
)
def test_what_the_grid_shows_is_compared(fit: Any, extent: tuple[int, int], wrong: bool) -> None:
    grid = Image(size=(64, 64), field_of_view=(300, 300), length_unit="mm", fit=fit)
    assert contradicts(extent, extent, grid) == wrong


def test_without_a_length_nothing_contradicts() -> None:
    assert not contradicts((100, 100), (100, 100), Image(size=(8, 8)))
    unknown = Image(size=(8, 8), field_of_view=(3, 3), length_unit="vertebra")
    assert not contradicts((100, 100), (100, 100), unknown)


def dicom(path: Path, pixels: np.ndarray, spacing: float | None) -> None:
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 8, 7, 0
    file.WindowCenter, file.WindowWidth = 128, 256
    if spacing is not None:
        file.PixelSpacing = [spacing, spacing]
    file.PixelData = pixels.astype("<u2").tobytes()
    file.save_as(path, enforce_file_format=True)


def nifti(path: Path, pixels: np.ndarray, spacing: float | None) -> None:
    size = spacing or 1.0
    nibabel.save(nibabel.Nifti1Image(pixels.T.copy(), np.diag([-size, -size, 1, 1])), path)


@pytest.fixture(params=[(".dcm", dicom), (".nii.gz", nifti)], ids=["dicom", "nifti"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Twelve images of 32 pixels a side: of 320 mm, of 160 mm, and of a length that they do not say."""
    suffix, write = request.param
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32), dtype=np.uint8)
        write(tmp_path / f"images/p{i}{suffix}", pixels, (10.0, 5.0, None)[i % 3])
        flags = np.zeros((32, 32), dtype=np.uint8)
        flags[4:20, 4:12], flags[4:20, 18:28], flags[20:30, 8:24] = 1, 2, 4
        Pillow.fromarray(flags).save(tmp_path / f"masks/p{i}.png")
    rows = {"id": [f"p{i}" for i in range(12)], "sex": ["F", "M"] * 6, "age": range(40, 52)}
    pd.DataFrame(rows).to_csv(tmp_path / "metadata.csv", index=False)
    return tmp_path, suffix


def study_of(make_small_study: MakeStudy, **data: Any) -> Study:
    bits = {"left_lung": 1, "right_lung": 2, "heart": 4}
    return make_small_study(
        {
            "image": {"size": [32, 32], "field_of_view": [320, 320], "length_unit": "mm"},
            "data": {"source": "folder"} | data,
            "splits": {"train": 0.5, "validation": 0, "test": 0.5},
            "structures": {name: {"variable": f"{name}_area", "bit": bit} for name, bit in bits.items()},
        }
    )


def read(folder: Path, study: Study) -> Store:
    return import_folder(study, folder, folder / "store", split="test")


def test_images_of_another_size_are_left_out(folder: tuple[Path, str], make_small_study: MakeStudy) -> None:
    store = read(folder[0], study_of(make_small_study))
    assert set(store.rejected["id"]) == {"p1", "p4", "p7", "p10"}
    assert all("field_of_view" in reason for reason in store.rejected["reason"])
    assert np.allclose(store.table["heart_area"], 10 * 16 * 100)  # pixels of 10 x 10 mm


def test_the_study_may_say_that_headers_are_wrong(folder: tuple[Path, str], make_small_study: MakeStudy) -> None:
    store = read(folder[0], study_of(make_small_study, ignore_spacing=True))
    assert len(store) == 12
    assert np.allclose(store.table["heart_area"], 10 * 16 * 100)


def test_a_question_about_such_an_image_is_answered_with_a_warning(
    folder: tuple[Path, str], make_small_study: MakeStudy
) -> None:
    root, suffix = folder
    study = study_of(make_small_study)
    told = [[remark.kind for remark in prepare_image(study, root / f"images/p{i}{suffix}").remarks] for i in range(3)]
    assert told == [[], ["pixel spacing contradicts image.field_of_view"], []]
    assert not prepare_image(study_of(make_small_study, ignore_spacing=True), root / f"images/p1{suffix}").remarks


@pytest.mark.parametrize(("suffix", "write"), [(".dcm", dicom), (".nii", nifti)])
def test_a_spacing_of_one_says_nothing(tmp_path: Path, suffix: str, write: Any, make_small_study: MakeStudy) -> None:
    write(tmp_path / f"a{suffix}", np.arange(1024, dtype=np.uint16).reshape(32, 32) // 4, 1.0)
    assert not prepare_image(study_of(make_small_study), tmp_path / f"a{suffix}").remarks


def test_what_is_told_of_a_file_is_among_the_answer_s_warnings(tmp_path: Path) -> None:
    """Of any kind: here a NIfTI file that does not say how it lies."""
    with Pillow.open(MODELS / "chest-sim" / "examples" / "1.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    nibabel.save(nibabel.Nifti1Image(pixels.T.copy(), np.eye(4)), tmp_path / "Doe^Jane.nii")
    answer = segcft.load(MODELS / "chest-sim").counterfactual(
        tmp_path / "Doe^Jane.nii", do={"heart_area": "+10%"}, draws=0
    )
    assert any("nifti_axes" in warning for warning in answer.warnings)
    assert "Doe" not in json.dumps(answer.provenance)  # nor anything else of the file's name
