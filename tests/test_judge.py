"""The judge is no kin of the guide: another architecture, another loss, other subjects, and errors of its own."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from refused import refused
from segcft.config.loader import load_study, parse_study
from segcft.config.segmentors import SegResNetSpec, UNetSpec
from segcft.config.study import Study
from segcft.data.batches import sequential
from segcft.data.splits import PARTS
from segcft.data.store import Store
from segcft.errors import Code, DataError, RunError, StudyError
from segcft.evaluate import names
from segcft.evaluate.answered import FactualBatch, GuideBatch
from segcft.evaluate.bootstrap import bootstrap_means, bootstrap_of_means
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.metrics.kinship import KIN, Kinship, kin
from segcft.evaluate.scores import Row, Scores
from segcft.grey import to_unit
from segcft.importers.simulated import import_simulated
from segcft.measures.measurements import Measurements
from segcft.pipeline.judging import check_apart, evaluate_samples, guides_of, load_judge
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stage import training_stages
from segcft.readers.reader import MaskReader, Reader
from segcft.readers.segmentor import SegmentorObjective
from segcft.readers.segresnet import SegResNet
from segcft.report.facts import guards, read_parts
from segcft.report.page import render_report
from segcft.training import artefact
from segcft.training.loop import make_fabric
from tests.conftest import MakeStudy, small_mapping
from tests.test_guides import Drawn
from tests.test_pipeline import Notes

CPU = torch.device("cpu")


# --- errors that go together ---


class Told(Reader):
    """A reader that reads of each image of a store the numbers (N, M) that it was told."""

    def __init__(self, store: Store, numbers: np.ndarray) -> None:
        super().__init__()
        self.places = {image.tobytes(): place for place, image in enumerate(store.images)}
        self.numbers = torch.from_numpy(numbers)

    def estimate(self, x: Tensor) -> Tensor:
        images = ((x + 1) * 127.5).round().to(torch.uint8).numpy()
        return self.numbers[[self.places[image.tobytes()] for image in images]].float()


class ToldJudge(Told):
    """The same, as a judge: its masks are numbers, and it measures nothing in them."""

    masks = Told.estimate

    @property
    def measurements(self) -> Any:
        return self

    def read(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        return x


def of_both(run: Run, ours: np.ndarray, theirs: np.ndarray, patients: list[str] | None = None) -> list[Row]:
    """The rows of a judge and a guide with these errors (N, M) on the run's samples."""
    study, store = run.study, run.store()
    known = store.values()[:, study.measured_columns].astype(np.float64)
    judge: Any = ToldJudge(store, known + ours)
    guide = Told(store, known + theirs)
    cohort, scores = Cohort(study, store, store.indices(), CPU), Scores()
    for samples in cohort.batches():
        batch = GuideBatch(FactualBatch(cohort, samples, judge), guide)
        for result in Kinship().of_guide(batch):
            scores.add(names.guide("segmentor"), Kinship.name, result.values, structure=result.structure)
    scores.add("none", "mape", cohort.values[:, 0])  # rows of means beside it
    rows = scores.rows(patients or cohort.named("patient"), 200, 0)
    return [row for row in rows if row["metric"] == Kinship.name]


def correlated(n: int, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """Two columns (n,) of mean 0 and spread 1 with exactly this correlation."""
    raw = np.random.default_rng(0).normal(size=(n, 2))
    a, b = np.linalg.qr(raw - raw.mean(axis=0))[0].T * np.sqrt(n)
    return a, correlation * a + np.sqrt(1 - correlation**2) * b


def test_readers_whose_errors_go_together_by_so_much_are_found_to_do_so(small_run: Run) -> None:
    """Bias does not count, nor how large the errors are."""
    wanted = (-0.5, 0.0, 0.7)
    pairs = [correlated(len(small_run.store()), one) for one in wanted]
    ours, theirs = (np.stack([pair[k] for pair in pairs], axis=1) for k in (0, 1))
    rows = of_both(small_run, 3 * ours + 5, 0.5 * theirs - 20)
    assert [row["structure"] for row in rows] == list(small_run.study.structures)
    for row, correlation in zip(rows, wanted, strict=True):
        assert row["value"] == pytest.approx(correlation, abs=1e-3)
        assert -1 <= row["ci_low"] < row["value"] < row["ci_high"] <= 1
        assert row["n"] == len(small_run.store())
    (text,) = kin(rows, small_run.study)
    assert "heart 0.70" in text
    assert "lung" not in text


def test_an_error_that_is_always_the_same_goes_with_nothing(small_run: Run) -> None:
    n = len(small_run.store())
    same, other = np.full((n, 3), 64.0), np.stack([correlated(n, 0.0)[0]] * 3, axis=1)
    rows = of_both(small_run, same, other)
    assert [(row["value"], row["ci_low"], row["ci_high"]) for row in rows] == [(None, None, None)] * 3
    assert kin(rows, small_run.study) == []


def test_images_of_one_patient_are_drawn_together(small_run: Run) -> None:
    n = len(small_run.store())
    pair = [np.stack([one] * 3, axis=1) for one in correlated(n, 0.5)]
    alone, few, one = (
        of_both(small_run, *pair, patients)[0] for patients in (None, [str(i % 6) for i in range(n)], ["the same"] * n)
    )
    assert alone["value"] == pytest.approx(few["value"]) == pytest.approx(one["value"])
    assert (alone["ci_low"], alone["ci_high"]) != (few["ci_low"], few["ci_high"])
    assert one["ci_low"] is None


@given(st.integers(0, 99), st.floats(0, 0.3))
@settings(max_examples=20)
def test_one_column_that_is_left_as_it_is_is_a_mean(seed: int, missing: float) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(30, 1))
    values[random.random(30) < missing] = np.nan
    patients = random.integers(0, 12, 30)
    for ours, theirs in zip(
        bootstrap_of_means(values, patients, lambda means: means[..., 0], 50),
        bootstrap_means(values, patients, 50),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs)


def test_a_judge_that_errs_as_the_guide_does_is_told_loudly(
    small_run: Run, tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = small_run.load("judge")
    monkeypatch.setattr("segcft.pipeline.judging.guides_of", lambda *_: {"segmentor": judge})
    shutil.copytree(small_run.folder, tmp_path / "run")
    run, notes = Run(tmp_path / "run"), Notes()
    rows = evaluate_samples(run, run.store(), run.evaluation, CPU, notes)
    found = {(row["metric"], row["structure"]): row["value"] for row in rows if row["method"] == "guide: segmentor"}
    own = {(row["metric"], row["structure"]): row["value"] for row in rows if row["method"] == names.JUDGE}
    for structure in run.study.structures:
        assert found[Kinship.name, structure] == pytest.approx(1)
        assert found["mape", structure] == pytest.approx(own["mape", structure])
        assert found["dice", structure] == pytest.approx(own["dice", structure])
    (said,) = kin(rows, run.study)
    assert notes.lines[-1] == f"warning: {said}"
    table = (run.evaluation / "table.md").read_text(encoding="utf-8")
    assert table.index(f"**{said}**") < table.index("## Effectiveness")
    assert said in render_report(run, CPU)


def test_the_guides_of_a_run_are_judged_beside_its_judge(small_run: Run) -> None:
    rows = yaml.safe_load((small_run.evaluation / "table.json").read_text(encoding="utf-8"))
    for guide, metrics in (("regressor", {"mape"}), ("segmentor", {"mape", "dice"})):
        found = [row for row in rows if row["method"] == names.guide(guide)]
        assert {row["metric"] for row in found} == metrics | {Kinship.name}
        for metric in metrics | {Kinship.name}:
            assert [r["structure"] for r in found if r["metric"] == metric] == list(small_run.study.structures)
    assert Kinship().words(small_run.study).label in (small_run.evaluation / "table.md").read_text(encoding="utf-8")


def test_a_guide_that_is_not_there_or_was_trained_since_is_not_judged(small_run: Run, tmp_path: Path) -> None:
    assert set(guides_of(small_run)) == {"regressor", "segmentor"}
    for method, found in (("none", set()), ("segmentor", {"segmentor"})):
        publish(small_run, tmp_path / method, [method])
        assert set(guides_of(Run(tmp_path / method))) == found
    shutil.copytree(small_run.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    artefact.save(
        run.path("segmentor"), run.load("segmentor"), artefact.read_meta(run.path("segmentor")) | {"key": "another"}
    )
    assert set(guides_of(run)) == {"regressor"}


@pytest.mark.parametrize("value", [None, -0.9, KIN])
def test_errors_that_hardly_go_together_are_no_matter(value: float | None, small_study: Study) -> None:
    row = {"method": "guide: segmentor", "metric": Kinship.name, "structure": "heart", "value": value}
    assert kin([row], small_study) == []


# --- another network ---


def test_a_study_that_names_no_architecture_is_written_as_before(small_study: Study, tmp_path: Path) -> None:
    for section in ("segmentor", "judge"):
        written = small_study.model_dump(mode="json")[section]
        assert isinstance(getattr(small_study, section), UNetSpec)
        assert written.keys().isdisjoint({"architecture", "loss"})
    raw = small_mapping() | {"judge": {"architecture": "segresnet", "loss": "cross-entropy", "steps": 3, "seed": 7}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(parse_study(raw).model_dump(mode="json")))
    again = load_study(path)
    assert again == parse_study(raw)
    assert isinstance(again.judge, SegResNetSpec)
    assert again.judge.loss == "cross-entropy"


@pytest.mark.parametrize(
    ("judge", "key"),
    [
        ({"architecture": "vnet"}, "judge.architecture"),
        ({"architecture": 3}, "judge.architecture"),
        ({"architecture": "segresnet", "widths": [8]}, "judge.widths"),
        ({"architecture": "segresnet", "width": 12}, "judge.width"),
        ({"loss": "jaccard"}, "judge.loss"),
    ],
)
def test_settings_of_another_architecture_are_refused(judge: dict[str, Any], key: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(small_mapping() | {"judge": {"steps": 3, "seed": 7} | judge})
    assert [field for field, _ in caught.value.problems] == [key]


def fitted(loss: str, shares: Tensor) -> Tensor:
    """The soft area that a loss teaches of pixels that ``shares`` (P,) of ten masks have inside."""
    masks = (255 * (torch.arange(10)[:, None] < (10 * shares).round())).to(torch.uint8)[:, None, None]  # (10, 1, 1, P)
    network: Any = Drawn(torch.zeros(1, 1, 1, len(shares)))
    network.forward = lambda x: network.logits.expand(len(x), -1, -1, -1)
    spec = UNetSpec(steps=1, loss=loss)  # type: ignore[arg-type]
    objective = SegmentorObjective(network, spec)
    optimiser = torch.optim.Adam(network.parameters(), 0.1)
    for step in range(400):
        optimiser.zero_grad()
        objective({"image": masks, "mask": masks}, step)[0].backward()
        optimiser.step()
    return torch.sigmoid(network.logits.detach()).sum()


def test_cross_entropy_alone_teaches_the_area_that_masks_have_on_average() -> None:
    """Where masks disagree, as those of experts do at a border."""
    shares = torch.tensor([1.0, 1.0, 0.8, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.6])
    area = float(shares.sum())
    assert float(fitted("cross-entropy", shares)) == pytest.approx(area, abs=0.05)
    assert abs(float(fitted("dice+cross-entropy", shares)) - area) > 0.15
    assert abs(float(fitted("dice", shares)) - area) > 0.15


# --- other subjects ---


@pytest.fixture(scope="module")
def own_study(make_small_study: MakeStudy) -> Study:
    """Whose judge is no kin of the guide."""
    judge = {"architecture": "segresnet", "loss": "cross-entropy", "width": 8, "blocks": [1, 1], "steps": 3, "seed": 1}
    splits = {"train": 0.4, "judge": 0.2, "validation": 0.2, "test": 0.2}
    return make_small_study({"splits": splits, "judge": judge, "segmentor.steps": 3})


@pytest.fixture(scope="module")
def own_store(own_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return import_simulated(own_study, tmp_path_factory.mktemp("judge") / "store")


def test_a_reader_sees_nothing_of_what_is_faint(small_study: Study) -> None:
    stage = {stage.name: stage for stage in training_stages(small_study)}["judge"]
    x = torch.randn(2, small_study.image.channels, *small_study.image.size)
    judge = stage.network(small_study)
    assert judge.faint == 0
    with torch.no_grad():
        soft = torch.sigmoid(judge(x))
        faint = float(soft.median())
        study = small_study.model_copy(update={"judge": stage.spec(small_study).model_copy(update={"faint": faint})})
        other = stage.network(study)
        other.load_state_dict(judge.state_dict())
        assert isinstance(other, MaskReader)
        seen = other.eval().masks(x)
        soft = torch.sigmoid(judge.eval()(x))
    assert torch.equal(seen, torch.where(soft < faint, 0, soft))
    assert (seen == 0).any()


def test_who_trains_the_judge_trains_nothing_else(own_study: Study, own_store: Store) -> None:
    patients = {part: set(own_store.table["patient"].iloc[own_store.indices(part)]) for part in PARTS}
    assert all(patients.values())
    assert len(set.union(*patients.values())) == sum(map(len, patients.values()))
    for stage in training_stages(own_study):
        taught = set(own_store.table["patient"].iloc[stage.rows(own_study, own_store)])
        assert taught == patients["judge" if stage.name == "judge" else "train"]


def test_without_a_part_of_its_own_the_judge_is_trained_with_the_others(small_run: Run) -> None:
    store = small_run.store()
    assert set(small_run.samples()) == {"train", "validation", "test"}
    for stage in training_stages(small_run.study):
        assert set(stage.rows(small_run.study, store)) <= set(store.indices("train"))
        assert len(stage.rows(small_run.study, store)) > 0


def test_a_judge_of_another_kind_is_trained_and_read(own_study: Study, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", own_study)
    pipeline = Pipeline(run, make_fabric("cpu"))
    for part in ("segmentor", "judge"):
        pipeline.run_stage(part)
    judge = run.load("judge")
    assert isinstance(judge, SegResNet)
    batch = next(sequential(run.store(), run.store().indices("test"), 4))
    assert judge.read(to_unit(batch["image"])).shape == (4, 3)
    assert list(run.samples()) == ["train", "judge", "validation", "test"]
    assert all(check.holds for check in guards(run.store(), read_parts(run)))
    again = Pipeline(Run(run.folder), make_fabric("cpu"))
    again.run_stage("import")
    assert again.is_current("judge")


def test_a_judge_of_the_guides_weights_is_refused_whatever_its_architecture(own_study: Study, tmp_path: Path) -> None:
    """Here both are of the kind that the judge alone is elsewhere."""
    raw = own_study.model_dump(mode="json")
    twin = raw["judge"] | {"seed": 5}
    run = Run(tmp_path / "run", parse_study(raw | {"segmentor": twin}))
    run.write_study()
    network = SegResNet(own_study.judge, 1, Measurements.of(own_study))  # type: ignore[arg-type]
    for part in ("segmentor", "judge"):
        artefact.save(run.path(part), network, {"key": part, "part": part, "study": run.study.model_dump(mode="json")})
    with refused(RunError, Code.LEAK, "judge.safetensors"):
        run.load("judge")
    with torch.no_grad():
        next(network.parameters()).add_(1)
    artefact.save(run.path("judge"), network, {"key": "judge", "part": "judge"})
    assert isinstance(run.load("judge"), MaskReader)
    with refused(RunError, Code.LEAK, "segmentor.safetensors"):
        load_judge(run, run.path("segmentor"))


def test_a_judge_s_subject_who_is_judged_is_refused(own_study: Study, own_store: Store) -> None:
    store = copy.copy(own_store)
    store.table = own_store.table.copy()
    taught, judged = store.indices("judge")[0], store.indices("test")
    check_apart(store, store, judged, "test")
    store.table.loc[judged[0], "patient"] = store.table.loc[taught, "patient"]
    with refused(DataError, Code.LEAK, "store"):
        check_apart(store, store, judged, "test")
