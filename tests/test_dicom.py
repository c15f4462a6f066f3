"""DICOM files: grey values as they are meant to be seen, ages, the folder made of them, studies and questions."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import DataElement, Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    MPEG2MPML,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from refused import refused
from segcft.cli import main
from segcft.config.loader import parse_study
from segcft.config.study import Image as Grid
from segcft.data.resize import fit_image
from segcft.errors import Code, DataError
from segcft.importers.convert import Summary
from segcft.importers.folder import import_folder
from segcft.importers.formats.dicom import DICOM
from segcft.importers.masks import BITS, Plausibility
from segcft.io.dicom import (
    age_between,
    aspect,
    field_of_view,
    parse_age,
    person,
    shown,
    view,
)
from segcft.io.dicomfile import open_dicom, text_of
from segcft.io.imagefile import read_image
from segcft.io.reject import Excluded, Unreadable
from segcft.pipeline.run import Run
from segcft.pipeline.segmenter import RunSegmenter
from tests.conftest import Recalled

RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
"""Twelve grey values of 12 bits, 0 to 3300."""


def make(pixels: NDArray[Any], syntax: str = ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    """A radiograph as a scanner writes it; ``elements`` by keyword, None removes one."""
    dataset = Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.PatientSex = "Doe^Jane", "HOSP-4711", "F"
    dataset.PatientBirthDate, dataset.StudyDate, dataset.Modality = "19500321", "20140915", "CR"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = 8 if pixels.dtype.itemsize == 1 else 12
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    big = syntax == ExplicitVRBigEndian
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    dataset["PixelData"].VR = "OW"
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or generate_uid()
    return dataset


def save(path: Path, dataset: Dataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def lut(entries: list[int], first: int, bits: int) -> Dataset:
    """A table, of the modality or of values of interest."""
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), first, bits], entries
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return item


@pytest.fixture
def seen(tmp_path: Path) -> Callable[..., NDArray[np.float32]]:
    """``seen(pixels, ...)``: what is read of a file with these pixels and elements."""

    def read(pixels: NDArray[Any] = RAMP, *, options: Any = None, **elements: Any) -> NDArray[np.float32]:
        return read_dicom(save(tmp_path / "x.dcm", make(pixels, **elements)), **(options or {}))

    return read


def read_dicom(path: Path, *scale: tuple[float, float], **options: Any) -> NDArray[np.float32]:
    """The grey values of a file."""
    return shown(path, open_dicom(path), *scale, **options).grey


Seen = Callable[..., NDArray[np.float32]]


def test_the_files_window_says_what_is_black_and_white(seen: Seen) -> None:
    linear = seen(WindowCenter="1650", WindowWidth="2001")  # 649.5 to 2649.5: half a value less, as the standard says
    np.testing.assert_allclose(linear, np.clip((RAMP - 649.5) / 2000, 0, 1), atol=1e-6)
    first = seen(WindowCenter=[1650, 100], WindowWidth=[2001, 10])
    np.testing.assert_array_equal(first, linear)
    exact = seen(WindowCenter="1500", WindowWidth="2000", VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(exact, np.clip((RAMP - 500.0) / 2000, 0, 1), atol=1e-6)
    sigmoid = seen(WindowCenter="1500", WindowWidth="2000", VOILUTFunction="SIGMOID")
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-4 * (RAMP - 1500.0) / 2000)), atol=1e-6)
    step = seen(WindowCenter="1500", WindowWidth="1")
    np.testing.assert_array_equal(step, RAMP >= 1500)


def test_without_a_window_percentiles_are_used_and_arguments_come_first(seen: Seen) -> None:
    low, high = np.percentile(RAMP, (0.5, 99.5))
    expected = np.clip((RAMP - low) / (high - low), 0, 1)
    np.testing.assert_allclose(seen(), expected, atol=1e-6)
    np.testing.assert_allclose(seen(WindowCenter="1500", WindowWidth="0"), expected, atol=1e-6)
    window: dict[str, Any] = {"WindowCenter": "100", "WindowWidth": "50"}
    low, high = np.percentile(RAMP, (10, 90))
    np.testing.assert_allclose(
        seen(options={"window": (10, 90)}, **window), np.clip((RAMP - low) / (high - low), 0, 1), atol=1e-6
    )
    np.testing.assert_allclose(
        seen(options={"grey_range": (0, 4095)}, RescaleSlope="2", RescaleIntercept="-100", **window),
        np.clip((RAMP * 2.0 - 100) / 4095, 0, 1),
        atol=1e-6,
    )


def test_slope_and_intercept_come_before_the_window(seen: Seen) -> None:
    shown = seen(RescaleSlope="0.5", RescaleIntercept="-1000", WindowCenter="0", WindowWidth="1001")
    np.testing.assert_allclose(shown, np.clip((RAMP * 0.5 - 1000 + 500.5) / 1000, 0, 1), atol=1e-6)


def test_modality_and_voi_tables(seen: Seen) -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    squares = [k * k for k in range(12)]
    modality = seen(pixels, ModalityLUTSequence=[lut(squares, 0, 16)], options={"grey_range": (0, 121)})
    np.testing.assert_allclose(modality, pixels**2 / 121, atol=1e-6)
    # The table begins at 2; its 12 bits are declared as 16, as many files do. A window is there too, and is not used.
    table = [0, 100, 500, 4095]
    voi = seen(pixels, VOILUTSequence=[lut(table, 2, 16)], WindowCenter="3", WindowWidth="2")
    expected = np.array(table)[np.clip(pixels.astype(int) - 2, 0, 3)] / 4095
    np.testing.assert_allclose(voi, expected, atol=1e-6)
    after = seen(pixels, VOILUTSequence=[lut(table, 2, 12)], RescaleSlope="1", RescaleIntercept="1")
    np.testing.assert_allclose(after, np.array(table)[np.clip(pixels.astype(int) - 1, 0, 3)] / 4095, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_a_table_that_says_to_be_huge_is_damaged(seen: Seen) -> None:
    table = lut([0, 1, 2, 3], 0, 16)
    table["LUTDescriptor"] = DataElement("LUTDescriptor", "UL", [2**31, 0, 16])  # 8 GB, if it were believed
    with pytest.raises(Unreadable, match="VOILUTSequence has 4 entries, expected the 65536"):
        seen(VOILUTSequence=[table])


def test_monochrome1_is_turned_round(seen: Seen) -> None:
    window: dict[str, Any] = {"WindowCenter": "1650", "WindowWidth": "2001"}
    for elements in ({}, window):
        plain, turned = seen(**elements), seen(PhotometricInterpretation="MONOCHROME1", **elements)
        np.testing.assert_allclose(turned, 1 - plain, atol=1e-6)


def test_signed_values_eight_bits_and_unused_bits(seen: Seen) -> None:
    signed = RAMP.astype(np.int16) - 1500
    np.testing.assert_allclose(seen(signed, options={"grey_range": (-1500, 1800)}), RAMP / 3300, atol=1e-6)
    eight = (RAMP // 20).astype(np.uint8)
    np.testing.assert_allclose(seen(eight, options={"grey_range": (0, 165)}), eight / 165, atol=1e-6)
    overlay = RAMP | 0xF000  # once upon a time overlays lived in the bits above the stored ones
    np.testing.assert_allclose(seen(overlay, options={"grey_range": (0, 3300)}), RAMP / 3300, atol=1e-6)
    sixteen = RAMP * 15
    np.testing.assert_allclose(
        seen(sixteen, BitsStored=16, HighBit=15, options={"grey_range": (0, 49500)}), RAMP / 3300, atol=1e-6
    )


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_counts_in_no_percentile(seen: Seen, photometric: str) -> None:
    padded = np.pad(RAMP, 2, constant_values=4095)
    shown = seen(padded, PixelPaddingValue=4095, PhotometricInterpretation=photometric)
    np.testing.assert_array_equal(shown[2:-2, 2:-2], seen(PhotometricInterpretation=photometric))
    assert not np.delete(shown, slice(2, -2), axis=0).any()
    ranged = np.pad(RAMP, 2, constant_values=4000)
    again = seen(ranged, PixelPaddingValue=4095, PixelPaddingRangeLimit=3900, PhotometricInterpretation=photometric)
    np.testing.assert_array_equal(again, shown)


@given(
    centre=st.floats(-2000, 5000),
    width=st.floats(1, 5000),
    slope=st.sampled_from([-1.0, 0.5, 1.0, 2.0]),
    function=st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
)
def test_any_window_keeps_the_order_of_grey_values(
    tmp_path_factory: pytest.TempPathFactory,
    centre: float,
    width: float,
    slope: float,
    function: str | None,
    photometric: str,
) -> None:
    elements: dict[str, Any] = {"WindowCenter": f"{centre:.6g}", "WindowWidth": f"{width:.6g}"}
    elements |= {"VOILUTFunction": function} if function else {}
    elements |= {"RescaleSlope": str(slope), "RescaleIntercept": "7", "PhotometricInterpretation": photometric}
    path = save(tmp_path_factory.getbasetemp() / "window.dcm", make(RAMP, **elements))
    try:
        shown = read_dicom(path)
    except Excluded as reason:
        if reason.kind != "constant image":
            raise
        return
    assert shown.shape == RAMP.shape
    assert 0 <= shown.min() < shown.max() <= 1
    steps = np.diff(shown.ravel()) * slope * (-1 if photometric == "MONOCHROME1" else 1)
    assert (steps >= 0).all()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_plain_transfer_syntax(tmp_path: Path, syntax: str) -> None:
    dataset = make(RAMP, syntax)
    path = save(tmp_path / "x.dcm", dataset)
    np.testing.assert_allclose(read_dicom(path, (0, 3300)), RAMP / 3300, atol=1e-6)


def test_compressed_syntaxes_that_need_nothing_else(tmp_path: Path) -> None:
    dataset = make(RAMP)
    dataset.compress(RLELossless)
    np.testing.assert_allclose(read_dicom(save(tmp_path / "rle.dcm", dataset), (0, 3300)), RAMP / 3300, atol=1e-6)
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, format="JPEG2000", no_jp2=True)
    dataset = make(RAMP, JPEG2000Lossless, BitsStored=16, HighBit=15)
    dataset.PixelData = encapsulate([stream.getvalue()])
    path = save(tmp_path / "j2k.dcm", dataset)
    np.testing.assert_allclose(read_dicom(path, (0, 3300)), RAMP / 3300, atol=1e-6)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_a_compressed_image_of_another_size_than_the_header_says(tmp_path: Path, kind: str) -> None:
    """A small file may hold a small image by its header and a huge one by its stream."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 128), np.uint8)).save(stream, format=kind)
    dataset = make(np.zeros((8, 8), np.uint8), JPEGBaseline8Bit if kind == "JPEG" else JPEG2000Lossless)
    dataset.PixelData = encapsulate([stream.getvalue()])
    with pytest.raises(Excluded, match="its compressed image has 128 x 64, not 8 x 8 pixels"):
        read_dicom(save(tmp_path / "x.dcm", dataset))


def bundled(name: str) -> Path:
    """A file of a scanner or of another toolkit that pydicom brings along."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path)


def test_files_that_others_wrote_are_the_same_image_in_every_syntax() -> None:
    expected = read_dicom(bundled("MR_small.dcm"))
    for name in ("MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm"):
        np.testing.assert_array_equal(read_dicom(bundled(name)), expected)
    assert read_dicom(bundled("CT_small.dcm")).shape == (128, 128)
    assert read_dicom(bundled("image_dfl.dcm")).shape == (512, 512)
    assert person(open_dicom(bundled("examples_overlay.dcm"), pixels=False)) == {"age": 58, "sex": "M"}


def test_jpeg_ls_is_decoded_or_says_what_to_install() -> None:
    path = bundled("MR_small_jpeg_ls_lossless.dcm")
    if get_decoder(JPEGLSLossless).is_available:
        np.testing.assert_array_equal(read_dicom(path), read_dicom(bundled("MR_small.dcm")))
        return
    with pytest.raises(Excluded, match=r"JPEG-LS Lossless .*pip install 'segcft\[dicom\]' \(or .*pylibjpeg") as caught:
        read_dicom(path)
    assert caught.value.kind == "no decoder"


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("MR_truncated.dcm", "damaged file", "cut off"),
        ("SC_rgb_jpeg.dcm", "not grey", "RGB, expected MONOCHROME1"),
        ("examples_palette.dcm", "not grey", "PALETTE COLOR"),
        ("rtdose.dcm", "several frames", "holds 15 frames"),
        ("rtdose_1frame.dcm", "not 8 to 16 bits", "32 bits in 32"),
        ("liver_1frame.dcm", "not 8 to 16 bits", "1 bits in 1"),
        ("reportsi.dcm", "no image", "modality SR"),
        ("rtplan.dcm", "no image", "modality RTPLAN"),
        ("waveform_ecg.dcm", "no image", "modality ECG"),
        ("badVR.dcm", "damaged file", "NumberOfFrames"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_what_is_not_one_grey_image_says_so(name: str, kind: str, reason: str) -> None:
    with pytest.raises(Excluded, match=rf"{name}: .*{reason}") as caught:
        read_dicom(bundled(name))
    assert caught.value.kind == kind


def test_images_that_show_nothing_and_files_that_do_not_fit(tmp_path: Path, seen: Seen) -> None:
    with pytest.raises(Excluded, match=r"x.dcm: constant image$"):
        seen(np.full((3, 3), 7, np.uint16))
    with pytest.raises(Excluded, match="constant image between the grey values that are shown"):
        seen(WindowCenter="9000", WindowWidth="10")
    with pytest.raises(Excluded, match="constant image"):
        seen(np.full((3, 3), 7, np.uint16), PixelPaddingValue=7)
    with pytest.raises(Excluded, match="has no Rows"):
        seen(Rows=None)
    film = save(tmp_path / "film.dcm", make(RAMP, MPEG2MPML, PixelData=encapsulate([b"\0" * 8])))
    with pytest.raises(Excluded, match="cannot be decoded"):
        read_dicom(film)
    with pytest.raises(Excluded, match="cannot open"):
        open_dicom(tmp_path / "none.dcm")


@given(cut=st.integers(0, 1500), flips=st.lists(st.integers(0, 1500), max_size=4))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_left_out_and_breaks_nothing(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[int]
) -> None:
    path = save(tmp_path_factory.getbasetemp() / "damaged.dcm", make(RAMP))
    content = bytearray(path.read_bytes())
    for place in flips:
        content[place % len(content)] ^= 0xFF
    path.write_bytes(content[: len(content) - cut % len(content)])
    with contextlib.suppress(Excluded):  # nothing else comes out
        shown = read_dicom(path)
        assert shown.ndim == 2
        assert np.isfinite(shown).all()
    with contextlib.suppress(Excluded):
        header = open_dicom(path, pixels=False)
        found = (aspect(header), person(header), view(header), field_of_view(header), text_of(header, "Modality"))
        json.dumps(found)  # as it is kept


def test_several_values_are_one_text_and_a_line_is_no_image(tmp_path: Path) -> None:
    header = make(RAMP)
    header.BodyPartExamined = ["CHEST", "ABDOMEN"]
    header.PixelSpacing = [0.00001, 0.2]
    found = open_dicom(save(tmp_path / "odd.dcm", header), pixels=False)
    assert text_of(found, "BodyPartExamined") == "CHEST\\ABDOMEN"
    assert text_of(found, "StudyDescription") is None
    with pytest.raises(Excluded) as caught:
        aspect(found)
    assert caught.value.kind == "implausible pixel shape"


@given(number=st.integers(0, 130), unit=st.sampled_from("YMWD"))
def test_ages_of_every_unit(number: int, unit: str) -> None:
    age = parse_age(f"{number:03}{unit}")
    assert age == pytest.approx(number * {"Y": 1, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}[unit])
    assert parse_age(f" {number}{unit.lower()} ") == age
    if unit == "Y":
        assert parse_age(str(number)) == age


@given(st.text(max_size=6))
def test_no_text_breaks_the_age(text: str) -> None:
    age = parse_age(text)
    assert age is None or 0 <= age <= 130
    assert age_between(text, "20140915") is None or text.strip().isdigit()


@pytest.mark.parametrize("text", ["", "Y", "063X", "-63Y", "999Y", "1234Y", "63.5Y", "٦٣Y"])
def test_what_is_no_age_is_missing(text: str) -> None:
    assert parse_age(text) is None


@given(born=st.dates(date(1900, 1, 2), date(2020, 1, 1)), days=st.integers(0, 40_000))
def test_completed_years_between_dates(born: date, days: int) -> None:
    day = born + timedelta(days=days)
    age = age_between(f"{born:%Y%m%d}", f"{day:%Y%m%d}")
    assert age is not None
    assert math.floor(days / 365.2425 - 0.01) <= age <= days / 365.2425 + 0.01
    assert days == 0 or age_between(f"{day:%Y%m%d}", f"{born:%Y%m%d}") is None  # not in order


def test_the_person_of_a_header() -> None:
    assert person(make(RAMP)) == {"age": 64, "sex": "F"}  # half a year after the 64th birthday
    assert person(make(RAMP, PatientAge="018M", PatientSex="M")) == {"age": 1.5, "sex": "M"}
    assert person(make(RAMP, PatientBirthDate=None, PatientSex="O")) == {"age": None, "sex": None}
    assert person(make(RAMP, StudyDate=None, AcquisitionDate="20140320")) == {"age": 63, "sex": "F"}
    assert person(make(RAMP, StudyDate=None, PatientSex=None)) == {"age": None, "sex": None}


@pytest.mark.parametrize(
    ("said", "born", "studied", "age"),
    [
        ("000Y", "19500101", "20200601", 70),  # as files say that have no age
        ("000Y", None, "20200601", None),
        ("000Y", "20200301", None, None),
        ("000Y", "20200301", "20200601", 0),
        ("000D", "20200601", "20200601", 0),
        ("003D", None, "20200601", 3 / 365.25),
        ("002M", None, None, 1 / 6),
        (None, "19000101", "20200601", None),
        (None, "00010101", "20200601", None),
        (None, "18000101", "20200601", None),
        (None, "18991230", "20200601", None),
        (None, "19000102", "20200601", 120),
        ("119Y", "19000101", "20200601", 119),
    ],
)
def test_an_age_that_stands_for_none_is_none(
    said: str | None, born: str | None, studied: str | None, age: float | None
) -> None:
    header = make(RAMP, PatientAge=said or "", PatientBirthDate=born or "", StudyDate=studied or "")
    assert person(header)["age"] == (None if age is None else pytest.approx(age))


def test_projections_are_told_by_position_or_code() -> None:
    code = Dataset()
    code.CodeMeaning = "antero-posterior"
    assert view(make(RAMP, ViewPosition="PA")) == "PA"
    assert view(make(RAMP, ViewPosition="POSTEROANTERIOR")) == "PA"
    assert view(make(RAMP, ViewPosition="", ViewCodeSequence=[code])) == "AP"
    assert view(make(RAMP)) is None


def test_spacing_gives_the_pixels_shape_and_the_extent() -> None:
    plain, spaced = make(RAMP), make(RAMP, ImagerPixelSpacing=["0.2", "0.1"])
    assert (aspect(plain), field_of_view(plain)) == (1, None)
    assert aspect(spaced) == pytest.approx(2)
    assert field_of_view(spaced) == pytest.approx((0.6, 0.4))
    assert aspect(make(RAMP, PixelAspectRatio=["3", "2"])) == pytest.approx(1.5)
    assert aspect(make(RAMP, PixelSpacing=["0", "0"])) == 1


def write_archive(folder: Path) -> None:
    """Four images of three people in two sites, and what else lies in such a folder."""
    noise = np.random.default_rng(0).integers(0, 4096, (5, 20, 16), dtype=np.uint16)
    study = generate_uid()
    save(folder / "a" / "1.dcm", make(noise[0], PatientID="P1", ViewPosition="PA", PatientAge="063Y"))
    save(folder / "a" / "IM0002", make(noise[1], PatientID="P1", ViewPosition="AP"))
    save(folder / "b" / "1.dcm", make(noise[2], PatientID="", StudyInstanceUID=study, ViewPosition="PA"))
    save(folder / "b" / "2.dcm", make(noise[3], PatientID="", StudyInstanceUID=study, ViewPosition="LATERAL"))
    save(folder / "b" / "3.dcm", make(noise[4], PatientID="P2", SOPClassUID=DigitalXRayImageStorageForPresentation))
    (folder / "README.txt").write_text("not an image")
    cut_off = save(folder / "b" / "4.dcm", make(noise[4], PatientID="P2"))
    cut_off.write_bytes(cut_off.read_bytes()[:-40])
    shutil.copy(folder / "a" / "1.dcm", folder / "copy.dcm")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def convert_archive(tmp_path: Path, **options: Any) -> Summary:
    if not (tmp_path / "archive").exists():
        write_archive(tmp_path / "archive")
    return DICOM(folder=tmp_path / "archive", **({"size": (20, 16)} | options)).convert(tmp_path / "out")


def test_an_archive_becomes_a_folder_without_names_and_dates(tmp_path: Path) -> None:
    summary = convert_archive(tmp_path)
    assert sum(summary.samples.values()) == 5
    assert sum(summary.patients.values()) == 3
    assert summary.left_out == {"not a DICOM file": 1, "damaged file": 1, "listed twice": 1}
    table = rows(tmp_path / "out" / "metadata.csv")
    patients = [row["patient"] for row in table]
    assert [patients.count(name) for name in dict.fromkeys(patients)] == [2, 2, 1]
    assert len({(row["patient"], row["split"]) for row in table}) == 3
    assert {(row["age"], row["sex"], row["view"]) for row in table} >= {("63.0", "F", "PA"), ("64.0", "F", "AP")}
    for row in table:
        assert re.fullmatch(r"[0-9a-f]{16}", row["id"])
        with Image.open(tmp_path / "out" / "images" / f"{row['id']}.png") as file:
            assert (file.mode, file.size) == ("L", (16, 20))
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != "rejected.csv"):
        content = path.read_bytes()
        for secret in (b"Doe", b"Jane", b"HOSP", b"P1", b"P2", b"19500321", b"20140915", b"1.2.826"):
            assert secret not in content, path
    reasons = {Path(row["id"]).name: row["reason"] for row in rows(tmp_path / "out" / "rejected.csv")}
    assert "no 'DICM'" in reasons["README.txt"]
    before = (tmp_path / "out" / "metadata.csv").read_bytes()
    convert_archive(tmp_path)
    assert (tmp_path / "out" / "metadata.csv").read_bytes() == before


def test_of_two_copies_of_an_image_the_one_that_is_not_damaged_is_taken(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive")
    first = tmp_path / "archive" / "a" / "1.dcm"
    first.write_bytes(first.read_bytes()[:-40])
    summary = convert_archive(tmp_path)
    assert sum(summary.samples.values()) == 5
    assert summary.left_out == {"not a DICOM file": 1, "damaged file": 2}
    reasons = [row["reason"] for row in rows(tmp_path / "out" / "rejected.csv")]
    assert any(reason.startswith(f"{first}: cut off") for reason in reasons)


def test_files_of_one_name_are_told_and_a_name_stands_for_the_image_that_has_it(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    noise = np.random.default_rng(0).integers(0, 4096, (2, 20, 16), dtype=np.uint16)

    def shown() -> NDArray[np.uint8]:
        with Image.open(tmp_path / "out" / "images" / "IM1.png") as file:
            return np.asarray(file)

    with_suffix = save(folder / "IM1.dcm", make(noise[0]))
    assert not convert_archive(tmp_path, naming="file").left_out
    before = shown()
    save(folder / "IM1", make(noise[1]))
    (folder / "IM2").write_text("no image")
    save(folder / "IM2.dcm", make(noise[1]))
    summary = convert_archive(tmp_path, naming="file")
    assert summary.left_out == {"name taken": 1, "not a DICOM file": 1}
    assert (shown() != before).any()
    assert {row["id"] for row in rows(tmp_path / "out" / "metadata.csv")} == {"IM1", "IM2"}
    reasons = {row["id"]: row["reason"] for row in rows(tmp_path / "out" / "rejected.csv")}
    assert reasons["IM1.dcm"] == f"{with_suffix}: would be called 'IM1', as {folder / 'IM1'} is; rename one of them"


def test_a_damaged_file_with_the_suffix_of_an_image_is_listed_as_damaged(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive")
    path = tmp_path / "archive" / "b" / "2.dcm"
    path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "archive" / "photo.png").write_bytes(b"not an image")
    assert convert_archive(tmp_path).left_out["not a DICOM file"] == 3


def test_images_are_as_a_study_of_the_files_sees_them(tmp_path: Path) -> None:
    convert_archive(tmp_path, naming="file")
    for id, path in (("a/1", "a/1.dcm"), ("a/IM0002", "a/IM0002"), ("copy", "copy.dcm")):
        with Image.open(tmp_path / "out" / "images" / f"{id}.png") as file:
            converted = np.asarray(file).astype(int)
        expected = fit_image(read_image(tmp_path / "archive" / path, 1).grey, Grid(size=(20, 16)))[0]
        assert np.abs(converted - expected).max() <= 1


@pytest.mark.parametrize(("shared", "others", "warned"), [(11, 9, True), (10, 10, False), (19, 0, False)])
def test_a_patient_id_that_most_images_share_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shared: int, others: int, warned: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 4096, (8, 8), dtype=np.uint16)
    for i in range(shared + others):
        save(tmp_path / "archive" / f"{i}.dcm", make(noise, PatientID="ANON" if i < shared else f"P{i}"))
    words = ["import", "dicom", str(tmp_path / "archive"), "--size", "8", "--out", str(tmp_path / "out")]
    assert main([*words, "--keep-patient-ids"]) == 0
    shown, summary = capsys.readouterr(), (tmp_path / "out" / "summary.txt").read_text()
    part = {row["split"] for row in rows(tmp_path / "out" / "metadata.csv") if row["patient"] == "ANON"}.pop()
    expected = f"warning: {shared} of {shared + others} images are of one patient, and so in one part ({part})."
    assert (expected in shown.err) == (expected in summary) == warned
    assert summary.startswith(shown.out)


def test_views_names_and_salts(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive")
    words = ["import", "dicom", str(tmp_path / "archive"), "--size", "8", "--view", "pa", "AP"]
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    assert main([*words, "--out", str(tmp_path / "salted"), "--salt", "secret"]) == 0
    assert main([*words, "--out", str(tmp_path / "open"), "--id", "file", "--keep-patient-ids"]) == 0
    assert main([*words, "--out", str(tmp_path / "open"), "--id", "uid"]) == 1  # of other settings
    plain, salted, named = (rows(tmp_path / out / "metadata.csv") for out in ("plain", "salted", "open"))
    assert len(plain) == len(salted) == 3
    assert {row["view"] for row in plain} == {"PA", "AP"}
    for key in ("id", "patient"):
        assert not {row[key] for row in plain} & {row[key] for row in salted}
    assert {row["id"]: row["patient"] for row in named if row["patient"].startswith("P")} == {
        "a/1": "P1",
        "a/IM0002": "P1",
        "copy": "P1",
    }
    reasons = [row["reason"] for row in rows(tmp_path / "plain" / "rejected.csv") if "view" in row["kind"]]
    assert any("view is LATERAL" in reason for reason in reasons)
    assert any("view is not in the header" in reason for reason in reasons)
    assert "secret" not in (tmp_path / "salted" / "journal.jsonl").read_text()


def test_the_output_may_lie_in_the_archive_and_empty_folders_are_errors(tmp_path: Path) -> None:
    write_archive(tmp_path)
    for _ in range(2):
        summary = DICOM(folder=tmp_path, size=(8, 8)).convert(tmp_path / "out")
        assert summary.items == 8
    (tmp_path / "empty").mkdir()
    with refused(DataError, Code.EMPTY, "empty"):
        DICOM(folder=tmp_path / "empty").convert(tmp_path / "new")
    with refused(DataError, Code.MISSING):
        DICOM(folder=tmp_path / "none").convert(tmp_path / "new")


def test_pixels_that_are_not_square_keep_their_shape(tmp_path: Path) -> None:
    disc = (np.hypot(*(np.mgrid[:40, :40] - 19.5)) < 12).astype(np.uint16) * 3000
    flat = disc[::2]  # every other row: pixels twice as high as wide
    path = save(tmp_path / "archive" / "disc.dcm", make(flat, PixelSpacing=["0.4", "0.2"]))
    assert read_image(path, 1).aspect == pytest.approx(2)
    convert_archive(tmp_path, size=(40, 40), naming="file")
    with Image.open(tmp_path / "out" / "images" / "disc.png") as file:
        inside = np.argwhere(np.asarray(file) > 127)
    height, width = np.ptp(inside, axis=0)
    assert height == pytest.approx(width, abs=2)


def drawn_chest(height: int = 60, width: int = 50) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """A radiograph of 12 bits, dark lungs left and right of a bright heart, and its mask of bit flags."""
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    left, right = (((x - middle) / 0.17) ** 2 + ((y - 0.45) / 0.3) ** 2 < 1 for middle in (0.74, 0.26))
    heart = ((x - 0.55) / 0.12) ** 2 + ((y - 0.62) / 0.12) ** 2 < 1
    flags = np.where(heart, 4, np.where(left, 1, np.where(right, 2, 0))).astype(np.uint8)
    return np.array([2000, 500, 600, 0, 3500], np.uint16)[flags], flags


def test_ready_made_masks_are_padded_like_their_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels, flags = drawn_chest()
    (tmp_path / "drawn").mkdir()
    elements: dict[str, Any] = {"no_mask": {}, "negative": {}, "flat": {"PixelSpacing": ["0.4", "0.2"]}, "good": {}}
    for name, more in elements.items():
        save(tmp_path / "archive" / f"{name}.dcm", make(4000 - pixels if name == "negative" else pixels, **more))
        if name != "no_mask":
            Image.fromarray(flags).save(tmp_path / "drawn" / f"{name}.png")
    words = ["import", "dicom", str(tmp_path / "archive"), "--id", "file", "--out", str(tmp_path / "out")]
    words += ["--size", "40", "--masks"]
    assert main([*words, str(tmp_path / "drawn")]) == 0
    (row,) = rows(tmp_path / "out" / "metadata.csv")
    kinds = {row["id"]: row["kind"] for row in rows(tmp_path / "out" / "rejected.csv")}
    assert kinds == {
        "no_mask": "image or mask unreadable",
        "negative": "inverted grey values",
        "flat": "pixels not square",
    }
    with Image.open(tmp_path / "out" / "masks" / "good.png") as file:
        mask = np.asarray(file)
    with Image.open(tmp_path / "out" / "images" / "good.png") as file:
        image = np.asarray(file)
    assert mask.shape == image.shape == (40, 40)
    for bit, name in ((1, "left_lung"), (2, "right_lung"), (4, "heart")):
        area = np.count_nonzero(mask & bit)
        assert int(row[f"{name}_area"]) == area
        assert area == pytest.approx(np.count_nonzero(flags & bit) * (40 / 60) ** 2, rel=0.1)
    assert np.median(image[mask == 4]) > 200 > 50 > np.median(image[mask == 1])  # of the same frame
    shutil.move(tmp_path / "drawn", tmp_path / "moved")
    assert main([*words, str(tmp_path / "moved")]) == 0
    Image.fromarray(flags * (np.arange(60)[:, None] > 15)).save(tmp_path / "moved" / "good.png")
    assert main([*words, str(tmp_path / "moved")]) == 0
    assert int(rows(tmp_path / "out" / "metadata.csv")[0]["left_lung_area"]) < int(row["left_lung_area"])
    capsys.readouterr()
    assert main(words[:-1]) == 1
    assert 'masks was {"masks": "ready-made"} and is null' in capsys.readouterr().err


def test_masks_as_the_judge_of_a_run_sees_them(small_run: Run, recalled: Recalled, tmp_path: Path) -> None:
    store = small_run.store()
    people = [int(i) for i in store.indices("test")[:5]]
    for i in people:
        window = {"WindowCenter": 2040.5, "WindowWidth": 4081}
        save(tmp_path / "archive" / f"{i}.dcm", make(store.images[i, 0].astype(np.uint16) * 16, **window))
    segmenter = RunSegmenter(small_run.folder, torch.device("cpu"))
    segmenter.network = recalled  # right, as no short training makes one
    convert_archive(
        tmp_path, size=store.images.shape[2:], naming="file", segmenter=segmenter, batch_size=2,
        plausibility=Plausibility(lung=(0, 1), heart=(0, 1)),
    )  # fmt: skip
    table = rows(tmp_path / "out" / "metadata.csv")
    assert len(table) == len(people)
    for row in table:
        areas = [float(row[f"{name}_area"]) for name in BITS]
        assert np.allclose(areas, store.masks[int(row["id"])].sum(axis=(1, 2)) / 255, rtol=0.1)
    words = ["import", "dicom", str(tmp_path / "archive"), "--out", str(tmp_path / "other"), "--size", "8x9"]
    assert main([*words, "--segmentor", str(small_run.folder), "--device", "cpu"]) == 1


def test_a_folder_study_reads_dicom_images_and_their_masks(tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "configs" / "jsrt.yaml"
    raw = yaml.safe_load(source.read_text())
    raw["image"]["size"], raw["hvae"]["patch"] = [48, 48], 2
    study = parse_study(raw)
    mask = np.zeros((24, 48), np.uint8)  # rows are twice as far apart as columns
    mask[4:20, 4:20], mask[4:20, 26:44] = 2, 1
    mask[10:18, 20:34] |= 4
    lines = ["id,age,sex"]
    for k in range(30):
        noise = np.random.default_rng(k).integers(0, 4096, mask.shape, dtype=np.uint16)
        suffix = (".dcm", ".DCM", ".dicom")[k % 3]
        save(tmp_path / "images" / f"p{k}{suffix}", make(noise, PixelSpacing=["0.4", "0.2"]))
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"p{k}.png")
        lines.append(f"p{k}{suffix if k % 2 else ''},{40 + k},{'FM'[k % 2]}")
    save(tmp_path / "images" / "p0.dcm", make(RAMP, PixelData=None))
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    store = import_folder(study, tmp_path, tmp_path / "store")
    assert len(store.table) == 29
    assert store.images.shape == (29, 1, 48, 48)
    assert store.table["heart_area"].tolist() == [pytest.approx(2 * 8 * 14, rel=0.02)] * 29  # of square pixels
    ((_, reason),) = store.rejected.itertuples(index=False)
    assert "p0.dcm: holds no image" in reason


def chest(run: Run, path: Path, **elements: Any) -> Path:
    """A person of ``run`` as a DICOM file with MONOCHROME1 pixels of 12 bits."""
    pixels = 4080 - run.store().images[0, 0].astype(np.uint16) * 16
    elements = {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 2040.5, "WindowWidth": 4081} | elements
    return save(path, make(pixels, **elements))


def ask(run: Run, image: Path, out: Path, *words: str) -> dict[str, Any]:
    command = ["counterfactual", str(run.folder), str(image), "--do", "heart_area=+10%", "--out", str(out), *words]
    assert main([*command, "--device", "cpu"]) == 0
    record: dict[str, Any] = json.loads((out / "counterfactual.json").read_text())
    return record


def test_a_question_about_a_dicom_file_takes_age_and_sex_from_its_header(
    small_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = chest(small_run, tmp_path / "IM0001", PatientAge="063Y", PatientSex="M")  # known by its first bytes
    record = ask(small_run, path, tmp_path / "answer")
    assert (record["variables"]["age"]["before"], record["variables"]["age"]["source"]) == (63, "read from the header")
    assert (record["variables"]["sex"]["before"], record["variables"]["sex"]["source"]) == ("M", "read from the header")
    assert capsys.readouterr().out.count("(read from the header)") == 2
    with Image.open(tmp_path / "answer" / "image.png") as file:
        assert np.abs(np.asarray(file).astype(int) - small_run.store().images[0, 0]).max() <= 1
    text = (tmp_path / "answer" / "counterfactual.json").read_text()
    assert "Doe" not in text
    assert "HOSP" not in text


def test_what_is_set_comes_before_the_header_and_what_is_in_neither_is_inferred(small_run: Run, tmp_path: Path) -> None:
    path = chest(small_run, tmp_path / "x.dcm", PatientAge="063Y", PatientSex="O")
    variables = ask(small_run, path, tmp_path / "answer", "--set", "age=50")["variables"]
    assert (variables["age"]["before"], variables["age"]["source"]) == (50, "given")
    assert variables["sex"]["source"] == "inferred"


def test_a_question_about_an_unreadable_dicom_file_is_an_error(
    small_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundled("rtplan.dcm")
    command = ["counterfactual", str(small_run.folder), str(path), "--do", "age=50", "--out", str(tmp_path / "x")]
    assert main([*command, "--device", "cpu"]) == 1
    assert "rtplan.dcm: holds no image that can be read (modality RTPLAN)" in capsys.readouterr().err


def test_a_file_written_here_is_what_other_readers_read(tmp_path: Path) -> None:
    path = save(tmp_path / "x.dcm", make(RAMP))
    np.testing.assert_array_equal(dcmread(path).pixel_array, RAMP)
