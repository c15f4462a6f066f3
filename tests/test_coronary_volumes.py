"""CT volumes in their true formats: sampled exactly wherever they lie, or refused with a reason."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from segcft.io.reject import Excluded, Rejected
from segcft.io.vesselfile import read_centreline, read_surface
from segcft.io.volume import Volume
from segcft.io.volumefile import read_volume

Array = NDArray[np.float64]

SHAPE = (6, 5, 7)
"""Voxels of the small volumes, of which no two sides are equal."""

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def ramp(slopes: Sequence[int]) -> NDArray[np.int16]:
    """Hounsfield units (I, J, K) that rise by whole numbers along each axis, around 0."""
    middle = (np.array(SHAPE) - 1) // 2
    return np.tensordot(slopes, np.indices(SHAPE) - middle[:, None, None, None], 1).astype(np.int16)


def placed(turn: int, spacing: Sequence[float], mirrored: bool = False) -> Array:
    """An affine (4, 4) to LPS at any angle."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=turn).as_matrix() * np.array(spacing)
    affine[:3, 0] *= -1 if mirrored else 1
    affine[:3, 3] = np.random.default_rng(turn).uniform(-200, 200, 3)
    return affine


def write_nifti(path: Path, values: NDArray[Any], affine: Array, kind: Any = nibabel.Nifti1Image) -> Path:
    nibabel.save(kind(values, RAS @ affine), path)
    return path


def write_series(folder: Path, values: NDArray[np.int16], affine: Array, **elements: Any) -> Path:
    """A series as a scanner writes it: (columns, rows, slices), files called in an order of their own."""
    folder.mkdir(exist_ok=True)
    across, down, step = affine[:3, :3].T
    series, frame = generate_uid(), generate_uid()
    for k in range(values.shape[2]):
        one = Dataset()
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, generate_uid()
        one.SeriesInstanceUID, one.FrameOfReferenceUID, one.Modality = series, frame, "CT"
        one.SeriesDescription = "CTA 0.6"
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.Columns, one.Rows = values.shape[:2]
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = "1", "-8192", "HU"
        one.PixelSpacing = [f"{np.linalg.norm(down):.10g}", f"{np.linalg.norm(across):.10g}"]
        axes = np.concatenate([across / np.linalg.norm(across), down / np.linalg.norm(down)])
        one.ImageOrientationPatient = [f"{number:.10f}" for number in axes]
        one.ImagePositionPatient = [f"{number:.8f}" for number in affine[:3, 3] + k * step]
        one.PixelData = (values[:, :, k].T + 8192).astype("<u2").tobytes()
        one["PixelData"].VR = "OW"
        for name, value in elements.items():
            setattr(one, name, value)
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = (
            CTImageStorage,
            one.SOPInstanceUID,
        )
        one.save_as(folder / name_of(k), enforce_file_format=True)
    return folder


def name_of(k: int) -> str:
    """The file of slice ``k``: by name they are in another order."""
    return f"IM{k * 5 % 7 + k // 7 * 7:04}.dcm"


Write = Callable[[Path, NDArray[np.int16], Array], Path]
WRITERS: dict[str, Write] = {
    "a.nii": write_nifti,
    "a.nii.gz": write_nifti,
    "n2.nii.gz": lambda path, values, affine: write_nifti(path, values, affine, nibabel.Nifti2Image),
    "float.nii": lambda path, values, affine: write_nifti(path, values.astype(np.float64), affine),
    "one more axis.nii": lambda path, values, affine: write_nifti(path, values[..., None], affine),
    "series": write_series,
}


@settings(max_examples=60)
@given(
    name=st.sampled_from(list(WRITERS)),
    turn=st.integers(0, 10_000),
    spacing=st.tuples(*[st.floats(0.2, 3)] * 3),
    mirrored=st.booleans(),
    slopes=st.tuples(*[st.integers(40, 100)] * 3),
    tilt=st.floats(-0.4, 0.4),
    at=st.tuples(*(st.floats(0, length - 1) for length in SHAPE)),
)
def test_a_linear_field_is_sampled_exactly_wherever_the_volume_lies(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    turn: int,
    spacing: tuple[float, float, float],
    mirrored: bool,
    slopes: tuple[int, int, int],
    tilt: float,
    at: tuple[float, float, float],
) -> None:
    affine = placed(turn, spacing, mirrored)
    if name == "series":  # of a tilted gantry; slices are numbered along their normal, which mirroring turns round
        affine = placed(turn, spacing)
        affine[:3, 2] += affine[:3, 1] * tilt
    path = WRITERS[name](tmp_path_factory.mktemp("volume") / name, ramp(slopes), affine)
    volume = read_volume(path)
    assert volume.values.dtype.itemsize <= 4
    expected = np.dot(slopes, np.array(at) - (np.array(SHAPE) - 1) // 2)
    assert volume.sample(affine[:3] @ [*at, 1]) == pytest.approx(expected, abs=0.05)


def test_slope_and_intercept_of_a_file_are_honoured(tmp_path: Path) -> None:
    stored = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    image = nibabel.Nifti1Image(stored, RAS @ placed(0, (1, 1, 1)))
    image.header.set_slope_inter(5.0, -500.0)
    path = tmp_path / "scaled.nii.gz"
    nibabel.save(image, path)
    raw = bytearray(gzip.decompress(path.read_bytes()))  # nibabel chooses a scale of its own
    raw[112:120] = struct.pack("<ff", 5.0, -500.0)
    raw[352:] = stored.tobytes(order="F")
    path.write_bytes(gzip.compress(bytes(raw)))
    volume = read_volume(path)
    assert volume.values.dtype == np.int16
    assert volume.sample(placed(0, (1, 1, 1))[:3] @ [2, 3, 4, 1]) == pytest.approx(5 * stored[2, 3, 4] - 500)


def test_points_outside_are_counted() -> None:
    affine = np.eye(4)
    affine[:3, 3] = [10, 20, 30]
    volume = Volume(ramp((50, 50, 50)), affine)
    edge = np.array([[9.5, 20, 30], [15.5, 24.5, 36.5]])  # half a voxel beyond the outermost centres
    assert volume.sample(edge).tolist() == [volume.values[0, 0, 0], volume.values[-1, -1, -1]]
    with pytest.raises(Excluded, match=r"50\.0% of the image is outside the volume, by up to 2\.5 mm$") as told:
        volume.sample(np.array([[12, 22, 32], [12, 22, 39]]))
    assert told.value.kind == "outside the volume"


def sheared(path: Path) -> None:
    affine = np.eye(4)
    affine[:3, 2] = [1, 0, 0.05]
    write_nifti(path, ramp((50, 50, 50)), affine)


def elsewhere(path: Path) -> None:
    image = nibabel.Nifti1Image(ramp((50, 50, 50)), np.eye(4))
    image.set_qform(np.diag([1.0, 1, 1.5, 1]), 1)
    nibabel.save(image, path)


def nowhere(path: Path) -> None:
    image = nibabel.Nifti1Image(ramp((50, 50, 50)), np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, path)


def in_metres(path: Path) -> None:
    image = nibabel.Nifti1Image(ramp((50, 50, 50)), np.eye(4))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, path)


def cut(path: Path) -> None:
    write_nifti(path, ramp((50, 50, 50)), np.eye(4))
    path.write_bytes(path.read_bytes()[:-40])


def flipped_bit(path: Path) -> None:
    random = np.random.default_rng(0)
    write_nifti(path, random.integers(-1000, 1000, (20, 20, 20), dtype=np.int16), np.eye(4))
    content = bytearray(path.read_bytes())
    content[-4000] ^= 16
    path.write_bytes(content)


NIFTI_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: None, "cannot read"),
    "text": (lambda path: path.write_text("see the web page"), "not a single NIfTI file"),
    "cut off": (cut, "cannot read this NIfTI file"),
    "flipped bit": (flipped_bit, "cannot read this NIfTI file"),
    "four axes": (
        lambda path: write_nifti(path, np.zeros((4, 4, 4, 3), np.int16), np.eye(4)),
        "dim is 4 x 4 x 4 x 3, expected a volume of three dimensions",
    ),
    "slice": (lambda path: write_nifti(path, np.zeros((9, 9), np.int16), np.eye(4)), "dim is 9 x 9"),
    "singular": (sheared, "nearly. singular"),
    "huge": (lambda path: write_nifti(path, ramp((9, 9, 9)), np.diag([1.0, 1, 40, 1])), "voxels of 1 x 1 x 40 mm"),
    "two places": (elsewhere, r"sform and qform are up to 3 mm apart"),
    "no place": (nowhere, "sform_code and qform_code are 0"),
    "metres": (in_metres, "xyzt_units is meter, expected mm"),
    "complex": (lambda path: write_nifti(path, np.zeros(SHAPE, np.complex64), np.eye(4)), "datatype is complex64"),
    "unshifted": (lambda path: write_nifti(path, ramp((50, 50, 50)) + np.int16(1024), np.eye(4)), "intercept"),
    "mask": (lambda path: write_nifti(path, ramp((1, 1, 1)), np.eye(4)), "values span -7 to 8"),
    "nan": (lambda path: write_nifti(path, np.full(SHAPE, np.nan), np.eye(4)), "not finite numbers"),
}


@pytest.mark.parametrize("fault", NIFTI_FAULTS)
def test_a_nifti_file_that_cannot_be_used_says_why(tmp_path: Path, fault: str) -> None:
    make, reason = NIFTI_FAULTS[fault]
    path = tmp_path / "ct.nii.gz"
    make(path)
    with pytest.raises(Rejected, match=rf"ct\.nii\.gz: .*{reason}"):
        read_volume(path)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "series", ramp((50, 60, 70)), placed(3, (0.4, 0.5, 0.6)))


def change(path: Path, **elements: Any) -> None:
    from pydicom import dcmread

    dataset = dcmread(path)
    for name, value in elements.items():
        delattr(dataset, name) if value is None else setattr(dataset, name, value)
    dataset.save_as(path)


def compress(path: Path) -> None:
    from pydicom import dcmread

    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xf7" + bytes(30)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def again(folder: Path, **elements: Any) -> None:
    """Another series in the same folder."""
    for path in write_series(
        folder.parent / "other", ramp((50, 60, 70)), placed(3, (0.4, 0.5, 0.6)), **elements
    ).iterdir():
        path.rename(folder / f"again {path.name}")


DICOM_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda folder: (folder / name_of(3)).unlink(),
        r"series: 1 slices are missing between IM0003.dcm and IM0006.dcm, which are 1.2 mm apart; most are 0.6 mm",
    ),
    "two series": (
        lambda folder: again(folder, SeriesDescription="CTA 0.75"),
        r"series: holds 2 series, expected one: 7 files 'CTA 0.6' \(IM0000.dcm, ...\); 7 files 'CTA 0.75' \(again ",
    ),
    "copy": (
        lambda folder: (folder / "copy").write_bytes((folder / name_of(2)).read_bytes()),
        r"series: IM0003.dcm and copy are at the same place|series: copy and IM0003.dcm are at the same place",
    ),
    "single": (lambda folder: [(folder / name_of(k)).unlink() for k in range(6)], "series: holds a single slice"),
    "empty": (lambda folder: [(folder / name_of(k)).unlink() for k in range(7)], "series: holds no DICOM file"),
    "other plane": (
        lambda folder: change(folder / name_of(4), ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        "IM0006.dcm differ in ImageOrientationPatient and PixelSpacing",
    ),
    "moved": (
        lambda folder: change(
            folder / name_of(4),
            ImagePositionPatient=list((placed(3, (0.4, 0.5, 0.6)) @ [2, 0, 4, 1])[:3]),
        ),
        "not evenly spaced along a line: IM0006.dcm is 0.8 mm off",
    ),
    "skewed": (
        lambda folder: [change(path, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]) for path in folder.iterdir()],
        "IM0000.dcm: ImageOrientationPatient is no pair of unit vectors",
    ),
    "no position": (
        lambda folder: change(folder / name_of(1), ImagePositionPatient=None),
        "IM0005.dcm: ImagePositionPatient is None, expected 3 numbers",
    ),
    "no intercept": (
        lambda folder: change(folder / name_of(1), RescaleIntercept=None),
        "IM0005.dcm: RescaleIntercept is None, expected 1 numbers",
    ),
    "MR": (lambda folder: change(folder / name_of(0), Modality="MR"), "IM0000.dcm: Modality is MR, expected CT"),
    "enhanced": (
        lambda folder: change(folder / name_of(0), NumberOfFrames=9),
        "IM0000.dcm: NumberOfFrames is 9, expected one slice a file",
    ),
    "other scale": (
        lambda folder: change(folder / name_of(0), RescaleSlope="2"),
        "differ in slope and intercept",
    ),
    "truncated": (lambda folder: truncate(folder / name_of(2)), "IM0003.dcm: cut off"),
    "text": (lambda folder: (folder / "z.dcm").write_text("?"), "z.dcm: not a DICOM file"),
}


@pytest.mark.parametrize("fault", DICOM_FAULTS)
def test_a_series_that_cannot_be_used_says_why(series: Path, fault: str) -> None:
    make, reason = DICOM_FAULTS[fault]
    make(series)
    with pytest.raises(Rejected, match=reason) as told:
        read_volume(series)
    assert str(told.value).startswith(str(series))


def write_object(path: Path, kind: UID, **elements: Any) -> None:
    """A DICOM file that is no image."""
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID, one.SeriesInstanceUID = kind, generate_uid(), generate_uid()
    for name, value in elements.items():
        setattr(one, name, value)
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = kind, one.SOPInstanceUID
    one.save_as(path, enforce_file_format=True)


def without_suffixes(folder: Path) -> None:
    for path in [*folder.iterdir()]:
        path.rename(path.with_suffix(""))


@pytest.mark.parametrize("suffix", [True, False])
def test_what_lies_beside_a_series_is_passed_over_and_told(series: Path, suffix: bool) -> None:
    before = read_volume(series)
    assert before.remarks == ()
    if not suffix:
        without_suffixes(series)
    for name in ("LICENSE", "README", "Thumbs.db", "autorun.inf", ".DS_Store", "._IM0001.dcm", "DICOMDIR", "Viewer.1"):
        (series / name).write_bytes(b"?" * 500)
    (series / "empty").touch()
    (series / "notes").mkdir()
    write_object(series / "report", ComprehensiveSRStorage, Modality="SR")
    write_object(series / "state.dcm", GrayscaleSoftcopyPresentationStateStorage, Modality="PR")
    write_object(series / "contents", MediaStorageDirectoryStorage)
    write_object(series / "private", UID("1.3.12.2.1107.5.9.1"), Modality="CT")
    volume = read_volume(series)
    assert np.array_equal(volume.values, before.values)
    assert np.array_equal(volume.affine, before.affine)
    (remark,) = volume.remarks
    assert "14 files are no slices and passed over: .DS_Store, ._IM0001.dcm" in remark.text


@pytest.mark.parametrize("length", [0, 100, 140, 400])
@pytest.mark.parametrize(
    "rename",
    [
        lambda k: f"IM{k:04}.dcm",
        lambda k: f"I{k + 95}",
        lambda k: f"1.2.826.0.1.{k + 7}",
        lambda k: f"{k}",
        lambda k: f"{k * 0x9E3779B1 % 2**32:08X}",
        lambda k: f"NAME.CT.0001.{k:04}.2024.01.02.IMA",
    ],
)
def test_a_slice_that_is_cut_off_is_not_passed_over(series: Path, rename: Callable[[int], str], length: int) -> None:
    names = [rename(k) for k in range(SHAPE[2])]
    for k, name in enumerate(names):
        (series / name_of(k)).rename(series / f"{name}.new")
    for name in names:
        (series / f"{name}.new").rename(series / name)
    last = series / names[-1]  # so that none is missing between others
    last.write_bytes(last.read_bytes()[:length])
    with pytest.raises(Rejected, match=rf"series.*{re.escape(last.name)}"):
        read_volume(series)


def test_a_localiser_beside_a_series_is_another_series(series: Path) -> None:
    write_object(series / "scout", CTImageStorage, Modality="CT", Rows=9, Columns=9, SeriesDescription="Topogram")
    with pytest.raises(Rejected, match="holds 2 series"):
        read_volume(series)


@pytest.mark.skipif(get_decoder(JPEGLSLossless).is_available, reason="a decoder is installed")
def test_a_compressed_series_without_a_decoder_names_what_is_needed(series: Path) -> None:
    compress(series / name_of(0))
    with pytest.raises(Excluded, match=r"IM0000.dcm: JPEG-LS.*pip install 'segcft\[dicom\]'") as told:
        read_volume(series)
    assert told.value.kind == "no decoder"


def test_a_path_of_something_else_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"ct\.mhd: expected a NIfTI file \(.nii or .nii.gz\) or a folder"):
        read_volume(tmp_path / "ct.mhd")
    with pytest.raises(Rejected, match=r"line\.json: expected a centreline in a file that ends in \.vtp"):
        read_centreline(tmp_path / "line.json")
    with pytest.raises(Rejected, match=r"mesh\.obj: expected a mesh in a file that ends in \.stl"):
        read_surface(tmp_path / "mesh.obj")
