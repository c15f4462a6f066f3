"""Volumes as files have them: any order and direction of axes, oblique, scaled, in several channels, in two formats."""

from __future__ import annotations

import gzip
import io
import itertools
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, ornt_transform
from numpy.typing import NDArray
from pydicom import dcmread

from segcft.config.image import Image
from segcft.config.structure import Structure
from segcft.data.crop import Crop
from segcft.data.resize import SQUARE, Pixel, fit_image, fit_masks, frame_of, window_of
from segcft.io.lie import Lie
from segcft.io.maskfile import read_masks
from segcft.io.provenance import inspect
from segcft.io.reject import Rejected
from segcft.io.scan import find_scan, is_series, read_array, read_scan
from segcft.io.source import MemoryFile
from segcft.io.volumeout import nifti_bytes, series_bytes

SIZE, SPACING = (4, 5, 6), (3.0, 2.0, 1.0)
"""To the head, to the back and to the left, in voxels and mm."""
CODES = ["".join(one) for pick in itertools.permutations(("RL", "AP", "SI")) for one in itertools.product(*pick)]


def seen() -> NDArray[np.int16]:
    """A volume as it is seen, no two voxels of which are alike."""
    return np.arange(120, dtype=np.int16).reshape(SIZE)


def affine() -> NDArray[np.float64]:
    """From indices of :func:`seen` to mm in RAS."""
    found = np.zeros((4, 4))
    found[2, 0], found[1, 1], found[0, 2] = SPACING[0], -SPACING[1], -SPACING[2]
    found[:, 3] = 10, -20, 30, 1
    return found


CODED, FIRST_ROW = (252, "<2h"), (280, "<4f")
"""Where a NIfTI-1 header has qform_code and sform_code, and the first row of sform, and how."""


def patch(path: Path, place: tuple[int, str], *values: float) -> Path:
    """Write over a part of a header, where NiBabel would put it right."""
    content = bytearray(path.read_bytes())
    struct.pack_into(place[1], content, place[0], *values)
    path.write_bytes(content)
    return path


def save(path: Path, codes: str = "SPL", values: NDArray[Any] | None = None, **header: Any) -> Path:
    """A file whose axes go to what ``codes`` say, of the same voxels at the same place."""
    values = seen() if values is None else values
    image = nibabel.Nifti1Image(values, affine())
    turn = ornt_transform(axcodes2ornt(tuple("SPL")), axcodes2ornt(tuple(codes)))
    image = image.as_reoriented(turn)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("codes", CODES)
def test_whatever_its_axes_a_volume_is_seen_alike(tmp_path: Path, codes: str) -> None:
    path = save(tmp_path / "x.nii.gz", codes)
    values, lie, remarks = read_array(path)
    assert np.array_equal(values[..., 0], seen())
    assert lie.spacing == SPACING
    assert not remarks
    stored = np.asanyarray(nibabel.load(path).dataobj)
    assert np.array_equal(lie.back(seen()), stored)
    assert np.array_equal(lie.turn(stored), seen())
    ras = np.diag([-1.0, -1, 1, 1]) @ lie.stored_affine(SIZE)
    np.testing.assert_allclose(ras, nibabel.load(path).affine, atol=1e-5)


@pytest.mark.parametrize("codes", ["SPL", "RAS", "LPI", "ARI"])
def test_what_is_written_like_a_file_lies_as_it_does(tmp_path: Path, codes: str) -> None:
    names = dict.fromkeys(("descrip", "db_name", "aux_file", "intent_name"), b"a patient")
    path = save(tmp_path / "x.nii.gz", codes, **names)
    values, lie, _ = read_array(path)
    record = {"do": ["anterior=+20%"]}
    out = tmp_path / "y.nii.gz"
    out.write_bytes(nifti_bytes(np.moveaxis(values, -1, 0) + np.int16(1), lie, record, like=path))
    before, after = nibabel.load(path), nibabel.load(out)
    assert np.array_equal(np.asanyarray(after.dataobj), np.asanyarray(before.dataobj) + 1)
    np.testing.assert_array_equal(after.affine, before.affine)
    for name in ("qform_code", "sform_code", "datatype", "pixdim", "xyzt_units"):
        np.testing.assert_array_equal(after.header[name], before.header[name])
    assert b"patient" not in after.header.binaryblock
    assert inspect(out) == record
    assert inspect(path) is None


def test_a_dicom_series_is_the_volume_that_it_was_made_of(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", "RAS")
    _, lie, _ = read_array(path)
    pixels = seen().astype(np.uint8)[None]
    folder = tmp_path / "series"
    folder.mkdir()
    assert not is_series(folder)
    for number, content in enumerate(series_bytes(pixels, lie, {"do": []})):
        (folder / f"{number}.dcm").write_bytes(content)
    assert is_series(folder)
    assert find_scan(tmp_path, "series") == folder
    values, again, remarks = read_array(folder)
    assert np.array_equal(values[..., 0], seen())
    assert not remarks
    assert again.apart(lie, SIZE) < 1e-3
    assert inspect(next(folder.iterdir())) == {"do": []}


def test_values_are_scaled_as_the_header_says(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(seen(), affine())
    image.header.set_slope_inter(2.0, -7.0)
    nibabel.save(image, tmp_path / "x.nii")
    values, _, _ = read_array(tmp_path / "x.nii")
    assert np.array_equal(values[..., 0], 2 * seen() - 7)
    grey = read_scan(tmp_path / "x.nii", grey_range=(-7, 231)).grey[0]
    np.testing.assert_allclose(grey, seen() / 119, atol=1e-6)


def test_several_channels_are_the_fourth_dimension_each_with_its_own_greys(tmp_path: Path) -> None:
    values = np.stack([seen(), 1000 - 3 * seen()], axis=-1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, affine()), tmp_path / "x.nii.gz")
    found = read_scan(tmp_path / "x.nii.gz", channels=2, window=(0, 100))
    assert found.grey.shape == (2, *SIZE)
    np.testing.assert_allclose(found.grey[0], seen() / 119, atol=1e-6)
    np.testing.assert_allclose(found.grey[1], 1 - seen() / 119, atol=1e-6)
    for channels in (1, 3):
        with pytest.raises(Rejected, match="dim is 4 x 5 x 6 x 2"):
            read_scan(tmp_path / "x.nii.gz", channels=channels)


def test_an_oblique_volume_is_taken_on_the_nearest_axes_and_told_of(tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]
    nibabel.save(nibabel.Nifti1Image(seen(), turn @ affine()), tmp_path / "x.nii")
    values, lie, remarks = read_array(tmp_path / "x.nii")
    assert np.array_equal(values[..., 0], seen())
    assert [remark.kind for remark in remarks] == ["oblique"]
    assert lie.spacing == pytest.approx(SPACING)


@pytest.mark.parametrize(
    ("moved", "turned", "kinds"), [(0.0, False, []), (5.0, False, ["sform and qform differ"]), (0.0, True, None)]
)
def test_two_affines_that_differ_are_told_of_or_refused(
    tmp_path: Path, moved: float, turned: bool, kinds: list[str] | None
) -> None:
    image = nibabel.Nifti1Image(seen(), affine())
    other = affine()
    other[0, 3] += moved
    if turned:
        other[:, 2] *= -1
    image.set_qform(other, 1)
    image.set_sform(affine(), 1)
    nibabel.save(image, tmp_path / "x.nii")
    if kinds is None:
        with pytest.raises(Rejected, match="sform and qform"):
            read_array(tmp_path / "x.nii")
    else:
        assert [remark.kind for remark in read_array(tmp_path / "x.nii")[2]] == kinds


def test_a_header_that_says_nothing_is_told_of(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "x.nii"), CODED, 0, 0)
    _, lie, remarks = read_array(path)
    assert [remark.kind for remark in remarks] == ["unknown orientation"]
    assert not lie.said


@pytest.mark.parametrize("axes", [(1, 2, 0), (1, 0, 2)])
def test_affines_whose_differences_cancel_are_refused_too(tmp_path: Path, axes: tuple[int, ...]) -> None:
    """On a cube another order of axes moves the farthest corner nowhere."""
    cube = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    image, other = nibabel.Nifti1Image(cube, np.eye(4)), np.eye(4)
    other[:3, :3] = np.eye(3)[list(axes)] * ([1, 1, 1] if axes == (1, 2, 0) else [1, 1, -1])
    image.set_qform(np.eye(4), 1)
    image.set_sform(other, 1)
    nibabel.save(image, tmp_path / "x.nii")
    with pytest.raises(Rejected, match="sform and qform"):
        read_array(tmp_path / "x.nii")


def test_sheared_voxels_are_refused(tmp_path: Path) -> None:
    """Of a tilted gantry they are smaller than their edges say."""
    tilted = np.eye(4)
    tilted[:3, 2] = 0, 3 * np.sin(0.25), 3 * np.cos(0.25)
    nibabel.save(nibabel.Nifti1Image(seen(), tilted), tmp_path / "x.nii")
    with pytest.raises(Rejected, match="right angles"):
        read_array(tmp_path / "x.nii")


def test_by_default_scanners_use_what_they_need_of_16_bits(tmp_path: Path) -> None:
    for kind in (np.uint16, np.int16, np.float32):
        grey = read_scan(save(tmp_path / "x.nii", values=seen().astype(kind))).grey
        assert grey.min() == 0
        assert grey.max() == 1
    assert read_scan(save(tmp_path / "x.nii", values=seen().astype(np.uint8))).grey.max() == 119 / 255


def test_a_file_of_a_stranger_takes_little_memory() -> None:
    """What its header says is believed up to a bound, before anything is unpacked."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((600, 600, 600))
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    large = gzip.compress(header.binaryblock + bytes(4) + bytes(600**2), mtime=0)
    header.set_data_shape((4, 4, 4))
    header["vox_offset"] = 600_000_000
    far = header.binaryblock + b"\1\0\0\0" + struct.pack("<2i", 600_000_000, 6)
    for content in (large, far):
        tracemalloc.start()
        with pytest.raises(Rejected):
            read_scan(MemoryFile("upload.nii", content))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 20_000_000


def test_a_series_beside_a_file_of_its_name_is_not_guessed(tmp_path: Path) -> None:
    save(tmp_path / "x.nii.gz")
    (tmp_path / "x").mkdir()
    assert find_scan(tmp_path, "x") == tmp_path / "x.nii.gz"  # an empty folder is no series
    content = next(series_bytes(seen().astype(np.uint8)[None], Lie.straight(SPACING), {"do": []}))
    (tmp_path / "x" / "1.dcm").write_bytes(content)
    with pytest.raises(Rejected, match="which of them"):
        find_scan(tmp_path, "x")
    (tmp_path / "1.dcm").write_bytes(content)
    assert not is_series(tmp_path)  # a stray slice among volumes


def test_slices_of_a_series_may_have_scales_of_their_own(tmp_path: Path) -> None:
    for number, content in enumerate(series_bytes(seen().astype(np.uint8)[None], Lie.straight(SPACING), {"do": []})):
        dataset = dcmread(io.BytesIO(content))
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{number + 1}", f"{10 * number}"
        dataset.save_as(tmp_path / f"{number}.dcm")
    values, _, _ = read_array(tmp_path)
    numbers = np.arange(SIZE[0])[:, None, None]
    np.testing.assert_allclose(values[..., 0], seen() * (numbers + 1) + 10 * numbers)
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.save_as(path)
    with pytest.raises(Rejected, match="MONOCHROME1"):
        read_array(tmp_path)


def test_what_nobody_said_is_not_said_by_what_is_written(tmp_path: Path) -> None:
    values = seen()[None]
    for said in (True, False):
        path = tmp_path / f"{said}.nii.gz"
        path.write_bytes(nifti_bytes(values, Lie.straight(SPACING, said=said), {}))
        again, lie, remarks = read_array(path)
        assert np.array_equal(np.moveaxis(again, -1, 0), values)
        assert lie.said == said
        assert lie.spacing == pytest.approx(SPACING)
        assert [remark.kind for remark in remarks] == ([] if said else ["unknown orientation"])


@pytest.mark.parametrize("content", [b"", b"no volume", b"\x1f\x8bcut off"])
def test_what_is_no_volume_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.nii.gz").write_bytes(content)
    with pytest.raises(Rejected):
        read_scan(tmp_path / "x.nii.gz")
    with pytest.raises(Rejected):
        read_scan(save(tmp_path / "y.nii", values=np.zeros(SIZE, np.int16)))
    (tmp_path / "z.png").write_bytes(content)
    with pytest.raises(Rejected, match="expected a NIfTI file"):
        read_scan(tmp_path / "z.png")


# --- masks ---


def masks_of(tmp_path: Path, codes: str, labels: NDArray[Any], *patched: Any) -> NDArray[np.float64]:
    image = read_scan(save(tmp_path / "image.nii.gz", "RAS"))
    (tmp_path / "masks").mkdir(exist_ok=True)
    mask = save(tmp_path / "masks" / "image.nii", codes, labels)
    if patched:
        patch(mask, *patched)
    structures = {"a": Structure(variable="a", label=1), "b": Structure(variable="b", label=2)}
    return read_masks(tmp_path / "masks", "image", structures, image, thin=True).coverage


@pytest.mark.parametrize("codes", ["RAS", "SPL", "LIA"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_masks_may_be_stored_otherwise_than_their_volume(tmp_path: Path, codes: str, kind: type) -> None:
    labels = (seen() % 3).astype(kind)
    found = masks_of(tmp_path, codes, labels)
    assert np.array_equal(found, [labels == 1, labels == 2])


def test_masks_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    labels = (seen() % 3).astype(np.uint8)
    with pytest.raises(Rejected, match="mm from where its image does"):
        masks_of(tmp_path, "RAS", labels, FIRST_ROW, 1, 0, 0, 99)
    with pytest.raises(Rejected, match="only one says"):
        masks_of(tmp_path, "RAS", labels, CODED, 0, 0)
    with pytest.raises(Rejected, match="voxels"):
        masks_of(tmp_path, "SPL", labels[:3])
    with pytest.raises(Rejected, match="labels are whole numbers"):
        masks_of(tmp_path, "SPL", labels + np.float32(0.3))


# --- on the study's grid ---


def physical(size: tuple[int, ...], field: tuple[float, ...], fit: Any = "physical") -> Image:
    return Image(size=size, field_of_view=field, length_unit="mm", fit=fit)


lengths = st.tuples(*[st.integers(2, 9)] * 3)
spacings = st.tuples(*[st.floats(0.4, 3)] * 3)


@settings(deadline=None, max_examples=60)
@given(
    shape=lengths, size=lengths, spacing=st.tuples(*[st.floats(0.4, 3)] * 3), fit=st.sampled_from(["pad", "physical"])
)
def test_no_volume_is_lost_or_made_up(shape: Any, size: Any, spacing: Any, fit: str) -> None:
    """Where the grid shows all of a volume, a mask's share of the frame, in mm3, is what it was."""
    field = tuple(n * mm * 1.1 + 1 for n, mm in zip(shape, spacing, strict=True))
    grid, pixel = physical(size, field, fit), Pixel(1.0, spacing)
    mask = np.random.default_rng(0).random((1, *shape)) > 0.5
    found = fit_masks(mask.astype(float), grid, pixel)
    start, extent = window_of(shape, grid, pixel)
    cell = np.prod([mm * length / n for mm, length, n in zip(spacing, extent, size, strict=True)])
    off = abs(found.sum() / 255 * cell - mask.sum() * np.prod(spacing))
    assert off <= 0.5 / 255 * cell * found.size + 1e-6  # rounded to whole numbers
    assert all(
        first <= 1e-9 and first + length >= n - 1e-9 for first, length, n in zip(start, extent, shape, strict=True)
    )


def test_a_volume_on_its_own_grid_is_what_it_was() -> None:
    grey = seen()[None] / 119
    assert np.array_equal(fit_image(grey, physical(SIZE, (12, 10, 6)), Pixel(1.0, SPACING)), np.rint(grey * 255))
    assert np.array_equal(fit_image(grey, Image(size=SIZE), SQUARE), np.rint(grey * 255))
    with pytest.raises(Rejected):  # nobody knows how large its voxels are
        fit_image(grey, Image(size=(8, 8, 8)), SQUARE)


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch", "physical"])
def test_where_the_grid_is_and_where_the_volume_is_are_inverse(fit: str) -> None:
    grid, pixel = physical((7, 8, 9), (11.0, 13.0, 5.0), fit), Pixel(1.0, SPACING)
    start, extent = window_of(SIZE, grid, pixel)
    first, length = frame_of(SIZE, grid, pixel)
    for axis in range(3):
        scale = grid.size[axis] / extent[axis]
        assert first[axis] == pytest.approx(-start[axis] * scale)
        assert length[axis] == pytest.approx(SIZE[axis] * scale)


def test_the_grid_lies_in_the_patient_where_it_shows_the_volume() -> None:
    lie = Lie.straight(SPACING)
    pixel, grid = Pixel(1.0, SPACING), physical((6, 10, 3), (12.0, 10.0, 6.0))
    inner = lie.within(*window_of(SIZE, grid, pixel), grid.size)
    assert inner.spacing == pytest.approx((2.0, 1.0, 2.0))
    # The corner of the frame is one: half a voxel before the first.
    corners = [one.affine @ [-0.5, -0.5, -0.5, 1] for one in (lie, inner)]
    np.testing.assert_allclose(*corners, atol=1e-9)


def test_a_frame_of_a_volume_is_that_of_its_slices() -> None:
    """What is cut along two axes alone is cut slice by slice, and along the third as any axis is."""
    values = np.random.default_rng(1).random(SIZE)
    inner = Crop((1.5, -2.0), (3.0, 8.0), (6, 4))
    whole = Crop((0.0, *inner.start), (float(SIZE[0]), *inner.extent), (SIZE[0], *inner.size))
    for way in ("average", "smooth"):
        slices = np.stack([getattr(inner, way)(one, 0.25) for one in values])
        np.testing.assert_allclose(getattr(whole, way)(values, 0.25), slices, atol=1e-12)
        turned = Crop((*inner.start, 0.0), (*inner.extent, float(SIZE[0])), (*inner.size, SIZE[0]))
        np.testing.assert_allclose(getattr(turned, way)(np.moveaxis(values, 0, -1), 0.25), np.moveaxis(slices, 0, -1))
