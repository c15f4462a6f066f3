"""Grey values of DICOM files where the header is unusual: bits, padding, tables, windows, and which way round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from segcft.io.dicom import Shown, shown
from segcft.io.dicomfile import open_dicom
from segcft.io.dicompixels import decode
from segcft.io.reject import Excluded
from segcft.io.series import read_series
from tests.test_coronary_volumes import placed, write_series
from tests.test_dicom import RAMP, lut, make, save

See = Callable[..., Shown]


@pytest.fixture
def see(tmp_path: Path) -> See:
    """``see(pixels, ...)``: what is read of a file with these pixels and elements."""

    def read(pixels: NDArray[Any] = RAMP, grey_range: tuple[float, float] | None = None, **elements: Any) -> Shown:
        dataset = elements.pop("dataset", None) or make(pixels, **elements)
        path = save(tmp_path / "x.dcm", dataset)
        return shown(path, open_dicom(path), grey_range)

    return read


def kinds(picture: Shown) -> list[str]:
    return [remark.kind for remark in picture.remarks]


def element(dataset: Dataset, name: str, vr: str, value: Any) -> Dataset:
    """``dataset`` with an element of another value representation than the dictionary's first."""
    dataset[name] = DataElement(name, vr, value)
    return dataset


# --- bits ---


@given(
    stored=st.integers(8, 16),
    spare=st.integers(0, 8),
    signed=st.booleans(),
    rest=st.integers(0, 2**16 - 1),
    syntax=st.sampled_from([ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]),
)
def test_values_are_found_wherever_their_bits_are(
    tmp_path_factory: pytest.TempPathFactory, stored: int, spare: int, signed: bool, rest: int, syntax: str
) -> None:
    """Whatever the other bits hold, e.g. an overlay."""
    spare = min(spare, 16 - stored)
    low = -(1 << stored - 1) if signed else 0
    values = np.linspace(low, low + (1 << stored) - 1, 12).astype(np.int64).reshape(3, 4)
    mask = (1 << stored) - 1 << spare
    words = ((values << spare) & mask | rest & ~mask).astype(np.uint16)
    plain = syntax if syntax != RLELossless else ImplicitVRLittleEndian
    dataset = make(words, plain, BitsStored=16, HighBit=15)
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = stored, stored - 1 + spare, int(signed)
    path = save(tmp_path_factory.getbasetemp() / "bits.dcm", dataset)
    np.testing.assert_array_equal(decode(open_dicom(path), []).stored, values)


def test_pixels_in_the_upper_bits_are_the_same_image(see: See) -> None:
    shifted = see(RAMP << 4, (0, 3300), HighBit=15)
    np.testing.assert_allclose(shifted.grey, RAMP / 3300, atol=1e-6)
    assert not shifted.remarks
    absent = see(RAMP, (0, 3300), HighBit=None)
    np.testing.assert_allclose(absent.grey, RAMP / 3300, atol=1e-6)


def test_more_bits_than_are_stored_are_told_unless_they_are_an_overlay_or_a_sign(see: See) -> None:
    picture = see(RAMP | 0x1000, (0, 3300))
    np.testing.assert_allclose(picture.grey, RAMP / 3300, atol=1e-6)
    assert kinds(picture) == ["bits that are not stored"]
    overlaid = make(RAMP | 0x1000)
    overlaid.add_new((0x6000, 0x0100), "US", 16)
    overlaid.add_new((0x6000, 0x0102), "US", 12)
    assert not see(dataset=overlaid).remarks
    for signed in (RAMP.astype(np.int16) - 1500, ((RAMP.astype(np.int16) - 1500) & 0xFFF).astype(np.int16)):
        picture = see(signed, (-1500, 1800))
        np.testing.assert_allclose(picture.grey, RAMP / 3300, atol=1e-6)
        assert not picture.remarks


@pytest.mark.parametrize("high", [5, 10, 16, 200])
def test_bits_that_cannot_be_are_refused(see: See, high: int) -> None:
    with pytest.raises(Excluded) as refused:
        see(HighBit=high)
    assert refused.value.kind == "bits that cannot be"


def test_compressed_values_have_no_upper_bits(see: See) -> None:
    dataset = make(RAMP, HighBit=15)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0"
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(Excluded) as refused:
        see(dataset=dataset)
    assert refused.value.kind == "bits that cannot be"


def test_a_ct_series_with_pixels_in_the_upper_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (6, 5, 4))
    for shift in (0, 4):
        words = (values << shift).astype(np.int64) - 8192  # which the writer adds
        more = {"BitsStored": 12, "HighBit": 11 + shift}
        series = write_series(tmp_path / str(shift), words, placed(3, (0.4, 0.5, 0.6)), **more)
        np.testing.assert_array_equal(read_series(series).values, values)


# --- padding ---


def padded(fill: int, dtype: type[np.integer[Any]], stored: int, vr: str, value: int, limit: int | None = None) -> Any:
    """A file of a ramp in a frame of ``fill``, whose Pixel Padding Value is written as ``vr``."""
    pixels = np.pad(RAMP.astype(np.int32), 2, constant_values=fill).astype(dtype)
    dataset = make(pixels, BitsStored=stored, HighBit=stored - 1)
    element(dataset, "PixelPaddingValue", vr, value)
    return dataset if limit is None else element(dataset, "PixelPaddingRangeLimit", vr, limit)


@pytest.mark.parametrize(
    "dataset",
    [
        padded(-2000, np.int16, 16, "US", 63536),
        padded(-2000, np.int16, 16, "SS", -2000),
        padded(-2000, np.int16, 13, "US", 63536),
        padded(63536, np.uint16, 16, "SS", -2000),
        padded(63536, np.uint16, 16, "US", 63536),
        padded(63536, np.uint16, 12, "US", 63536),  # of bits that values do not have
        padded(63536, np.uint16, 12, "SS", -2000),
        padded(-1990, np.int16, 16, "US", 63536, 63556),
        padded(63546, np.uint16, 16, "SS", -2000, -1980),
        padded(4000, np.uint16, 12, "US", 4095, 3900),
    ],
)
def test_padding_is_found_with_a_sign_or_without(see: See, dataset: Dataset) -> None:
    picture = see(dataset=dataset)
    assert not picture.remarks
    np.testing.assert_array_equal(picture.grey[2:-2, 2:-2], see().grey)
    assert np.count_nonzero(picture.grey) == np.count_nonzero(see().grey)


def test_padding_of_a_ct_series_is_its_least_value(tmp_path: Path) -> None:
    """Its bits are more than values have: it would be soft tissue."""
    values = np.full((6, 5, 4), 100)
    values[0], values[1] = 63536, 90
    more = {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 63536}
    series = write_series(tmp_path / "series", values - 8192, placed(3, (0.4, 0.5, 0.6)), **more)
    np.testing.assert_array_equal(read_series(series).values, np.where(values == 63536, 90, values))


# --- tables ---


@pytest.mark.parametrize(("vr", "first"), [("US", 2**16 - 1000), ("SS", -1000)])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_table_of_negative_values_in_a_file_of_unsigned_pixels(see: See, syntax: str, vr: str, first: int) -> None:
    entries = list(range(0, 4000))
    table = lut(entries, 0, 16)
    element(table, "LUTDescriptor", vr, [len(entries), first, 16])
    dataset = make(RAMP, syntax, RescaleSlope="1", RescaleIntercept="-1000", VOILUTSequence=[table])
    np.testing.assert_allclose(see(dataset=dataset).grey, RAMP / 4095, atol=1e-6)


@pytest.mark.parametrize(("vr", "first"), [("US", 2**16 - 1500), ("SS", -1500)])
def test_a_modality_table_of_negative_values(see: See, vr: str, first: int) -> None:
    table = lut([k // 2 for k in range(3301)], 0, 16)
    element(table, "LUTDescriptor", vr, [3301, first, 16])
    dataset = make(RAMP.astype(np.int16) - 1500, ModalityLUTSequence=[table])
    np.testing.assert_allclose(see(dataset=dataset, grey_range=(0, 1650)).grey, RAMP / 3300, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The value for the data element")
@pytest.mark.parametrize("length", [2**16, 40_000])
def test_a_table_of_many_entries_whose_number_is_written_with_a_sign(see: See, length: int) -> None:
    table = lut([k for k in range(length)], 0, 16)
    element(table, "LUTDescriptor", "SS", [length % 2**16, 0, 16])
    picture = see(RAMP * 10, BitsStored=16, HighBit=15, VOILUTSequence=[table])
    np.testing.assert_allclose(picture.grey, RAMP * 10 / 65535, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_entries_of_a_table_may_be_bytes_or_words(see: See, syntax: str, bits: int) -> None:
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    table = lut([0], 0, bits)
    element(table, "LUTDescriptor", "US", [256, 0, bits])
    element(table, "LUTData", "OW", np.arange(256, dtype="u1" if bits == 8 else f"{order}u2").tobytes())
    pixels = np.arange(0, 240, 20, dtype=np.uint16).reshape(3, 4)
    picture = see(dataset=make(pixels, syntax, VOILUTSequence=[table]))
    np.testing.assert_allclose(picture.grey, pixels / 255, atol=1e-6)


def test_a_table_that_is_too_short_or_has_no_descriptor_is_damaged(see: See) -> None:
    short, bare = lut([1, 2, 3], 0, 16), lut([1, 2, 3], 0, 16)
    element(short, "LUTDescriptor", "US", [300, 0, 16])
    del bare.LUTDescriptor
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        for table in (short, bare):
            with pytest.raises(Excluded, match=name) as refused:
                see(**{name: [table]})
            assert refused.value.kind == "damaged file"


@pytest.mark.parametrize(("name", "value"), [("RescaleSlope", "2"), ("RescaleIntercept", "50")])
def test_slope_and_intercept_each_hold_alone(see: See, name: str, value: str) -> None:
    expected = RAMP * 2.0 if name == "RescaleSlope" else RAMP + 50.0
    picture = see(grey_range=(0, 6600), **{name: value})
    np.testing.assert_allclose(picture.grey, expected / 6600, atol=1e-6)


# --- windows ---


@pytest.mark.parametrize(
    ("width", "function", "exact"),
    [
        ("0.2", None, True),
        ("0.2", "LINEAR", True),  # which is none: the standard wants 1 at least
        ("1", None, True),
        ("1.5", None, True),
        ("0.2", "LINEAR_EXACT", False),  # as it says, so there is nothing to tell
    ],
)
def test_a_narrow_window_of_fractions_is_exact(see: See, width: str, function: str | None, exact: bool) -> None:
    elements: dict[str, Any] = {"RescaleSlope": "0.0001", "RescaleIntercept": "0", "WindowCenter": "0.15"}
    elements |= {"WindowWidth": width} | ({"VOILUTFunction": function} if function else {})
    picture = see(**elements)
    expected = np.clip((RAMP * 1e-4 - 0.15) / float(width) + 0.5, 0, 1)
    np.testing.assert_allclose(picture.grey, expected, atol=1e-5)
    assert kinds(picture) == (["window taken as exact"] if exact else [])


def test_windows_of_whole_numbers_are_as_the_standard_has_them(see: See) -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    picture = see(pixels, WindowCenter="5", WindowWidth="5")  # 3 is black and 7 white: five numbers
    np.testing.assert_allclose(picture.grey, np.clip((pixels - 2.5) / 4, 0, 1), atol=1e-6)
    step = see(pixels, WindowCenter="5", WindowWidth="1")
    np.testing.assert_array_equal(step.grey, pixels >= 5)
    assert not picture.remarks + step.remarks
    wide = see(RescaleSlope="0.5", RescaleIntercept="0.25", WindowCenter="800", WindowWidth="1001")
    np.testing.assert_allclose(wide.grey, np.clip((RAMP * 0.5 + 0.25 - 799.5) / 1000 + 0.5, 0, 1), atol=1e-5)
    assert not wide.remarks


def test_a_window_without_width_is_told(see: See) -> None:
    picture = see(WindowCenter="1500", WindowWidth="0")
    np.testing.assert_array_equal(picture.grey, see().grey)
    assert kinds(picture) == ["window that cannot be"]


# --- which way round ---


@pytest.mark.parametrize(
    ("photometric", "shape", "turned", "told"),
    [
        ("MONOCHROME2", None, False, False),
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME2", "INVERSE", True, True),
        ("MONOCHROME1", None, True, False),
        ("MONOCHROME1", "INVERSE", True, False),  # the standard wants both of one image: they turn it once
        ("MONOCHROME1", "IDENTITY", True, True),
    ],
)
def test_an_inverse_presentation(see: See, photometric: str, shape: str | None, turned: bool, told: bool) -> None:
    elements: dict[str, Any] = {"WindowCenter": "1650", "WindowWidth": "3301"}
    plain = see(**elements).grey
    more = {"PresentationLUTShape": shape} if shape else {}
    picture = see(PhotometricInterpretation=photometric, **more, **elements)
    np.testing.assert_allclose(picture.grey, 1 - plain if turned else plain, atol=1e-6)
    assert kinds(picture) == (["polarity is doubtful"] if told else [])


@pytest.mark.parametrize(
    ("sign", "elements", "told"),
    [
        (-1, {}, False),
        (1, {}, True),
        (1, {"PhotometricInterpretation": "MONOCHROME1"}, False),
        (-1, {"PhotometricInterpretation": "MONOCHROME1"}, True),
        (1, {"RescaleSlope": "-1", "RescaleIntercept": "4095"}, False),
        (-1, {"VOILUTSequence": [lut(list(range(3300, -1, -1)), 0, 12)]}, True),
    ],
)
def test_bright_air_is_told(see: See, sign: int, elements: dict[str, Any], told: bool) -> None:
    picture = see(PixelIntensityRelationshipSign=sign, **elements)
    assert kinds(picture) == (["air may be bright"] if told else [])


def test_raw_values_of_a_detector_are_refused(see: See) -> None:
    with pytest.raises(Excluded) as refused:
        see(PresentationIntentType="FOR PROCESSING")
    assert refused.value.kind == "for processing"
    assert not see(PresentationIntentType="FOR PRESENTATION").remarks
