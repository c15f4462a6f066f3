"""`segcft init`: from folders with the disorder of real ones to a study file that reads them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from refused import refused
from segcft.cli.entry import main
from segcft.config.outline import Outline
from segcft.data.attributes import Row
from segcft.drafting.draft import Survey, check, draft, survey
from segcft.drafting.structures import bits_of, slug
from segcft.errors import Code, DataError
from segcft.importers.folder import folders_of
from segcft.importers.sample import Sample
from segcft.planning.plan import usual_study
from segcft.simulate.files import write_people
from segcft.simulate.retina import RetinaSimulator
from tests.test_coronary_volumes import write_nifti, write_series

SUBJECTS = 24
IDS = [f"p{number:02}" for number in range(SUBJECTS)]
SHARED = Path(os.environ.get("SEGCFT_SHARED", Path(__file__).parents[2] / "shared" / "data"))


def masks_of(number: int, depth: int | None = None) -> NDArray[np.uint8]:
    """Masks (2, 24, 24), or (2, depth, 24, 24), of two rectangles whose sizes differ from subject to subject."""
    masks = np.zeros((2, 24, 24), dtype=np.uint8)
    masks[0, 2 : 8 + number % 5, 2:9] = 1
    masks[1, 12 : 16 + number % 7, 12:20] = 1
    return masks if depth is None else np.repeat(masks[:, None], depth, axis=1)


def label_of(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (masks[0] + 2 * masks[1]).astype(np.uint8)


def image_of(masks: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(number).integers(0, 40, masks.shape[1:])
    return (noise + 60 * masks[0] + 120 * masks[1]).astype(np.uint8)


def write(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values.ndim == 2:
        Image.fromarray(values).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), path)


def write_table(path: Path, lines: Sequence[Sequence[object]], separator: str = ",") -> None:
    path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines))


def ages(names: Sequence[str]) -> list[list[object]]:
    return [["id", "sex", "age"], *([name, "FM"[k % 2], 30.5 + k] for k, name in enumerate(names))]


def plain(root: Path) -> None:
    for number, id in enumerate(IDS):
        write(root / f"images/{id}.png", image_of(masks_of(number), number))
        write(root / f"masks/{id}.png", label_of(masks_of(number)))
    write_table(root / "metadata.csv", ages(IDS))


def one_folder(root: Path) -> None:
    for number, id in enumerate(IDS):
        write(root / f"{id}.png", image_of(masks_of(number), number))
        write(root / f"{id}_mask.png", label_of(masks_of(number)))


def prefixes(root: Path) -> None:
    for number, id in enumerate(IDS):
        write(root / f"pictures/IMG_{id}.png", image_of(masks_of(number), number))
        write(root / f"Ground Truth/MASK_{id}.png", label_of(masks_of(number)))


def a_folder_each(root: Path) -> None:
    for number, id in enumerate(IDS):
        write(root / f"images/{id}.png", image_of(masks_of(number), number))
        for name, mask in zip(("lung", "heart"), masks_of(number), strict=True):
            write(root / f"masks/{name}/{id}.png", mask * np.uint8(255))


def a_file_each(root: Path) -> None:
    for number, id in enumerate(IDS):
        write(root / f"scans/{id}.png", image_of(masks_of(number), number))
        for name, mask in zip(("lung", "heart"), masks_of(number), strict=True):
            write(root / f"segmentations/{id}-{name}_seg.png", mask * np.uint8(255))


def subjects(root: Path) -> None:
    for number, id in enumerate(IDS):
        write(root / id / f"{id}_flair.nii.gz", image_of(masks_of(number, 6), number))
        write(root / id / f"{id}_t1.nii.gz", image_of(masks_of(number, 6), number + 100))
        write(root / id / f"{id}_seg.nii.gz", label_of(masks_of(number, 6)))


def series(root: Path) -> None:
    """A folder of slices for each subject, masks in NIfTI that lie on them."""
    lps = np.diag([1.0, 1.0, 2.0, 1.0])
    for number, id in enumerate(IDS):
        image = image_of(masks_of(number, 6), number).transpose(2, 1, 0)  # columns, rows, slices
        (root / "scans" / id).mkdir(parents=True)
        write_series(root / "scans" / id / "T1", image.astype(np.int16), lps)
        (root / "labels").mkdir(exist_ok=True)
        write_nifti(root / f"labels/{id}.nii.gz", label_of(masks_of(number, 6)).transpose(2, 1, 0), lps)


def nnunet(root: Path) -> None:
    for number, id in enumerate(IDS):
        write(root / f"imagesTr/{id}_0000.nii.gz", image_of(masks_of(number, 6), number))
        write(root / f"labelsTr/{id}.nii.gz", label_of(masks_of(number, 6)))
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "lung": 1, "heart": 2}}))


def patients(root: Path) -> None:
    """Names of files with their suffix, semicolons, patients, a split, areas under other names, notes."""
    plain(root)
    (root / "metadata.csv").unlink()
    head = ["Image File", "Patient ID", "Partition", "Patient Age", "lung size", "note", "row"]
    lines = [
        [f"{id}.png", f"s{k // 2}", ("train", "val", "test")[k // 2 % 3], 30.5 + k, masks_of(k)[0].sum(), f"n{k}", k]
        for k, id in enumerate(IDS)
    ]
    write_table(root / "Liste.csv", [head, *lines], ";")


def linked(root: Path) -> None:
    """Folders that are links, suffixes of several kinds, and what a notebook left."""
    plain(root / "elsewhere.d")
    for number, id in enumerate(IDS[::2]):
        image = root / f"elsewhere.d/images/{id}.png"
        Image.open(image).convert("L").save(image.with_suffix((".TIF", ".bmp")[number % 2]))
        image.unlink()
    (root / "elsewhere.d").rename(root.parent / f"{root.name}-elsewhere")
    for name in ("images", "masks"):
        (root / name).symlink_to(root.parent / f"{root.name}-elsewhere" / name)
    write(root / "images/.ipynb_checkpoints/p00-checkpoint.png", image_of(masks_of(0), 0))


def open_suffixes(root: Path) -> None:
    """Names with something before them, and images of two kinds."""
    prefixes(root)
    for id in IDS[::3]:
        image = root / f"pictures/IMG_{id}.png"
        Image.open(image).save(image.with_suffix(".bmp"))
        image.unlink()


def masks_below(root: Path) -> None:
    for number, id in enumerate(IDS):
        write(root / f"{id}.png", image_of(masks_of(number), number))
        write(root / f"masks/{id}.png", label_of(masks_of(number)))


def no_masks(root: Path) -> None:
    plain(root)
    for path in (root / "masks").iterdir():
        path.unlink()


FOLDERS: dict[Callable[[Path], None], dict[str, Any]] = {
    plain: {},
    one_folder: {"images": ".", "masks": ".", "table": None},
    prefixes: {"images": "pictures", "file": "IMG_{id}.png", "masks": "Ground Truth", "table": None},
    a_folder_each: {"table": None},
    a_file_each: {"images": "scans", "masks": "segmentations", "table": None},
    subjects: {"images": ".", "file": "{id}/{id}_flair.nii.gz", "masks": ".", "table": None},
    series: {"images": "scans", "file": "{id}/T1", "masks": "labels", "table": None},
    nnunet: {"images": "imagesTr", "file": "{id}_0000.nii.gz", "masks": "labelsTr", "table": None},
    linked: {"table": None},
    open_suffixes: {"images": "pictures", "file": "IMG_{id}", "masks": "Ground Truth", "table": None},
    masks_below: {"images": ".", "table": None},
    patients: {
        "table": "Liste.csv",
        "id": "Image File",
        "patient": "Patient ID",
        "split": "Partition",
        "columns": {"patient_age": "Patient Age"},
    },
}


def drafted(found: Survey) -> dict[str, Any]:
    text = draft(found, Path("it.yaml"), "it", found.names, [one.name for one in found.attributes])
    return dict(yaml.safe_load(text))


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_a_folder_is_read_as_it_is_meant(make: Callable[[Path], None], tmp_path: Path) -> None:
    """What is drafted reads every sample, with the masks that it has."""
    make(tmp_path)
    raw = drafted(survey(tmp_path))
    assert raw["data"] == {"source": "folder", **FOLDERS[make]}
    study = usual_study(Outline(raw, "it.yaml"))
    (folder,) = folders_of(study, tmp_path, None)
    lines = folder.read_lines()
    assert len(lines) == SUBJECTS
    for line in lines:
        assert isinstance(line, Row)
        id = line.cells[folder.spec.id].removesuffix(".png")
        _, _, masks = folder.read_files(id)
        assert masks is not None
        depth = 6 if study.image.is_volume else None
        true = sorted(int(mask.sum()) for mask in masks_of(IDS.index(id), depth))
        assert sorted(mask.sum() for mask in masks.coverage) == true
        assert isinstance(folder.read_sample(line), Sample)


def test_names_are_those_that_files_give(tmp_path: Path) -> None:
    for make in (a_folder_each, a_file_each, nnunet):
        root = tmp_path / make.__name__
        root.mkdir()
        make(root)
        assert set(survey(root).names) == {"lung", "heart"}
    root = tmp_path / "patients"
    root.mkdir()
    patients(root)
    found = survey(root)
    assert found.names == ("lung", "structure_2")
    assert [one.name for one in found.attributes] == ["patient_age"]
    assert found.attributes[0].keys == {"kind": "continuous", "unit": "years"}
    assert found.facts is not None
    assert set(found.facts.left) == {"lung size", "note", "row"}


def test_numbers_that_name_the_rows_are_no_variable(tmp_path: Path) -> None:
    """However large they are: those by which a simulator knows its people have 63 bits."""
    plain(tmp_path)
    named = [["id", "age", "row", "person"]]
    named += [[id, 30.5 + k, k, 2**62 - 3**k] for k, id in enumerate(IDS)]
    write_table(tmp_path / "metadata.csv", named)
    found = survey(tmp_path)
    assert [one.name for one in found.attributes] == ["age"]
    assert {"row", "person"} <= set(found.facts.left if found.facts else ())


def test_a_folder_of_colours_has_a_study_in_colour(tmp_path: Path) -> None:
    write_people(tmp_path / "eyes", RetinaSimulator((40, 40)), 12, source="retina-simulator")
    assert main(["init", str(tmp_path / "eyes"), "--yes", "--out", str(tmp_path / "eyes.yaml")]) == 0
    text = (tmp_path / "eyes.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    assert raw["image"]["channels"] == 3
    assert {one["file"] for one in raw["structures"].values()} == {"{id}_disc.png", "{id}_cup.png"}
    assert "person" not in raw["variables"]  # the simulator's number
    assert check(text, tmp_path / "eyes.yaml", tmp_path / "eyes") == (12, [])


def test_a_folder_without_masks_has_a_predictor(tmp_path: Path) -> None:
    no_masks(tmp_path)
    raw = drafted(survey(tmp_path))
    assert "structures" not in raw
    assert raw["predictor"] is None
    assert set(raw["variables"]) == {"sex", "age"}
    assert check(yaml.safe_dump(raw), Path("it.yaml"), tmp_path) == (SUBJECTS, [])


def test_what_names_people_or_dates_is_no_cause(tmp_path: Path) -> None:
    """Though every person has one image, so that no number comes twice."""
    plain(tmp_path)
    head = ["id", "Patient ID", "StudyDate", "accession", "Age", "age", "2020", "no"]
    random = np.random.default_rng(0)
    lines = [
        [id, 7000 + 13 * k * k, 20200101 + k % 28, f"A{k}", 30.5 + k, 80.5 - k, float(random.normal()), "ab"[k % 2]]
        for k, id in enumerate(IDS)
    ]
    write_table(tmp_path / "metadata.csv", [head, *lines])
    found = survey(tmp_path)
    assert [one.name for one in found.attributes] == ["age", "age_2", "2020", "no"]
    text = draft(found, Path("it.yaml"), "no", found.names, [one.name for one in found.attributes])
    assert check(text, Path("it.yaml"), tmp_path) == (SUBJECTS, [])
    raw = yaml.safe_load(text)
    assert raw["name"] == "no"
    assert list(raw["variables"])[:4] == ["age", "age_2", "2020", "no"]


@pytest.mark.parametrize("wrong", ["zeros", "coding", "of patients"])
def test_a_table_that_is_not_used_is_told_of(wrong: str, tmp_path: Path) -> None:
    plain(tmp_path)
    table = tmp_path / "metadata.csv"
    if wrong == "zeros":
        for part in ("images", "masks"):
            for id in IDS:
                (tmp_path / part / f"{id}.png").rename(tmp_path / part / f"0{id[1:]}.png")
        write_table(table, [["id", "age"], *([int(id[1:]), 40 + k] for k, id in enumerate(IDS))])
    elif wrong == "coding":
        table.write_bytes("id,Größe\n".encode("latin-1") + b"".join(f"{id},1\n".encode() for id in IDS))
    else:
        write_table(table, [["patient", "age"], *([f"x{k}", 40 + k] for k in range(SUBJECTS))])
    found = survey(tmp_path)
    assert found.facts is None
    assert len(found.tables) == 1


def test_a_table_for_excel_is_read(tmp_path: Path) -> None:
    plain(tmp_path)
    table = tmp_path / "metadata.csv"
    table.write_text("sep=;\n" + table.read_text().replace(",", ";"))
    assert [one.name for one in survey(tmp_path).attributes] == ["sex", "age"]


def test_images_that_are_left_out_are_told_of(tmp_path: Path) -> None:
    for number, id in enumerate(IDS):
        part = "train" if number < 20 else "test"
        write(tmp_path / part / "images" / f"{id}.png", image_of(masks_of(number), number))
    found = survey(tmp_path)
    assert (found.layout.images.folder, len(found.layout.ids)) == ("train/images", 20)
    assert len(found.layout.others) == 1


def test_a_damaged_file_among_images_is_no_end(tmp_path: Path) -> None:
    plain(tmp_path)
    (tmp_path / "images" / "broken.dcm").write_bytes(bytes(128) + b"DICM" + bytes(50))
    (tmp_path / "images" / "more.dcm").write_bytes(bytes(128) + b"DICM" + bytes(50))
    assert len(survey(tmp_path).layout.ids) >= SUBJECTS


def test_volumes_have_a_grid_that_holds_them(tmp_path: Path) -> None:
    nnunet(tmp_path)
    found = survey(tmp_path)
    grid = found.images.grid
    extents = np.array(found.images.sizes[0]) * np.array(found.images.spacings[0])
    assert (np.array(grid["field_of_view"]) >= extents).all()
    assert grid["fit"] == "physical"


def test_a_structure_that_some_lack_may_be_absent(tmp_path: Path) -> None:
    plain(tmp_path)
    write(tmp_path / f"masks/{IDS[3]}.png", masks_of(3)[0])
    raw = drafted(survey(tmp_path))
    assert raw["data"]["may_be_absent"] == ["structure_2"]
    assert check(yaml.safe_dump(raw), Path("it.yaml"), tmp_path) == (SUBJECTS, [])


@given(st.integers(2, 6), st.data())
def test_sums_of_flags_are_told_from_numbered_labels(count: int, data: st.DataObject) -> None:
    flags = [1 << k for k in range(count)]
    sums = data.draw(st.sets(st.integers(1, 2**count - 1)))
    values = {*flags, *sums}
    numbered = values == set(range(1, max(values) + 1))
    assert bits_of(values) == (None if numbered else flags)
    labels = range(1, count + 1)
    assert bits_of(labels) is None


@given(st.text())
def test_a_slug_is_a_plain_word(text: str) -> None:
    assert slug(slug(text)) == slug(text)
    assert all(one.isascii() and (one.isalnum() or one == "_") for one in slug(text))


def test_the_command_writes_a_file_and_never_over_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    said = ["init", "set", "--structures", "Lung, Heart", "--attributes", "age"]
    assert main(said) == 0
    raw = yaml.safe_load((tmp_path / "set.yaml").read_text())
    assert list(raw["structures"]) == ["lung", "heart"]
    assert raw["variables"]["heart_area"]["parents"] == ["age"]
    before = (tmp_path / "set.yaml").read_bytes()
    assert main(said) != 0
    assert (tmp_path / "set.yaml").read_bytes() == before


@pytest.mark.parametrize("wrong", [["--structures", "one"], ["--structures", "a,a"], ["--attributes", "height"]])
def test_names_that_cannot_be_are_refused(wrong: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "set", *wrong]) != 0
    assert not (tmp_path / "set.yaml").exists()


def test_it_asks_two_questions(tmp_path: Path) -> None:
    plain(tmp_path / "set")
    ours, theirs = pty.openpty()
    os.write(ours, b"lung, heart\nsex\n")
    command = [sys.executable, "-m", "segcft", "init", "set"]
    subprocess.run(command, cwd=tmp_path, stdin=theirs, capture_output=True, check=True)
    raw = yaml.safe_load((tmp_path / "set.yaml").read_text())
    assert list(raw["structures"]) == ["lung", "heart"]
    assert set(raw["variables"]) == {"sex", "lung_area", "heart_area"}


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with refused(DataError, Code.MISSING, str(tmp_path / "none")):
        survey(tmp_path / "none")
    with refused(DataError, Code.EMPTY, str(tmp_path)):
        survey(tmp_path)


REAL = {
    "jsrt256": {"left_lung", "right_lung", "heart"},
    "ctr256": {"structure_1", "structure_2", "structure_3"},
    "nih224": set(),
    "acdc128": {"lv", "myocardium", "rv"},
    "hippocampus": {"structure_1", "structure_2"},
}


@pytest.mark.parametrize("name", REAL)
def test_real_folders_are_drafted_without_a_word(name: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {name} in {SHARED} (set SEGCFT_SHARED)")
    found = survey(SHARED / name)
    assert set(found.names) == REAL[name]
    raw = drafted(found)
    used, reasons = check(yaml.safe_dump(raw), Path("it.yaml"), SHARED / name)
    assert used >= 0.9 * (used + len(reasons))
    if name in ("nih224", "acdc128"):
        assert raw["data"]["patient"] == "patient"


def test_images_alone_are_no_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, id in enumerate(IDS):
        write(tmp_path / f"set/images/{id}.png", image_of(masks_of(1), number))
    monkeypatch.chdir(tmp_path)
    assert main(["init", "set", "--yes"]) != 0
    assert not (tmp_path / "set.yaml").exists()
