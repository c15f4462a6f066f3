"""DICOM Segmentation objects beside the masks: on the stored pixels, about the right file, the same each time."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from segcft.cli.entry import main
from segcft.errors import Code as Kind
from segcft.errors import DataError
from segcft.io.dicomseg import NONE, DicomSource, Segmentations
from segcft.io.imagefile import read_image
from segcft.io.reject import Excluded
from segcft.io.turn import AS_STORED
from segcft.pipeline.run import Run
from segcft.pipeline.segment import SEGMENTATION, Settings, segment
from tests.refused import refused
from tests.test_dicom import make, save
from tests.test_dicom_orientation import FRONTAL, TURNS, VECTORS
from tests.test_segment import chest, read, readers, study, write

NAMES = ("left_lung", "right_lung", "heart")
WANTED = Settings(dicom_seg=True)
CLASSES = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
}

PLACED = {
    "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
    "ImagePositionPatient": [1, 2, 3],
    "FrameOfReferenceUID": "1.2.3",
    "PixelSpacing": ["0.2", "0.2"],
}


def radiograph(pixels: NDArray[np.uint8], **elements: Any) -> pydicom.Dataset:
    """A DICOM file that shows its grey values as they are."""
    window = {"WindowCenter": 128, "WindowWidth": 256}
    return make(np.ascontiguousarray(pixels), **(window | elements))


def stored_as(said: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An upright frontal picture as a file stores it whose rows and columns run to ``said``: found by trying."""
    upright = FRONTAL["L\\F"]
    (turn,) = [turn for turn in TURNS if np.array_equal(turn(upright), FRONTAL[said])]
    return np.asarray(turn(pixels))


def measures() -> pydicom.Dataset:
    """What a file of frames says of all of them."""
    group, item = pydicom.Dataset(), pydicom.Dataset()
    item.PixelSpacing, item.SliceThickness = ["0.2", "0.2"], "1"
    group.PixelMeasuresSequence = [item]
    return group


def run(folder: Path, out: Path, settings: Settings = WANTED) -> Any:
    return segment(readers((study(), 1.0)), folder, out, settings=settings)


def written(out: Path, id: str = "one") -> Path:
    return out / SEGMENTATION.replace("{id}", id)


def masks_of(path: Path, source: pydicom.Dataset) -> NDArray[np.bool_]:
    """What a segmentation says of its source: (S, H, W), in the order of the segments."""
    found = highdicom.seg.segread(path)
    pixels = found.get_pixels_by_source_instance([source.SOPInstanceUID])
    return np.moveaxis(pixels[0], -1, 0) > 0


def remarks(out: Path) -> list[tuple[str, str]]:
    with (out / "warnings.csv").open(newline="") as file:
        return [(row["id"], row["kind"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("said", FRONTAL)
def test_it_lies_on_the_pixels_as_they_are_stored(tmp_path: Path, said: str, measured: bool) -> None:
    picture, truth = chest(96, 70)
    stored, true = stored_as(said, picture), stored_as(said, truth)
    cosines = [number for letter in said.split("\\") for number in VECTORS[letter]]
    placed = {
        "ImageOrientationPatient": cosines,
        "ImagePositionPatient": [1, 2, 3],
        "FrameOfReferenceUID": generate_uid(),
        "PixelSpacing": ["0.4", "0.2"],
        "SliceThickness": "1",
    }
    source = radiograph(stored, **(placed if measured else {"PatientOrientation": said.split("\\")}))
    path = save(tmp_path / "in/one.dcm", source)
    run(tmp_path / "in", tmp_path / "out")
    found = masks_of(written(tmp_path / "out"), source)
    mask = read(tmp_path / "out/masks/one.png")
    assert mask.shape == picture.shape
    turn = read_image(path, 1).turn
    for bit, one in enumerate(found):
        assert one.shape == stored.shape
        np.testing.assert_array_equal(turn(one), mask & (1 << bit) > 0)
        inside = true & (1 << bit) > 0
        assert 2 * (one & inside).sum() / (one.sum() + inside.sum()) > 0.8  # of a grid of 64 pixels
    file = pydicom.dcmread(written(tmp_path / "out"))
    if measured:
        assert file.FrameOfReferenceUID == source.FrameOfReferenceUID
        shared = file.SharedFunctionalGroupsSequence[0]
        assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == cosines
        assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.4, 0.2]
    else:
        assert list(file.PatientOrientation) == said.split("\\")


def test_it_says_what_and_whose_and_by_whom(tmp_path: Path) -> None:
    source = radiograph(chest(64, 64)[0], PatientBirthDate="19500321", StudyTime="1015", SeriesNumber=4)
    save(tmp_path / "in/one.dcm", source)
    run(tmp_path / "in", tmp_path / "out")
    found = highdicom.seg.segread(written(tmp_path / "out"))
    for name in ("PatientName", "PatientID", "PatientSex", "PatientBirthDate", "StudyInstanceUID", "StudyDate"):
        assert found[name].value == source[name].value
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    assert (found.Modality, found.SegmentationType, found.number_of_segments) == ("SEG", "BINARY", 3)
    (series,) = found.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    referred = [series.ReferencedInstanceSequence[0]]
    for frame in found.PerFrameFunctionalGroupsSequence:
        referred.append(frame.DerivationImageSequence[0].SourceImageSequence[0])
    assert {(one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID) for one in referred} == {
        (source.SOPClassUID, source.SOPInstanceUID)
    }
    codes = {"left_lung": "44029006", "right_lung": "3341006", "heart": "80891009"}
    for number, name in enumerate(NAMES, 1):
        description = found.get_segment_description(number)
        assert description.segment_label == name
        assert description.segmented_property_category.value == "123037004"
        kind = description.segmented_property_type
        assert (kind.value, kind.scheme_designator) == (codes[name], "SCT")
        assert description.algorithm_type.value == "AUTOMATIC"
        (algorithm,) = description.algorithm_identification
        assert "segcft" in algorithm.AlgorithmName
        assert "readers=[1.0]" in algorithm.AlgorithmParameters


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("more", [{}, {"PixelSpacing": ["0.2", "0.2"]}, {"FrameOfReferenceUID": "1.2.3"}, PLACED])
def test_every_kind_of_radiograph_gets_one(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    nameless = dict.fromkeys(("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate"))
    source = radiograph(chest(64, 48)[0], SOPClassUID=CLASSES[kind], **nameless, **more)
    check_that_one_is_written(tmp_path, source)


def test_a_file_of_frames_that_has_one_gets_one(tmp_path: Path) -> None:
    frames = {"NumberOfFrames": 1, "SharedFunctionalGroupsSequence": [measures()]}
    source = radiograph(chest(64, 48)[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.7.2", **frames)
    check_that_one_is_written(tmp_path, source)


def check_that_one_is_written(tmp_path: Path, source: pydicom.Dataset) -> None:
    save(tmp_path / "in/one.dcm", source)
    summary = run(tmp_path / "in", tmp_path / "out")
    assert summary.files == {SEGMENTATION: 1}
    mask = read(tmp_path / "out/masks/one.png")
    found = masks_of(written(tmp_path / "out"), source)
    np.testing.assert_array_equal(found, [mask & bit > 0 for bit in (1, 2, 4)])


@pytest.mark.parametrize(
    "elements",
    [
        {"SOPClassUID": "1.2.3.4"},
        {"SeriesInstanceUID": None},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.12.1"},
    ],
    ids=["private class", "no series", "slice without frame of reference", "angiogram without frames"],
)
def test_where_none_can_be_written_a_remark_says_so(tmp_path: Path, elements: dict[str, Any]) -> None:
    save(tmp_path / "in/one.dcm", radiograph(chest(64, 64)[0], **elements))
    summary = run(tmp_path / "in", tmp_path / "out")
    assert summary.files == {SEGMENTATION: 0}
    assert (tmp_path / "out/masks/one.png").is_file()
    assert not written(tmp_path / "out").exists()
    assert remarks(tmp_path / "out") == [("one", NONE)]
    assert run(tmp_path / "in", tmp_path / "out").files == {SEGMENTATION: 0}
    assert remarks(tmp_path / "out") == [("one", NONE)]


def test_other_files_get_none_and_the_summary_counts(tmp_path: Path) -> None:
    write(tmp_path / "in", "picture", chest(64, 64)[0])
    assert run(tmp_path / "in", tmp_path / "pictures").files == {SEGMENTATION: 0}
    for name in ("sub/a", "sub/b"):
        save(tmp_path / f"in/{name}.dcm", radiograph(chest(64, 64)[0]))
    save(tmp_path / "in/sub/mirrored.dcm", radiograph(chest(64, 64)[0][:, ::-1]))
    summary = run(tmp_path / "in", tmp_path / "out")
    assert sum(summary.samples.values()) == 3
    assert summary.files == {SEGMENTATION: 2}
    assert sorted(path.stem for path in (tmp_path / "out/dicom-seg").rglob("*.*")) == ["a", "b"]
    assert run(tmp_path / "in", tmp_path / "without", Settings()).files == {}
    assert not (tmp_path / "without/dicom-seg").exists()


def test_it_goes_on_and_gives_the_same_files_each_time(tmp_path: Path) -> None:
    write(tmp_path / "in", "picture", chest(64, 64)[0])
    for name in ("a", "b"):
        save(tmp_path / f"in/{name}.dcm", radiograph(chest(64, 64)[0], Manufacturer="Maker"))
    out = tmp_path / "out"
    run(tmp_path / "in", out, Settings())
    picture = (out / "masks/picture.png").stat().st_mtime_ns
    assert run(tmp_path / "in", out).files == {SEGMENTATION: 2}  # what is missing is written
    assert (out / "masks/picture.png").stat().st_mtime_ns == picture
    content = {id: written(out, id).read_bytes() for id in ("a", "b")}
    at = written(out, "a").stat().st_mtime_ns
    written(out, "b").unlink()
    assert run(tmp_path / "in", out).files == {SEGMENTATION: 2}
    assert written(out, "a").stat().st_mtime_ns == at
    run(tmp_path / "in", tmp_path / "again")
    for folder in (out, tmp_path / "again"):
        assert {id: written(folder, id).read_bytes() for id in ("a", "b")} == content
    identifiers = [pydicom.dcmread(written(out, id)).SOPInstanceUID for id in ("a", "b")]
    assert len(set(identifiers)) == 2
    save(tmp_path / "in/a.dcm", radiograph(chest(96, 96)[0]))
    run(tmp_path / "in", out)
    found = pydicom.dcmread(written(out, "a"))
    assert (found.Rows, found.Columns) == (96, 96)
    assert found.SOPInstanceUID not in identifiers


def test_another_mask_or_other_settings_make_another_object(tmp_path: Path) -> None:
    path = save(tmp_path / "one.dcm", radiograph(chest(64, 64)[0]))
    mask = np.zeros((64, 64), np.uint8)
    seen = set()
    for flags, depends in ((mask, {"readers": ["a"]}), (mask + 1, {"readers": ["a"]}), (mask, {"readers": ["b"]})):
        content = Segmentations(NAMES, depends).content(DicomSource.of(path, AS_STORED), flags)
        (tmp_path / "seg.dcm").write_bytes(content)
        seen.add(pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID)
    assert len(seen) == 3


def test_structures_that_are_not_known_have_codes_of_their_own(tmp_path: Path) -> None:
    source = radiograph(chest(64, 64)[0])
    names = ["plaque", "x" * 70, "heart"]
    mask = np.zeros((64, 64), np.uint8)
    mask[3:9, 4:7], mask[5:12, 2:5] = 1, 3  # the first two overlap, and the heart is nowhere
    content = Segmentations(names, {}).content(DicomSource.of(save(tmp_path / "one.dcm", source), AS_STORED), mask)
    (tmp_path / "seg.dcm").write_bytes(content)
    found = highdicom.seg.segread(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(masks_of(tmp_path / "seg.dcm", source), [mask & bit > 0 for bit in (1, 2, 4)])
    kinds = [found.get_segment_description(number).segmented_property_type for number in (1, 2, 3)]
    assert [kind.value for kind in kinds[:2]] == names[:2]
    assert {kind.scheme_designator for kind in kinds[:2]} == {"99SEGCFT"}
    assert kinds[2] == Code("80891009", "SCT", "Heart")


def test_a_header_that_cannot_be_is_excluded_by_the_name_of_its_file(tmp_path: Path) -> None:
    path = save(tmp_path / "one.dcm", radiograph(chest(64, 64)[0], SOPClassUID="1.2.3.4"))
    with pytest.raises(Excluded, match=r"one\.dcm") as caught:
        Segmentations(NAMES, {}).content(DicomSource.of(path, AS_STORED), np.zeros((64, 64), np.uint8))
    assert caught.value.kind == NONE


def test_without_the_library_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in", "one", chest(64, 64)[0])
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with refused(DataError, Kind.NOT_INSTALLED):
        run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(tmp_path / "in", tmp_path / "out", Settings())


def test_the_command_writes_one_for_every_mask(tmp_path: Path, small_run: Run) -> None:
    """With the readers of a trained run, which see what they see: where that is nothing, there is none of either."""
    for number in range(3):
        save(tmp_path / f"in/sub/{number}.dcm", radiograph(chest(40, 50 + number)[0]))
    folders = [str(small_run.folder), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    code = main(["segment", *folders, "--agreement", "0", "--dicom-seg"])
    masks = sorted(path.stem for path in (tmp_path / "out/masks").rglob("*.png"))
    assert sorted(path.stem for path in (tmp_path / "out/dicom-seg").rglob("*.dcm")) == masks
    assert code == (0 if masks else 1)
