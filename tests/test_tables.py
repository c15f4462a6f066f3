"""Tables as they are: who is who, ages that are none, numbers, and ids that a spreadsheet has changed."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refused import refused
from segcft.config.loader import load_study
from segcft.config.sources import Splits
from segcft.config.structure import Structure
from segcft.config.variable import Variable
from segcft.data.attributes import Row, believed, is_age, parse, read_table
from segcft.data.columns import alike_ids, find_columns
from segcft.data.splits import assign
from segcft.errors import Code, DataError, StudyError
from segcft.importers.folder import import_folder
from segcft.io.imagefile import LOSSLESS, find_file, find_mask
from segcft.io.reject import Rejected
from segcft.io.similar import similar_file
from segcft.pipeline.importing import describe
from tests.test_dicom import RAMP, make, save
from tests.test_folder import Folder, make_study

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A healthy data set of 12 people."""
    return Folder(tmp_path)


def kinds(store: Any) -> list[str]:
    return list(store.remarks["kind"])


# --- who is who ---


@pytest.mark.parametrize(
    "column", ["patient", "Patient ID", "PatientID", "patient_id", "subject", "Subject-Key", "MRN", "case", "person"]
)
def test_a_column_of_patients_with_several_images_must_be_named(folder: Folder, column: str) -> None:
    folder.header.append(column)
    folder.rows = [[*row, f"who{i // 2}"] for i, row in enumerate(folder.rows)]
    with refused(DataError, Code.MISSING, "data.patient"):
        folder.read()
    named = folder.read(make_study(data={"patient": column}))
    assert set(named.table["patient"]) == {f"who{i}" for i in range(6)}
    assert "12 samples of 6 people" in describe(named)
    single = folder.read(make_study(data={"patient": "id"}))  # the user says that it is none
    assert set(single.table["patient"]) == {f"p{i}" for i in range(12)}
    assert "of 12 people" not in describe(single)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("patient", [f"who{i}" for i in range(12)]),  # every image has its own
        ("case", ["yes", "no"] * 6),  # of a study of cases and controls
        ("patient", [""] * 12),
        ("hospital", ["a", "b", "c"] * 4),
        ("patient_age", ["40", "50", "60"] * 4),
    ],
)
def test_other_columns_need_no_name(folder: Folder, column: str, cells: list[str]) -> None:
    folder.header.append(column)
    folder.rows = [[*row, cell] for row, cell in zip(folder.rows, cells, strict=True)]
    assert set(folder.read().table["patient"]) == {f"p{i}" for i in range(12)}


def test_intervals_on_new_people_are_over_the_patients_that_their_table_has(folder: Folder) -> None:
    """The study may be a published model's, which its user does not change."""
    folder.header.append("patient")
    folder.rows = [[*row, f"who{i // 2}"] for i, row in enumerate(folder.rows)]
    store = folder.read(split="test")
    assert store.table["patient"].nunique() == 6
    assert kinds(store) == ["patients"]


def test_a_patient_who_is_not_named_is_no_patient_of_many_images(folder: Folder) -> None:
    folder.header.append("who")
    folder.rows = [[*row, "NA" if i < 2 else f"who{i}"] for i, row in enumerate(folder.rows)]
    store = folder.read(make_study(data={"patient": "who"}))
    assert len(store) == 10
    assert list(store.rejected["id"]) == ["p0", "p1"]


def test_a_split_that_is_not_named_is_told_if_it_is_another_one(folder: Folder) -> None:
    study = make_study()
    folder.header.append("split")
    own = [assign(row[0], study.splits) for row in folder.rows]
    rows = folder.rows
    folder.rows = [[*row, part] for row, part in zip(rows, own, strict=True)]
    assert kinds(folder.read()) == []  # as a conversion has written it
    folder.rows = [[*row, {"train": "Test", "test": "TRAIN"}[part]] for row, part in zip(rows, own, strict=True)]
    store = folder.read()
    assert kinds(store) == ["split not used"]
    assert "split: split" in describe(store)
    assert list(store.table["split"]) == own
    assert kinds(folder.read(make_study(data={"split": "split"}))) == []
    assert kinds(folder.read(split="test")) == []


@pytest.mark.parametrize(
    ("text", "part"), [("training", "train"), ("Val", "validation"), ("testing", "test"), ("Judge", "judge")]
)
def test_parts_may_be_spelt_otherwise(folder: Folder, text: str, part: str) -> None:
    folder.header.append("part")
    folder.rows = [[*row, text if i == 0 else "train" if i < 6 else "test"] for i, row in enumerate(folder.rows)]
    assert folder.read(make_study(data={"split": "part"})).table["split"][0] == part


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([f"p{i // 2:03}_{'ab'[i % 2]}" for i in range(40)], True),
        ([f"{i // 3:08}_{i % 3:03}" for i in range(60)], True),
        ([f"person{i // 2}/{i % 2}" for i in range(40)], True),
        ([f"sub-{i // 2:02}_ses-{i % 2}_T1w" for i in range(40)], True),  # BIDS
        ([f"patient{i // 2:05}/study{i % 2}/view1_frontal" for i in range(40)], True),  # CheXpert
        ([f"sub-{i:02}_ses-1_T1w" for i in range(40)], False),
        ([f"1.2.826.0.1.3680043.8.498.{i:04}" for i in range(40)], False),
        ([f"siteA/p{i:03}_pa" for i in range(40)], False),
        ([f"site_{i:04}" for i in range(40)], False),
        ([f"{'abc'[i % 3]}-{i:04}" for i in range(60)], False),
        ([f"JPCLN{i:03}" for i in range(40)], False),
        ([f"p{i}_left" for i in range(40)], False),
        ([], False),
    ],
)
def test_ids_that_look_like_several_images_of_a_person_are_told(ids: list[str], told: bool) -> None:
    assert bool(alike_ids(ids)) == told


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        ("USUBJID", [f"S1-{i // 2:03}" for i in range(20)], True),  # CDISC
        ("src_subject_id", [f"NDAR{i // 2:03}" for i in range(20)], True),
        ("Patientennummer", [f"{i // 2}" for i in range(20)], True),
        ("Pat_ID", [f"{i // 2}" for i in range(20)], True),
        ("f.eid", [f"{i // 2}" for i in range(20)], True),  # UK Biobank
        ("participant_id", [f"sub-{i // 2:02}" for i in range(20)], True),
        ("patient", [f"{'abcdefghij'[i // 2]}" for i in range(20)], True),
        ("case", [("control", "mild", "severe")[i % 3] for i in range(20)], False),
        ("Subject", [("chest", "hand", "knee", "skull")[i % 4] for i in range(20)], False),
        ("patient_age", [f"{60 + i // 2}" for i in range(20)], False),
        ("patch_nr", [f"{i // 2}" for i in range(20)], False),
        ("subtype", [f"{i // 2}" for i in range(20)], False),
    ],
)
def test_columns_of_patients_are_known_by_their_names_and_values(column: str, values: list[str], found: bool) -> None:
    rows = [Row(k, {"id": f"i{k}", column: value}) for k, value in enumerate(values)]
    assert find_columns(rows, set(), "id").patient == (column if found else None)


@given(st.lists(st.text(max_size=6), max_size=20, unique=True))
def test_any_ids_can_be_looked_at(ids: list[str]) -> None:
    alike_ids(ids)
    rows = [Row(k, {"id": id, "patient": id[:1], "split": id}) for k, id in enumerate(ids, start=2)]
    assert find_columns(rows, {"patient", "split"}, "id") == (None, None)
    find_columns(rows, set(), "id")


def test_the_studies_that_come_with_segcft_name_what_their_tables_have() -> None:
    """The columns that conversions write are named by the studies that read them, or have no repeats."""
    for name in ("padchest", "ccta"):
        data: Any = load_study(CONFIGS / f"{name}.yaml").data
        assert (data.patient, data.split) == ("patient", "split")
    jsrt = load_study(CONFIGS / "jsrt.yaml")
    # 247 people with an image each; the split of a conversion is the study's own.
    assert jsrt.splits == Splits()
    rows = [Row(k, {"id": f"J{k}", "patient": f"J{k}", "split": assign(f"J{k}", jsrt.splits)}) for k in range(2, 200)]
    assert find_columns(rows, set(), "id").patient is None


# --- numbers ---


@pytest.mark.parametrize(
    "text",
    ["4_5", "1e400", "\N{ARABIC-INDIC DIGIT FOUR}", "0x2d", "45,", "45 years", "45.", "1 000", "infinity", "- 4", "4e"],
)
def test_what_is_no_number(text: str) -> None:
    """Python's own ``float`` takes underscores, digits of any script, and turns 1e400 into infinity."""
    if text == "45.":
        assert parse(text, "age", "age", Variable(kind="continuous")) == 45
        return
    with pytest.raises(Rejected):
        parse(text, "age", "age", Variable(kind="continuous"))


@given(st.text(alphabet="0123456789_,.eE+-x \u0664", max_size=8), st.booleans())
def test_a_number_is_what_is_written_or_none(text: str, comma: bool) -> None:
    try:
        found = parse(text.strip(), "x", "x", Variable(kind="continuous"), comma)
    except Rejected:
        return
    assert found is None or found == float(text.strip().replace(",", "."))
    assert "_" not in text
    assert text.isascii()


def test_a_table_of_a_country_with_decimal_commas(folder: Folder) -> None:
    text = "id;age;sex\n" + "".join(f"{id};{age},5;{sex}\n" for id, age, sex in folder.rows) + ";;\n;;\n"
    (folder.root / "metadata.csv").write_text(text)
    store = import_folder(make_study(), folder.root, folder.root / "store")
    assert list(store.table["age"]) == [40.5 + i for i in range(12)]
    assert len(store.rejected) == 0


@pytest.mark.parametrize("first", ["sep=;\r\n", "\ufeffSEP=;\n"])
def test_a_line_for_excel_says_what_parts_cells(tmp_path: Path, first: str) -> None:
    (tmp_path / "t.csv").write_text(f"{first}id;age\na;2,5\nb\n", encoding="utf-8", newline="")
    rows, ragged = read_table(tmp_path / "t.csv", {"id": "ids"})
    assert [(row.line, row.cells, row.comma) for row in rows] == [(3, {"id": "a", "age": "2,5"}, True)]
    assert [line for line, _ in ragged] == [4]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_table_in_another_encoding_is_refused_and_what_to_do(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes("id,name\n1,M\u00fcller\n".encode(encoding))
    with refused(DataError, Code.UNREADABLE, tmp_path / "t.csv"):
        read_table(tmp_path / "t.csv", {"id": "ids"})


@pytest.mark.parametrize("text", ["#N/A", "<NA>", ".", "n/a", "NA", ""])
def test_what_programs_write_of_a_missing_value(text: str) -> None:
    assert parse(text, "age", "age", Variable(kind="continuous")) is None


def test_a_thousand_or_a_decimal_is_refused() -> None:
    age = Variable(kind="continuous")
    assert parse("0,125", "x", "x", age, comma=True) == 0.125
    assert parse("-12,5e2", "x", "x", age, comma=True) == -1250
    for text in ("1,234", "-12,500"):
        with pytest.raises(Rejected):
            parse(text, "x", "x", age, comma=True)
    with pytest.raises(Rejected):
        parse("12,5", "x", "x", age)


@given(
    st.lists(st.lists(st.text(max_size=4), min_size=2, max_size=2), min_size=1, max_size=4),
    st.sampled_from([(",", "t.csv"), (";", "t.csv"), ("\t", "t.csv"), ("|", "t.csv"), ("\t", "t.tsv")]),
)
def test_any_separator(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], kind: tuple[str, str]) -> None:
    separator, name = kind
    path = tmp_path_factory.mktemp("table") / name
    rows = [["".join(c for c in cell if c.isprintable()) for cell in row] for row in rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([["id", "note"], *rows])
    wanted = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    if not wanted:
        return
    found, ragged = read_table(path, {"id": "test"}, ["note"])
    assert [list(row.cells.values()) for row in found] == wanted
    assert not ragged


# --- ages that are none ---


def test_an_age_that_is_none_is_missing_and_told(folder: Folder) -> None:
    for row, age in zip(folder.rows, ["300", "411", "-1", "999", "0", "130"], strict=False):
        row[1] = age
    store = folder.read()
    assert np.isnan(store.table["age"][:4]).all()
    assert list(store.table["age"][4:7]) == [0, 130, 46]
    assert kinds(store) == ["age not believed"] * 4
    assert list(store.remarks["id"]) == ["p0", "p1", "p2", "p3"]
    assert "line 2" in store.remarks["text"][0]
    assert "4 samples (age not believed" in describe(store)


def test_a_study_says_what_it_believes(folder: Folder) -> None:
    variables = make_study().model_dump(mode="json")["variables"]
    variables["age"]["range"] = [-5, 44]
    folder.rows[0][1] = "-3"
    store = folder.read(make_study(variables=variables))
    assert store.table["age"][0] == -3
    assert list(store.table["age"].isna()) == [int(age) > 44 for _, age, _ in folder.rows]


@pytest.mark.parametrize(
    ("name", "unit", "age"),
    [
        ("age", "", True),
        ("age", "years", True),
        ("patient_age", "", True),
        ("duration", "years", True),
        ("age", "months", False),
        ("stage", "", False),
        ("dosage", "mg", False),
    ],
)
def test_which_variables_are_ages(name: str, unit: str, age: bool) -> None:
    variable = Variable(kind="continuous", unit=unit)
    assert is_age(name, variable) == age
    assert believed(300, name, variable) != age
    assert believed(60, name, variable)


def test_a_range_is_of_a_number_and_changes_no_older_study() -> None:
    assert "range" not in Variable(kind="continuous").model_dump(mode="json")
    for wrong in ({"kind": "categorical", "categories": ["a", "b"]}, {"kind": "continuous", "range": [3, 3]}):
        with pytest.raises((ValueError, StudyError)):
            Variable.model_validate({"range": [0, 1]} | wrong)


# --- ids that are nearly a file's name ---


@pytest.mark.parametrize(
    ("id", "file", "key"),
    [
        ("1", "0001.png", "zeros"),
        ("1.0", "0001.png", "zeros"),
        ("12_3", "0012_003.png", "zeros"),
        ("jos\u00e9", "jose\u0301.png", "Unicode"),
        ("P1", "p1.png", "capital"),
        ("p1", "p1_mask.png", "_mask"),
        ("p1", "p1.webp", "kind"),
    ],
)
def test_the_message_of_a_missing_file_names_the_one_that_is_nearly_called_so(
    tmp_path: Path, id: str, file: str, key: str
) -> None:
    for name in (file, "other.png", "0002.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(Rejected) as caught:
        find_file(tmp_path, id)
    assert f"there is {file}" in str(caught.value)
    assert key in str(caught.value)
    structure = Structure(variable="v", file="{id}.png")
    with pytest.raises(Rejected, match=file.replace(".", r"\.")):
        find_mask(tmp_path, id, "s", structure)


def test_a_missing_file_without_a_near_one_is_only_missing(tmp_path: Path) -> None:
    (tmp_path / "0010.png").touch()
    for id in ("1", "p10", "100", "gone/1"):
        with pytest.raises(Rejected) as caught:
            find_file(tmp_path, id)
        assert "there is" not in str(caught.value)


def test_a_new_file_is_near_at_once(tmp_path: Path) -> None:
    assert similar_file(tmp_path / "1") == ""
    (tmp_path / "01.png").touch()
    os.utime(tmp_path, (1, 1))
    assert "01.png" in similar_file(tmp_path / "1")


@given(st.text(max_size=12))
def test_any_name_has_near_ones_or_none(name: str) -> None:
    similar_file(Path(__file__).parent / name)


def test_ids_without_their_zeros_are_told_where_no_sample_is_usable(folder: Folder) -> None:
    for kind in ("images", "masks"):
        for i in range(12):
            (folder.root / kind / f"p{i}.png").rename(folder.root / kind / f"{i:04}.png")
    folder.rows = [[str(i), *row[1:]] for i, row in enumerate(folder.rows)]
    with refused(DataError, Code.EMPTY, "metadata.csv"):
        folder.read()


def test_a_dicom_file_of_a_study_may_have_any_name(tmp_path: Path) -> None:
    for name in ("IM000001", "IM2.IMA"):
        save(tmp_path / name, make(RAMP))
        assert find_file(tmp_path, name) == tmp_path / name
    (tmp_path / "IM3").write_bytes(b"no image")
    with pytest.raises(Rejected):
        find_file(tmp_path, "IM3")
    with pytest.raises(Rejected):
        find_file(tmp_path, "IM000001", LOSSLESS)  # no mask is DICOM
