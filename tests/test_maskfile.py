"""Masks mean what their numbers say: scaled, transparent, of few bits; smoothed ones are refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from segcft.config.structure import Structure
from segcft.io.imagefile import ImageFile
from segcft.io.maskfile import BLENDED, blended, read_labels, read_masks
from segcft.io.nifti import PICTURE, Placed
from segcft.io.reject import Rejected
from segcft.simulate import ChestSimulator

SIZE = (48, 64)
ITK = np.diag([-1.0, -1.0, 1.0, 1.0])
"""What ITK writes of a picture: its axes go to the left and to the back."""
BY_LABEL = {name: Structure(variable=name, label=label) for name, label in (("a", 1), ("b", 2), ("c", 3))}
BY_BIT = {name: Structure(variable=name, bit=bit) for name, bit in (("a", 1), ("b", 2), ("c", 4))}
ALONE = {"a": Structure(variable="a", file="{id}_a.png")}


def labels(values: tuple[int, ...] = (0, 1, 2, 3), scale: int = 1) -> np.ndarray:
    """Three blocks of different shapes at different places, and one in another."""
    found = np.zeros(SIZE, dtype=np.int64)
    found[4:40, 5:25] = values[1]
    found[10:46, 30:60] = values[2]
    found[20:35, 36:50] = values[3]
    return np.kron(found, np.ones((scale, scale), dtype=np.int64))


def save(path: Path, array: np.ndarray, kind: Any = np.uint8, **options: Any) -> None:
    Image.fromarray(array.astype(kind)).save(path, **options)


def coverage(tmp_path: Path, structures: dict[str, Structure], **options: Any) -> np.ndarray:
    image = ImageFile(np.zeros((1, *SIZE)), 1.0, {})._replace(
        **{k: options.pop(k) for k in ("placed",) if k in options}
    )
    return read_masks(tmp_path, "p", structures, image, **options).coverage


def true(values: tuple[int, ...] = (0, 1, 2, 3)) -> np.ndarray:
    return np.stack([labels(values) == value for value in values[1:]]).astype(float)


def test_labels_in_several_channels_of_16_bits_are_not_taken_for_nothing(tmp_path: Path) -> None:
    """Pillow reads the upper 8 bits of them, which are 0 of every label below 256."""
    colours = np.repeat(labels()[..., None], 3, axis=-1)
    tifffile.imwrite(tmp_path / "p.tif", colours.astype(np.uint16), photometric="rgb")
    with pytest.raises(Rejected, match="save masks with one channel"):
        coverage(tmp_path, BY_LABEL)
    tifffile.imwrite(tmp_path / "p.tif", (colours * 256).astype(np.uint16), photometric="rgb")
    assert np.array_equal(coverage(tmp_path, BY_LABEL), true())


# --- numbers that are whole but for rounding ---


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.int8])
@pytest.mark.parametrize("structures", [BY_LABEL, BY_BIT], ids=["labels", "bits"])
def test_labels_that_a_scale_factor_rounded_are_whole(tmp_path: Path, structures: Any, kind: Any) -> None:
    values = (0, 1, 2, 4) if structures is BY_BIT else (0, 1, 2, 3)
    image = nibabel.Nifti1Image(labels(values).T[:, :, None].astype(np.float64), ITK)
    image.set_data_dtype(kind)
    nibabel.save(image, tmp_path / "p.nii.gz")
    stored = np.unique(np.asanyarray(nibabel.load(tmp_path / "p.nii.gz").dataobj))
    assert not np.array_equal(stored, values)  # so there is something to round
    assert np.array_equal(coverage(tmp_path, structures), true(values))


@given(most=st.integers(1, 2000), kind=st.sampled_from([np.int16, np.float32, np.float64]))
def test_any_label_survives_being_stored_as(most: int, kind: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("labels")
    image = nibabel.Nifti1Image(labels((0, most, 1, max(1, most // 2))).T.astype(np.float64), ITK)
    image.set_data_dtype(kind)
    nibabel.save(image, tmp_path / "p.nii")
    assert np.array_equal(read_labels(tmp_path / "p.nii"), labels((0, most, 1, max(1, most // 2))))


@pytest.mark.parametrize("odd", [1.5, 2.25, np.nan, np.inf])
def test_labels_that_are_not_whole_are_refused(tmp_path: Path, odd: float) -> None:
    values = labels().T.astype(np.float32)
    values[10, 10] = odd
    nibabel.save(nibabel.Nifti1Image(values, ITK), tmp_path / "p.nii")
    with pytest.raises(Rejected):
        coverage(tmp_path, BY_LABEL)


def test_real_numbers_of_one_structure_are_coverage(tmp_path: Path) -> None:
    share = np.linspace(0, 1, SIZE[0] * SIZE[1]).reshape(SIZE)
    nibabel.save(nibabel.Nifti1Image(share.T, ITK), tmp_path / "p_a.nii")
    structures = {"a": Structure(variable="a", file="{id}_a.nii")}
    assert np.allclose(coverage(tmp_path, structures)[0], share)


def test_a_zero_that_a_scale_factor_moved_is_outside(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image((labels() == 1).T.astype(np.uint8) * 255, ITK)
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([1 / 255, 1e-6], dtype="<f4").tobytes()  # scl_slope and scl_inter
    (tmp_path / "p_a.nii").write_bytes(content)
    structures = {"a": Structure(variable="a", file="{id}_a.nii")}
    assert np.array_equal(coverage(tmp_path, structures)[0], labels() == 1)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_files_of_few_bits_hold_their_numbers(bits: int) -> None:
    values = np.arange(16).reshape(4, 4) % 2**bits
    content = png_of_bits(values, bits)
    from segcft.io.source import MemoryFile

    assert np.array_equal(read_labels(MemoryFile("p.png", content)), values)


def png_of_bits(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG with ``bits`` a pixel, which Pillow reads and does not write: its rows are packed by hand."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape
    rows = [int("".join(f"{v:0{bits}b}" for v in row).ljust(-(-width * bits // 8) * 8, "0"), 2) for row in values]
    data = b"".join(b"\0" + row.to_bytes(-(-width * bits // 8), "big") for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


# --- transparency ---


@pytest.mark.parametrize("colour", [0, 255])
def test_a_shape_in_the_transparency_is_the_mask(tmp_path: Path, colour: int) -> None:
    inside = labels() == 1
    grey = np.full(SIZE, colour)
    save(tmp_path / "p_a.png", np.stack([grey, grey, grey, inside * 255], axis=-1))
    assert np.array_equal(coverage(tmp_path, ALONE)[0], inside)


def test_what_is_transparent_has_no_label(tmp_path: Path) -> None:
    hidden = np.where(labels() == 0, 2, labels())  # under full transparency anything may be stored
    save(tmp_path / "p.png", np.stack([hidden, (labels() > 0) * 255], axis=-1))
    assert np.array_equal(coverage(tmp_path, BY_LABEL), true())


def test_labels_in_the_transparency_alone_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "p.png", np.stack([labels() * 0, (labels() > 0) * 255], axis=-1))
    with pytest.raises(Rejected, match="transparency"):
        coverage(tmp_path, BY_LABEL)


@pytest.mark.parametrize("opacity", [0, 128, 255])
def test_transparency_that_is_the_same_everywhere_says_nothing(tmp_path: Path, opacity: int) -> None:
    save(tmp_path / "p.png", np.stack([labels(), np.full(SIZE, opacity)], axis=-1))
    assert np.array_equal(coverage(tmp_path, BY_LABEL), true())


# --- which side is inside ---


def test_labels_are_the_numbers_in_the_file_whatever_is_white(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "p.tif", labels().astype(np.uint8), photometric="miniswhite")
    assert np.array_equal(coverage(tmp_path, BY_LABEL), true())


def test_a_mask_alone_whose_white_is_zero_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "p_a.tif", (labels() == 1).astype(np.uint8) * 255, photometric="miniswhite")
    with pytest.raises(Rejected, match="WhiteIsZero"):
        coverage(tmp_path, {"a": Structure(variable="a", file="{id}_a.tif")})


def test_two_values_of_which_none_is_outside_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "p_a.png", np.where(labels() == 1, 2, 1))
    with pytest.raises(Rejected):
        coverage(tmp_path, ALONE)


# --- smoothing ---


def chest(size: int = 128) -> np.ndarray:
    simulator = ChestSimulator((size, size))
    _, masks = simulator.render(3, simulator.attributes(3))
    return np.where(masks.max(axis=0) > 127, masks.argmax(axis=0) + 1, 0).astype(np.uint8)


def damaged(mask: np.ndarray, how: str) -> np.ndarray:
    image = Image.fromarray(mask)
    if how == "JPEG":
        file = io.BytesIO()
        image.save(file, "jpeg", quality=95)
        return np.asarray(Image.open(file))
    if how == "turned":
        return np.asarray(image.rotate(7, Image.Resampling.BILINEAR))
    factor, method = {"enlarged": (1.5, Image.Resampling.BICUBIC), "shrunk": (0.6, Image.Resampling.BILINEAR)}[how]
    return np.asarray(image.resize(tuple(round(side * factor) for side in mask.shape), method))


@pytest.mark.parametrize("how", ["JPEG", "turned", "enlarged", "shrunk"])
@pytest.mark.parametrize("values", [(0, 1, 2, 3), (0, 1, 2, 4), (0, 85, 170, 255)])
def test_smoothed_labels_are_refused(tmp_path: Path, how: str, values: tuple[int, ...]) -> None:
    mask = np.array(values, dtype=np.uint8)[chest()]
    assert blended(mask) < BLENDED / 5
    save(tmp_path / "p.png", damaged(mask, how))
    with pytest.raises(Rejected, match="interpolation"):
        read_labels(tmp_path / "p.png")


@pytest.mark.parametrize("factor", [0.5, 2, 3.3])
def test_labels_resized_by_nearest_neighbour_are_not(factor: float) -> None:
    mask = Image.fromarray(chest())
    size = tuple(round(side * factor) for side in mask.size)
    assert blended(np.asarray(mask.resize(size, Image.Resampling.NEAREST))) < BLENDED


def test_structures_a_pixel_wide_may_be_said_to_be_so(tmp_path: Path) -> None:
    rings = labels((0, 2, 2, 2))
    edge = (rings > 0) & ((np.roll(rings, 1, 0) == 0) | (np.roll(rings, 1, 1) == 0))
    edge |= (rings > 0) & ((np.roll(rings, -1, 0) == 0) | (np.roll(rings, -1, 1) == 0))
    save(tmp_path / "p.png", np.where(edge, 1, rings))
    with pytest.raises(Rejected, match="thin_structures"):
        coverage(tmp_path, BY_LABEL)
    assert np.array_equal(coverage(tmp_path, BY_LABEL, thin=True)[0], edge)


# --- how a mask lies on its image ---


def test_a_mask_that_exif_turns_is_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    save(tmp_path / "p.png", labels()[::-1, ::-1], exif=exif)
    masks = read_masks(tmp_path, "p", BY_LABEL, ImageFile(np.zeros((1, *SIZE)), 1.0, {}))
    assert np.array_equal(masks.coverage, true())
    assert [remark.kind for remark in masks.remarks] == ["turned by EXIF"]


def as_monai(mask: np.ndarray) -> nibabel.Nifti1Image:
    """As MONAI writes the mask of a picture that it has read."""
    return nibabel.Nifti1Image(mask.T.copy(), np.eye(4))


def as_numpy(mask: np.ndarray) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(mask.copy(), np.diag([0.5, 0.5, 1, 1]))


def without_codes(mask: np.ndarray) -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(mask.T.copy(), None)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    return image


@pytest.mark.parametrize(("make", "axes"), [(as_monai, "xy"), (as_numpy, "yx"), (without_codes, "xy")])
def test_a_mask_beside_a_picture_that_does_not_say_how_it_lies(tmp_path: Path, make: Any, axes: Any) -> None:
    nibabel.save(make(labels().astype(np.uint8)), tmp_path / "p.nii.gz")
    with pytest.raises(Rejected, match="nifti_axes"):
        coverage(tmp_path, BY_LABEL)
    assert np.array_equal(coverage(tmp_path, BY_LABEL, axes=axes), true())


def test_a_mask_that_itk_wrote_lies_on_its_picture(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(labels().astype(np.uint8).T.copy(), ITK), tmp_path / "p.nii.gz")
    assert np.array_equal(coverage(tmp_path, BY_LABEL), true())


def test_a_mask_that_lies_another_way_in_its_file_and_says_so_is_turned(tmp_path: Path) -> None:
    ras = nibabel.Nifti1Image(labels().astype(np.uint8).T[::-1, ::-1].copy(), np.diag([1, 1, 1, 1]) + _origin())
    nibabel.save(ras, tmp_path / "p.nii.gz")
    assert np.array_equal(coverage(tmp_path, BY_LABEL), true())


def _origin() -> np.ndarray:
    origin = np.zeros((4, 4))
    origin[:3, 3] = -20, 30, 5
    return origin


@pytest.mark.parametrize(
    ("image", "mask", "certain"),
    [
        (PICTURE, PICTURE, True),
        (PICTURE, Placed(True, False), True),  # by ITK's convention of a picture's axes
        (PICTURE, Placed(False), False),
        (Placed(True, True), PICTURE, True),  # as seen and as stored are the same
        (Placed(True, False), PICTURE, False),
        (Placed(False), PICTURE, False),
        (Placed(True, False), Placed(True, True), True),
        (Placed(False, False), Placed(False, False), True),
        (Placed(True, True), Placed(False), False),
        (Placed(False), Placed(True, True), False),
    ],
)
def test_of_which_pairs_it_is_certain_how_they_lie(image: Placed, mask: Placed, certain: bool) -> None:
    assert image.fits(mask) is certain
