"""`segcft import msd`: a task of the Decathlon as it is unpacked, with the disorder of real ones."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from refused import refused
from segcft.cli import main
from segcft.config.loader import parse_study
from segcft.config.outline import Outline, read_study
from segcft.errors import Code, DataError
from segcft.importers.folder import import_folder
from segcft.importers.formats.msd import MSD
from segcft.importers.msd import LABELS_TABLE
from segcft.io.scan import read_array
from segcft.planning.plan import usual_study
from tests.small_volumes import mapping

HIPPOCAMPI = Path(__file__).parents[2] / "shared" / "data" / "hippocampus"
SHAPE = (12, 14, 16)
AFFINE = np.diag([1.0, 2.0, 1.5, 1.0])
Make = Callable[..., Path]


def box(begin: int = 3, end: int = 8) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[begin:end, 4:9, 5:9], labels[begin:end, 4:9, 9:12] = 1, 2
    return labels


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task of six volumes of one channel."""
    folder = tmp_path / "Task99_Boxes"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    for k in range(6):
        labels = box(end=8 + k % 3)
        values = (100 * labels + random.normal(0, 9, SHAPE) + 40).astype(np.int16)
        for part, array in (("imagesTr", values), ("labelsTr", labels)):
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), folder / part / f"box_{k}.nii.gz")
    describe(folder)
    return folder


def describe(folder: Path, **changes: Any) -> None:
    said = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "front", "2": "back"}}
    (folder / "dataset.json").write_text(json.dumps(said | changes))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_are_taken_as_they_are(task: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = MSD(folder=task).convert(out)
    assert sum(summary.samples.values()) == 6
    for part, own in (("imagesTr", "images"), ("labelsTr", "masks")):
        for path in (task / part).iterdir():
            assert (out / own / path.name).read_bytes() == path.read_bytes()
    assert rows(out / LABELS_TABLE) == [{"label": "1", "name": "front"}, {"label": "2", "name": "back"}]
    assert [row["id"] for row in rows(out / "metadata.csv")] == [f"box_{k}" for k in range(6)]


def test_it_goes_on_and_makes_again_what_is_lost(task: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    MSD(folder=task).convert(out)
    kept, lost = out / "images" / "box_0.nii.gz", out / "masks" / "box_1.nii.gz"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    MSD(folder=task).convert(out)
    assert kept.stat().st_mtime_ns == before
    assert lost.is_file()
    with refused(DataError, Code.OTHER, "out"):
        MSD(folder=task, margin=2.0).convert(out)


def test_what_cannot_be_used_is_left_out_with_its_reason(task: Path, tmp_path: Path) -> None:
    (task / "imagesTr" / "box_0.nii.gz").unlink()
    (task / "labelsTr" / "box_1.nii.gz").unlink()
    moved = AFFINE.copy()
    moved[0, 3] = 5
    nibabel.save(nibabel.Nifti1Image(box(), moved), task / "labelsTr" / "box_2.nii.gz")
    nibabel.save(nibabel.Nifti1Image(box() * 3, AFFINE), task / "labelsTr" / "box_3.nii.gz")
    (task / "imagesTr" / "box_4.nii.gz").write_bytes(b"cut off")
    shutil.copy(task / "imagesTr" / "box_5.nii.gz", task / "imagesTr" / "._box_5.nii.gz")
    out = tmp_path / "out"
    summary = MSD(folder=task).convert(out)
    assert sum(summary.samples.values()) == 1
    reasons = {row["id"]: row["reason"] for row in rows(out / "rejected.csv")}
    assert sorted(reasons) == [f"box_{k}" for k in range(5)]
    assert "imagesTr" in reasons["box_0"]
    assert "labelsTr" in reasons["box_1"]
    assert "5 mm" in reasons["box_2"]
    assert "3, 6" in reasons["box_3"]


def test_a_file_that_was_replaced_is_taken_again(task: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", task / "imagesTr" / "box_2.nii.gz"
    MSD(folder=task).convert(out)
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.int16) * np.arange(16, dtype=np.int16), AFFINE), path)
    MSD(folder=task).convert(out)
    assert (out / "images" / path.name).read_bytes() == path.read_bytes()
    describe(task, labels={"0": "background", "1": "front", "2": "other"})
    with refused(DataError, Code.OTHER, "out"):
        MSD(folder=task).convert(out)


def test_names_and_types_may_differ(task: Path, tmp_path: Path) -> None:
    """Labels of 64 bits or in real numbers, a suffix in capitals, or a label map that is not compressed."""
    labels = box()
    for k, kind in enumerate((np.int64, np.float32)):
        path = task / "labelsTr" / f"box_{k}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(labels.astype(kind), AFFINE, dtype=kind), path)
    (task / "imagesTr" / "box_2.nii.gz").rename(task / "imagesTr" / "box_2.NII.GZ")
    image = nibabel.load(task / "labelsTr" / "box_3.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine), task / "labelsTr" / "box_3.nii")
    (task / "labelsTr" / "box_3.nii.gz").unlink()
    for margin in (None, 2.0):
        out = tmp_path / f"out-{margin}"
        assert sum(MSD(folder=task, margin=margin).convert(out).samples.values()) == 6
        for k in range(4):
            assert read_array(out / "masks" / f"box_{k}.nii.gz")[0].max() == 2


def test_volumes_are_cut_around_their_labels(task: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    MSD(folder=task, margin=3.0).convert(out)
    for k in range(6):
        for part, own in (("imagesTr", "images"), ("labelsTr", "masks")):
            whole, lie, _ = read_array(task / part / f"box_{k}.nii.gz")
            cut, inner, _ = read_array(out / own / f"box_{k}.nii.gz")
            start = np.rint(np.linalg.inv(lie.affine) @ inner.affine)[:3, 3].astype(int)
            here = tuple(slice(first, first + n) for first, n in zip(start, cut.shape[:3], strict=True))
            assert np.array_equal(whole[here], cut)
            np.testing.assert_allclose(inner.affine[:3, :3], lie.affine[:3, :3], atol=1e-6)
        labels, _, _ = read_array(task / "labelsTr" / f"box_{k}.nii.gz")
        # 3 mm are 2 voxels to the head, 2 to the back and 3 to the left.
        assert cut.shape[:3] == tuple(
            min(n, len(np.flatnonzero(labels[..., 0].any(axis=others))) + 2 * more)
            for n, others, more in zip(labels.shape, ((1, 2), (0, 2), (0, 1)), (2, 2, 3), strict=False)
        )


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, Code.MISSING), ("{", Code.DAMAGED), ("[]", Code.DAMAGED), ('{"labels": {}, "modality": {}}', Code.EMPTY)],
)
def test_a_folder_that_is_no_task_is_refused(task: Path, tmp_path: Path, content: str | None, code: Code) -> None:
    if content is None:
        (task / "dataset.json").unlink()
    else:
        (task / "dataset.json").write_text(content)
    with refused(DataError, code, "dataset.json"):
        MSD(folder=task).convert(tmp_path / "out")


def test_a_study_reads_what_was_imported(task: Path, tmp_path: Path) -> None:
    """Volumes in mm3, whatever the file's voxels, and two channels of one file."""
    for path in (task / "imagesTr").iterdir():
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        nibabel.save(nibabel.Nifti1Image(np.stack([values, -values], axis=-1), image.affine), path)
    describe(task, modality={"0": "T1", "1": "T2"})
    assert main(["import", "msd", str(task), "--out", str(tmp_path / "out"), "--margin", "4"]) == 0
    raw = mapping()
    volume = {"kind": "continuous", "unit": "mm³"}
    field = [24, 28, 16]
    raw["image"] = {"size": [16, 28, 16], "field_of_view": field, "length_unit": "mm", "channels": 2, "fit": "physical"}
    raw["variables"] = {"front_volume": volume, "back_volume": volume}
    raw["structures"] = {
        "front": {"variable": "front_volume", "label": 1},
        "back": {"variable": "back_volume", "label": 2},
    }
    raw["data"] = {"source": "folder", "thin_structures": True}
    raw["splits"] = {"train": 0.8, "validation": 0, "test": 0.2}
    store = import_folder(parse_study(raw), tmp_path / "out", tmp_path / "store", split="test")
    assert store.images.shape == (6, 2, 16, 28, 16)
    for row in store.table.itertuples():
        labels = np.asanyarray(nibabel.load(task / "labelsTr" / f"{row.id}.nii.gz").dataobj)
        assert row.front_volume == pytest.approx(3 * (labels == 1).sum(), rel=0.01)
        assert row.back_volume == pytest.approx(3 * (labels == 2).sum(), rel=0.01)
    # What is bright in one channel is dark in the other.
    ones = store.images.reshape(6, 2, -1).astype(float)
    assert all(np.corrcoef(one)[0, 1] < -0.5 for one in ones)


@pytest.mark.skipif(not HIPPOCAMPI.is_dir(), reason=f"needs the real hippocampi, {HIPPOCAMPI}")
def test_real_hippocampi(tmp_path: Path) -> None:
    task = tmp_path / "Task04_Hippocampus"
    task.mkdir()
    for part, own in (("imagesTr", "images"), ("labelsTr", "labels")):
        (task / part).symlink_to(HIPPOCAMPI / own)
    describe(task, labels={"0": "background", "1": "Anterior", "2": "Posterior"})
    summary = MSD(folder=task).convert(tmp_path / "out")
    assert sum(summary.samples.values()) == 210
    assert sum(summary.left_out.values()) == 3  # two labels have no image, and one image has no label
    outline = read_study(Path(__file__).parents[1] / "configs" / "hippocampus.yaml")
    assert isinstance(outline, Outline)
    study = usual_study(outline)
    store = import_folder(study, tmp_path / "out", tmp_path / "store")
    assert len(store) == 210
    assert not len(store.rejected)
    # By the set's own counts of voxels: 1715 and 1580 mm3.
    assert store.table["anterior_volume"].mean() == pytest.approx(1715, rel=0.02)
    assert store.table["posterior_volume"].mean() == pytest.approx(1580, rel=0.01)
    for row in list(store.table.itertuples())[::40]:
        labels = np.asanyarray(nibabel.load(HIPPOCAMPI / "labels" / f"{row.id}.nii.gz").dataobj)
        assert row.anterior_volume == pytest.approx((labels == 1).sum(), abs=2)
        assert row.posterior_volume == pytest.approx((labels == 2).sum(), abs=2)
