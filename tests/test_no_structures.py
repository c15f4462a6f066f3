"""Studies without structures: attributes alone, through every stage, from files to answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from starlette.testclient import TestClient

import segcft
from segcft.app.catalogue import Catalogue
from segcft.app.server import make_app
from segcft.cli.entry import main
from segcft.config.loader import load_study, parse_study
from segcft.config.outline import Outline, leaves_out
from segcft.config.study import Study
from segcft.data.store import Store
from segcft.errors import Code, RunError, StudyError
from segcft.evaluate.comparison import Judged, compare, render_comparison
from segcft.pipeline.judging import load_judge
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.planning.plan import usual_study
from segcft.report.results import Result
from segcft.training.loop import make_fabric
from tests.conftest import MakeOnce, changed, small_mapping

SPEC = {"steps": 40, "batch_size": 12, "warmup_steps": 2, "learning_rate": 3e-3, "widths": [8, 8, 16, 16]}


def trait_mapping(**changes: Any) -> dict[str, Any]:
    """The small study without structures: sex and age cause the image."""
    raw = small_mapping()
    for key in ("structures", "segmentor", "judge", "regressor"):
        del raw[key]
    raw["variables"] = {name: raw["variables"][name] for name in ("sex", "age")}
    of_predictors = {"predictor": SPEC | {"seed": 7}, "predictor_judge": SPEC | {"seed": 8}}
    return changed(raw, of_predictors | {"name": "traits", "finetune.guides": ["predictor"]} | changes)


@pytest.fixture(scope="session")
def trait_run(made_once: MakeOnce) -> Run:
    """A whole run of it; only to be read."""
    study = parse_study(trait_mapping())

    def make(folder: Path) -> None:
        Pipeline(Run(folder / "run", study), make_fabric("cpu")).run_all()

    return Run(made_once("trait-run", make) / "run", study)


@pytest.fixture
def image(trait_run: Run) -> Any:
    pixels: np.ndarray = trait_run.store().images[0][0]
    return pixels


# --- the study --------------------------------------------------------------------------------------------


def test_it_has_no_masks_and_no_one_who_reads_them() -> None:
    study = parse_study(trait_mapping())
    assert study.segmentor is study.judge is None
    assert study.attributes == study.asked == ("sex", "age")
    assert study == Study.model_validate(study.model_dump(mode="json"))
    raw = trait_mapping()
    del raw["finetune"]["guides"]  # there is one
    assert parse_study(raw | {"structures": None}) == study


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"finetune.guides": ["segmentor"]}, "finetune.guides"),
        ({"finetune.guides": ["predictor", "regressor"], "regressor": SPEC}, "finetune.guides"),
        ({"segmentor": {"steps": 2, "seed": 1}}, "segmentor"),
        ({"judge": {"steps": 2}}, "judge"),
        ({"predictor": None}, "predictor"),
        ({"hvae.deform": {"share": 0.5}}, "hvae.deform"),
        ({"hvae.augment": {"deform": {"share": 0.5}}}, "hvae.augment.deform"),
        ({"finetune.augment": {"deform": {"share": 0.5}}}, "finetune.augment.deform"),
        ({"predictor": SPEC | {"seed": 7, "augment": {"deform": {"share": 0.5}}}}, "predictor.augment.deform"),
    ],
)
def test_what_needs_masks_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(StudyError) as refused:
        parse_study(trait_mapping(**changes))
    assert f"{field}:" in str(refused.value)


@pytest.mark.parametrize("missing", ["segmentor", "judge"])
def test_beside_structures_masks_are_read(missing: str) -> None:
    with pytest.raises(StudyError):
        parse_study(changed(small_mapping(), {missing: None}))
    raw = small_mapping()
    del raw[missing]
    assert leaves_out(raw)  # it may be planned


def test_beside_structures_a_predictor_is_no_guide_of_its_own() -> None:
    predictors = {"predictor": SPEC | {"seed": 7}, "predictor_judge": SPEC | {"seed": 8}}
    with pytest.raises(StudyError) as refused:
        parse_study(changed(small_mapping(), predictors | {"finetune.guides": ["predictor"]}))
    assert "finetune.guides:" in str(refused.value)


def test_all_else_can_be_planned() -> None:
    raw = {key: trait_mapping()[key] for key in ("name", "variables", "data")}
    assert leaves_out(raw)
    study = usual_study(Outline(raw, "study.yaml"))
    assert study.finetune.guides == ("predictor",)
    assert study.predictor is not None
    assert study.predictor_judge is not None


# --- the run ----------------------------------------------------------------------------------------------


def test_every_stage_runs(trait_run: Run) -> None:
    assert trait_run.parts == ("predictor", "predictor-judge", "scm", "hvae", "cft-predictor")
    assert trait_run.methods() == {"none": "hvae", "predictor": "cft-predictor"}
    assert trait_run.judges == ("predictor-judge",)
    assert trait_run.store().masks.shape[1] == 0
    rows = json.loads((trait_run.evaluation / "table.json").read_text(encoding="utf-8"))
    found = {(row["metric"], row["method"], row["intervention"]) for row in rows}
    for method in ("none", "predictor"):
        for asked in ("sex", "age"):
            for metric in ("attribute error", "attribute slope", "direct effect", "reversibility"):
                assert (metric, method, asked) in found
    assert not any(metric in ("mape", "locality", "dice") for metric, *_ in found)
    figures = {path.name for path in (trait_run.evaluation / "figures").iterdir()}
    assert figures == {f"attribute-{name}{kind}.png" for kind in ("", "-differences") for name in ("sex", "age")}
    for stage in ("cft-predictor", "evaluate"):
        assert Pipeline(trait_run, make_fabric("cpu")).run_stage(stage) is None  # up to date, and no error


def test_questions_are_answered(trait_run: Run, image: Any) -> None:
    model = segcft.load(trait_run.folder)
    answer = model.counterfactual(image, {"sex": "F", "age": 50}, {"sex": "M"})
    assert answer.image.shape == (1, 32, 32)
    assert answer.areas == {}
    assert answer.record["variables"]["sex"]["after"] == "M"
    older = model.counterfactual(image, {"sex": "F", "age": 50}, {"age": "+10"})
    assert older.record["variables"]["age"]["after"] == pytest.approx(60)
    with pytest.raises(RunError):
        model.counterfactual(image, {"sex": "F", "age": 50}, {"sex": "M"}, exact=True)


def test_it_is_published_reported_and_served(
    trait_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(trait_run, tmp_path / "model")
    assert "--do age=-20%" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert segcft.load(tmp_path / "model").methods == {"predictor": "cft-predictor"}
    assert main(["report", str(trait_run.folder), "--out", str(tmp_path / "report.html")]) == 0
    assert main(["results", str(trait_run.folder), "--out", str(tmp_path / "results.md")]) == 0
    assert "sex, age" in (tmp_path / "results.md").read_text(encoding="utf-8")
    capsys.readouterr()
    client = TestClient(make_app(Catalogue([tmp_path / "model"])), base_url="http://127.0.0.1:8000")
    told = client.get("/api/models/model").json()
    assert told["structures"] == []
    assert len(told["examples"]) == 3
    example = told["examples"][0]
    question = {"model": "model", "pixels": example["pixels"], "known": example["known"], "do": {"age": 60}}
    answer = client.post("/api/question", json=question).json()
    assert answer["outlines"] == {}
    assert answer["record"]["variables"]["age"]["after"] == 60


def test_files_need_no_masks(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "data" / "images").mkdir(parents=True)
    lines = ["id,sex,age"]
    for number in range(12):
        Image.fromarray(random.integers(0, 256, (32, 32), dtype=np.uint8)).save(
            tmp_path / "data" / "images" / f"p{number}.png"
        )
        lines.append(f"p{number},{'FM'[number % 2]},{40 + number}")
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(trait_mapping(data={"source": "folder"})), encoding="utf-8")
    words = ["import", str(path), "--out", str(tmp_path / "run"), "--data", str(tmp_path / "data")]
    assert main(words) == 0
    store = Store(tmp_path / "run" / "store")
    assert store.masks.shape == (12, 0, 32, 32)
    assert sorted(store.table["age"]) == list(range(40, 52))


def test_a_planned_file_is_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {key: trait_mapping()[key] for key in ("name", "variables", "data")}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(given | {"image": {"size": [32, 32]}}), encoding="utf-8")
    planned = tmp_path / "planned.yaml"
    assert main(["plan", str(tmp_path / "study.yaml"), "--hours", "0.01", "--out", str(planned)]) == 0
    assert load_study(planned).structures == {}
    capsys.readouterr()


def test_its_ablation_compares_attributes(trait_run: Run, tmp_path: Path) -> None:
    scores = pd.read_parquet(trait_run.evaluation / "scores.parquet")
    rows = compare([Judged("base", scores, {"predictor": 1.0})], trait_run.study)
    errors = {row["column"]: row["value"] for row in rows}
    assert errors["sex"] is not None
    assert errors["age"] is not None
    text = render_comparison(rows, trait_run.study, "Ablation", {"base": ""})
    assert "sex |" in text
    assert "18 validation people" in text
    assert "structure" not in text


def test_a_balanced_set_of_it_is_refused(trait_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["augment", str(trait_run.folder), str(tmp_path / "set"), "--variable", "age", "--label", "sex"]
    assert main(words) == 1
    assert "error: " in capsys.readouterr().err


def test_answers_need_no_one_who_judges_attributes(trait_run: Run, tmp_path: Path, image: Any) -> None:
    shutil.copytree(trait_run.folder, tmp_path / "run")
    Run(tmp_path / "run").path("predictor-judge").unlink()
    answer = segcft.load(tmp_path / "run").counterfactual(image, {"sex": "F", "age": 50}, {"sex": "M"})
    assert answer.record["variables"]["sex"]["after"] == "M"


def test_nobody_who_judges_leaves_nothing_to_compare(tmp_path: Path) -> None:
    raw = trait_mapping(**{"finetune.guides": []})
    del raw["predictor"], raw["predictor_judge"]
    run = Run(tmp_path, parse_study(raw))
    run.write_study()
    run.evaluation.mkdir()
    (run.evaluation / "table.json").write_text("[]", encoding="utf-8")
    with pytest.raises(RunError) as refused:
        Result.read(tmp_path)
    assert refused.value.code == Code.UNSUPPORTED


def test_a_segmentor_is_no_judge_of_it(trait_run: Run, small_run: Run) -> None:
    with pytest.raises(RunError) as refused:
        load_judge(trait_run, small_run.folder)
    assert refused.value.code == Code.OTHER
