"""What a scientist must not do unawares: each guard is tripped by what it guards against."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import segcft
from refused import refused
from segcft.cli import main
from segcft.config.loader import parse_study
from segcft.data.splits import assign
from segcft.data.writer import StoreWriter
from segcft.errors import Code, DataError, RunError
from segcft.pipeline.importing import describe, import_data
from segcft.pipeline.judging import check_unseen, evaluate_samples
from segcft.pipeline.run import Run
from segcft.utils.progress import Progress
from tests.conftest import MODELS, MakeStudy, changed, plaque_mapping, write_plaques
from tests.test_pipeline import Notes

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def copied(small_run: Run, tmp_path: Path) -> Run:
    """The small run, to be spoilt."""
    shutil.copytree(small_run.folder, tmp_path / "run")
    return Run(tmp_path / "run")


# --- the judge is the guide ---


def test_a_judge_with_the_guides_weights_is_refused(copied: Run, capsys: pytest.CaptureFixture[str]) -> None:
    judge = copied.path("judge")
    with safe_open(judge, framework="pt") as file:
        header = file.metadata()
    save_file(load_file(copied.path("segmentor")), judge, metadata={"segcft": header["segcft"]})
    assert main(["evaluate", str(copied.folder)]) == 1
    assert "judge.safetensors: " in capsys.readouterr().err
    with refused(RunError, Code.LEAK, "judge.safetensors"):
        segcft.load(copied.folder)


@pytest.mark.parametrize(("name", "other"), [("judge", "segmentor"), ("cft-segmentor", "cft-regressor")])
def test_a_part_that_was_copied_over_another_is_refused(copied: Run, name: str, other: str) -> None:
    shutil.copy(copied.path(other), copied.path(name))
    with refused(RunError, Code.INVALID, f"{name}.safetensors"):
        copied.load(name)


# --- test people in training ---


def test_a_split_that_was_edited_after_the_training_is_refused(copied: Run) -> None:
    path = copied.folder / "store" / "table.parquet"
    table = pd.read_parquet(path)
    table.loc[np.flatnonzero(table["split"] == "train")[:5], "split"] = "test"
    table.to_parquet(path, index=False)
    with pytest.raises(DataError, match=r"store/table.parquet: the content differs from its checksum"):
        evaluate_samples(copied, copied.store(), copied.folder / "new", CPU, Progress())
    assert not (copied.folder / "new").exists()


def test_a_test_person_who_is_in_training_is_refused(small_run: Run, tmp_path: Path) -> None:
    store = small_run.store()
    taught, judged = store.indices("train")[0], store.indices("test")[0]
    store.table.loc[judged, "patient"] = store.table.loc[taught, "patient"]
    with refused(DataError, Code.LEAK, "store"):
        evaluate_samples(small_run, store, tmp_path / "new", CPU, Progress())


def test_training_images_under_other_names_are_refused(
    small_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = small_run.store()
    with StoreWriter(tmp_path / "renamed", small_run.study) as writer:
        for number, row in enumerate([*own.indices("test")[:3], *own.indices("train")[:2]]):
            known = {name: own.table[name][row] for name in own.variables}
            writer.append(f"new-{number}", f"new-{number}", "test", own.images[row], own.masks[row], known)
    arguments = ["evaluate", str(small_run.folder), "--data", str(tmp_path / "renamed"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert str(tmp_path / "renamed") in capsys.readouterr().err


def test_no_name_is_told_of_whoever_was_in_training(small_run: Run) -> None:
    with pytest.raises(DataError) as caught:
        check_unseen(small_run, small_run.store())
    assert not [name for name in small_run.store().table["patient"] if name in str(caught.value).split(": ", 1)[1]]


def test_one_image_in_two_parts_is_told_at_the_import(tmp_path: Path) -> None:
    write_plaques(tmp_path / "data", people=40)
    study = parse_study(plaque_mapping())
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for i in range(40):
        parts[assign(f"p{i}", study.splits)].append(f"p{i}")
    for folder in ("images", "masks"):
        shutil.copy(
            tmp_path / "data" / folder / f"{parts['train'][0]}.png",
            tmp_path / "data" / folder / f"{parts['test'][0]}.png",
        )
    store = import_data(study, tmp_path / "data", tmp_path / "store", Progress())
    assert "warning: 1 test images are, pixel for pixel, images of another part" in describe(store)


# --- few people ---


def test_few_people_are_told_and_every_figure_has_its_interval(
    small_run: Run, make_small_study: MakeStudy, tmp_path: Path
) -> None:
    run, notes = Run(small_run.folder, make_small_study({"evaluation.people": 5})), Notes()
    rows = evaluate_samples(run, run.store(), tmp_path / "few", CPU, notes)
    said = "Only 5 people: the intervals are wide, and small differences mean nothing."
    assert f"warning: {said}" in notes.lines
    assert f"**{said}**" in (tmp_path / "few" / "table.md").read_text()
    errors = [row for row in rows if row["metric"] == "mape"]
    assert errors
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] for row in errors)
    assert rows == json.loads((tmp_path / "few" / "table.json").read_text())


def test_many_images_of_one_person_are_one_person(small_run: Run, make_small_study: MakeStudy, tmp_path: Path) -> None:
    run, notes = Run(small_run.folder, make_small_study({"evaluation.people": 4})), Notes()
    store = run.store()
    store.table.loc[store.indices("test"), "patient"] = "the same"
    rows = evaluate_samples(run, store, tmp_path / "one", CPU, notes)
    assert any("Only 1 person: no figure has an interval" in line for line in notes.lines)
    assert all(row["ci_low"] is None for row in rows)
    assert "**Only 1 person: no figure has an interval" in (tmp_path / "one" / "table.md").read_text()


# --- the study ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge.seed": 0}, "judge.seed: must differ from segmentor.seed"),
        ({"variables.age.parents": ["plaque_area"]}, "cycle"),
        ({"structures.plaque": {"variable": "plaque_area"}}, "structures.plaque: say how masks show it"),
        (
            {"structures.plaque.variable": "calcium"},
            "structures.plaque.variable: 'calcium' is not a continuous variable",
        ),
    ],
)
def test_a_study_that_proves_nothing_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    (tmp_path / "study.yaml").write_text(yaml.safe_dump(changed(plaque_mapping(), changes)))
    assert main(["run", str(tmp_path / "study.yaml"), "--data", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


# --- a published model ---


@pytest.mark.parametrize("card", [None, " \n"])
def test_a_published_model_without_its_card_is_refused(
    card: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "jsrt", folder)
    (folder / "README.md").unlink()
    if card is not None:
        (folder / "README.md").write_text(card)
    with refused(RunError, Code.MISSING, "README.md"):
        segcft.load(folder)
    image = str(MODELS / "chest-sim" / "examples" / "1.png")
    words = ["counterfactual", str(folder), image, "--do", "heart_area=+10%", "--out", str(tmp_path / "answer")]
    assert main(words) == 1
    assert "README.md: " in capsys.readouterr().err
    assert not (tmp_path / "answer").exists()


def test_what_is_outside_the_training_range_is_told() -> None:
    model = segcft.load(MODELS / "chest-sim")
    image = MODELS / "chest-sim" / "examples" / "1.png"
    answer = model.counterfactual(image, {"sex": "M", "age": 300}, do={"heart_area": "+400%"}, draws=0)
    assert any("age: 300 (given) is not in the training range" in text for text in answer.warnings)
    assert any(text.startswith("heart_area: ") and "(asked for) is not in" in text for text in answer.warnings)
