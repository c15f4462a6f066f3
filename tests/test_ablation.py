"""Ablations: files that are accepted, what variants share, and whether the table says what the variants' own do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from refused import refused
from segcft.cli import main
from segcft.config.loader import load_study
from segcft.config.outline import Outline, read_study
from segcft.errors import Code, SegcftError, StudyError
from segcft.evaluate.comparison import SECONDS, WORST
from segcft.pipeline.ablation import load_ablation, merged, run_ablation
from segcft.pipeline.importing import take_samples
from segcft.pipeline.run import Run
from segcft.planning.plan import usual_study
from segcft.training.loop import make_fabric
from tests.conftest import MakeStudy
from tests.test_pipeline import Notes, times

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]

CONFIGS = Path(__file__).parent.parent / "configs"
SHIPPED = sorted((CONFIGS / "ablation").glob("*.yaml"))
VARIANTS = {
    "first": {},
    "several": {"why": "more than one variable", "finetune": {"also": 0.5}},
    "noise": {"segmentor": {"steps": 3, "augment": {"noise": 0.1}}},
}
SHARED = {
    "several": {"segmentor", "judge", "regressor", "scm", "hvae"},
    "noise": {"judge", "regressor", "scm", "hvae", "cft-regressor"},
}
OWN = {"several": ["cft-regressor", "cft-segmentor"], "noise": ["segmentor", "cft-segmentor"]}


def write(folder: Path, raw: Any, base: Path) -> Path:
    path = folder / "guides.yaml"
    path.write_text(yaml.safe_dump({"base": str(base), "variants": raw}, sort_keys=False), encoding="utf-8")
    return path


def run(path: Path, folder: Path, *only: str) -> Notes:
    notes = Notes()
    run_ablation(load_ablation(path), folder, make_fabric("cpu"), progress=notes, only=only)
    return notes


@pytest.fixture(scope="module")
def path(small_study_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("ablation"), VARIANTS, small_study_file)


@pytest.fixture(scope="module")
def made(path: Path, small_run: Run) -> tuple[Path, Notes]:
    """The folder of the ablation, whose first variant was there already, and what was said."""
    shutil.copytree(small_run.folder, path.parent / "runs" / "first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segcft.evaluate.figures.write_figures", lambda *_: None)  # as in all tests of this file
        return path.parent / "runs", run(path, path.parent / "runs")


def files(folder: Path) -> dict[str, int]:
    """Where on the disk every file of a run is."""
    return {str(file.relative_to(folder)): file.stat().st_ino for file in folder.rglob("*") if file.is_file()}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "table.json").read_text())
    return rows


def cell(rows: list[dict[str, Any]], *key: str) -> dict[str, Any]:
    (found,) = [row for row in rows if (row["variant"], row["method"], row["column"]) == key]
    return found


# --- what runs ---


def test_what_is_made_alike_is_made_once(made: tuple[Path, Notes]) -> None:
    folder, notes = made
    assert notes.made == ["evaluate", *OWN["several"], "evaluate", *OWN["noise"], "evaluate"]
    first = files(folder / "first")
    for variant, parts in SHARED.items():
        mine = files(folder / variant)
        same = {name for name, place in mine.items() if first.get(name) == place}
        store = {name for name in first if name.startswith("store/")}
        assert same == {f"{part}.safetensors" for part in parts} | store | {"import.json"}
        assert len(store) == 6
        assert not any("partial" in name for name in mine)


def test_variants_are_ordinary_runs(made: tuple[Path, Notes], path: Path) -> None:
    folder, _ = made
    study = load_study(folder / "several" / "study.yaml")
    assert (study.name, study.description, study.finetune.also) == ("small-several", "more than one variable", 0.5)
    assert Run(folder / "several").methods().keys() == {"none", "regressor", "segmentor"}
    assert study == load_ablation(path).studies["several"]


def test_a_second_time_nothing_is_made(made: tuple[Path, Notes], path: Path) -> None:
    folder, _ = made
    before = {name: times(folder / name) for name in VARIANTS}
    table = (folder / "table.md").read_text()
    notes = run(path, folder)
    assert notes.made == []
    assert {name: times(folder / name) for name in VARIANTS} == before
    assert (folder / "table.md").read_text() == table


def test_a_changed_variant_is_made_anew_and_the_rest_stays(
    made: tuple[Path, Notes], small_study_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(made[0], tmp_path / "runs")
    (tmp_path / "runs" / "noise" / "judge.safetensors").unlink()
    changed = VARIANTS | {"several": {"finetune": {"also": 1.0}}}
    path = write(tmp_path, changed, small_study_file)
    notes = run(path, tmp_path / "runs", "several")
    assert notes.made == [*OWN["several"], "evaluate"]
    # The table has whoever is up to date, whichever was asked for.
    assert {row["variant"] for row in rows_of(tmp_path / "runs")} == {"first", "several"}
    assert run(path, tmp_path / "runs").made == []  # the judge of another variant was taken
    assert {row["variant"] for row in rows_of(tmp_path / "runs")} == set(VARIANTS)


def test_a_variant_that_fails_does_not_stop_the_others(
    made: tuple[Path, Notes], small_study_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(made[0], tmp_path / "runs")
    failing = {"finetune": {"gradient_skip": 1e-9, "checkpoint_steps": 2}}
    path = write(tmp_path, {"first": {}, "failing": failing, "noise": VARIANTS["noise"]}, small_study_file)
    with pytest.raises(SegcftError) as told:
        run(path, tmp_path / "runs")
    assert (told.value.code, told.value.field) == (Code.FAILED, str(tmp_path / "runs"))
    assert "\nfailing: cft-regressor: " in told.value.text
    assert {row["variant"] for row in rows_of(tmp_path / "runs")} == {"first", "noise"}
    with refused(SegcftError, Code.FAILED, "cft-regressor"):
        run(path, tmp_path / "runs", "failing")


def test_samples_of_another_study_are_not_shared(small_run: Run, make_small_study: MakeStudy, tmp_path: Path) -> None:
    other = Run(tmp_path / "other", make_small_study({"data.seed": 4}))
    assert not take_samples(other, None, [small_run])
    mine = Run(tmp_path / "mine", small_run.study)
    (tmp_path / "mine" / "store").mkdir(parents=True)
    assert take_samples(mine, None, [other, small_run])
    assert mine.store().fingerprint == small_run.store().fingerprint
    assert not take_samples(mine, None, [small_run])  # they are its own now


# --- the table ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table_has_the_numbers_of_the_variants_own_evaluation(made: tuple[Path, Notes], variant: str) -> None:
    folder, _ = made
    rows, theirs = rows_of(folder), rows_of(folder / variant / "evaluation-validation")
    areas = [row for row in theirs if row["metric"] == "mape" and row["structure"]]
    for method in ("regressor", "segmentor"):
        errors = [row for row in areas if row["method"] == method]
        for row in errors:
            if row["intervened"]:
                ours = cell(rows, variant, method, row["structure"])
                fields = ("value", "ci_low", "ci_high", "n")
                assert [ours[f] for f in fields] == [pytest.approx(row[f]) for f in fields]
        worst = max(row["value"] for row in errors if not row["intervened"])
        assert cell(rows, variant, method, WORST)["value"] == pytest.approx(worst)
        for metric in ("locality", "true counterfactual error", "reversibility"):
            found = [row for row in theirs if row["method"] == method and row["metric"] == metric]
            assert len(found) == 3
            mean = sum(row["value"] * row["n"] for row in found) / sum(row["n"] for row in found)
            assert cell(rows, variant, method, metric)["value"] == pytest.approx(mean)
        assert cell(rows, variant, method, SECONDS)["value"] > 0


def test_validation_people_are_judged_on(made: tuple[Path, Notes]) -> None:
    folder, _ = made
    for variant in VARIANTS:
        people = Run(folder / variant).store().table
        scores = pd.read_parquet(folder / variant / "evaluation-validation" / "scores.parquet")
        assert set(scores["id"]) == set(people.loc[people["split"] == "validation", "id"])
    assert not (folder / "several" / "evaluation").exists()
    assert "judged on 19 validation people" in (folder / "table.md").read_text()


def test_differences_are_from_the_first_variant_person_by_person(made: tuple[Path, Notes]) -> None:
    folder, _ = made
    rows = rows_of(folder)
    for row in rows:
        compared = row["variant"] != "first" and row["column"] not in (WORST, SECONDS)
        assert (row["difference"] is not None) == compared
        if compared:
            first = cell(rows, "first", row["method"], row["column"])
            if row["column"] in ("left_lung", "right_lung", "heart"):  # the others miss a few of either's people
                assert row["difference"] == pytest.approx(row["value"] - first["value"], abs=1e-9)
            assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    same = cell(rows, "noise", "regressor", "heart")  # a part that is shared
    assert same["difference"] == same["difference_low"] == same["difference_high"] == 0
    text = (folder / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("| first", "| several", "| noise"))]
    assert len(lines) == 6
    marked = [r for r in rows if r["difference"] is not None and r["difference_low"] * r["difference_high"] > 0]
    assert sum(line.count("↑") + line.count("↓") for line in lines) == len(marked)
    assert "- several: more than one variable - `finetune.also: 0.5`" in text


def test_the_command_prints_the_table(made: tuple[Path, Notes], path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = made
    assert main(["ablation", str(path), "--out", str(folder), "--device", "cpu", "--jobs", "2"]) == 0
    out, err = capsys.readouterr()
    assert out == (folder / "table.md").read_text() + "\n"
    assert "[3/3] noise" in err
    assert main(["ablation", str(path), "--out", str(folder), "--only", "nosie"]) == 1
    assert "--only nosie: the variants are first, several, noise" in capsys.readouterr().err


# --- files ---


def test_a_change_replaces_values_and_lists_and_goes_into_mappings() -> None:
    raw = {"a": {"b": 1, "c": {"d": 2, "e": [3, 4]}}, "f": {"g": 5}}
    changes = {"a": {"c": {"e": [6]}, "h": {"i": 7}}, "f": {}}
    assert merged(raw, changes) == {"a": {"b": 1, "c": {"d": 2, "e": [6]}, "h": {"i": 7}}, "f": {}}
    assert raw == {"a": {"b": 1, "c": {"d": 2, "e": [3, 4]}}, "f": {"g": 5}}


@pytest.mark.parametrize(
    ("variants", "where", "what"),
    [
        ({}, "variants", "at least 1 item"),
        ({"best": None}, "variants.best", "valid dictionary"),
        ({"be/st": {}}, "variants.be/st", "match pattern"),
        ({"table.md": {}}, "variants.table.md", "match pattern"),
        ({"best": {"finetun": {"also": 0}}}, "variants.best.finetun", "unknown key; did you mean 'finetune'?"),
        ({"best": {"finetune": 3}}, "variants.best.finetune", "valid dictionary, got 3"),
        ({"best": {"finetune": {"als": 0}}}, "variants.best: finetune.als", "unknown key; did you mean 'also'?"),
        ({"best": {"finetune": {"also": 2}}}, "variants.best: finetune.also", "less than or equal to 1"),
        ({"best": {"hvae": {"levels": []}}}, "variants.best: hvae.levels", "at least 1 item"),
        ({"best": {"judge": {"steps": 3}}}, "variants.best", "cannot change 'judge', only segmentor, regressor,"),
        ({"best": {"evaluation": {"seed": 3}}}, "variants.best", "cannot change 'evaluation'"),
        ({"best": {}, "same": {"finetune": {"also": 0.0}}}, "variants.same", "the same study as variants.best"),
    ],
)
def test_errors_name_file_variant_and_key(
    small_study_file: Path, tmp_path: Path, variants: Any, where: str, what: str
) -> None:
    path = write(tmp_path, variants, small_study_file)
    with pytest.raises(StudyError) as caught:
        load_ablation(path)
    lines = str(caught.value).splitlines()
    assert any(line.startswith(f"{path}: {where}") and what in line for line in lines), str(caught.value)


def test_a_wrong_base_is_told(small_study_file: Path, tmp_path: Path) -> None:
    with refused(StudyError, Code.UNREADABLE, "absent.yaml"):
        load_ablation(write(tmp_path, {"best": {}}, tmp_path / "absent.yaml"))
    raw = yaml.safe_load(small_study_file.read_text())
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump(raw | {"splits": {"train": 0.8, "validation": 0, "test": 0.2}}))
    with refused(StudyError, Code.OUT_OF_RANGE, "base.yaml: splits.validation"):
        load_ablation(write(tmp_path, {"best": {}}, base))
    with refused(StudyError, Code.UNREADABLE, "absent.yaml"):
        load_ablation(tmp_path / "absent.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_ablations_load(path: Path, tmp_path: Path) -> None:
    """Those that go with any study, with a planned one."""
    base = None
    if "base" not in yaml.safe_load(path.read_text(encoding="utf-8")):
        outline = read_study(CONFIGS / "planned" / "chest-sim.yaml")
        assert isinstance(outline, Outline)
        base = tmp_path / "plan.yaml"
        base.write_text(yaml.safe_dump(usual_study(outline).model_dump(mode="json")), encoding="utf-8")
    ablation = load_ablation(path, base)
    assert len(ablation.studies) > 1
    assert all(ablation.specs[name].changes for name in list(ablation.studies)[1:])


def test_a_base_may_be_given_instead_of_the_file_s(small_study_file: Path, tmp_path: Path) -> None:
    path = write(tmp_path, {"best": {}}, tmp_path / "absent.yaml")
    ablation = load_ablation(path, small_study_file)
    assert ablation.base == load_study(small_study_file)
    assert ablation.base.name in ablation.name  # the folder of its runs is another than that of the file's own base
    free = tmp_path / "free.yaml"
    free.write_text(yaml.safe_dump({"variants": {"best": {}}}))
    assert load_ablation(free, small_study_file).studies.keys() == {"best"}
    with refused(StudyError, Code.MISSING, f"{free}: base"):
        load_ablation(free)
