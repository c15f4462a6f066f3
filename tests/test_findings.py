"""What went wrong in a training that came to its end: found by hand-made curves and mechanisms, recorded and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from refused import refused
from segcft.config.study import Study
from segcft.counterfactual.model import CounterfactualModel
from segcft.counterfactual.response import response_slopes
from segcft.data.batches import Batch
from segcft.errors import Code, RunError
from segcft.grey import to_unit
from segcft.pipeline.judging import evaluate_samples, found_in
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stage import training_stage
from segcft.readers.reader import Reader
from segcft.report.facts import findings as told
from segcft.report.facts import read_parts
from segcft.report.page import render_report
from segcft.training import artefact
from segcft.training.findings import (
    FALLING,
    Finding,
    binding,
    pace_at_end,
    poor_reader,
    recorded,
    slopes_of,
    tied,
    unfinished,
    usual_size,
)
from segcft.training.loop import make_fabric
from segcft.training.schedule import Stopped
from segcft.utils.progress import Progress
from tests.test_pipeline import Notes
from tests.test_training import copy_of

CPU = torch.device("cpu")

STEPS = np.arange(1, 401) / 400
"""Of a training, as shares of it."""


def noisy(values: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    return values + 0.02 * np.random.default_rng(seed).standard_normal(len(values))


def rows(**figures: Any) -> list[dict[str, float]]:
    return [dict(zip(figures, values, strict=True)) for values in zip(*figures.values(), strict=True)]


def codes(findings: Any) -> list[str]:
    return [finding.code for finding in findings]


# --- curves ---


def test_a_straight_line_is_unfinished_and_a_curve_that_flattens_is_not() -> None:
    assert pace_at_end(2 - STEPS) == pytest.approx(1, rel=0.01)
    assert pace_at_end(noisy(2 - STEPS)) > FALLING
    assert pace_at_end(-np.log(STEPS)) < FALLING
    assert pace_at_end(noisy(np.exp(-6 * STEPS))) < FALLING
    assert pace_at_end(noisy(1 + STEPS)) == 0
    assert pace_at_end(0 * STEPS) == 0
    assert pace_at_end(2 - STEPS[:50]) == 0  # too few steps to tell
    assert pace_at_end(np.where(STEPS > 0.5, 2 - STEPS, np.nan)) > FALLING  # of the steps that have a figure


def test_noise_is_no_fall() -> None:
    assert sum(pace_at_end(noisy(0 * STEPS, seed)) > FALLING for seed in range(100)) <= 3


def test_a_training_that_ended_at_a_plateau_is_finished() -> None:
    history, many = rows(loss=2 - STEPS), Stopped(400, "steps")
    assert codes(unfinished(history, "loss", many, "hvae", None)) == ["unfinished"]
    assert codes(unfinished(history, "loss", Stopped(400, "plateau"), "hvae", 3)) == []
    assert codes(unfinished(history, "loss", many, "hvae", 3)) == ["unfinished"]


def test_what_falls_with_the_learning_rate_alone_is_finished() -> None:
    history = rows(loss=np.where(STEPS > 0.8, 2 - STEPS, 1.2))
    assert codes(unfinished(history, "loss", Stopped(400, "steps"), "hvae", 3)) == []


def test_a_constraint_that_is_violated_all_the_time_is_told() -> None:
    def of(violation: NDArray[np.float64], multiplier: float = 1.0) -> list[str]:
        return codes(binding(rows(violation=violation, multiplier=multiplier + 0 * violation)))

    assert of(0.1 + 0 * STEPS) == ["constraint-binds"]
    assert of(0.5 - STEPS) == []  # it comes back
    assert of(0.1 + 0 * STEPS, multiplier=0.0) == []
    assert of(0.1 + 0 * STEPS[:20]) == []
    assert codes(binding(rows(guide=STEPS))) == []  # of an objective without a constraint


# --- readers and fine-tuning ---


def test_a_reader_that_misreads_a_third_of_the_spread_is_told() -> None:
    spread = {"heart": 30.0, "lung": 90.0}
    (found,) = poor_reader({"heart": 12.0, "lung": 12.0}, spread, "segmentor")
    assert found.code == "poor-reader"
    assert "heart" in found.text
    assert "lung" not in found.text
    assert codes(poor_reader({"heart": 9.0, "lung": 12.0}, spread, "segmentor")) == []


def test_a_measure_that_the_others_tell_altogether_is_told() -> None:
    (found,) = tied({"whole": 0.001, "part": 0.0, "heart": 0.2})
    assert found.code == "tied-measures"
    assert "heart" not in found.text
    assert codes(tied({"base": 0.2, "heart": 1.0})) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0.0, 0.0, ["finetuning-did-nothing"]),
        (0.1, 0.05, ["finetuning-did-nothing"]),
        (0.6, 0.6, ["finetuning-did-nothing"]),
        (0.1, 0.4, ["finetuning-did-little"]),
        (0.1, 1.6, ["finetuning-did-little"]),  # more than half too much
        (0.1, 0.9, []),
        (0.95, 0.95, []),  # nothing was left to gain
        (1.0, 1.0, []),
    ],
)
def test_a_fine_tuning_that_did_nothing_or_little_is_told(before: float, after: float, expected: list[str]) -> None:
    assert codes(slopes_of({"a": before}, {"a": after})) == expected


def test_what_to_try_names_a_price_on_pixels_only_where_there_is_one() -> None:
    (free,), (priced,) = slopes_of({"a": 0.0}, {"a": 0.0}), slopes_of({"a": 0.0}, {"a": 0.0}, least_change=1.0)
    assert "least_change" not in free.attempt
    assert "least_change" in priced.attempt


SCALE = 1024
"""A pixel is as bright as its structure's area is large, of this many square pixels in all."""


class Painted(nn.Module):
    """A mechanism whose first pixels are as bright as a ``share`` of the change of areas makes them; it changes nothing
    else."""

    def __init__(self, study: Study, share: float) -> None:
        super().__init__()
        self.columns, self.share = study.measured_columns, share

    def abduct(self, x: Tensor, values: Tensor, sample: bool = True) -> tuple[Tensor, Tensor]:
        return x, values

    def predict(self, noise: tuple[Tensor, Tensor], values: Tensor) -> Tensor:
        image, before = noise[0].clone(), noise[1][:, self.columns]
        change = self.share * (values[:, self.columns] - before)
        image[:, 0, 0, : len(self.columns)] += 2 * change / SCALE
        return image


class FirstPixels(Reader):
    """Reads areas from the pixels above, a half too large: what it misreads in both images does not count."""

    def estimate(self, x: Tensor) -> Tensor:
        return (x[:, 0, 0, :3] + 1) * SCALE / 2 + 0.5


@pytest.fixture
def samples(small_study: Study) -> list[Batch]:
    random = np.random.default_rng(0)
    batches = []
    for size in (7, 6):
        areas = torch.from_numpy(random.uniform(200, 800, (size, 3)).astype(np.float32))
        image = torch.full((size, 1, 32, 32), 100, dtype=torch.uint8)
        image[:, 0, 0, :3] = (areas / SCALE * 255).round().to(torch.uint8)
        attributes = torch.tensor([[1.0, 50.0]]).expand(size, 2)
        batches.append({"image": image, "values": torch.cat([attributes, areas], dim=1)})
    return batches


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_the_slope_is_the_share_of_the_change_that_is_obtained(
    small_study: Study, samples: list[Batch], share: float
) -> None:
    scm: Any = training_stage("scm").build(small_study)
    mechanism: Any = Painted(small_study, share)
    model = CounterfactualModel(scm, mechanism)
    slopes = response_slopes(model, FirstPixels(), small_study, samples, small_study.measured)
    assert slopes.keys() == {*small_study.measured}
    assert [*slopes.values()] == pytest.approx([share] * 3, abs=0.03)  # grey levels are whole
    before = dict.fromkeys(slopes, 0.0)
    assert codes(slopes_of(before, slopes)) == ([] if share else ["finetuning-did-nothing"])


def test_each_sample_is_asked_for_anothers_value_and_one_alone_for_nothing(
    small_study: Study, samples: list[Batch]
) -> None:
    scm: Any = training_stage("scm").build(small_study)
    mechanism: Any = Painted(small_study, 1.0)
    alone = [{field: value[:1] for field, value in samples[0].items()}]
    found = response_slopes(CounterfactualModel(scm, mechanism), FirstPixels(), small_study, alone, ["heart_area"])
    assert found == {}
    assert to_unit(alone[0]["image"]).shape == (1, 1, 32, 32)


# --- in a run ---


def test_the_usual_size_is_a_standard_deviation_that_outliers_do_not_move() -> None:
    normal = np.random.default_rng(0).normal(0, [1, 20], (4000, 2))
    usual = usual_size(normal)
    assert usual == pytest.approx([1, 20], rel=0.05)
    normal[:40] = 1e6
    assert usual_size(normal) == pytest.approx(usual, rel=0.05)


@pytest.fixture(scope="module")
def unchanged(make_small_study: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Notes]:
    """A run up to a fine-tuning that cannot have changed anything, as its learning rate is next to nothing."""
    steps = {f"{stage}.steps": 2 for stage in ("segmentor", "scm", "hvae", "finetune")}
    changes = {"finetune.guides": ["segmentor"], "finetune.learning_rate": 1e-12, "finetune.weight_decay": 0}
    run = Run(tmp_path_factory.mktemp("unchanged") / "run", make_small_study(steps | changes))
    Pipeline(run, make_fabric("cpu"), progress=(notes := Notes())).run_stage("cft-segmentor")
    return run, notes


def test_a_fine_tuning_that_changed_nothing_is_recorded_and_told(unchanged: tuple[Run, Notes]) -> None:
    run, notes = unchanged
    meta = artefact.read_meta(run.path("cft-segmentor"))
    for name in run.study.measured:
        before, after = (meta["metrics"][f"{prefix}validation_slope_{name}"] for prefix in ("no_cft_", ""))
        assert after == pytest.approx(before, abs=1e-3)
    found = recorded(meta)
    assert "finetuning-did-nothing" in codes(found)
    for finding in found:
        assert f"warning: cft-segmentor: {finding}" in notes.lines
        assert ("cft-segmentor", finding) in found_in(run)
        assert f"cft-segmentor: {finding}" in told(read_parts(run))


def test_a_segmentor_that_has_learnt_nothing_is_a_poor_guide(unchanged: tuple[Run, Notes]) -> None:
    run, _ = unchanged
    metrics = artefact.read_meta(run.path("segmentor"))["metrics"]
    for name in run.study.structures:
        assert metrics[f"validation_reading_error_{name}"] > 0
    assert "poor-reader" in codes(recorded(artefact.read_meta(run.path("segmentor"))))


def test_parts_of_earlier_versions_have_no_findings_and_damaged_ones_are_told(
    unchanged: tuple[Run, Notes], tmp_path: Path
) -> None:
    run = copy_of(unchanged[0], tmp_path)
    meta, network = artefact.read_meta(run.path("scm")), run.load("scm")
    del meta["findings"]
    artefact.save(run.path("scm"), network, meta)
    assert not [name for name, _ in found_in(run) if name == "scm"]
    artefact.save(run.path("scm"), network, meta | {"findings": [Finding("code", "It is so.", "this").record()]})
    assert ("scm", Finding("code", "It is so.", "this")) in found_in(run)
    artefact.save(run.path("scm"), network, meta | {"findings": ["none"]})
    with refused(RunError, Code.DAMAGED, "scm.safetensors: findings.0"):
        found_in(run)


@pytest.mark.usefixtures("undrawn")
def test_the_table_and_the_report_repeat_them(small_run: Run, tmp_path: Path) -> None:
    run = copy_of(small_run, tmp_path)
    found = Finding("code", "It is so.", "this")
    meta = artefact.read_meta(run.path("scm"))
    artefact.save(run.path("scm"), run.load("scm"), meta | {"findings": [found.record()]})
    evaluate_samples(run, run.store(), run.evaluation, CPU, Progress())
    assert "Warning: scm: It is so. Try: this." in (run.evaluation / "table.md").read_text(encoding="utf-8")
    assert "scm: It is so. Try: this." in render_report(run, CPU)
