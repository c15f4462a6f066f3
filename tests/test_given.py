"""Other methods in the table: questions as files, and the answers that come back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from refused import refused
from segcft.api.questions import table_items
from segcft.cli import main
from segcft.cli.evaluate import _answers
from segcft.config.loader import load_study
from segcft.errors import Code, SegcftError
from segcft.evaluate.given import AFTER, check_methods
from segcft.evaluate.names import in_order, less, method_name
from segcft.pipeline.run import Run
from tests.conftest import MODELS


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, small_run: Run) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    assert main(["evaluate", str(small_run.folder), "--questions", str(folder), "--device", "cpu"]) == 0
    return folder


def table_of(asked: Path) -> pd.DataFrame:
    return pd.read_csv(asked / "questions.csv", dtype={"id": str})


def answered(asked: Path, folder: Path, table: pd.DataFrame) -> Path:
    """The images as they are, as the answers to everything."""
    shutil.copytree(asked / "images", folder / "images")
    path = folder / "answers.csv"
    table.rename(columns={"image": "file"}).to_csv(path, index=False)
    return path


def judged(run: Run, out: Path, *answers: str) -> list[dict[str, Any]]:
    options = [word for text in answers for word in ("--answers", text)]
    assert main(["evaluate", str(run.folder), *options, "--out", str(out), "--device", "cpu"]) == 0
    rows: list[dict[str, Any]] = json.loads((out / "table.json").read_text())
    return rows


def test_a_question_says_what_is_known_and_what_is_to_be(asked: Path, small_run: Run) -> None:
    table, study = table_of(asked), small_run.study
    for row in table.to_dict("records"):
        variable, value = row["do"].split("=")
        assert row["id"].startswith(f"{variable}/")
        after = row[f"{variable}_after"]
        assert value == after if study.variables[variable].categories else float(value) == pytest.approx(after)
    assert set(table["do"].str.split("=").str[0]) == set(study.variables)  # causes of areas, too
    store = small_run.store()
    row = table.iloc[0]
    place = store.table.index[store.table["id"] == row["id"].partition("/")[2]][0]
    assert np.array_equal(np.asarray(Image.open(asked / row["image"])), store.images[place][0])
    assert row["age"] == pytest.approx(float(store.table["age"].iloc[place]))
    moved = table[table["do"].str.startswith("heart_area")]
    assert np.allclose(moved["left_lung_area"], moved["left_lung_area_after"], rtol=1e-4)


def test_who_leaves_images_as_they_are_scores_as_no_change(
    asked: Path, small_run: Run, tmp_path: Path, undrawn: None
) -> None:
    rows = judged(small_run, tmp_path / "out", f"Theirs={answered(asked, tmp_path, table_of(asked))}")
    index = {(r["method"], r["metric"], r["intervention"], r["structure"]): r["value"] for r in rows}
    nothing = {key[1:]: value for key, value in index.items() if key[0] == "no change" and not key[2].endswith("held")}
    theirs = {key[1:]: value for key, value in index.items() if key[0] == "Theirs"}
    assert {key: theirs[key] for key in nothing} == nothing
    assert len(nothing) > 20
    assert all(theirs[key] == 0 for key in theirs if key[0].startswith("displacement"))
    difference = less("Theirs", list(small_run.methods())[-1])
    assert ("mape", "heart_area", "heart") in {key[1:] for key in index if key[0] == difference}
    text = (tmp_path / "out" / "table.md").read_text()
    assert "Theirs less Seg-CFT" in text
    assert "what Theirs answered" in text


def test_another_model_of_ours_answers_the_questions(
    asked: Path, small_run: Run, tmp_path: Path, undrawn: None
) -> None:
    table = table_of(asked)
    few = table[table["id"].str.startswith(("heart_area/", "age/"))]
    shutil.copytree(asked / "images", tmp_path / "images")
    few.to_csv(tmp_path / "few.csv", index=False)
    command = ["counterfactual", str(small_run.folder), str(tmp_path / "few.csv"), "--out", str(tmp_path / "own")]
    assert main([*command, "--method", "segmentor", "--device", "cpu"]) == 0
    manifest = pd.read_csv(tmp_path / "own" / "manifest.csv", dtype={"id": str})
    assert set(manifest["id"]) == set(few["id"])
    manifest["file"] = [str(tmp_path / "own" / name) for name in manifest["file"]]
    others = table[~table["id"].isin(few["id"])].assign(file=lambda rest: [str(asked / x) for x in rest["image"]])
    pd.concat([manifest, others])[["id", "file", "do"]].to_csv(tmp_path / "all.csv", index=False)
    rows = judged(small_run, tmp_path / "out", f"again={tmp_path / 'all.csv'}")
    found = {r["method"]: r["value"] for r in rows if (r["metric"], r["intervention"], r["structure"]) == ERROR}
    assert found["again"] == pytest.approx(found["segmentor"], rel=1e-3)


ERROR = ("mape", "heart_area", "heart")


def _missing(table: pd.DataFrame) -> pd.DataFrame:
    return table.iloc[1:]


def _twice(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.iloc[:1]])


def _unknown(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(id=["heart_area/nobody", *table["id"][1:]])


def _another(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(do=["heart_area=1", *table["do"][1:]])


def _relative(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(do=["heart_area=+20%", *table["do"][1:]])


def _unreadable(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(do=["heart_area", *table["do"][1:]])


def _unsaid(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="do")


def _no_file(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(image=[None, *table["image"][1:]])


CHANGES = [_missing, _twice, _unknown, _another, _relative, _unreadable, _unsaid, _no_file]


@pytest.mark.parametrize("change", CHANGES)
def test_answers_that_are_not_those_of_the_questions_are_refused(
    asked: Path, small_run: Run, tmp_path: Path, change: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(asked)
    first = table["do"].str.startswith("heart_area")
    path = answered(asked, tmp_path, change(pd.concat([table[first], table[~first]])))
    command = ["evaluate", str(small_run.folder), "--answers", f"x={path}", "--out", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu"]) == 1
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "out" / "table.json").exists()


@pytest.mark.parametrize("damage", ["gone", "size", "text"])
def test_an_answer_that_is_no_such_image_is_named(
    asked: Path, small_run: Run, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(asked)
    path = answered(asked, tmp_path, table)
    file = tmp_path / table["image"].iloc[0]
    if damage == "gone":
        file.unlink()
    elif damage == "size":
        Image.fromarray(np.arange(40 * 40, dtype=np.uint8).reshape(40, 40)).save(file)
    else:
        file.write_text("no image")
    command = ["evaluate", str(small_run.folder), "--answers", f"x={path}", "--out", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu"]) == 1
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", " ", "a - b", "guide: a", "a|b", " x", "x ", "a  b", "b less Seg-CFT", "x\ny"])
def test_names_that_tables_cannot_show_are_refused(name: str) -> None:
    with refused(SegcftError, Code.INVALID, "--answers"):
        check_methods([name])


@pytest.mark.parametrize("names", [["Seg-CFT"], ["segmentor"], ["no cft"], ["Truth"], ["a", "A"]])
def test_names_that_mean_something_else_are_refused(names: list[str]) -> None:
    with refused(SegcftError, Code.DUPLICATE, "--answers"):
        check_methods(names)


def test_other_names_will_do() -> None:
    check_methods(["theirs", "Ho et al. 2020", "DDPM (ours)", "über+1", "a-b_2"])


@pytest.mark.parametrize("text", ["x", "=t.csv", "x="])
def test_answers_have_a_name_and_a_table(text: str) -> None:
    with refused(SegcftError, Code.INVALID, "--answers"):
        _answers([text])


def test_questions_go_on_where_they_were_and_leave_nothing_behind(small_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "asked"
    words = ["evaluate", str(small_run.folder), "--questions", str(folder), "--device", "cpu"]
    assert main(words) == 0
    first = {path.name for path in (folder / "images").iterdir()}
    shutil.rmtree(folder / "images")  # as if it had been interrupted
    assert main([*words, "--split", "validation"]) == 0
    named = pd.read_csv(folder / "questions.csv")["image"]
    assert {path.name for path in (folder / "images").iterdir()} == {Path(name).name for name in named}
    assert not first & {Path(name).name for name in named}
    assert main([*words, "--answers", "x=y.csv"]) == 1


def test_a_model_with_derived_variables_reads_its_questions(tmp_path: Path) -> None:
    study = load_study(MODELS / "chest" / "study.yaml")
    row = {name: (variable.categories or ["1"])[0] for name, variable in study.variables.items()}
    row |= {name + AFTER: row[name] for name in row}
    pd.DataFrame([{"id": "heart_area/a", "image": "images/a.png", "do": "heart_area=1"} | row]).to_csv(
        tmp_path / "questions.csv", index=False
    )
    asked = table_items(tmp_path / "questions.csv", study, (), ())
    assert [(item.id, item.do) for item in asked.items] == [("heart_area/a", ("heart_area=1",))]
    assert len(asked.items[0].known) == sum(not variable.derived for variable in study.variables.values())


def test_a_folder_of_other_things_is_refused(small_run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["evaluate", str(small_run.folder), "--questions", str(tmp_path)]) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.txt"]


def test_methods_that_nobody_knows_come_last() -> None:
    assert in_order(["b", "guide: segmentor", "truth", "none", "b"]) == ["none", "truth", "b"]
    assert method_name(less("b", "segmentor")) == "b less Seg-CFT"
    assert method_name(less("segmentor", "regressor")) == "Seg less Reg"
