"""DICOM in colour: whichever way colours are stored, they are those of the picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from segcft.drafting.images import _picture
from segcft.io.imagefile import read_image
from segcft.io.reject import Excluded

HEIGHT, WIDTH = 24, 32
Colours = NDArray[np.uint8]


def smooth() -> Colours:
    """A picture (H, W, 3) whose colours are of all hues, and which JPEG keeps nearly."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([8 * x, 10 * y, 255 - 4 * (x + y)], axis=-1).astype(np.uint8)


def dicom(photometric: str, pixels: NDArray[Any], **more: Any) -> FileDataset:
    """A file with ``pixels`` as they are to be stored."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PhotometricInterpretation = "OP", photometric
    dataset.Rows, dataset.Columns = HEIGHT, WIDTH
    dataset.SamplesPerPixel = 1 if photometric == "PALETTE COLOR" else 3
    if dataset.SamplesPerPixel > 1:
        dataset.PlanarConfiguration = 0
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits, bits - 1, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in more.items():
        setattr(dataset, name, value)
    return dataset


def as_rgb() -> FileDataset:
    return dicom("RGB", smooth())


def as_planes() -> FileDataset:
    return dicom("RGB", np.ascontiguousarray(np.moveaxis(smooth(), -1, 0)), PlanarConfiguration=1)


def as_sixteen_bits() -> FileDataset:
    return dicom("RGB", smooth().astype(np.uint16) * 257)


def as_ybr() -> FileDataset:
    return dicom("YBR_FULL", convert_color_space(smooth(), "RGB", "YBR_FULL"))


def as_halved_ybr() -> FileDataset:
    """Two pixels beside each other share their colour, and are stored as Y Y Cb Cr."""
    ybr = convert_color_space(smooth(), "RGB", "YBR_FULL").astype(int)
    chrominance = (ybr[:, ::2, 1:] + ybr[:, 1::2, 1:]) // 2
    halved = np.concatenate([ybr[:, ::2, :1], ybr[:, 1::2, :1], chrominance], axis=2)
    return dicom("YBR_FULL_422", halved.astype(np.uint8))


def as_rle() -> FileDataset:
    dataset = as_rgb()
    dataset.compress(RLELossless, smooth(), generate_instance_uid=False)
    return dataset


def as_jpeg() -> FileDataset:
    file = io.BytesIO()
    Image.fromarray(smooth()).save(file, "JPEG", quality=100, subsampling=2)
    dataset = dicom("YBR_FULL_422", smooth())
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([file.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def as_jpeg_of_planes() -> FileDataset:
    """What JPEG does not know, in its header."""
    dataset = as_jpeg()
    dataset.PlanarConfiguration = 1
    return dataset


def as_jpeg_that_says_nothing_of_planes() -> FileDataset:
    dataset = as_jpeg()
    del dataset.PlanarConfiguration
    return dataset


def as_jpeg_2000() -> FileDataset:
    file = io.BytesIO()
    Image.fromarray(smooth()).save(file, "JPEG2000", mct=1, irreversible=False, no_jp2=True)
    dataset = dicom("YBR_RCT", smooth())
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([file.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def as_palette(bits: int = 8) -> FileDataset:
    """The picture's 32 columns as indices of 32 colours, of which each has ``bits``."""
    entries = np.stack([8 * np.arange(32), 255 - 8 * np.arange(32), np.full(32, 99)]).astype(f"u{bits // 8}")
    entries = entries * (257 if bits == 16 else 1)
    dataset = dicom("PALETTE COLOR", np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1)))
    for name, column in zip(("Red", "Green", "Blue"), entries, strict=True):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [32, 0, bits])
        setattr(dataset, f"{name}PaletteColorLookupTableData", column.tobytes())
    return dataset


def saved(dataset: Dataset, folder: Path) -> Path:
    path = folder / "image.dcm"
    dataset.save_as(path)
    return path


@pytest.mark.parametrize(
    ("make", "off"),
    [
        (as_rgb, 0),
        (as_planes, 0),
        (as_jpeg_of_planes, 12),
        (as_jpeg_that_says_nothing_of_planes, 12),
        (as_jpeg_2000, 0),
        (as_sixteen_bits, 0),
        (as_rle, 0),
        (as_ybr, 1),
        (as_halved_ybr, 12),
        (as_jpeg, 12),
    ],
)
def test_colours_are_those_of_the_picture(make: Callable[[], FileDataset], off: int, tmp_path: Path) -> None:
    found = read_image(saved(make(), tmp_path), 3).grey
    assert found.shape == (3, HEIGHT, WIDTH)
    assert np.abs(255 * found - np.moveaxis(smooth().astype(float), -1, 0)).max() <= off + 0.01


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_gives_its_colours(bits: int, tmp_path: Path) -> None:
    found = 255 * read_image(saved(as_palette(bits), tmp_path), 3).grey
    np.testing.assert_allclose(found[0], np.tile(8.0 * np.arange(32), (HEIGHT, 1)), atol=0.5)
    np.testing.assert_allclose(found[1], 255 - found[0], atol=0.5)
    np.testing.assert_allclose(found[2], 99, atol=0.5)


def test_a_palette_of_words_that_hold_bytes_is_told_of(tmp_path: Path) -> None:
    dataset = as_palette(8)
    for name in ("Red", "Green", "Blue"):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [32, 0, 16])
        entries = np.frombuffer(dataset[f"{name}PaletteColorLookupTableData"].value, np.uint8)
        setattr(dataset, f"{name}PaletteColorLookupTableData", entries.astype(np.uint16).tobytes())
    found = read_image(saved(dataset, tmp_path), 3)
    np.testing.assert_allclose(255 * found.grey[0], np.tile(8.0 * np.arange(32), (HEIGHT, 1)), atol=0.01)
    assert [one.kind for one in found.remarks] == ["palette of fewer bits"]


def test_indices_beyond_a_palette_have_its_last_colour(tmp_path: Path) -> None:
    dataset = as_palette(8)
    for name in ("Red", "Green", "Blue"):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [16, 4, 8])
        entries = dataset[f"{name}PaletteColorLookupTableData"].value
        setattr(dataset, f"{name}PaletteColorLookupTableData", entries[:16])
    found = 255 * read_image(saved(dataset, tmp_path), 3).grey[0, 0]
    np.testing.assert_allclose(found, 8.0 * np.clip(np.arange(32) - 4, 0, 15), atol=0.01)


def test_it_is_turned_as_grey_images_are(tmp_path: Path) -> None:
    dataset = as_rgb()
    dataset.PatientOrientation = ["R", "F"]  # columns go to the patient's right
    found = read_image(saved(dataset, tmp_path), 3)
    assert found.turn.mirrored
    np.testing.assert_allclose(255 * found.grey[0], np.tile(8.0 * np.arange(32)[::-1], (HEIGHT, 1)), atol=0.01)


def test_a_range_and_a_window_are_of_the_file_s_values(tmp_path: Path) -> None:
    path = saved(as_sixteen_bits(), tmp_path)
    halved = read_image(path, 3, grey_range=(0, 2 * 65535)).grey
    np.testing.assert_allclose(2 * halved, read_image(path, 3).grey, atol=1e-6)
    values = np.moveaxis(smooth().astype(float), -1, 0)
    low, high = np.percentile(values, (10, 90))
    found = read_image(path, 3, window=(10, 90)).grey
    np.testing.assert_allclose(found, np.clip((values - low) / (high - low), 0, 1), atol=1e-6)


def test_grey_files_of_a_study_in_colour_are_grey(tmp_path: Path) -> None:
    dataset = dicom("MONOCHROME2", smooth()[..., 0].copy(), SamplesPerPixel=1)
    del dataset.PlanarConfiguration
    found = read_image(saved(dataset, tmp_path), 3).grey
    assert found.shape == (3, HEIGHT, WIDTH)
    assert (found == found[:1]).all()


def cut(dataset: FileDataset) -> None:
    dataset.PixelData = dataset.PixelData[:500]


def one_sample(dataset: FileDataset) -> None:
    dataset.SamplesPerPixel = 1


def frames(dataset: FileDataset) -> None:
    dataset.NumberOfFrames = 2


def few_bits(dataset: FileDataset) -> None:
    dataset.BitsStored, dataset.HighBit = 6, 5


def no_entries(dataset: FileDataset) -> None:
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "PALETTE COLOR", 1


def no_planes(dataset: FileDataset) -> None:
    del dataset.PlanarConfiguration


def of_jpeg_2000(dataset: FileDataset) -> None:
    dataset.PhotometricInterpretation = "YBR_ICT"


def not_halved(dataset: FileDataset) -> None:
    dataset.PhotometricInterpretation = "YBR_FULL_422"


def signed(dataset: FileDataset) -> None:
    dataset.PixelRepresentation = 1


def partial(dataset: FileDataset) -> None:
    dataset.PhotometricInterpretation = "YBR_PARTIAL_422"


def constant(dataset: FileDataset) -> None:
    dataset.PixelData = b"\x07" * len(dataset.PixelData)


def test_jpeg_2000_holds_what_it_makes_itself(tmp_path: Path) -> None:
    dataset = as_jpeg_2000()
    dataset.PhotometricInterpretation = "YBR_FULL"
    with pytest.raises(Excluded):
        read_image(saved(dataset, tmp_path), 3)


def test_what_is_grey_in_a_file_of_colours_is_drafted_in_colour(tmp_path: Path) -> None:
    grey = np.repeat(smooth()[..., :1], 3, axis=-1)
    assert _picture(saved(dicom("RGB", grey), tmp_path)).channels == 3


@pytest.mark.parametrize(
    "spoil",
    [cut, one_sample, frames, few_bits, no_entries, no_planes, of_jpeg_2000, not_halved, signed, partial, constant],
)
def test_what_cannot_be_read_is_left_out(spoil: Callable[[FileDataset], None], tmp_path: Path) -> None:
    dataset = as_rgb()
    spoil(dataset)
    path = saved(dataset, tmp_path)
    with pytest.raises(Excluded) as told:
        read_image(path, 3)
    assert str(path) in str(told.value)


def test_a_study_in_grey_takes_no_colours(tmp_path: Path) -> None:
    with pytest.raises(Excluded):
        read_image(saved(as_rgb(), tmp_path), 1)
