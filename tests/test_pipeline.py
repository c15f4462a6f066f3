"""A study from its first stage to the table: what is made, what is skipped, what is made again."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import segcft
from refused import refused
from segcft.cli import main
from segcft.config.loader import load_study
from segcft.config.study import Study
from segcft.errors import Code, DataError, RunError, StudyError
from segcft.evaluate.names import SEG_LESS_REG
from segcft.grey import to_unit
from segcft.pipeline.importing import new_samples
from segcft.pipeline.judging import check_unseen, evaluate_samples
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.readers.segmentor import dice
from segcft.report.facts import seeds
from segcft.training import artefact
from segcft.training.loop import make_fabric
from segcft.utils.atomic import write_text
from segcft.utils.lock import Lock
from segcft.utils.progress import Progress
from tests.conftest import MODELS

PARTS = ("segmentor", "judge", "regressor", "scm", "hvae", "cft-regressor", "cft-segmentor")
FIELDS = {"method", "metric", "intervention", "structure", "intervened", "value", "ci_low", "ci_high", "n"}

JSRT = Path(os.environ.get("SEGCFT_JSRT", Path(__file__).parents[2] / "shared" / "data" / "jsrt256"))
needs_jsrt = pytest.mark.skipif(
    not (JSRT / "metadata.csv").is_file(), reason=f"no JSRT radiographs in {JSRT} (set SEGCFT_JSRT)"
)


class Notes(Progress):
    """What the user is told of every stage."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    @property
    def made(self) -> list[str]:
        return [line.split(":")[0] for line in self.lines if ": done in " in line]

    @property
    def skipped(self) -> list[str]:
        return [line.split(":")[0] for line in self.lines if line.endswith(": up to date")]


@pytest.fixture
def copied(small_run: Run, tmp_path: Path) -> Path:
    """The small run's folder, to be changed."""
    shutil.copytree(small_run.folder, tmp_path / "run")
    return tmp_path / "run"


def run_all(folder: Path, study: Study, data: Path | None = None) -> Notes:
    notes = Notes()
    Pipeline(Run(folder, study), make_fabric("cpu"), data, notes).run_all()
    return notes


def times(folder: Path) -> dict[str, int]:
    """When each file of a run was written, but for the study, which is always written anew."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != "study.yaml"
    }


# --- a whole run ---


def test_a_run_makes_every_part(small_run: Run) -> None:
    folder = small_run.folder
    assert all((folder / f"{part}.safetensors").is_file() for part in PARTS)
    assert load_study(folder / "study.yaml") == small_run.study
    assert Run(folder).study == small_run.study
    assert {path.name for path in (folder / "training").iterdir()} == {f"{part}.jsonl" for part in PARTS}
    assert (folder / "evaluation" / "table.md").read_text().startswith("# small")
    pictures = list((folder / "evaluation" / "figures").iterdir())
    assert pictures
    for picture in pictures:
        with Image.open(picture) as image:
            image.verify()
    assert not list(folder.rglob("*partial*"))


def test_the_table_has_a_row_for_every_question(small_run: Run) -> None:
    rows = json.loads((small_run.evaluation / "table.json").read_text())
    assert all(set(row) == FIELDS for row in rows)
    areas, structures = small_run.study.measured, tuple(small_run.study.structures)
    asked = {(r["method"], r["intervention"], r["structure"]) for r in rows if r["metric"] == "mape"}
    for method in ("none", "regressor", "segmentor"):
        assert {(method, area, structure) for area in areas for structure in structures} <= asked
    for row in rows:
        intervened = row["structure"] != "" and row["intervention"] == f"{row['structure']}_area"
        assert row["intervened"] == intervened
        assert isinstance(row["n"], int)
        if row["value"] is not None and row["ci_low"] is not None:
            assert row["ci_low"] <= row["value"] <= row["ci_high"]
    composition = {r["method"]: r["value"] for r in rows if r["metric"] == "composition"}
    assert set(composition) == {"none", "regressor", "segmentor", SEG_LESS_REG}
    assert max(composition.values()) < 1


def test_methods_are_what_is_trained(small_run: Run, copied: Path) -> None:
    assert small_run.methods() == {"none": "hvae", "regressor": "cft-regressor", "segmentor": "cft-segmentor"}
    (copied / "cft-regressor.safetensors").unlink()
    assert list(Run(copied).methods()) == ["none", "segmentor"]
    with refused(RunError, Code.UNKNOWN, copied):
        Run(copied).model("regressor")


def test_fine_tuning_starts_from_the_pretrained_model_and_changes_it(small_run: Run) -> None:
    networks = {part: small_run.load(part).state_dict() for part in ("hvae", "cft-regressor", "cft-segmentor")}
    distance = {
        part: max(float((networks["hvae"][key] - value).abs().max()) for key, value in weights.items())
        for part, weights in networks.items()
    }
    assert distance["hvae"] == 0
    assert 0 < distance["cft-segmentor"] < 0.1
    assert 0 < distance["cft-regressor"] < 0.1


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with refused(RunError, Code.MISSING, tmp_path):
        Run(tmp_path)
    with refused(RunError, Code.MISSING, "nowhere"):
        Run(tmp_path / "nowhere")


# --- what is skipped, and what is made again ---


def test_a_second_run_changes_nothing(small_study: Study, copied: Path) -> None:
    before = times(copied)
    notes = run_all(copied, small_study)
    assert notes.skipped == ["import", *PARTS, "evaluate"]
    assert notes.made == []
    assert times(copied) == before


@pytest.mark.parametrize(
    ("changes", "affected"),
    [
        ({"evaluation.seed": 7}, {"evaluate"}),
        ({"description": "another text"}, set()),
        ({"hvae.recompute": True, "finetune.checkpoint_steps": 3}, set()),
        ({"regressor.steps": 2}, {"regressor", "cft-regressor", "evaluate"}),
        ({"judge.steps": 2}, {"judge", "evaluate"}),
        ({"segmentor.steps": 2}, {"segmentor", "cft-segmentor", "evaluate"}),
        ({"scm.steps": 2}, {"scm", "cft-regressor", "cft-segmentor", "evaluate"}),
        ({"hvae.beta": 2.0, "hvae.steps": 2}, {"hvae", "cft-regressor", "cft-segmentor", "evaluate"}),
        ({"finetune.steps": 2}, {"cft-regressor", "cft-segmentor", "evaluate"}),
        ({"image.channels": 3}, {*PARTS, "evaluate"}),
        ({"finetune.guides": ["segmentor"]}, {"evaluate"}),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_a_change_of_the_study_changes_the_keys_of_just_what_depends_on_it(
    make_small_study: Any, changes: dict[str, Any], affected: set[str]
) -> None:
    before, after = keys_of(make_small_study()), keys_of(make_small_study(changes))
    assert {stage for stage in after if after[stage] != before[stage]} == affected


def keys_of(study: Study, samples: str = "samples") -> dict[str, str]:
    """The keys of all stages, of samples with this fingerprint: nothing is read or made."""
    pipeline = Pipeline(Run("nowhere", study), make_fabric("cpu"))
    pipeline.keys["import"] = samples
    for stage in pipeline.stages[1:]:
        pipeline.keys[stage] = pipeline.key(stage)
    return pipeline.keys


def test_other_samples_and_another_version_change_all_keys(small_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys_of(small_study)
    other = keys_of(small_study, "other samples")
    assert all(other[stage] != before[stage] for stage in before)
    monkeypatch.setattr(segcft, "__version__", "0.0.0")
    assert all(key != before[stage] for stage, key in keys_of(small_study).items() if stage != "import")


def test_architectures_with_the_same_settings_have_keys_of_their_own(small_study: Study) -> None:
    def named(architecture: str) -> dict[str, str]:
        hvae = small_study.hvae.model_copy(update={"architecture": architecture})
        with warnings.catch_warnings(action="ignore"):  # no study can name it
            return keys_of(small_study.model_copy(update={"hvae": hvae}))

    found = [keys_of(small_study), named("flow"), named("diffusion")]
    for stage in ("hvae", "cft-regressor", "cft-segmentor", "evaluate"):
        assert len({keys[stage] for keys in found}) == 3
    assert len({keys["scm"] for keys in found}) == 1


def test_a_stage_whose_key_has_changed_is_not_up_to_date(make_small_study: Any, copied: Path) -> None:
    pipeline = Pipeline(Run(copied, make_small_study({"regressor.steps": 2})), make_fabric("cpu"))
    pipeline.run_stage("import")
    assert [
        stage for stage in ("segmentor", "judge", "regressor", "scm", "hvae") if not pipeline.is_current(stage)
    ] == ["regressor"]


@pytest.mark.parametrize("changes", [{"splits.seed": 5}, {"data.seed": 5}], ids=str)
def test_other_samples_are_imported_and_learnt_from_anew(
    make_small_study: Any, copied: Path, changes: dict[str, Any]
) -> None:
    pipeline = Pipeline(Run(copied, make_small_study(changes)), make_fabric("cpu"), progress=(notes := Notes()))
    pipeline.run_stage("scm")
    assert notes.made == ["import", "scm"]
    assert load_study(copied / "study.yaml") == pipeline.study


# --- what is made again though it is up to date ---


def test_a_stage_that_is_forgotten_is_made_again_with_what_depends_on_it(small_study: Study, copied: Path) -> None:
    for part in ("scm", "cft-segmentor", "hvae"):
        (copied / "training" / f"{part}.checkpoint").write_bytes(b"of a training that was interrupted")
    Pipeline(Run(copied, small_study), make_fabric("cpu")).forget(["scm"])
    # The next process finds it so, even if it is not told.
    pipeline = Pipeline(Run(copied, small_study), make_fabric("cpu"), progress=(notes := Notes()))
    pipeline.run_stage("import")
    assert [part for part in PARTS[:5] if pipeline.is_current(part)] == ["segmentor", "judge", "regressor", "hvae"]
    assert not list(copied.glob("cft-*"))
    assert {path.stem for path in (copied / "training").glob("*.checkpoint")} == {"hvae"}
    assert not (copied / "evaluation" / "evaluation.json").exists()
    before = artefact.read_meta(Run(copied).path("hvae"))["key"]
    pipeline.run_stage("scm")
    assert notes.made == ["scm"]
    assert pipeline.keys["hvae"] == before


def test_samples_that_are_forgotten_are_imported_again_and_parts_follow_if_they_differ(
    small_study: Study, copied: Path
) -> None:
    pipeline = Pipeline(Run(copied, small_study), make_fabric("cpu"), progress=(notes := Notes()))
    pipeline.forget(["import"])
    pipeline.run_stage("scm")
    assert (notes.made, notes.skipped) == (["import"], ["scm"])


def test_what_cannot_be_made_again_is_not_forgotten(make_small_study: Any, small_study: Study, copied: Path) -> None:
    pipeline = Pipeline(Run(copied, small_study), make_fabric("cpu"))
    with refused(StudyError, Code.UNKNOWN, "sgementor"):
        pipeline.forget(["sgementor"])
    path = pipeline.run.path("hvae")
    artefact.save(path, pipeline.run.load("hvae"), artefact.read_meta(path) | {"source": {"checkpoint": "/c.pt"}})
    for stages in (["hvae"], ["judge", "hvae"], ["import", "segmentor", "hvae"]):
        before = times(copied)
        with refused(RunError, Code.UNSUPPORTED, "hvae.safetensors"):
            pipeline.forget(stages)
        assert times(copied).keys() >= before.keys()  # none of the others, either
    structures = {
        name: one.model_dump() | {"bit": 2**i} for i, (name, one) in enumerate(small_study.structures.items())
    }
    real = make_small_study({"data": {"source": "folder"}, "structures": structures})
    with refused(DataError, Code.MISSING, "--data"):
        Pipeline(Run(copied, real), make_fabric("cpu")).forget(["import", "scm"])
    assert (copied / "import.json").is_file()
    assert (copied / "scm.safetensors").is_file()


def test_nobody_else_writes_an_evaluation_before_its_record_is_there(
    small_study: Study, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def is_taken(step: str) -> None:
        with refused(RunError, Code.BUSY, "evaluation"), Lock(copied / "evaluation"):
            pytest.fail("somebody else may write")
        steps.append(step)

    def write(path: Path, text: str) -> None:
        is_taken("record")
        write_text(path, text)

    monkeypatch.setattr("segcft.pipeline.stages.evaluation.evaluate_samples", lambda *_: is_taken("table"))
    monkeypatch.setattr("segcft.pipeline.stage.write_text", write)
    pipeline = Pipeline(Run(copied, small_study), make_fabric("cpu"))
    pipeline.forget(["evaluate"])
    pipeline.run_stage("evaluate")
    assert steps == ["table", "record"]
    with Lock(copied / "evaluation"):
        pass


@pytest.mark.slow
def test_again_on_the_command_line_and_the_folder_of_a_run_for_its_study(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(copied), "--again", "evaluate", "--device", "cpu", "--jobs", "1"]) == 0
    told = capsys.readouterr().err
    assert "evaluate: done in" in told
    assert "hvae: up to date" in told
    assert main(["run", str(copied), "--again", "cft-other"]) == 1
    assert f"{copied}: " in (told := capsys.readouterr().err)
    assert "no stage 'cft-other'" in told


def test_a_published_model_is_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    before = times(MODELS / "chest-sim")
    assert main(["run", str(MODELS / "chest-sim"), "--device", "cpu"]) == 1
    assert "a published model has no samples" in capsys.readouterr().err
    assert times(MODELS / "chest-sim") == before


def test_a_stage_runs_what_it_needs_and_no_more(make_small_study: Any, tmp_path: Path) -> None:
    study = make_small_study(
        {"data.people": 40, "scm.steps": 2, "hvae.steps": 2, "segmentor.steps": 2, "finetune.steps": 2}
    )
    pipeline = Pipeline(Run(tmp_path / "run", study), make_fabric("cpu"), progress=(notes := Notes()))
    pipeline.run_stage("cft-segmentor")
    assert notes.made == ["import", "scm", "hvae", "segmentor", "cft-segmentor"]
    assert not (tmp_path / "run" / "judge.safetensors").exists()


def test_a_missing_part_is_made_again_and_nothing_else(small_study: Study, copied: Path) -> None:
    (copied / "cft-segmentor.safetensors").unlink()
    pipeline = Pipeline(Run(copied, small_study), make_fabric("cpu"), progress=(notes := Notes()))
    for stage in PARTS:
        pipeline.run_stage(stage)
    assert notes.made == ["cft-segmentor"]


def test_a_study_of_one_guide_has_no_stage_of_the_other(make_small_study: Any, tmp_path: Path) -> None:
    study = make_small_study({"finetune.guides": ["segmentor"]})
    pipeline = Pipeline(Run(tmp_path / "run", study), make_fabric("cpu"))
    assert "cft-regressor" not in pipeline.stages
    assert "cft-regressor" not in pipeline.needs("evaluate")
    assert "regressor" in pipeline.stages
    study = make_small_study({"finetune.guides": ["segmentor"], "regressor": None})
    stages = Pipeline(Run(tmp_path / "run", study), make_fabric("cpu")).stages
    assert stages == ("import", "segmentor", "judge", "scm", "hvae", "cft-segmentor", "evaluate")
    assert "regressor.seed" not in seeds(study)


# --- people whom the run has never seen ---


def test_the_training_people_are_refused(small_run: Run) -> None:
    with pytest.raises(DataError, match="72 of the images"):
        check_unseen(small_run, small_run.store())
    store = small_run.store()
    store.table = store.table[store.table["split"] == "test"]
    check_unseen(small_run, store)


def test_new_simulated_people_have_another_seed(small_run: Run, tmp_path: Path) -> None:
    store = new_samples(small_run.study, None, 99, tmp_path / "store", Progress())
    assert set(store.table["split"]) == {"test"}
    assert len(store) == small_run.study.data.people
    check_unseen(small_run, store)
    with refused(DataError, Code.LEAK, "--seed"):
        new_samples(small_run.study, None, 3, tmp_path / "other", Progress())
    with refused(DataError, Code.MISSING, tmp_path):
        new_samples(small_run.study, tmp_path, None, tmp_path / "other", Progress())


def test_a_store_may_be_given_whole(small_run: Run, make_small_study: Any, tmp_path: Path) -> None:
    new_samples(small_run.study, None, 99, tmp_path / "store", Progress())
    before = times(tmp_path / "store")
    store = new_samples(small_run.study, tmp_path / "store", None, tmp_path / "unused", Progress())
    assert (len(store.indices("test")), (tmp_path / "unused").exists()) == (90, False)
    assert times(tmp_path / "store") == before
    with refused(DataError, Code.OTHER, "size"):
        new_samples(make_small_study({"image.size": [64, 64]}), tmp_path / "store", None, tmp_path, Progress())


def test_nobody_to_evaluate_is_told(small_run: Run, tmp_path: Path) -> None:
    store = small_run.store()
    store.table["split"] = "train"
    with refused(DataError, Code.EMPTY, store.folder):
        evaluate_samples(small_run, store, tmp_path, torch.device("cpu"), Progress())


@pytest.mark.usefixtures("undrawn")
def test_validation_people_may_be_judged_on_instead(small_study: Study, copied: Path) -> None:
    test = times(copied / "evaluation")
    for made in (["evaluate"], []):
        notes = Notes()
        Pipeline(Run(copied, small_study), make_fabric("cpu"), progress=notes, split="validation").run_all()
        assert notes.made == made
    assert times(copied / "evaluation") == test
    scores = pd.read_parquet(copied / "evaluation-validation" / "scores.parquet")
    people = Run(copied).store().table
    assert set(scores["id"]) == set(people.loc[people["split"] == "validation", "id"])
    assert "**Validation samples: to choose settings by." in (copied / "evaluation-validation" / "table.md").read_text()


# --- structures that may be absent ---


def test_a_structure_that_many_lack_goes_through_every_stage(plaque_run: Run) -> None:
    store, study = plaque_run.store(), plaque_run.study
    plaque = store.values()[:, study.measured_columns[1]]
    assert 0.2 < (plaque == 0).mean() < 0.6
    assert len(store.rejected) == 0
    for part in PARTS:
        assert all(np.isfinite(value) for value in artefact.read_meta(plaque_run.path(part))["metrics"].values())
        assert all(tensor.isfinite().all() for tensor in plaque_run.load(part).state_dict().values())
    test = store.indices("test", complete=True)
    with torch.no_grad():
        seen = plaque_run.load("judge").masks(to_unit(torch.from_numpy(store.images[test]))) > 0.5
    means = dice(seen.float(), (torch.from_numpy(store.masks[test]) > 127).float()).nanmean(dim=0)
    overlap = dict(zip(study.structures, means.tolist(), strict=True))
    rows = json.loads((plaque_run.evaluation / "table.json").read_text())
    for row in rows:
        if row["metric"] == "mae":  # an absent structure has an error like any other
            assert row["n"] == len(test)
            assert np.isfinite([row["value"], row["ci_low"], row["ci_high"]]).all()
        if row["metric"] == "dice" and row["method"] == "judge":
            assert row["n"] == (len(test) if row["structure"] == "vessel" else (plaque[test] > 0).sum())
            assert row["value"] == pytest.approx(overlap[row["structure"]], abs=1e-4)
    slopes = [row for row in rows if row["metric"] == "slope" and row["intervention"] == "plaque_area"]
    assert slopes
    assert all(np.isfinite(row["value"]) for row in slopes)
    assert {row["metric"] for row in rows} >= {"locality", "reversibility", "composition"}
    pictures = {path.name for path in (plaque_run.evaluation / "figures").iterdir()}
    assert pictures >= {"counterfactuals-plaque.png", "differences-plaque.png", "asked-obtained.png"}


# --- real radiographs ---


@pytest.mark.slow
@needs_jsrt
def test_real_radiographs_go_through_every_stage(make_small_study: Any, tmp_path: Path) -> None:
    structures = {
        name: {"variable": f"{name}_area", "bit": bit}
        for name, bit in (("left_lung", 1), ("right_lung", 2), ("heart", 4))
    }
    deformation = {"rotate": 8, "shift": 0.05, "scale": 0.1, "elastic": 0.01, "gamma": 0.2, "noise": 0.02}
    few = {f"{stage}.steps": 3 for stage in ("segmentor", "judge", "regressor", "scm", "hvae", "finetune")}
    study = make_small_study(
        few
        | {"data": {"source": "folder"}, "structures": structures}
        | {f"{stage}.augment": deformation for stage in ("segmentor", "regressor", "hvae", "finetune")}
        | {"evaluation.people": 8, "evaluation.bootstrap": 40}
    )
    run = Run(tmp_path / "run", study)
    with refused(DataError, Code.MISSING, "--data"):
        Pipeline(run, make_fabric("cpu")).run_stage("import")
    notes = run_all(run.folder, study, JSRT)
    assert notes.made == ["import", *PARTS, "evaluate"]
    assert any("2 lack an attribute" in line for line in notes.lines)
    rows = json.loads((run.evaluation / "table.json").read_text())
    assert {row["method"] for row in rows} >= {"none", "regressor", "segmentor"}
    assert not any(row["metric"].startswith("true") for row in rows)  # nobody knows the truth here
    assert artefact.read_meta(run.path("hvae"))["data"] == run.store().fingerprint
    # With the samples imported, the folder is no longer needed.
    assert run_all(run.folder, study).skipped == ["import", *PARTS, "evaluate"]
    with refused(DataError, Code.LEAK):
        check_unseen(run, new_samples(study, JSRT, None, tmp_path / "people", Progress()))
    with refused(DataError, Code.CONFLICT, "--seed"):
        new_samples(study, None, 4, tmp_path / "people", Progress())
