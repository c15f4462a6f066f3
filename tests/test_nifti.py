"""Single images in NIfTI: as radiologists look at them, whatever the order of their axes."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, ornt_transform

from segcft.app.upload import received
from segcft.io.imagefile import read_image
from segcft.io.maskfile import read_labels
from segcft.io.nifti import read_nifti
from segcft.io.orientation import letters_of, turn_of
from segcft.io.reject import Rejected
from segcft.io.source import MemoryFile

CODES = ["".join(code) for axes in itertools.permutations(("RL", "AP", "SI")) for code in itertools.product(*axes)]


def coronal(width: int, height: int) -> nibabel.Nifti1Image:
    """A coronal image in RAS whose values tell where they are: 10 x (to the right) + (to the head)."""
    x, z = np.meshgrid(np.arange(width), np.arange(height), indexing="ij")
    return nibabel.Nifti1Image((10 * x + z)[:, None].astype(np.int16), np.diag([0.5, 2.0, 0.8, 1.0]))


@given(
    codes=st.sampled_from(CODES),
    width=st.integers(2, 5),
    height=st.integers(2, 6),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
)
@settings(max_examples=60)
def test_any_order_of_axes_shows_the_same(
    codes: str, width: int, height: int, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = coronal(width, height)
    turned = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(codes))))
    path = tmp_path_factory.mktemp("nifti") / f"a{suffix}"
    nibabel.save(turned, path)
    values, aspect, *_ = read_nifti(path)
    assert values.shape == (height, width)
    assert aspect == pytest.approx(0.8 / 0.5)
    assert values[0, 0] == 10 * (width - 1) + height - 1  # the head is up, the patient's right on the left
    assert values[-1, -1] == 0
    assert np.array_equal(read_nifti(MemoryFile(path.name, path.read_bytes()))[0], values)


def test_grey_values_and_labels(tmp_path: Path) -> None:
    levels = np.linspace(0, 255, 12).astype(np.uint8).reshape(3, 4)
    nibabel.save(nibabel.Nifti1Image(levels, np.eye(4)), tmp_path / "grey.nii.gz")
    grey = read_image(tmp_path / "grey.nii.gz", 1).grey
    assert np.allclose(np.sort(grey.ravel()) * 255, np.sort(levels.ravel()))
    assert read_image(tmp_path / "grey.nii.gz", 1).aspect == 1
    nibabel.save(nibabel.Nifti1Image(levels.astype(np.float32) * 7 - 900, np.eye(4)), tmp_path / "ct.nii")
    assert read_image(tmp_path / "ct.nii", 1).grey.max() == 1  # by percentiles: floating point has no range
    assert read_image(tmp_path / "ct.nii", 1, (-900.0, 885.0)).grey.max() == pytest.approx(1)
    nibabel.save(nibabel.Nifti1Image((levels > 99).astype(np.uint8), np.eye(4)), tmp_path / "mask.nii.gz")
    assert set(np.unique(read_labels(tmp_path / "mask.nii.gz"))) == {0, 1}


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 1, 2)])
def test_volumes_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, dtype=np.uint8), np.eye(4)), tmp_path / "volume.nii")
    with pytest.raises(Rejected, match="expected one image"):
        read_image(tmp_path / "volume.nii", 1)


@given(st.data())
@settings(max_examples=150)
def test_a_damaged_file_is_rejected_or_read(data: st.DataObject) -> None:
    content = bytearray(coronal(4, 5).to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 351))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for one in (bytes(content), bytes(content[:cut])):
        with contextlib.suppress(Rejected):
            values, aspect, *_ = read_nifti(MemoryFile("a.nii", one))
            assert values.ndim == 2
            assert aspect > 0


# --- what a header says of how the image lies ---


def itk(array: np.ndarray, spacing: float = 0.7) -> nibabel.Nifti1Image:
    """What ITK writes of a picture (H, W): its axes go to the left and to the back."""
    return nibabel.Nifti1Image(array.T.copy(), np.diag([-spacing, -spacing, 1, 1]))


PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def write(image: nibabel.Nifti1Image) -> MemoryFile:
    return MemoryFile("a.nii", image.to_bytes())


def test_axes_may_be_said_in_the_study() -> None:
    for affine in (np.eye(4), None, np.diag([-2.0, 3.0, 1, 1])):
        assert np.array_equal(read_nifti(write(nibabel.Nifti1Image(PIXELS.T.copy(), affine)), "xy").values, PIXELS)
        assert np.array_equal(read_nifti(write(nibabel.Nifti1Image(PIXELS.copy(), affine)), "yx").values, PIXELS)
    tall = nibabel.Nifti1Image(PIXELS.T.copy(), np.diag([0.5, 2.0, 1, 1]))  # 0.5 mm wide, 2 mm high
    assert read_nifti(write(tall), "xy").aspect == 4
    assert read_nifti(write(tall), "yx").aspect == 1 / 4


@pytest.mark.parametrize(
    ("affine", "said", "straight"),
    [
        (np.diag([-1.0, -1, 1, 1]), True, True),
        (np.diag([-0.3, -0.3, 1, 1]), True, True),
        (np.eye(4), False, False),
        (np.diag([0.3, 0.3, 1, 1]), False, False),
        (np.diag([-1.0, 1, 1, 1]), True, False),
        (np.array([[1.0, 0, 0, -90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]]), True, False),
    ],
)
def test_whether_a_header_says_how_the_image_lies(affine: np.ndarray, said: bool, straight: bool) -> None:
    placed = read_nifti(write(nibabel.Nifti1Image(PIXELS.T.copy(), affine))).placed
    assert (placed.said, placed.straight) == (said, straight)


def test_a_header_without_codes_says_nothing() -> None:
    image = itk(PIXELS)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    seen = read_image(write(image), 1)
    assert seen.placed.said is False
    assert [remark.kind for remark in seen.remarks] == ["unknown orientation"]
    assert seen.extent is None


@pytest.mark.parametrize(("unit", "millimetres"), [("mm", 1), ("unknown", 1), ("meter", 1000), ("micron", 0.001)])
def test_the_extent_is_in_millimetres(unit: str, millimetres: float) -> None:
    image = nibabel.Nifti1Image(PIXELS.T.copy(), np.diag([-0.5, -2.0, 1, 1]))
    image.header.set_xyzt_units(unit)
    assert read_nifti(write(image)).extent == pytest.approx((3 * 2.0 * millimetres, 4 * 0.5 * millimetres))


def test_spacings_of_exactly_one_are_no_extent() -> None:
    assert read_nifti(write(itk(PIXELS, 1.0))).extent is None


@given(st.integers(0, 2**32 - 1))
def test_an_oblique_image_lies_as_in_dicom(seed: int) -> None:
    """So that a mask fits a DICOM image whose plane is nearest to two others."""
    rows, columns, across = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0].T
    affine = np.eye(4)
    affine[:3] = np.diag([-1, -1, 1]) @ np.column_stack([rows, columns, across, [3, 4, 5]])
    image = nibabel.Nifti1Image(PIXELS.T[:, :, None].copy(), affine)
    assert np.array_equal(read_nifti(write(image)).values, turn_of(*letters_of([*rows, *columns]))(PIXELS))


def test_bytes_in_any_order_are_the_same_image() -> None:
    pictures = []
    for order in "<>":
        header = nibabel.Nifti1Header(endianness=order)
        header.set_data_dtype(np.uint16)
        image = nibabel.Nifti1Image(1000 * PIXELS.astype(f"{order}u2"), np.diag([-1.0, -1, 1, 1]), header)
        pictures.append(read_image(write(image), 1).grey)
    assert np.array_equal(*pictures)
    assert pictures[0].max() == pytest.approx(11000 / 65535)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_2_is_read_like_nifti_1(suffix: str, tmp_path: Path) -> None:
    affine = np.diag([-0.5, -0.5, 1.0, 1.0])
    found = []
    for number, kind in enumerate((nibabel.Nifti1Image, nibabel.Nifti2Image)):
        path = tmp_path / f"{number}{suffix}"
        nibabel.save(kind(PIXELS.T, affine), path)
        seen = read_image(path, 1)
        found.append((seen.grey.tolist(), seen.placed, seen.extent))
        assert received(path.read_bytes()).name == "upload.nii"
    assert found[0] == found[1]
