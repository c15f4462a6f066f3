"""Blinded studies: what readers see tells nothing, and what they say is counted right."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from refused import refused
from segcft.cli import main
from segcft.errors import Code, DataError
from segcft.evaluate.blinded import (
    ALL,
    ANSWER,
    REAL,
    RECONSTRUCTION,
    Floats,
    Ratings,
    kappa,
    newcombe,
    scores,
    told_apart,
    wilson,
)
from segcft.grey import to_grey_levels, to_unit
from segcft.pipeline.blinded import read_ratings
from segcft.pipeline.run import Run
from tests.conftest import MakeOnce

CASES = 12
PERFECT = {REAL: 0, ANSWER: 3, RECONSTRUCTION: 2}


@pytest.fixture(scope="module")
def study(made_once: MakeOnce, small_run: Run) -> Path:
    """What readers are given."""
    return made_once(
        "blinded", lambda folder: main(["readers", str(small_run.folder), str(folder), "--cases", str(CASES)])
    )


def key_of(run: Run) -> dict[str, object]:
    (key,) = (run.folder / "readers").iterdir()
    return dict(json.loads(key.read_text()))


def cases_of(run: Run) -> list[dict[str, str]]:
    cases = key_of(run)["cases"]
    assert isinstance(cases, list)
    return cases


def write_answers(path: Path, run: Run, levels: dict[str, int], study: str | None = None) -> Path:
    """The table of a reader who says the level of each kind."""
    lines = [
        [study or key_of(run)["study"], path.stem, case["code"], levels.get(case["kind"], "")] for case in cases_of(run)
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["study", "reader", "case", "level"], *lines])
    return path


def test_readers_see_every_image_and_nothing_of_the_key(study: Path, small_run: Run) -> None:
    cases = cases_of(small_run)
    page = (study / "index.html").read_text()
    assert sorted(path.stem for path in (study / "images").iterdir()) == sorted(case["code"] for case in cases)
    for case in cases:
        assert f'"{case["id"]}"' not in page
        picture = Image.open(study / "images" / f"{case['code']}.png")
        assert picture.size == small_run.study.image.size[::-1]
        assert not picture.info
    assert len({path.stat().st_size for path in (study / "images").iterdir()}) == 1
    patients = small_run.store().table.set_index("id")["patient"]
    assert len({patients[case["id"]] for case in cases}) == CASES
    kinds = [case["kind"] for case in cases]
    assert (kinds.count(REAL), kinds.count(ANSWER), kinds.count(RECONSTRUCTION)) == (6, 4, 2)


def test_images_are_what_the_key_says(study: Path, small_run: Run) -> None:
    """A real one is the sample's, to the grey level; an answer is the model's, but for rounding."""
    store, model = small_run.store(), small_run.model(list(small_run.methods())[-1])
    rows = {id: row for row, id in enumerate(store.table["id"].astype(str))}
    for case in cases_of(small_run):
        row = rows[case["id"]]
        shown = np.asarray(Image.open(study / "images" / f"{case['code']}.png")).astype(int)
        if case["kind"] == REAL:
            assert np.array_equal(shown, store.images[row][0])
        if case["kind"] == ANSWER:
            assert case["do"]
            do = torch.tensor([[dict(case["do"]).get(name, np.nan) for name in small_run.study.variables]])
            image, values = to_unit(torch.from_numpy(store.images[[row]])), torch.from_numpy(store.values()[[row]])
            expected = to_grey_levels(model.counterfactual(image, values, do).image)
            assert np.abs(shown - expected[0, 0].numpy().astype(int)).max() <= 1


def test_what_readers_give_back_is_scored(study: Path, small_run: Run, tmp_path: Path) -> None:
    tables = [
        write_answers(tmp_path / "sure.csv", small_run, PERFECT),
        write_answers(tmp_path / "blind.csv", small_run, dict.fromkeys(PERFECT, 1)),
    ]
    out = tmp_path / "results"
    assert main(["readers", str(small_run.folder), str(out), "--answers", *map(str, tables)]) == 0
    rows = json.loads((out / "readers.json").read_text())["rows"]
    found = {(row["reader"], row["metric"], row["kind"]): row["value"] for row in rows}
    assert found["sure", "auc", ANSWER] == found["sure", "called made", ANSWER] == 1
    assert found["blind", "auc", ANSWER] == 0.5
    assert found["sure", "called made", REAL] == found["blind", "called made", REAL] == 0
    assert found[ALL, "auc", ANSWER] == 0.75
    assert (out / "readers.md").read_text().count("|") > 10


def test_two_studies_have_nothing_in_common(small_run: Run, tmp_path: Path) -> None:
    """Who has seen one does not know the other's key."""
    run = Run(shutil.copytree(small_run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("readers")))
    for name in "ab":
        assert main(["readers", str(run.folder), str(tmp_path / name), "--cases", str(CASES)]) == 0
    first, second = (json.loads(key.read_text()) for key in sorted((run.folder / "readers").iterdir()))
    assert first["seed"] != second["seed"]
    assert first["cases"] != second["cases"]


def test_every_figure_has_an_interval_around_it_with_a_width() -> None:
    for share in (0.0, 0.3, 1.0):
        low, high = wilson(share, 10)
        assert low - 1e-12 <= share <= high + 1e-12
        assert low < high
    for area in (0.0, 0.4, 0.5, 1.0):
        low, high = newcombe(area, 30, 10)
        assert 0 <= low <= area <= high <= 1
        assert high - low > 0.05
    assert newcombe(0.7, 300, 100)[0] > newcombe(0.7, 30, 10)[0]


@pytest.mark.parametrize("wrong", ["level", "case", "study", "column", "two studies", "one name", "no name", "twice"])
def test_tables_that_cannot_be_are_refused(wrong: str, study: Path, small_run: Run, tmp_path: Path) -> None:
    table = write_answers(tmp_path / "a.csv", small_run, PERFECT)
    text, tables = table.read_text(), [table]
    if wrong == "level":
        table.write_text(text.replace(",3", ",4"))
    elif wrong == "case":
        table.write_text(text + f"{key_of(small_run)['study']},a,999,1\n")
    elif wrong == "study":
        write_answers(table, small_run, PERFECT, "elsewhere")
    elif wrong == "one name":
        (tmp_path / "other").mkdir()
        tables.append(write_answers(tmp_path / "other" / "a.csv", small_run, PERFECT))
    elif wrong == "no name":
        table.write_text(text.replace(",a,", ",,"))
    elif wrong == "twice":
        table.write_text(text + text.splitlines()[1] + "\n")
    elif wrong == "column":
        table.write_text(text.replace("level", "score", 1))
    else:
        tables.append(write_answers(tmp_path / "b.csv", small_run, PERFECT, "elsewhere"))
    code = {
        "level": Code.INVALID,
        "case": Code.UNKNOWN,
        "study": Code.OTHER,
        "column": Code.MISSING,
        "two studies": Code.CONFLICT,
        "one name": Code.DUPLICATE,
        "no name": Code.INVALID,
        "twice": Code.DUPLICATE,
    }[wrong]
    with pytest.raises(DataError) as error:
        read_ratings(small_run, tables)
    assert error.value.code is code


def test_a_folder_that_holds_something_is_left_alone(small_run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    before = sorted((small_run.folder / "readers").glob("*")) if (small_run.folder / "readers").is_dir() else []
    assert main(["readers", str(small_run.folder), str(tmp_path)]) == 1
    after = sorted((small_run.folder / "readers").glob("*")) if (small_run.folder / "readers").is_dir() else []
    assert before == after


def test_too_few_people_are_refused(small_run: Run, tmp_path: Path) -> None:
    assert main(["readers", str(small_run.folder), str(tmp_path / "out"), "--cases", "100000"]) == 1
    assert not (tmp_path / "out").exists()


def levels() -> st.SearchStrategy[Floats]:
    shape = st.tuples(st.integers(2, 4), st.integers(2, 12))
    return hnp.arrays(np.float64, shape, elements=st.integers(0, 3).map(float))


@given(levels())
def test_kappa_is_1_of_those_who_agree_and_does_not_know_who_is_who(some: Floats) -> None:
    found, turned = kappa(some), kappa(some[::-1])
    assert np.isnan(found) == np.isnan(turned)
    assert np.isnan(found) or found == pytest.approx(turned)
    assert np.isnan(found) or found <= 1 + 1e-12
    same = np.repeat(some[:1], len(some), axis=0)
    assert np.isnan(kappa(same)) or kappa(same) == pytest.approx(1)


def test_kappa_is_that_of_the_textbook() -> None:
    """Cohen's of 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: (0.7 - 0.5) / 0.5 = 0.4."""
    counts = {(3, 3): 20, (3, 0): 5, (0, 3): 10, (0, 0): 15}
    pairs = list(itertools.chain.from_iterable([pair] * count for pair, count in counts.items()))
    assert kappa(np.array(pairs, dtype=float).T) == pytest.approx(0.4)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(4, 12)), elements=st.integers(0, 3).map(float)))
def test_auc_turns_with_what_is_said(some: Floats) -> None:
    kinds = np.array([REAL, ANSWER] * (some.shape[1] // 2) + [REAL] * (some.shape[1] % 2))
    assert told_apart(some, kinds) + told_apart(3 - some, kinds) == pytest.approx(1)
    assert told_apart(np.zeros_like(some), kinds) == 0.5


def test_who_says_nothing_does_not_count() -> None:
    kinds = (REAL, REAL, ANSWER, ANSWER)
    rated = Ratings(("a",), kinds, np.array([[0, np.nan, 3, np.nan]]))
    found = {(row["metric"], row["kind"]): row for row in scores(rated)}
    assert found["auc", ANSWER]["value"] == 1
    assert found["called made", REAL]["n"] == 1


def test_the_study_is_refused_for_a_published_model(tmp_path: Path) -> None:
    model = Path(__file__).parents[1] / "models" / "chest-sim"
    assert main(["readers", str(model), str(tmp_path / "out")]) == 1


def test_an_empty_table_is_no_study(small_run: Run, tmp_path: Path) -> None:
    table = tmp_path / "empty.csv"
    table.write_text("study,reader,case,level\n")
    with refused(DataError, Code.INVALID, "column 'reader'"):
        read_ratings(small_run, [table])
