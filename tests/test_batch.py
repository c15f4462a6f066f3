"""Questions about many images: folders and tables, what is rejected, and going on after an interruption."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import segcft
from refused import refused
from segcft.api.many import answer_all
from segcft.api.questions import Item, _distinct, folder_items, table_items
from segcft.cli import main
from segcft.errors import Code, DataError
from segcft.pipeline.run import Run
from tests.test_dicom import make, save

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images, one of them in a subfolder, and a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    store = small_run.store()
    (folder / "more").mkdir()
    for k, row in enumerate(store.indices("test")[:6]):
        Image.fromarray(np.array(store.images[row, 0])).save(folder / ("more" if k == 5 else ".") / f"{k}.png")
    (folder / "broken.png").write_text("no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


def manifest(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "manifest.csv", dtype={"id": str})


def test_a_folder_is_answered_and_what_cannot_be_is_listed(small_run: Run, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    items = folder_items(images, ["age=60"], ["heart_area=+10%"]).items
    done = answer_all(small_run, items, out, CPU, draws=2, dicom=True)
    assert done[:3] == (6, 0, 1)
    table = manifest(out)
    assert list(table["id"]) == ["0", "1", "2", "3", "4", "more/5"]
    assert done.warned == table["warnings"].notna().sum()
    assert np.allclose(table["heart_area_after"], 1.1 * table["heart_area_before"], rtol=1e-4)
    assert (table["age_before"] == 60).all()
    assert (table["heart_area_obtained_sd"] > 0).all()
    model = segcft.load(small_run.folder)
    for _, row in table.iterrows():
        answer = model.counterfactual(row["image"], ["age=60"], ["heart_area=+10%"], draws=0)
        with Image.open(out / row["file"]) as file:
            assert (np.abs(np.asarray(file).astype(int) - answer.image[0]) <= 1).all()
        for name in (out / row["file"], out / "dicom" / f"{row['id']}.dcm"):
            record = segcft.inspect(name)
            assert record is not None
            assert record["do"] == ["heart_area=+10.0%"]
    rejected = pd.read_csv(out / "rejected.csv")
    assert list(rejected["id"]) == ["broken"]
    assert "broken.png" in rejected["reason"][0]


def test_what_was_cut_off_goes_on(small_run: Run, images: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    items = folder_items(images, [], ["age=70"]).items
    answer_all(small_run, items, whole, CPU)
    answer_all(small_run, items[:3], cut, CPU)
    before = {path.name: path.stat().st_mtime_ns for path in (cut / "images").iterdir()}
    (cut / "images" / "1.png").unlink()  # its answer was lost
    with (cut / "journal.jsonl").open("a") as file:
        file.write('{"row": {"id"')  # and the journal was cut off in the middle of a line
    done = answer_all(small_run, items, cut, CPU)
    assert done[:3] == (4, 2, 1)
    assert (cut / "images" / "0.png").stat().st_mtime_ns == before["0.png"]
    for name in ("manifest.csv", "rejected.csv"):
        assert (cut / name).read_text() == (whole / name).read_text()
    for path in (whole / "images").rglob("*.png"):
        other = Image.open(cut / path.relative_to(whole))
        assert (np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(other)) <= 1).all()
    assert answer_all(small_run, items, cut, CPU)[:3] == (0, 6, 1)


def test_a_lost_dicom_file_is_written_again(small_run: Run, images: Path, tmp_path: Path) -> None:
    items = folder_items(images, [], ["age=70"]).items[:3]
    assert answer_all(small_run, items, tmp_path, CPU, dicom=True)[:3] == (3, 0, 0)
    (tmp_path / "dicom" / "1.dcm").unlink()
    (tmp_path / "dicom" / "2.dcm").write_bytes(b"")
    assert answer_all(small_run, items, tmp_path, CPU, dicom=True)[:3] == (2, 1, 0)
    assert all(segcft.inspect(tmp_path / "dicom" / f"{item.id}.dcm") for item in items)


@pytest.mark.parametrize("field", ["record", "do", "warnings", "variables", "heart_area"])
def test_an_answer_in_the_journal_that_is_none_is_told(
    small_run: Run, images: Path, tmp_path: Path, field: str
) -> None:
    items, out = folder_items(images, [], ["age=70"]).items[:1], tmp_path / "out"
    answer_all(small_run, items, out, CPU)
    journal = out / "journal.jsonl"
    settings, line = map(json.loads, journal.read_text().splitlines())
    record = line["row"]["record"]
    holder = {"record": line["row"], "heart_area": record["variables"]}.get(field, record)
    holder[field] = None
    journal.write_text(f"{json.dumps(settings)}\n{json.dumps(line)}\n")
    manifest = (out / "manifest.csv").read_bytes()
    with refused(DataError, Code.DAMAGED, "journal.jsonl"):
        answer_all(small_run, items, out, CPU)
    assert (out / "manifest.csv").read_bytes() == manifest


@pytest.mark.skipif(sys.platform != "linux", reason="names in any encoding are Linux's")
def test_a_name_in_another_encoding_is_listed(small_run: Run, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "images"
    own.mkdir()
    shutil.copy(images / "0.png", os.fsencode(own) + b"/a\xe9.png")
    done = answer_all(small_run, folder_items(own, [], ["age=70"]).items, tmp_path / "out", CPU)
    assert done[:3] == (0, 0, 1)
    assert list(pd.read_csv(tmp_path / "out" / "rejected.csv")["id"]) == [r"a\udce9"]


def test_a_question_that_changed_is_asked_again(small_run: Run, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "images"
    shutil.copytree(images, own)
    out = tmp_path / "out"
    answer_all(small_run, folder_items(own, [], ["age=70"]).items, out, CPU)
    Image.fromarray(np.asarray(Image.open(own / "2.png"))[::-1]).save(own / "2.png")
    assert answer_all(small_run, folder_items(own, [], ["age=70"]).items, out, CPU).answered == 1
    assert answer_all(small_run, folder_items(own, [], ["age=71"]).items, out, CPU).answered == 6
    assert (manifest(out)["age_after"] == 71).all()
    with refused(DataError, Code.OTHER, out):
        answer_all(small_run, folder_items(own, [], ["age=71"]).items, out, CPU, draws=3)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").touch()
    with refused(DataError, Code.EXISTS, "taken"):
        answer_all(small_run, folder_items(own, [], ["age=71"]).items, tmp_path / "taken", CPU)


@pytest.mark.slow
def test_two_processes_answer_as_one(small_run: Run, images: Path, tmp_path: Path) -> None:
    items = [
        Item(f"{copy}/{item.id}", item.image, item.known, item.do)
        for copy in range(3)
        for item in folder_items(images, [], ["heart_area=-5%"]).items
    ]
    one = answer_all(small_run, items, tmp_path / "one", CPU)
    assert one[:3] == (18, 0, 3)
    assert answer_all(small_run, items, tmp_path / "two", CPU, jobs=2) == one
    one, two = (manifest(tmp_path / name) for name in ("one", "two"))
    assert list(one["id"]) == list(two["id"])
    assert np.allclose(one["heart_area_obtained"], two["heart_area_obtained"], rtol=0.01)


def test_a_table_asks_each_its_own(small_run: Run, images: Path, tmp_path: Path) -> None:
    table = images / "questions.csv"
    table.write_text(
        "image,do,age,sex\n"
        "0.png,heart_area=+10%; age=70,60,F\n"
        "0.png,heart_area=-10%,61,\n"
        "1.png,,,\n"
        "gone.png,,,\n"
        "2.png,heart_area=much,,\n"
        "3.png,heart_area=-100000,,\n"
    )
    items = table_items(table, small_run.study, ["age=50"], ["sex=M"]).items
    assert answer_all(small_run, items, tmp_path / "out", CPU)[:3] == (3, 0, 3)
    rows = manifest(tmp_path / "out").set_index("id")
    assert list(rows.index) == ["0", "0-2", "1"]
    assert list(rows["age_before"]) == [60, 61, 50]
    assert rows.loc["0", "age_after"] == 70
    assert rows.loc["0", "sex_before"] == "F"
    assert rows.loc["1", "sex_after"] == "M"
    rejected = pd.read_csv(tmp_path / "out" / "rejected.csv").set_index("id")["reason"]
    assert set(rejected.index) == {"gone", "2", "3"}
    assert "gone.png" in rejected["gone"]
    assert "much" in rejected["2"]


def test_a_table_takes_values_from_images_beside_it(small_run: Run, images: Path, tmp_path: Path) -> None:
    own, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(images, own)
    table = own / "questions.csv"
    table.write_text("image,do\n0.png,heart_area=match: 1.png\n2.png,age=60\n")
    assert answer_all(small_run, table_items(table, small_run.study, [], []).items, out, CPU)[:3] == (2, 0, 0)
    assert list(manifest(out)["do"]) == ["heart_area=match:1.png", "age=60.0"]
    shutil.copy(own / "3.png", own / "1.png")  # another value is asked for
    assert answer_all(small_run, table_items(table, small_run.study, [], []).items, out, CPU)[:3] == (1, 1, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the table is empty"),
        ("id,do\n1,age=60\n", "column 'image'"),
        ("image,Age\na.png,3\n", "t.csv: Age: .*did you mean 'age'"),
        ("image,hart_area\na.png,3\n", "t.csv: hart_area: .*did you mean 'heart_area'"),
        ("image,age,age\na.png,3,4\n", "column 'age'"),
        ("image,do\n", "no usable row"),
        ("image,do\n,age=60\n", "t.csv: line 2: image: "),
        ("image,do\n\n\n,age=60\n", "t.csv: line 4: image: "),
        ("image,do\na.png,age=60,3\n", "line 2: 3 cells"),
        ("image,do\na.png\n", "line 2: 1 cells"),
        ("image\n\xff", "cannot read this table"),
    ],
)
def test_tables_that_are_none(small_run: Run, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        table_items(tmp_path / "t.csv", small_run.study, [], [])


@pytest.mark.parametrize("age", ["999", "-1", "300"])
def test_an_age_that_nobody_has_is_not_known(small_run: Run, tmp_path: Path, age: str) -> None:
    (tmp_path / "t.csv").write_text(f"image,age,heart_area\na.png,60,400\nb.png,{age},999\n")
    items, passed = table_items(tmp_path / "t.csv", small_run.study, [], ["sex=F"])
    assert [item.known for item in items] == [("age=60.0", "heart_area=400.0"), ("heart_area=999.0",)]
    assert [one.name for one in passed] == ["line 3: age"]


def test_a_table_of_questions_is_read_as_a_study_s_own_table(small_run: Run, tmp_path: Path) -> None:
    """Missing values as in metadata.csv, empty lines, further columns, and semicolons with decimal commas."""
    table = tmp_path / "t.csv"
    table.write_text(
        'image;do;age;sex;heart_area;ward\na.png;"age=70; sex=M";60,5;NA;;3\n;;;;;\n'
        "b.png;NA;n/a;F;;NA\nc.png;;sixty;;-5;\n"
    )
    items, passed = table_items(table, small_run.study, ["age=50"], ["sex=F"])
    assert [item.known for item in items] == [
        ("age=60.5",),
        ("age=50", "sex=F"),
        ("age=sixty", "heart_area=(-5.0)"),  # the question is rejected, and not the table
    ]
    assert [item.do for item in items] == [("age=70", "sex=M"), ("sex=F",), ("sex=F",)]
    assert [one.name for one in passed] == ["ward"]
    assert answer_all(small_run, items, tmp_path / "out", CPU, passed=passed).rejected == 3
    assert list(pd.read_csv(tmp_path / "out" / "passed-over.csv")["name"]) == ["ward"]


def test_dicom_files_are_asked_about_whatever_they_are_called(small_run: Run, images: Path, tmp_path: Path) -> None:
    own, out = tmp_path / "archive", tmp_path / "out"
    (own / "DIR").mkdir(parents=True)
    for name in ("IM000001", "IM2.IMA", "DIR/DICOMDIR", "1.2.840.3"):
        save(own / name, make(np.random.default_rng(1).integers(0, 4096, (32, 32), dtype=np.uint16)))
    shutil.copy(images / "0.png", own)
    for name in ("notes.txt", ".DS_Store", "DIR/report"):
        (own / name).write_text("no image")
    items, passed = folder_items(own, [], ["age=70"])
    assert [item.id for item in items] == ["0", "1.2.840.3", "IM000001", "IM2.IMA"]
    assert [one.name for one in passed] == ["DIR/DICOMDIR", "DIR/report", "notes.txt"]
    assert answer_all(small_run, items, out, CPU, passed=passed)[:3] == (4, 0, 0)
    assert list(pd.read_csv(out / "passed-over.csv")["name"]) == [one.name for one in passed]
    assert len(manifest(out)) == 4


def test_no_answer_leaves_the_folder(small_run: Run, images: Path, tmp_path: Path) -> None:
    names = ("../../escaped", str(tmp_path / "escaped"), "a/../../escaped")
    items = [Item(name, images / "0.png", (), ("age=60",)) for name in names]
    assert answer_all(small_run, items, tmp_path / "deep" / "out", CPU)[:3] == (0, 0, 3)
    assert not list(tmp_path.rglob("escaped*"))
    assert len(pd.read_csv(tmp_path / "deep" / "out" / "rejected.csv")) == 3


@given(ids=st.lists(st.sampled_from(["a", "a-2", "a-3", "b", "a-2-2", "./a", "c/d", "c//d", "c/./d"]), max_size=9))
def test_names_are_made_distinct(ids: list[str]) -> None:
    names = list(_distinct(ids))
    assert len({(Path("out") / name).resolve() for name in names}) == len(ids)
    ids = [id.replace("./", "").replace("//", "/") for id in ids]
    assert all(name.startswith(id) for name, id in zip(names, ids, strict=True))
    for k, id in enumerate(ids):
        if id not in ids[:k]:
            assert names[k] == id  # the first of its name keeps it


def test_the_command_line_asks_many(
    small_run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["counterfactual", str(small_run.folder), str(images), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main([*ask, "--do", "heart_area=+10%", "--jobs", "1"]) == 1  # one image is broken
    captured = capsys.readouterr()
    assert "6 answers, 0 of them from before" in captured.out
    assert "files were passed over, the first: notes.txt" in captured.err
    assert "1 questions could not be answered" in captured.err
    for wrong, message in (
        (["--do", "height=3"], "height: "),
        ([], "--do: "),
        (["--do", "age=60", "--set", "age=x"], "age: "),
    ):
        assert main([*ask, *wrong]) == 1
        assert message in capsys.readouterr().err
    assert main([*ask[:-1], str(images / "answers"), "--do", "age=60"]) == 1  # they would be asked about next time
    assert "--out " in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([*ask[:2], str(tmp_path / "empty"), *ask[3:], "--do", "age=60"]) == 1
    assert str(tmp_path / "empty") in capsys.readouterr().err
    assert main([*ask[:2], str(images / "0.png"), *ask[3:], "--do", "age=60", "--jobs", "2"]) == 1
    assert "--dicom, --jobs: " in capsys.readouterr().err
