"""Import of folders and of simulated people: what is kept, what is left out and why, what is an error."""

from __future__ import annotations

import csv
import os
import re
import tempfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from refused import refused
from segcft.config.loader import parse_study
from segcft.config.structure import Structure
from segcft.config.study import Study
from segcft.config.variable import Variable
from segcft.data import resize
from segcft.data.attributes import parse, read_table
from segcft.data.shards import Shard, join
from segcft.data.splits import assign
from segcft.data.store import Store
from segcft.errors import Code, DataError, StudyError
from segcft.importers.folder import import_folder
from segcft.importers.simulated import import_simulated, make_simulator
from segcft.io.imagefile import ImageFile, find_file, read_image
from segcft.io.maskfile import read_masks
from segcft.io.reject import Rejected
from segcft.pipeline.importing import import_samples
from segcft.pipeline.run import Run
from segcft.simulate.people import person_number
from segcft.utils.lock import Lock
from segcft.utils.progress import Progress

JSRT = Path(os.environ.get("SEGCFT_JSRT", Path(__file__).parents[2] / "shared" / "data" / "jsrt256"))
needs_jsrt = pytest.mark.skipif(
    not (JSRT / "metadata.csv").is_file(), reason=f"no JSRT radiographs in {JSRT} (set SEGCFT_JSRT)"
)


def make_study(**changes: Any) -> Study:
    """A study of lungs and a heart on 8 x 8 pixels; ``data`` may hold a part of that section."""
    step = {"steps": 1}
    raw: dict[str, Any] = {
        "name": "small",
        "image": {"size": [8, 8]},
        "variables": {
            "sex": {"kind": "categorical", "categories": ["F", "M"]},
            "age": {"kind": "continuous"},
            "lung_area": {"kind": "continuous", "scale": "log"},
            "heart_area": {"kind": "continuous"},
        },
        "structures": {
            "lung": {"variable": "lung_area", "bit": 1},
            "heart": {"variable": "heart_area", "bit": 4},
        },
        "splits": {"train": 0.5, "validation": 0, "test": 0.5},
        "segmentor": step | {"seed": 1},
        "judge": step | {"seed": 2},
        "regressor": step,
        "scm": step,
        "hvae": step | {"levels": [{"width": 8}]},
        "finetune": step,
    }
    data = {"source": "folder"} | changes.pop("data", {})
    return parse_study(raw | {"data": data} | changes)


class Folder:
    """A small, healthy data set on disk to do things to: ``people`` of 8 x 8 pixels named p0, p1, ..."""

    def __init__(self, root: Path, people: int = 12) -> None:
        self.root = root
        self.header = ["id", "age", "sex"]
        self.rows = [[f"p{i}", str(40 + i), "FM"[i % 2]] for i in range(people)]
        for i in range(people):
            image, mask = self.sample(i)
            self.save(f"images/p{i}.png", image)
            self.save(f"masks/p{i}.png", mask)

    @staticmethod
    def sample(i: int) -> tuple[np.ndarray, np.ndarray]:
        image = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        mask = np.zeros((8, 8), dtype=np.uint8)
        mask[1:7, 1:4] |= 1
        mask[3:6, 3 : 5 + i % 3] |= 4  # overlaps the lung in one column
        return image, mask

    def save(self, name: str, pixels: np.ndarray, **options: Any) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)

    def write_table(self, name: str = "metadata.csv") -> None:
        with (self.root / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([self.header, *self.rows])

    def read(self, study: Study | None = None, **options: Any) -> Store:
        self.write_table()
        return import_folder(study or make_study(), self.root, self.root / "store", **options)

    def reason(self, study: Study | None = None, **options: Any) -> str:
        """Import, and the reason why the one rejected sample was left out; the others must all be there."""
        store = self.read(study, **options)
        assert len(store.rejected) == 1, store.rejected
        assert len(store) == len(self.rows) - 1
        return str(store.rejected["reason"][0])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# --- what is read ---


def test_images_masks_and_attributes_come_through(folder: Folder) -> None:
    store = folder.read()
    assert len(store) == 12
    assert len(store.rejected) == 0
    for i in range(12):
        image, mask = folder.sample(i)
        np.testing.assert_array_equal(store.images[i, 0], image)
        np.testing.assert_array_equal(store.masks[i, 0], (mask & 1) * 255)
        np.testing.assert_array_equal(store.masks[i, 1], (mask & 4) // 4 * 255)
    assert store.table["age"].tolist() == [40.0 + i for i in range(12)]
    assert store.table["sex"].tolist() == ["F", "M"] * 6
    assert store.table["lung_area"].tolist() == [18.0] * 12
    assert store.table["heart_area"].tolist() == [3.0 * (2 + i % 3) for i in range(12)]
    assert store.table["patient"].tolist() == store.table["id"].tolist()
    splits = make_study().splits
    assert store.table["split"].tolist() == [assign(f"p{i}", splits) for i in range(12)]


def test_the_same_folder_gives_the_same_store(folder: Folder) -> None:
    assert folder.read().fingerprint == folder.read().fingerprint


def test_a_lock_in_the_folder_is_none_of_its_data(tmp_path: Path) -> None:
    folder, run = Folder(tmp_path / "data"), Run(tmp_path / "run", make_study())
    folder.write_table()
    assert import_samples(run, folder.root, Progress())
    with Lock(folder.root):
        assert not import_samples(run, folder.root, Progress())
    assert not import_samples(run, folder.root, Progress())
    folder.rows.pop()
    folder.write_table()
    assert import_samples(run, folder.root, Progress())


def test_areas_in_the_table_are_never_read(folder: Folder) -> None:
    folder.header.append("lung_area")
    folder.rows = [[*row, "-5"] for row in folder.rows]
    assert folder.read().table["lung_area"].tolist() == [18.0] * 12


def test_a_missing_attribute_is_kept_as_missing(folder: Folder) -> None:
    for i, cell in enumerate(("", "NaN", "n/a", " null ")):
        folder.rows[i][1] = cell
    folder.rows[4][2] = ""
    store = folder.read()
    assert len(store) == 12
    assert np.isnan(store.values()[:, 1]).tolist() == [i < 4 for i in range(12)]
    assert np.flatnonzero(np.isnan(store.values()[:, 0])).tolist() == [4]
    assert len(store.indices(complete=True)) == 7


def test_columns_may_have_other_names(folder: Folder) -> None:
    folder.header = ["file", "Age (years)", "Gender"]
    columns = {"age": "Age (years)", "sex": "Gender"}
    store = folder.read(make_study(data={"id": "file", "columns": columns}))
    assert store.table["age"][0] == 40


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
def test_formats_without_loss(folder: Folder, suffix: str) -> None:
    for kind in ("images", "masks"):
        for path in list((folder.root / kind).iterdir()):
            folder.save(f"{kind}/{path.stem}{suffix}", np.asarray(Image.open(path)))
            if suffix != ".png":
                path.unlink()
    store = folder.read()
    np.testing.assert_array_equal(store.images[3, 0], folder.sample(3)[0])


def test_an_id_may_carry_its_suffix(folder: Folder) -> None:
    folder.save("images/p0.jpg", np.tile(np.arange(0, 256, 32, dtype=np.uint8), (8, 1)), quality=100)
    (folder.root / "images/p0.png").unlink()
    folder.rows[0][0] = "p0.jpg"
    folder.rows[1][0] = "p1.png"
    store = folder.read()
    assert store.table["id"].tolist()[:3] == ["p0.jpg", "p1.png", "p2"]
    assert abs(int(store.images[0, 0, 4, 4]) - 128) <= 3


def test_an_id_may_name_a_subfolder(folder: Folder) -> None:
    for kind, pixels in zip(("images", "masks"), folder.sample(0), strict=True):
        folder.save(f"{kind}/site a/0.png", pixels)
    folder.rows[0][0] = "site a/0"
    assert folder.read().table["id"][0] == "site a/0"


def test_label_maps(folder: Folder) -> None:
    mask = folder.sample(0)[1]
    for i in range(12):
        folder.save(f"masks/p{i}.png", np.where(mask & 4, 7, mask).astype(np.uint8))
    structures = {
        "lung": {"variable": "lung_area", "label": 1},
        "heart": {"variable": "heart_area", "label": 7},
    }
    store = folder.read(make_study(structures=structures))
    assert store.table["heart_area"][0] == 6
    assert store.table["lung_area"][0] == 15  # without what the heart covers


def test_a_palette_s_indices_are_labels(folder: Folder) -> None:
    mask = Image.fromarray(folder.sample(0)[1], mode="P")
    mask.putpalette([0, 0, 0, 255, 0, 0, 9, 9, 9, 8, 8, 8, 0, 255, 0, 7, 7, 7])
    mask.save(folder.root / "masks/p0.png")
    store = folder.read()
    assert store.table["heart_area"][0] == 6


def test_one_file_a_structure(folder: Folder) -> None:
    structures = {
        "lung": {"variable": "lung_area", "file": "lungs/{id}.png"},
        "heart": {"variable": "heart_area", "file": "{id}_heart.tif"},
    }
    soft = np.zeros((8, 8), dtype=np.uint8)
    soft[2, 2:5] = (255, 51, 102)
    for i in range(12):
        mask = folder.sample(i)[1]
        folder.save(f"masks/lungs/p{i}.png", (mask & 1) * 255)
        folder.save(f"masks/p{i}_heart.tif", (mask & 4) if i else soft)
    store = folder.read(make_study(structures=structures))
    assert store.table["heart_area"].tolist()[:3] == [1.6, 9.0, 12.0]
    assert store.table["lung_area"][0] == 18


def test_an_absent_structure_where_it_may_be_absent(folder: Folder) -> None:
    folder.save("masks/p0.png", folder.sample(0)[1] & 1)
    store = folder.read(make_study(data={"may_be_absent": ["heart"]}))
    assert store.table["heart_area"][0] == 0
    assert len(store) == 12


@pytest.mark.parametrize("byte_order_mark", [True, False])
def test_a_table_from_a_spreadsheet(folder: Folder, byte_order_mark: bool) -> None:
    lines = [" id , age,sex", *("  ".join((row[0], "")) + f",{row[1]} , {row[2]}" for row in folder.rows), ""]
    encoding = "utf-8-sig" if byte_order_mark else "utf-8"
    (folder.root / "metadata.csv").write_text("\r\n".join(lines), encoding=encoding, newline="")
    store = import_folder(make_study(), folder.root, folder.root / "store")
    assert store.table["age"].tolist() == [40.0 + i for i in range(12)]


def test_progress_sees_every_sample(folder: Folder) -> None:
    seen: list[Any] = []

    def progress(iterable: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        seen.extend((total, description))
        for item in iterable:
            seen.append(item)
            yield item

    folder.read(progress=progress)
    assert seen[:2] == [12, "Importing images"]
    assert len(seen) == 14


# --- patients and parts ---


def test_images_of_a_patient_stay_together(folder: Folder) -> None:
    folder.header.append("who")
    folder.rows = [[*row, f"patient {i // 3}"] for i, row in enumerate(folder.rows)]
    table = folder.read(make_study(data={"patient": "who"})).table
    assert table["patient"].tolist() == [f"patient {i // 3}" for i in range(12)]
    assert (table.groupby("patient")["split"].nunique() == 1).all()


def test_a_given_split(folder: Folder) -> None:
    folder.header.append("part")
    names = ["train", "Test", "val", "validation"]
    folder.rows = [[*row, names[i % 4]] for i, row in enumerate(folder.rows)]
    table = folder.read(make_study(data={"split": "part"})).table
    assert table["split"].tolist() == ["train", "test", "validation", "validation"] * 3


def test_everybody_in_the_test_part(folder: Folder) -> None:
    store = folder.read(make_study(data={"split": "no such column"}), split="test")
    assert store.indices("test").tolist() == list(range(12))


def test_a_patient_in_two_given_parts_is_an_error(folder: Folder) -> None:
    folder.header += ["who", "part"]
    folder.rows = [[*row, f"q{i // 2}", ("train", "test")[i == 3]] for i, row in enumerate(folder.rows)]
    study = make_study(data={"patient": "who", "split": "part"})
    with refused(DataError, Code.CONFLICT, "metadata.csv: column 'part'"):
        folder.read(study)


def test_an_empty_part_is_an_error(folder: Folder) -> None:
    folder.rows = [row for row in folder.rows if assign(row[0], make_study().splits) == "train"]
    with refused(DataError, Code.EMPTY, "metadata.csv"):
        folder.read()
    assert not (folder.root / "store").exists()


def test_an_empty_given_part_is_an_error(folder: Folder) -> None:
    folder.header.append("part")
    folder.rows = [[*row, "train"] for row in folder.rows]
    with refused(DataError, Code.EMPTY, "metadata.csv"):
        folder.read(make_study(data={"split": "part"}))


# --- one sample is wrong ---


def _cell(row: int, column: int, text: str) -> Any:
    def change(folder: Folder) -> None:
        folder.rows[row][column] = text

    return change


def _save(name: str, pixels: np.ndarray) -> Any:
    return lambda folder: folder.save(name, pixels)


def _write(name: str, content: bytes) -> Any:
    return lambda folder: (folder.root / name).write_bytes(content)


def _truncate(folder: Folder) -> None:
    path = folder.root / "images/p2.png"
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f.root / "images/p2.png").unlink(), "images/p2: file missing (looked for .png, .tif"),
        (lambda f: (f.root / "masks/p2.png").unlink(), "masks/p2: file missing (looked for .png, .tif"),
        (_write("images/p2.png", b"no image"), "images/p2.png: cannot read this image"),
        (_write("images/p2.png", b""), "images/p2.png: cannot read this image"),
        (_truncate, "images/p2.png: cannot read this image"),
        (_write("masks/p2.png", b"no image"), "masks/p2.png: cannot read this image"),
        (_save("images/p2.jpg", np.eye(8, dtype=np.uint8)), "images/p2: several files: p2.png, p2.jpg"),
        (
            _save("masks/p2.png", np.ones((8, 9), dtype=np.uint8)),
            "masks/p2.png: the mask has 9x8 pixels, its image 8x8",
        ),
        (
            _save("masks/p2.png", np.full((8, 8), 4, dtype=np.uint8)),
            "masks/p2.png: the mask of lung is empty",
        ),
        (
            _save("masks/p2.png", np.full((8, 8), 1, dtype=np.uint8)),
            "masks/p2.png: the mask of heart is empty",
        ),
        (
            _save("masks/p2.png", np.random.default_rng(0).integers(0, 9, (8, 8, 3), dtype=np.uint8)),
            "colour image",
        ),
        (
            _save("images/p2.png", np.full((8, 8), 7, dtype=np.uint8)),
            "images/p2.png: constant image (every pixel is 7)",
        ),
        (_save("images/p2.tif", np.zeros((8, 8), dtype=np.uint8)), "several files"),
        (_cell(2, 0, "p1"), "metadata.csv: line 4: column 'id': id 'p1' is already on line 3"),
        (_cell(2, 0, ""), "line 4: column 'id': no id"),
        (_cell(2, 0, "../images/p1"), "line 4: id '../images/p1' is not a plain file name"),
        (_cell(2, 0, "/etc/passwd"), "is not a plain file name"),
        (_cell(2, 0, "..\\p1"), "is not a plain file name"),
        (_cell(2, 0, "p\x001"), "is not a plain file name"),
        (_cell(2, 1, "forty"), "metadata.csv: line 4: column 'age': 'forty' is not a number"),
        (_cell(2, 1, "1,5"), "column 'age': '1,5' is not a number"),
        (_cell(2, 1, "inf"), "column 'age': 'inf' is not a number"),
        (_cell(2, 2, "D"), "metadata.csv: line 4: column 'sex': unknown category 'D'; the study has F, M"),
    ],
)
def test_one_wrong_sample_is_left_out_with_a_reason(folder: Folder, change: Any, reason: str) -> None:
    change(folder)
    assert reason in folder.reason()


def test_a_line_with_too_many_cells_is_left_out(folder: Folder) -> None:
    folder.rows[2].append("what is this")
    store_rejected = folder.read().rejected
    assert store_rejected.values.tolist() == [
        ["line 4", f"{folder.root / 'metadata.csv'}: line 4: 4 cells in a table of 3 columns"]
    ]


def test_a_missing_structure_file_names_the_structure(folder: Folder) -> None:
    structures = {
        "lung": {"variable": "lung_area", "bit": 1},
        "heart": {"variable": "heart_area", "file": "{id}_heart.png"},
    }
    for i in range(11):
        folder.save(f"masks/p{i}_heart.png", folder.sample(i)[1] & 4)
    assert folder.reason(make_study(structures=structures)).endswith(
        "masks/p11_heart.png: file missing (mask of heart)"
    )
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 5
    folder.save("masks/p11_heart.png", labels)
    assert "5 values from 0 to 4" in folder.reason(make_study(structures=structures))


def test_an_absent_structure_on_a_log_scale_is_left_out(folder: Folder) -> None:
    folder.save("masks/p0.png", folder.sample(0)[1] & 4)
    reason = folder.reason(make_study(data={"may_be_absent": ["lung"]}))
    assert "the mask of lung is empty, and lung_area is on a log scale" in reason


def test_a_wrong_patient_or_part_is_left_out(folder: Folder) -> None:
    folder.header += ["who", "part"]
    folder.rows = [[*row, f"q{i}", ("train", "test")[i % 2]] for i, row in enumerate(folder.rows)]
    folder.rows[1][3] = ""
    folder.rows[2][4] = "trian"
    rejected = folder.read(make_study(data={"patient": "who", "split": "part"})).rejected
    assert "line 3: column 'who': no patient" in rejected["reason"][0]
    assert "line 4: column 'part': 'trian' is not one of train" in rejected["reason"][1]


def with_zeros() -> Study:
    return make_study(
        variables={
            "sex": {"kind": "categorical", "categories": ["F", "M"]},
            "age": {"kind": "continuous", "scale": "log", "zero_inflated": True},
            "lung_area": {"kind": "continuous", "scale": "log", "zero_inflated": True},
            "heart_area": {"kind": "continuous"},
        },
        evaluation={"metric": "mae"},
    )


def test_a_structure_whose_area_may_be_zero_may_be_absent(folder: Folder) -> None:
    folder.save("masks/p3.png", folder.sample(3)[1] & 4)
    folder.rows[4][1] = "0"
    store = folder.read(with_zeros())
    assert len(store.rejected) == 0
    assert store.table["lung_area"].tolist() == [0.0 if i == 3 else 18.0 for i in range(12)]
    assert store.table["age"][4] == 0
    folder.save("masks/p3.png", folder.sample(3)[1] & 1)
    assert "the mask of heart is empty (data.may_be_absent)" in folder.reason(with_zeros())


def test_an_attribute_that_may_be_zero_is_not_negative(folder: Folder) -> None:
    folder.rows[4][1] = "-1"
    assert "-1 must not be negative" in folder.reason(with_zeros())


def test_a_log_scaled_attribute_must_be_positive(folder: Folder) -> None:
    variables = {
        "age": {"kind": "continuous", "scale": "log"},
        "lung_area": {"kind": "continuous"},
        "heart_area": {"kind": "continuous"},
    }
    folder.rows[3][1] = "0"
    assert "column 'age': 0 must be positive" in folder.reason(make_study(variables=variables))


# --- the whole data set is wrong ---


def _replace_table(text: str) -> Any:
    return lambda folder: (folder.root / "metadata.csv").write_text(text, encoding="utf-8")


def _move_images(folder: Folder) -> None:
    (folder.root / "images").rename(folder.root / "pictures")


def _latin1(folder: Folder) -> None:
    (folder.root / "metadata.csv").write_bytes("id,age,sex\nJos\xe9,4,M\n".encode("latin-1"))


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        (lambda f: (f.root / "metadata.csv").unlink(), Code.MISSING, "metadata.csv"),
        (_move_images, Code.MISSING, "images"),
        (_replace_table(""), Code.EMPTY, "metadata.csv"),
        (_replace_table("id,age,sex\n"), Code.EMPTY, "metadata.csv"),
        (_replace_table("id,Age,sex\np1,4,M\n"), Code.MISSING, "metadata.csv: column 'age'"),
        (_replace_table("name,age,sex\np1,4,M\n"), Code.MISSING, "metadata.csv: column 'id'"),
        (_replace_table("a;b;c\np1;4;M\n"), Code.MISSING, "metadata.csv: column 'id'"),
        (_replace_table("id,age,sex,age\np1,4,M,5\n"), Code.DUPLICATE, "metadata.csv: column 'age'"),
        (_replace_table('id,age,sex\n"p1,4,M\n'), Code.UNREADABLE, "metadata.csv"),
        (_latin1, Code.UNREADABLE, "metadata.csv"),
        (_replace_table("id,age,sex\nx1,4,M\nx2,4,M\n"), Code.EMPTY, "metadata.csv"),
    ],
)
def test_a_wrong_data_set_is_an_error(folder: Folder, change: Any, code: Code, field: str) -> None:
    folder.write_table()
    change(folder)
    with refused(DataError, code, field):
        import_folder(make_study(), folder.root, folder.root / "store")
    assert not any("store" in path.name for path in folder.root.iterdir())


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"data": {"columns": {"agee": "x"}}}, Code.UNKNOWN, "data.columns"),
        ({"data": {"columns": {"lung_area": "x"}}}, Code.CONFLICT, "data.columns.lung_area"),
        ({"data": {"may_be_absent": ["hearth"]}}, Code.UNKNOWN, "data.may_be_absent"),
        ({"image": {"size": [8, 8], "channels": 2}}, Code.UNSUPPORTED, "image.channels"),
    ],
)
def test_a_study_that_does_not_fit_is_an_error(folder: Folder, changes: dict[str, Any], code: Code, field: str) -> None:
    with refused(DataError, code, field):
        folder.read(make_study(**changes))


def test_an_error_leaves_an_older_store_alone(folder: Folder) -> None:
    before = folder.read().fingerprint
    folder.rows = [["x", "1", "F"]]
    with pytest.raises(DataError):
        folder.read()
    assert Store(folder.root / "store", verify=True).fingerprint == before


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"window": [1, 99], "grey_range": [0, 9]}, "data"),
        ({"window": [99, 1]}, "data"),
        ({"window": [0, 101]}, "data.window.1"),
    ],
)
def test_grey_scales_are_validated(data: dict[str, Any], field: str) -> None:
    with refused(StudyError, Code.INVALID, field):
        make_study(data=data)


# --- image files ---


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.integers(0, 255),
    ),
    st.sampled_from([".png", ".tif"]),
)
def test_grey_images_round_trip(pixels: np.ndarray, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        Image.fromarray(pixels).save(path)
        if pixels.min() == pixels.max():
            with pytest.raises(Rejected, match="constant image"):
                read_image(path, 1)
        else:
            full = 255 if pixels.dtype == np.uint8 else 65535
            np.testing.assert_allclose(read_image(path, 1).grey[0], pixels / full, rtol=1e-12)


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 7)),
    st.sampled_from([".png", ".tif", ".bmp"]),
)
def test_masks_round_trip_as_bits_and_labels(pixels: np.ndarray, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(pixels).save(Path(folder) / f"x{suffix}")
        image = ImageFile(pixels[None].astype(float), 1.0, {})
        bits = {str(bit): Structure(variable="v", bit=bit) for bit in (1, 2, 4)}
        flags = read_masks(Path(folder), "x", bits, image).coverage
        np.testing.assert_array_equal(np.tensordot([1, 2, 4], flags, 1), pixels)
        labels = {str(label): Structure(variable="v", label=label) for label in range(1, 8)}
        maps = read_masks(Path(folder), "x", labels, image).coverage
        np.testing.assert_array_equal(np.tensordot(np.arange(1, 8), maps, 1), pixels)


def test_colour_becomes_luma_and_grey_is_repeated(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    Image.fromarray(colour[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([colour, colour[..., :1]])).save(tmp_path / "alpha.png")
    expected = np.asarray(Image.fromarray(colour).convert("L")) / 255
    np.testing.assert_allclose(read_image(tmp_path / "colour.png", 1).grey[0], expected, atol=1 / 255)
    np.testing.assert_array_equal(read_image(tmp_path / "colour.png", 3).grey, np.moveaxis(colour, -1, 0) / 255)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", 3).grey, [colour[..., 0] / 255] * 3)
    alpha, opaque = (read_image(tmp_path / f"{name}.png", 3).grey for name in ("alpha", "colour"))
    np.testing.assert_array_equal(alpha, opaque)


def test_grey_range_and_window(tmp_path: Path) -> None:
    pixels = np.arange(1000, 3000, 20, dtype=np.uint16).reshape(10, 10)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    twelve_bits = read_image(tmp_path / "x.png", 1, grey_range=(0, 4000)).grey
    np.testing.assert_allclose(twelve_bits[0], pixels / 4000)
    clipped = read_image(tmp_path / "x.png", 1, grey_range=(1500, 2000)).grey
    assert (clipped.min(), clipped.max()) == (0, 1)
    low, high = np.percentile(pixels, (10, 90))
    window = read_image(tmp_path / "x.png", 1, window=(10, 90)).grey
    np.testing.assert_allclose(window[0], np.clip((pixels - low) / (high - low), 0, 1))
    with pytest.raises(Rejected, match="constant image between the grey values 0 and 500"):
        read_image(tmp_path / "x.png", 1, grey_range=(0, 500))
    pixels[:] = 1000
    pixels[0, 0] = 3000
    Image.fromarray(pixels).save(tmp_path / "x.png")
    with pytest.raises(Rejected, match="constant image between the grey values 1000 and 1000"):
        read_image(tmp_path / "x.png", 1, window=(10, 90))


def test_float_images_need_a_range(tmp_path: Path) -> None:
    pixels = np.linspace(-1000, 1000, 16, dtype=np.float32).reshape(4, 4)
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    with pytest.raises(Rejected, match=r"x.tif: float32 values have no range of their own; set data.grey_range"):
        read_image(tmp_path / "x.tif", 1)
    assert read_image(tmp_path / "x.tif", 1, grey_range=(-1000, 1000)).grey.max() == 1
    pixels[0, 0] = np.nan
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    with pytest.raises(Rejected, match="not finite"):
        read_image(tmp_path / "x.tif", 1, grey_range=(-1000, 1000))


def test_a_file_of_several_images_is_not_one(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((4, 4), i, dtype=np.uint8)) for i in range(3)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(Rejected, match="holds 3 images"):
        read_image(tmp_path / "x.tif", 1)


@given(st.text(max_size=12))
def test_no_id_leads_out_of_the_folder(id: str) -> None:
    folder = Path("/nowhere/images")
    with pytest.raises(Rejected):  # nothing exists there, and nothing else is looked at
        find_file(folder, f"../{id}")
    with pytest.raises(Rejected):
        find_file(folder, id)


# --- tables ---

cells = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8).map(str.strip)


@given(st.lists(st.lists(cells, min_size=3, max_size=3).filter(lambda row: any(row)), min_size=1, max_size=5))
def test_tables_round_trip(rows: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["a", "b", "c"], *rows])
        found, ragged = read_table(path, {"a": "test"})
    assert ragged == []
    assert [list(row.cells.values()) for row in found] == rows
    assert [row.line for row in found] == list(range(2, len(rows) + 2))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_round_trip(number: float) -> None:
    assert parse(repr(number), "age", "age", Variable(kind="continuous")) == number


@given(st.lists(st.text(min_size=1).map(str.strip).filter(bool), min_size=2, max_size=5, unique=True))
def test_categories_round_trip(categories: list[str]) -> None:
    variable = Variable(kind="categorical", categories=tuple(categories))
    for category in categories:
        assert parse(category, "x", "x", variable) == category  # even one called "none" or "NA"


def test_a_numeric_category_may_be_spelt_as_a_float() -> None:
    variable = Variable(kind="categorical", categories=("0", "1"))
    assert parse("1.0", "x", "x", variable) == "1"
    with pytest.raises(Rejected, match=re.escape("column 'Gender' (sex): unknown category '2'")):
        parse("2", "sex", "Gender", variable)


# --- resizing ---


@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda n: (n[0] * 6, n[1] * 6))),
    st.sampled_from([1, 2, 3, 6]),
)
def test_area_is_exact_where_the_size_divides(mask: np.ndarray, factor: int) -> None:
    size = mask.shape[0] // factor, mask.shape[1] // factor
    coverage = resize.average(mask, size)
    assert coverage.shape == size
    blocks = mask.reshape(size[0], factor, size[1], factor).mean(axis=(1, 3))
    np.testing.assert_allclose(coverage, blocks, atol=1e-12)


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=12)),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_averaging_keeps_the_mean_and_the_range_for_any_size(array: np.ndarray, height: int, width: int) -> None:
    small = resize.average(array, (height, width))
    np.testing.assert_allclose(small.mean(axis=(1, 2)), array.mean(axis=(1, 2)), atol=1e-9)
    for result in (small, resize.smooth(array, (height, width))):
        assert result.shape == (len(array), height, width)
        assert array.min() - 1e-9 <= result.min() <= result.max() <= array.max() + 1e-9


def test_enlarging_an_image_is_linear() -> None:
    ramp = np.arange(8.0)[None, :].repeat(3, axis=0)
    larger = resize.smooth(ramp, (6, 16))
    np.testing.assert_allclose(larger[:, 1:-1], np.tile(np.arange(0.25, 7, 0.5), (6, 1)))
    np.testing.assert_allclose(resize.smooth(np.ones((1, 1)), (3, 3)), 1)


@given(hnp.array_shapes(min_dims=3, max_dims=3, max_side=40), st.floats(0.2, 5))
def test_padding_reaches_the_aspect_and_keeps_everything(shape: tuple[int, ...], aspect: float) -> None:
    array = np.random.default_rng(0).uniform(1, 2, shape)
    padded = resize.pad_to_aspect(array, aspect, 0.0)
    assert padded.sum() == pytest.approx(array.sum())
    height, width = padded.shape[1:]
    assert height == shape[1] or width == shape[2]  # no more padding than needed
    if padded.shape != array.shape:
        assert abs(width - height * aspect) <= max(1, aspect) / 2 + 1e-9


def test_another_aspect_ratio_is_padded(folder: Folder) -> None:
    image, mask = folder.sample(0)
    folder.save("images/p0.png", np.pad(image, ((0, 0), (4, 4)), constant_values=9))
    folder.save("masks/p0.png", np.pad(mask, ((0, 0), (4, 4))))  # 8 high, 16 wide -> padded to 16 x 16
    store = folder.read()
    assert store.table["lung_area"][0] == pytest.approx(18 / 4, abs=0.02)
    assert (store.images[0, 0, :2] == 9).all()
    assert (store.images[0, 0, -2:] == 9).all()
    assert not store.masks[0, :, :2].any()


def test_the_field_of_view_gives_the_aspect_ratio(folder: Folder) -> None:
    image, mask = folder.sample(0)
    for i in range(12):
        folder.save(f"images/p{i}.png", image.repeat(2, axis=1))
        folder.save(f"masks/p{i}.png", mask.repeat(2, axis=1))
    study = make_study(image={"size": [8, 8], "field_of_view": [80, 160], "length_unit": "mm"})
    store = folder.read(study)
    np.testing.assert_array_equal(store.images[0, 0], image)
    assert store.table["lung_area"][0] == 18 * 10 * 20
    assert store.area_unit == "mm²"


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_areas_do_not_depend_on_the_resolution_of_the_files(folder: Folder, factor: int) -> None:
    expected = folder.read()
    for kind in ("images", "masks"):
        for path in (folder.root / kind).iterdir():
            pixels = np.asarray(Image.open(path))
            folder.save(f"{kind}/{path.name}", pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    assert folder.read().fingerprint == expected.fingerprint


# --- simulated people ---


def simulated_study(**changes: Any) -> Study:
    areas = ("heart_area", "left_lung_area", "right_lung_area")
    raw: dict[str, Any] = {
        "image": {"size": [32, 32]},
        "variables": {
            "sex": {"kind": "categorical", "categories": ["F", "M"]},
            "age": {"kind": "continuous"},
            **{area: {"kind": "continuous"} for area in areas},
        },
        "structures": {area.removesuffix("_area"): {"variable": area} for area in areas},
        "data": {"source": "chest-simulator", "people": 12},
    }
    return make_study(**(raw | changes))


def test_simulated_people_are_what_the_simulator_draws(tmp_path: Path) -> None:
    study = simulated_study()
    store = import_simulated(study, tmp_path / "store")
    simulator = make_simulator(study)
    for i, person in enumerate(store.table["person"].tolist()):
        assert person == person_number(0, i)
        attributes = simulator.attributes(person)
        image, masks = simulator.render(person, attributes)
        np.testing.assert_array_equal(store.images[i, 0], image)
        np.testing.assert_array_equal(store.masks[i], masks[[2, 0, 1]])  # the study lists the heart first
        assert store.table["sex"][i] == attributes["sex"]
        assert store.table["age"][i] == attributes["age"]
        assert store.table["heart_area"][i] == pytest.approx(masks[2].sum() / 255)
    assert store.table["person"].dtype == np.int64


def test_more_people_change_nobody(tmp_path: Path) -> None:
    study = simulated_study()
    few = import_simulated(study, tmp_path / "few")
    many = import_simulated(study, tmp_path / "many", people=15)
    assert many.table[:12].equals(few.table)
    np.testing.assert_array_equal(many.images[:12], few.images)
    assert import_simulated(study, tmp_path / "again").fingerprint == few.fingerprint


def test_another_seed_is_other_people(tmp_path: Path) -> None:
    study = simulated_study()
    first = import_simulated(study, tmp_path / "a", split="test", people=4)
    other = import_simulated(study, tmp_path / "b", split="test", people=4, seed=1)
    assert len(first.indices("test")) == 4
    assert not set(first.table["person"]) & set(other.table["person"])
    assert not set(first.table["id"]) & set(other.table["id"])


@given(st.integers(0, 2**63), st.integers(0, 2**31))
def test_a_person_s_number_fits_a_signed_integer(seed: int, index: int) -> None:
    assert 0 <= person_number(seed, index) < 2**63


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"image": {"size": [32, 32], "channels": 3}}, Code.UNSUPPORTED, "image.channels"),
        ({"image": {"size": [8, 8]}}, Code.UNSUPPORTED, "image"),
        ({"structures": {"lung": {"variable": "age"}}}, Code.UNKNOWN, "structures.lung.variable"),
        (
            {"structures": {"lung": {"variable": "left_lung_area", "measure": "width"}}},
            Code.UNSUPPORTED,
            "structures.lung.measure",
        ),
        (
            {
                "variables": {"left_lung_area": {"kind": "continuous"}, "weight": {"kind": "continuous"}},
                "structures": {"lung": {"variable": "left_lung_area"}},
            },
            Code.UNKNOWN,
            "variables.weight",
        ),
        (
            {
                "variables": {
                    "left_lung_area": {"kind": "continuous"},
                    "sex": {"kind": "categorical", "categories": ["female", "male"]},
                },
                "structures": {"lung": {"variable": "left_lung_area"}},
            },
            Code.CONFLICT,
            "variables",
        ),
        ({"data": {"source": "chest-simulator", "people": 1}}, Code.EMPTY, "chest-simulator"),
    ],
)
def test_a_study_that_the_simulator_cannot_serve(
    tmp_path: Path, changes: dict[str, Any], code: Code, field: str
) -> None:
    with refused(DataError, code, field):
        import_simulated(simulated_study(**changes), tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


# --- real radiographs, where there are any ---


def jsrt_study(size: int) -> Study:
    flags = {"left_lung": 1, "right_lung": 2, "heart": 4}
    return make_study(
        image={"size": [size, size]},
        variables={
            "sex": {"kind": "categorical", "categories": ["F", "M"]},
            "age": {"kind": "continuous"},
            **{f"{name}_area": {"kind": "continuous"} for name in flags},
        },
        structures={name: {"variable": f"{name}_area", "bit": bit} for name, bit in flags.items()},
        splits={},
    )


@needs_jsrt
def test_jsrt_at_its_own_resolution(tmp_path: Path) -> None:
    store = import_folder(jsrt_study(256), JSRT, tmp_path / "store")
    rows, _ = read_table(JSRT / "metadata.csv", {})
    assert len(store) == len(rows) == 200
    assert len(store.rejected) == 0
    assert store.table["age"].isna().sum() == 2
    assert len(store.indices(complete=True)) == 198
    for name in ("left_lung_area", "right_lung_area", "heart_area"):
        assert store.table[name].tolist() == [float(row.cells[name]) for row in rows]
    assert all(len(store.indices(part)) > 0 for part in ("train", "validation", "test"))


@needs_jsrt
@pytest.mark.parametrize("size", [128, 96])
def test_jsrt_keeps_its_areas_when_it_shrinks(tmp_path: Path, size: int) -> None:
    study = jsrt_study(size)
    store = import_folder(study, JSRT, tmp_path / "store", split="test")
    rows, _ = read_table(JSRT / "metadata.csv", {})
    for name in study.measured:
        expected = np.array([float(row.cells[name]) for row in rows]) * (size / 256) ** 2
        np.testing.assert_allclose(store.table[name], expected, rtol=5e-4)


def test_two_structures_with_one_mask_are_rejected(folder: Folder) -> None:
    """A 0/255 mask read by bits has every bit set."""
    folder.save("masks/p2.png", folder.sample(2)[1].astype(bool).astype(np.uint8) * 255)
    assert "p2.png: lung and heart have the same mask" in folder.reason()


# --- shards ---


def in_shards(folder: Folder, count: int) -> list[Path]:
    """Import the folder in ``count`` shards, the last one first."""
    folder.write_table()
    places = [folder.root / "shards" / str(Shard(i, count)) for i in range(1, count + 1)]
    for i in range(count, 0, -1):
        import_folder(make_study(), folder.root, places[i - 1], shard=Shard(i, count))
    return places


@given(items=st.integers(0, 40), count=st.integers(1, 50))
def test_shards_in_order_are_everything_once(items: int, count: int) -> None:
    shares = [Shard(i, count).of(range(items)) for i in range(1, count + 1)]
    assert [item for share in shares for item in share] == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("count", [1, 5, 20])  # 20: more shards than people, so some are empty
def test_joined_shards_are_what_one_import_makes(folder: Folder, count: int) -> None:
    folder.rows[3][1] = ""  # a missing age
    folder.rows[4][2] = ""  # a missing sex
    folder.rows[5][1] = "old"  # rejected
    folder.rows[7][0] = "p1"  # twice, perhaps in two shards
    folder.rows.insert(9, ["p99"])  # a line that is too short
    whole = folder.read()
    joined = join(make_study(), in_shards(folder, count), folder.root / "joined")
    assert joined.fingerprint == whole.fingerprint
    assert joined.rejected.equals(whole.rejected)
    assert len(joined.rejected) == 3
    assert joined.table.equals(whole.table)


def test_joined_shards_of_simulated_people(tmp_path: Path) -> None:
    study = simulated_study()
    whole = import_simulated(study, tmp_path / "whole")
    places = [tmp_path / str(i) for i in (1, 2, 3)]
    for i, place in enumerate(places, 1):
        import_simulated(study, place, shard=Shard(i, 3))
    assert join(study, places, tmp_path / "joined").fingerprint == whole.fingerprint


def test_a_sample_in_two_shards_is_an_error(folder: Folder) -> None:
    first, second = in_shards(folder, 2)
    with refused(DataError, Code.DUPLICATE, "2-of-2"):
        join(make_study(), [first, second, second], folder.root / "joined")
    assert not (folder.root / "joined").exists()


def test_shards_of_another_study_are_refused(folder: Folder) -> None:
    with refused(DataError, Code.OTHER, "size"):
        join(make_study(image={"size": [4, 4]}), in_shards(folder, 2), folder.root / "joined")


def test_nothing_usable_in_any_shard_is_an_error(folder: Folder) -> None:
    folder.rows = [[id, "old", sex] for id, _, sex in folder.rows]
    with refused(DataError, Code.EMPTY):
        join(make_study(), in_shards(folder, 3), folder.root / "joined")


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/2", ""])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ValueError, match="I/N"):
        Shard.parse(text)


def test_a_shard_as_text() -> None:
    assert Shard.parse("3/8") == Shard(3, 8)


def test_a_dicom_file_beside_an_image_is_what_that_was_made_from(tmp_path: Path) -> None:
    for name in ("a.png", "a.dcm", "1.2.dcm.png", "b.dcm"):
        (tmp_path / name).touch()
    assert find_file(tmp_path, "a").name == "a.png"
    assert find_file(tmp_path, "1.2.dcm").name == "1.2.dcm.png"
    assert find_file(tmp_path, "b").name == "b.dcm"


def test_a_long_image_of_few_rows_takes_little_memory() -> None:
    long = np.tile(np.linspace(0, 1, 40_000), (1, 2, 1))
    tracemalloc.start()
    try:
        for step in (resize.average, resize.smooth):
            fitted = step(long, (4000, 10))
            assert fitted.shape == (1, 4000, 10)
            assert fitted.mean() == pytest.approx(0.5)
        assert tracemalloc.get_traced_memory()[1] < 100 * long.nbytes
    finally:
        tracemalloc.stop()
