"""Pictures as they are stored and as they are meant: orientation, which value is white, pages, transparency."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import ExifTags, Image, ImageOps

from segcft.api.question import prepare_image
from segcft.config.study import Study
from segcft.io.imagefile import read_image
from segcft.io.picture import pixels_of, read_picture
from segcft.io.reject import Rejected
from segcft.io.source import MemoryFile


def picture(height: int = 6, width: int = 9) -> np.ndarray:
    """Grey levels none of which is like another, so that every way of turning it shows."""
    return np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)


def stored_as(orientation: int, shown: np.ndarray) -> Image.Image:
    """What a camera stores that lay so: Pillow itself, asked to turn it, shows ``shown``."""
    backwards = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    image, exif = Image.fromarray(shown), Image.Exif()
    exif[ExifTags.Base.Orientation] = backwards
    image.info["exif"] = exif.tobytes()
    stored = ImageOps.exif_transpose(image)
    stored.info.clear()
    return stored


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# --- orientation ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg"])
def test_an_image_is_seen_as_viewers_show_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 100} if kind == "jpeg" else {}
    content = encoded(stored_as(orientation, picture(16, 24)), kind, exif=exif, **options)
    seen = read_image(MemoryFile(f"a.{kind}", content), 1)
    assert np.abs(seen.grey[0] * 255 - picture(16, 24)).max() <= (4 if kind == "jpeg" else 0)
    # Of TIFF it is part of the format, and read as ever; in others many programs do not look at it.
    told = [remark.kind for remark in seen.remarks]
    assert told == ([] if kind == "tiff" or orientation == 1 else ["turned by EXIF"])


def test_a_pillow_image_that_was_opened_from_a_file_is_turned_too() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    with Image.open(io.BytesIO(encoded(stored_as(3, picture()), "png", exif=exif))) as image:
        assert np.array_equal(pixels_of(image).values, picture())


def test_a_question_about_such_an_image_tells_of_it(small_study: Study) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    with Image.open(io.BytesIO(encoded(stored_as(3, picture()), "png", exif=exif))) as image:
        assert [remark.kind for remark in prepare_image(small_study, image).remarks] == ["turned by EXIF"]


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    content = encoded(Image.fromarray(picture()), "png", exif=exif)
    assert np.array_equal(read_picture(MemoryFile("a.png", content)).values, picture())


def test_a_damaged_exif_record_says_nothing() -> None:
    content = encoded(Image.fromarray(picture()), "png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(read_picture(MemoryFile("a.png", content)).values, picture())


# --- which value is white ---


@given(
    values=arrays.arrays(np.uint16, (5, 7), elements=st.integers(0, 65535), unique=True),
    bits=st.sampled_from([1, 8, 16]),
)
def test_a_tiff_file_whose_white_is_zero_is_no_negative(values: np.ndarray, bits: int) -> None:
    shown = {1: values > 30000, 8: (values >> 8).astype(np.uint8), 16: values}[bits]
    full = 2**bits - 1
    stored = (~shown if bits == 1 else full - shown).astype(shown.dtype)
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric="miniswhite")
    if shown.min() == shown.max():
        return
    grey = read_image(MemoryFile("a.tif", file.getvalue()), 1).grey[0]
    assert np.allclose(grey, shown.astype(float) / full, atol=1e-9)


@pytest.mark.parametrize(("kind", "white_is_zero"), [(np.float32, False), (np.float32, True), (np.int16, False)])
def test_numbers_without_a_range_of_their_own(kind: Any, white_is_zero: bool) -> None:
    values = picture().astype(kind) - 100
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="miniswhite" if white_is_zero else "minisblack")
    source = MemoryFile("a.tif", file.getvalue())
    with pytest.raises(Rejected, match="grey_range"):
        read_image(source, 1)
    shown = (255 - picture() if white_is_zero else picture()) / 255
    for options in ({"grey_range": (-100.0, 155.0)}, {"window": (0.0, 100.0)}):
        assert np.allclose(read_image(source, 1, **options).grey[0], shown)


@pytest.mark.parametrize("kind", [np.int8, np.uint32])
def test_numbers_have_the_sign_that_the_file_says(kind: Any, tmp_path: Path) -> None:
    """Pillow takes 8 bits with a sign for none, and 32 without for some."""
    limits = np.iinfo(kind)
    values = np.linspace(limits.min, limits.max, 24).astype(kind).reshape(4, 6)
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert np.array_equal(read_picture(tmp_path / "a.tif").values, values)
    assert np.all(np.diff(read_image(tmp_path / "a.tif", 1, window=(0, 100)).grey.ravel()) > 0)
    with pytest.raises(Rejected, match="no range of their own"):
        read_image(tmp_path / "a.tif", 1)


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int64])
def test_a_tiff_file_of_other_numbers_is_refused_and_what_to_do(kind: Any, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture().astype(kind))
    with pytest.raises(Rejected, match=r"16 or 64 bits.* as float32"):
        read_image(tmp_path / "a.tif", 1, window=(0, 100))


def test_a_grey_range_is_of_the_values_in_the_file() -> None:
    stored = (4095 - picture().astype(np.uint16) * 16).clip(0, 4095)  # a scan of 12 bits, 0 is white
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric="miniswhite")
    grey = read_image(MemoryFile("a.tif", file.getvalue()), 1, (0.0, 4095.0)).grey[0]
    assert np.allclose(grey, picture().astype(float) * 16 / 4095)


def test_a_tiff_palette_becomes_colours() -> None:
    palette = np.stack([np.arange(256)[::-1] * 257] * 3).astype(np.uint16)  # 0 is white
    file = io.BytesIO()
    tifffile.imwrite(file, picture(), photometric="palette", colormap=palette)
    assert np.allclose(read_image(MemoryFile("a.tif", file.getvalue()), 1).grey[0], (255 - picture()) / 255)


# --- several pictures in a file ---


def test_of_a_jpeg_with_a_preview_inside_the_picture_is_read() -> None:
    main, preview = (Image.fromarray(picture(*size)) for size in ((32, 48), (8, 12)))
    content = encoded(main, "mpo", save_all=True, append_images=[preview], quality=100)
    seen = read_image(MemoryFile("a.jpg", content), 1)
    assert seen.grey.shape == (1, 32, 48)
    assert np.abs(seen.grey[0] * 255 - picture(32, 48)).max() <= 4
    assert [remark.kind for remark in seen.remarks] == ["several pictures"]


@pytest.mark.parametrize("first", [True, False])
def test_of_a_tiff_file_with_a_preview_the_page_that_is_none_is_read(first: bool, tmp_path: Path) -> None:
    pages = [(picture(32, 48), 0), (picture(8, 12), 1)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for values, subfile in pages if first else reversed(pages):
            file.write(values, subfiletype=subfile)
    seen = read_image(tmp_path / "a.tif", 1)
    assert np.allclose(seen.grey[0] * 255, picture(32, 48))
    assert [remark.kind for remark in seen.remarks] == ["several pictures"]


@pytest.mark.parametrize("pages", [1, 3])
def test_a_large_stack_of_imagej_is_no_image_though_it_has_one_page(pages: int, tmp_path: Path) -> None:
    """Beyond 4 GB ImageJ lists the first page alone and says how many follow in the description."""
    stack = np.stack([picture()] * pages)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, truncate=True)
    if pages == 1:
        assert np.array_equal(read_picture(tmp_path / "a.tif").values, picture())
    else:
        with pytest.raises(Rejected, match="holds 3 images"):
            read_picture(tmp_path / "a.tif")


def test_two_pages_of_which_neither_is_a_preview_are_no_image(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for _ in range(2):
            file.write(picture(), subfiletype=0)
    with pytest.raises(Rejected, match="2 images"):
        read_image(tmp_path / "a.tif", 1)
