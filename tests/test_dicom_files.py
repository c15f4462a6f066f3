"""DICOM files of unusual kinds: without preamble or transfer syntax, of newer syntaxes, with elements that lack."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from segcft.app.upload import received
from segcft.cli import main
from segcft.io.dicom import shown
from segcft.io.dicomfile import open_dicom
from segcft.io.dicomhead import HEAD, begins_as_dicom
from segcft.io.imagefile import is_dicom, read_image
from segcft.io.reject import Excluded
from segcft.io.series import read_series
from segcft.io.source import MemoryFile
from segcft.pipeline.run import Run
from tests.test_coronary_volumes import placed, ramp, write_series
from tests.test_dicom import RAMP, chest, make, rows, save

PLAIN = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def bare(path: Path, dataset: Dataset, meta: bool = False) -> Path:
    """A file without preamble; with ``meta`` it begins with the file meta information, else with the elements."""
    content = save(path, dataset).read_bytes()[132:]
    if not meta:
        (length,) = struct.unpack_from("<I", content, 8)  # of the group, which its first element says
        content = content[12 + length :]
    path.write_bytes(content)
    return path


def without_syntax(path: Path, dataset: Dataset) -> Path:
    """A file with preamble whose file meta information names no transfer syntax."""
    syntax = dataset.file_meta.TransferSyntaxUID
    del dataset.file_meta.TransferSyntaxUID
    options = {"implicit_vr": syntax == ImplicitVRLittleEndian, "little_endian": syntax != ExplicitVRBigEndian}
    dataset.preamble = b"\0" * 128
    dcmwrite(path, dataset, enforce_file_format=False, **options)
    assert path.read_bytes()[128:132] == b"DICM"
    return path


def kind_of(path: Path) -> str:
    """The kind of reason for which a file is refused; no word of it is Python's."""
    with pytest.raises(Excluded) as refused:
        shown(path, open_dicom(path))
    message = str(refused.value)
    assert message.startswith(str(path))
    assert not re.search(r"Error|object|attribute|NoneType|Traceback|pydicom|plugin", message.removeprefix(str(path)))
    return refused.value.kind


@pytest.mark.parametrize("syntax", PLAIN)
@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("name", ["bare.dcm", "IM0001", "odd.png"])
def test_a_file_without_preamble_is_read_whatever_it_is_called(
    tmp_path: Path, syntax: str, meta: bool, name: str
) -> None:
    path = bare(tmp_path / name, make(RAMP, syntax, PatientAge="063Y"), meta)
    assert is_dicom(path)
    seen = read_image(path, 1, (0, 3300))
    np.testing.assert_allclose(seen.grey[0], RAMP / 3300, atol=1e-6)
    assert seen.person["age"] == 63
    assert [remark.kind for remark in seen.remarks] == ([] if meta else ["no transfer syntax"])
    memory = received(path.read_bytes())
    np.testing.assert_array_equal(read_image(memory, 1, (0, 3300)).grey, seen.grey)


@pytest.mark.parametrize("syntax", PLAIN)
def test_a_file_that_names_no_transfer_syntax_is_read_as_its_elements_are(tmp_path: Path, syntax: str) -> None:
    path = without_syntax(tmp_path / "x.dcm", make(RAMP, syntax))
    picture = shown(path, open_dicom(path), (0, 3300))
    np.testing.assert_allclose(picture.grey, RAMP / 3300, atol=1e-6)
    assert [remark.kind for remark in picture.remarks] == ["no transfer syntax"]


def test_compressed_pixels_of_a_file_that_names_no_transfer_syntax_are_refused(tmp_path: Path) -> None:
    dataset = make(RAMP, JPEG2000Lossless)
    dataset.PixelData = encapsulate([b"\0" * 20])
    dataset["PixelData"].is_undefined_length = True
    assert kind_of(without_syntax(tmp_path / "x.dcm", dataset)) == "no transfer syntax"


def test_a_folder_and_a_question_take_files_without_preamble(small_run: Run, tmp_path: Path) -> None:
    usual = chest(small_run, tmp_path / "archive" / "usual.dcm", PatientAge="063Y", PatientSex="M")
    path = bare(tmp_path / "archive" / "bare", dcmread(usual))
    words = ["import", "dicom", str(tmp_path / "archive"), "--id", "file", "--size", "32", "--out", str(tmp_path / "o")]
    assert main(words) == 0
    assert {row["id"] for row in rows(tmp_path / "o" / "metadata.csv")} == {"bare", "usual"}
    assert [(row["id"], row["kind"]) for row in rows(tmp_path / "o" / "warnings.csv")] == [
        ("bare", "no transfer syntax")
    ]
    out = tmp_path / "answer"
    words = ["counterfactual", str(small_run.folder), str(path), "--do", "heart_area=+10%", "--out", str(out)]
    assert main([*words, "--device", "cpu"]) == 0
    assert "63" in (out / "counterfactual.json").read_text()


def test_a_ct_series_without_preambles(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", ramp((6, 5, 4)), placed(3, (0.4, 0.5, 0.6)))
    expected = read_series(folder).values
    for path in list(folder.iterdir()):
        path.with_suffix("").write_bytes(path.read_bytes()[132:])
        path.unlink()
    np.testing.assert_array_equal(read_series(folder).values, expected)


def other_files() -> dict[str, bytes]:
    """Beginnings of files that are none."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(stream, "PNG")
    numbers = np.arange(500, dtype="<u2")
    return {
        "png": stream.getvalue(),
        "csv": b"id,sex,age\np001,F,50\n" * 50,
        "nifti": struct.pack("<i", 348) + b"\0" * 344,
        "zeros": b"\0" * 500,
        "eights": b"\x08\0" * 500,
        "twos": b"\x02\0" * 500,
        "numbers": numbers[8:].tobytes(),
        "big numbers": numbers[8:].astype(">u2").tobytes(),
        "words": b"\x08\0\x05\0CS and then some words that are no header at all" * 5,
        "two elements": b"\x08\0\x05\0CS\x0a\0ISO_IR 100\x08\0\x08\0CS\x04\0MONO" + b"\xff" * 200,
        "unsorted": b"\x08\0\x08\0CS\x04\0MONO\x08\0\x05\0CS\x0a\0ISO_IR 100\x08\0\x60\0CS\x02\0CR" + b"\xff" * 200,
        "empty": b"",
        "short": b"\x08\0\x05",
    }


@pytest.mark.parametrize("name", other_files())
def test_other_files_are_not_taken_for_dicom(tmp_path: Path, name: str) -> None:
    content = other_files()[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    assert not is_dicom(path)
    assert kind_of(path) == "not a DICOM file"
    assert received(content or b"\0").suffix != ".dcm"


@given(st.binary(max_size=600), st.sampled_from([b"", b"\x08\0", b"\0\x08", b"\x02\0", b"\x08\0\x05\0CS"]))
def test_no_bytes_are_taken_for_dicom(content: bytes, begin: bytes) -> None:
    content = begin + content
    assert not begins_as_dicom(content[:HEAD], len(content))
    assert not is_dicom(MemoryFile("upload", content))


@pytest.mark.parametrize(
    ("elements", "kind"),
    [
        ({"PixelData": None}, "no image"),
        ({"Rows": None}, "damaged file"),
        ({"Columns": None}, "damaged file"),
        ({"Rows": 0}, "damaged file"),
        ({"Rows": 4}, "damaged file"),  # more than there are
        ({"Columns": 30_000, "Rows": 30_000}, "unreadable"),
        ({"BitsAllocated": None}, "damaged file"),
        ({"BitsStored": None}, "damaged file"),
        ({"PixelRepresentation": None}, "damaged file"),
        ({"PixelRepresentation": 7}, "damaged file"),
        ({"PhotometricInterpretation": None}, "not grey"),
        ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, "not 8 to 16 bits"),
        ({"PixelData": b""}, "no image"),
    ],
)
def test_what_lacks_is_named(tmp_path: Path, elements: dict[str, Any], kind: str) -> None:
    path = save(tmp_path / "x.dcm", make(RAMP, **elements))
    if kind == "unreadable":
        with pytest.raises(Exception, match="million pixels"):
            shown(path, open_dicom(path))
        return
    assert kind_of(path) == kind
    name = next(iter(elements))
    if elements[name] is None and name != "PixelData":
        with pytest.raises(Excluded, match=name):
            shown(path, open_dicom(path))


def test_samples_per_pixel_of_a_grey_image_may_be_absent(tmp_path: Path) -> None:
    path = save(tmp_path / "x.dcm", make(RAMP, SamplesPerPixel=None))
    np.testing.assert_allclose(shown(path, open_dicom(path), (0, 3300)).grey, RAMP / 3300, atol=1e-6)


def test_more_pixels_than_the_header_says_are_told(tmp_path: Path) -> None:
    path = save(tmp_path / "x.dcm", make(np.stack([RAMP, RAMP])))
    picture = shown(path, open_dicom(path), (0, 3300))
    np.testing.assert_allclose(picture.grey, RAMP / 3300, atol=1e-6)
    assert [remark.kind for remark in picture.remarks] == ["more pixels than its header says"]


@pytest.mark.parametrize(
    ("syntax", "word"),
    [
        ("1.2.840.10008.1.2.4.110", "JPEG XL"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL"),
        ("1.2.840.10008.1.2.4.102", "MPEG-4"),
        ("1.2.840.10008.1.2.4.100", "MPEG2"),
        ("1.2.3.4", "1.2.3.4"),  # nobody knows it
        ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2"),  # no transfer syntax, but a kind of object
    ],
)
def test_a_syntax_that_nothing_decodes_is_named(tmp_path: Path, syntax: str, word: str) -> None:
    dataset = make(RAMP, ExplicitVRLittleEndian)
    content = save(tmp_path / "plain.dcm", dataset).read_bytes()
    old, new = (uid.encode() + b"\0" * (len(uid) % 2) for uid in (str(ExplicitVRLittleEndian), syntax))
    old_element, new_element = (b"\x02\0\x10\0UI" + struct.pack("<H", len(uid)) + uid for uid in (old, new))
    assert content.count(old_element) == 1
    content = content.replace(old_element, new_element)
    length = struct.unpack_from("<I", content, 140)[0] + len(new) - len(old)
    path = tmp_path / "x.dcm"
    path.write_bytes(content[:140] + struct.pack("<I", length) + content[144:])
    assert kind_of(path) == "no decoder"
    with pytest.raises(Excluded, match=word):
        shown(path, open_dicom(path))


def test_high_throughput_jpeg_2000_says_what_decodes_it(tmp_path: Path) -> None:
    dataset = make(RAMP, HTJ2KLossless)
    dataset.PixelData = encapsulate([b"\0" * 20])
    path = save(tmp_path / "x.dcm", dataset)
    assert UID(HTJ2KLossless).name.startswith("High-Throughput JPEG 2000")
    assert kind_of(path) in ("no decoder", "damaged file")  # whether there is one here


def test_a_compressed_image_that_is_damaged_says_so(tmp_path: Path) -> None:
    dataset = make(RAMP, JPEG2000Lossless)
    dataset.PixelData = encapsulate([b"\xff\x4f" + b"\0" * 20])
    assert kind_of(save(tmp_path / "x.dcm", dataset)) == "damaged file"


@pytest.mark.parametrize("group", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_an_enhanced_object_of_one_frame_says_in_its_groups_what_others_say_in_the_header(
    tmp_path: Path, group: str
) -> None:
    def item(**elements: Any) -> list[Dataset]:
        one = Dataset()
        for name, value in elements.items():
            setattr(one, name, value)
        return [one]

    groups = item(
        PixelMeasuresSequence=item(PixelSpacing=["0.4", "0.2"]),
        PlaneOrientationSequence=item(ImageOrientationPatient=["-1", "0", "0", "0", "0", "-1"]),
        PixelValueTransformationSequence=item(RescaleSlope="2", RescaleIntercept="-100", RescaleType="US"),
        FrameVOILUTSequence=item(WindowCenter="3000.5", WindowWidth="4001"),
    )
    path = save(tmp_path / "x.dcm", make(RAMP, NumberOfFrames=1, **{group: groups}))
    seen = read_image(path, 1)
    expected = np.clip((RAMP[:, ::-1] * 2.0 - 1100) / 4000, 0, 1)
    np.testing.assert_allclose(seen.grey[0], expected, atol=1e-6)
    assert seen.aspect == pytest.approx(2)
