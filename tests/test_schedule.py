"""When a training ends: at its steps, or when validation stops improving; and that interruptions change nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from refused import refused
from segcft.config.section import Training
from segcft.config.study import Study
from segcft.data.batches import Batch, Batches, sequential
from segcft.errors import Code, StudyError
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training import artefact
from segcft.training.loop import Trained, make_fabric, train
from segcft.training.schedule import DECAY, Schedule, Stopped, has_plateaued
from tests.test_training import CutOffError, LineFit, StopAfter, copy_of, same

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def first_plateau(curve: Curve, noise: float = 0.0, patience: int = 5, seed: int = 0, most: int = 200) -> int:
    """After how many validations of a noisy ``curve`` there is a plateau; ``most`` if there is none."""
    k = np.arange(most)
    figures = (curve(k) * (1 + noise * np.random.default_rng(seed).standard_normal(most))).tolist()
    return next((n for n in range(1, most) if has_plateaued(figures[:n], patience)), most)


def falling(k: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1.05 to 0.05; after 100 validations a hundredth of what is left is left to gain."""
    return 0.05 + np.exp(-k / 20)


# --- the rule ---


def test_a_figure_that_falls_is_no_plateau_and_one_that_has_fallen_is() -> None:
    assert 60 < first_plateau(falling) < 150
    assert first_plateau(lambda k: 200.0 - k) == 200
    assert first_plateau(lambda k: 0.7 + 0 * k) == 10  # which never falls
    assert first_plateau(lambda k: 0.05 + np.exp(-k / 10) + 0.01 * k, patience=3) < 40  # learnt by heart from then on


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
def test_noise_makes_a_training_longer_and_does_not_end_it(noise: float) -> None:
    ends = [first_plateau(falling, noise, seed=seed) for seed in range(20)]
    # At 40 validations most is still to come: 0.135 of 0.185.
    assert min(ends) > 40
    assert all(first_plateau(lambda k: 2 - k / 200, noise, seed=seed) > 40 for seed in range(20))


def test_more_noise_asks_for_more_validations() -> None:
    ends = [np.median([first_plateau(falling, noise, seed=seed) for seed in range(20)]) for noise in (0.01, 0.1)]
    assert ends[0] < ends[1]


@pytest.mark.parametrize("offset", [-20.0, 0.0, 20.0])
def test_what_is_added_to_a_log_density_does_not_matter_much(offset: float) -> None:
    assert 40 < first_plateau(lambda k: offset + falling(k)) < 150


def test_a_figure_that_is_no_number_is_no_plateau() -> None:
    assert not has_plateaued([1.0, math.inf, math.inf, math.inf, 0.5, 0.4], 2)
    assert not has_plateaued([math.inf] * 9, 3)
    assert not has_plateaued([], 1)


# --- the schedule ---


def schedule_of(**changes: Any) -> Schedule:
    return Schedule(Training.model_validate({"steps": 1000, "warmup_steps": 10, "validate_steps": 20} | changes))


def test_without_a_plateau_the_rate_is_constant_until_the_decay_that_the_steps_leave() -> None:
    schedule = schedule_of(patience=3, final_learning_rate=0.1)
    rates = [schedule.rate(step) for step in range(schedule.end)]
    assert schedule.stopped == Stopped(1000, "steps")
    assert rates[:11] == sorted(rates[:11])
    assert {*rates[10:800]} == {1.0}
    assert rates[800:] == sorted(rates[800:], reverse=True)
    assert 0.1 < rates[-1] < 0.11


def test_a_plateau_begins_the_decay_and_the_training_ends_after_it() -> None:
    schedule = schedule_of(patience=2)
    for step, figure in zip(range(20, 1000, 20), [4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0], strict=False):
        schedule.add(step, figure)
    assert schedule.decay_from == 120
    assert schedule.stopped == Stopped(150, "plateau")
    assert schedule.stopped.step - 120 == pytest.approx(DECAY * 150)
    assert schedule.rate(120) == 1
    assert 0 < schedule.rate(149) < 0.1


def test_a_plateau_in_the_decay_that_the_steps_leave_changes_nothing() -> None:
    schedule = schedule_of(patience=1)
    for step in range(820, 1000, 20):
        schedule.add(step, 1.0)
    assert schedule.stopped == Stopped(1000, "steps")


def test_no_validation_counts_while_what_is_minimised_changes() -> None:
    schedule = Schedule(Training(steps=1000, patience=1, validate_steps=20), settles=200)
    for step in range(20, 261, 20):
        schedule.add(step, 1.0)
    assert schedule.decay_from == 240  # the second after the 200th step


def test_nothing_is_due_without_patience() -> None:
    schedule = Schedule(Training(steps=100))
    assert not any(schedule.due(step) for step in range(101))
    assert schedule.state() == {}
    with pytest.raises(ValidationError, match="validate_steps"):
        Training(steps=100, validate_steps=5)


def test_keys_that_came_later_are_written_where_they_are_set() -> None:
    assert not {"patience", "validate_steps"} & Training(steps=100).model_dump().keys()
    assert Training(steps=100, patience=3).model_dump()["patience"] == 3


# --- the loop ---


class Held(LineFit):
    """Validated on how far the line is off, or on ``figures`` in order; counts the validations."""

    def __init__(self, figures: tuple[float, ...] = ()) -> None:
        super().__init__()
        self.figures, self.draws = list(figures), list[float]()

    def validate(self, batch: Batch) -> Tensor:
        assert not self.network.training
        self.draws.append(float(torch.rand(())))
        found = super().validate(batch)
        return found if not self.figures else torch.full_like(found, self.figures.pop(0))


@pytest.fixture(scope="module")
def imported(small_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the small study that has its samples, and nothing else; only to be read."""
    run = Run(tmp_path_factory.mktemp("imported") / "run", small_study)
    Pipeline(run, make_fabric("cpu")).run_stage("import")
    return run


@pytest.fixture
def fit(imported: Run, tmp_path: Path) -> Callable[..., tuple[Trained, dict[str, Tensor]]]:
    """``fit(objective, **spec)`` trains in ``tmp_path``: what is known of it, and the weights."""
    store = imported.store()
    batches = Batches(store, store.indices("train", complete=True), 8, seed=5)
    held_out = list(sequential(store, store.indices("validation"), 100))

    def run(objective: Held, name: str = "line", progress: Any = None, **changes: Any) -> Any:
        given = {"steps": 60, "checkpoint_steps": 7, "learning_rate": 0.05, "patience": 2, "validate_steps": 4}
        spec = Training.model_validate(given | {"warmup_steps": 2, "ema": 0.9} | changes)
        found = train(
            objective,
            batches,
            spec,
            make_fabric("cpu"),
            folder=tmp_path,
            name=name,
            key="key",
            validation=held_out,
            progress=progress,
        )
        return found, {key: value.clone() for key, value in objective.network.state_dict().items()}

    return run


def log_of(folder: Path, name: str = "line") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_a_training_ends_after_the_plateau_and_the_decay(fit: Any, tmp_path: Path) -> None:
    found, _ = fit(Held((4.0, 2.0, *[1.0] * 9)))
    assert found.stopped == Stopped(30, "plateau")  # at the sixth validation, of step 24, and a quarter of it more
    rows = log_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert [row["step"] for row in rows if "validation" in row] == [4, 8, 12, 16, 20, 24, 28]
    assert "validation" not in found.figures


def test_a_training_that_goes_on_improving_takes_its_steps(fit: Any) -> None:
    found, _ = fit(Held(tuple(2.0**-k for k in range(15))))
    assert found.stopped == Stopped(60, "steps")
    assert found.history[-1]["step"] == 60


def test_validation_sees_the_averaged_weights_and_leaves_the_training_as_it_is(fit: Any, tmp_path: Path) -> None:
    class Seen(Held):
        weights = ()

        def validate(self, batch: Batch) -> Tensor:
            self.weights = (*self.weights, float(self.network.weight))
            return super().validate(batch)

    objective = Seen(tuple(2.0**-k for k in range(45)))
    _, kept = fit(objective, validate_steps=20)
    assert objective.weights[-1] == float(kept["weight"])  # the last validation is after the last step
    fit(Held(tuple(2.0**-k for k in range(45))), name="often", validate_steps=4)
    for rare, often in zip(log_of(tmp_path), log_of(tmp_path, "often"), strict=True):
        assert rare | {"validation": 0} == often | {"validation": 0}


def test_draws_of_validations_are_the_same_every_time(fit: Any) -> None:
    objective = Held()
    fit(objective, steps=12, patience=9)
    assert len(objective.draws) == 3
    assert len({*objective.draws}) == 1


@pytest.mark.parametrize("stop", [3, 8, 15, 17, 19])
def test_an_interrupted_training_decides_as_if_it_had_not_been(fit: Any, tmp_path: Path, stop: int) -> None:
    class Flat(Held):
        def validate(self, batch: Batch) -> Tensor:
            return torch.ones(len(batch["index"]))

    whole, weights = fit(Flat(), name="whole")
    with pytest.raises(CutOffError):
        fit(Flat(), progress=StopAfter(stop))
    found, resumed = fit(Flat())
    assert found.stopped == whole.stopped == Stopped(20, "plateau")
    assert same(weights, resumed)
    assert log_of(tmp_path) == log_of(tmp_path, "whole")


# --- a stage ---


def test_a_stage_records_where_it_stopped(imported: Run, make_small_study: Any, tmp_path: Path) -> None:
    changes = {"scm.patience": 1, "scm.validate_steps": 2, "scm.steps": 12, "scm.warmup_steps": 1}
    run = copy_of(imported, tmp_path, make_small_study(changes))
    Pipeline(run, make_fabric("cpu")).run_stage("scm")
    stopped = artefact.read_meta(run.path("scm"))["stopped"]
    assert stopped["why"] in ("plateau", "steps")
    assert stopped["step"] == log_of(run.training, "scm")[-1]["step"] <= 12


@pytest.mark.parametrize("stage", ["segmentor", "regressor", "hvae"])
def test_every_network_has_a_figure_by_which_it_is_validated(
    imported: Run, make_small_study: Any, tmp_path: Path, stage: str
) -> None:
    changes = {"patience": 9, "validate_steps": 1, "steps": 2, "warmup_steps": 0}
    run = copy_of(imported, tmp_path, make_small_study({f"{stage}.{key}": value for key, value in changes.items()}))
    Pipeline(run, make_fabric("cpu")).run_stage(stage)
    assert all(math.isfinite(row["validation"]) for row in log_of(run.training, stage))
    assert artefact.read_meta(run.path(stage))["stopped"] == {"step": 2, "why": "steps"}


def test_without_validation_samples_patience_is_refused(imported: Run, make_small_study: Any, tmp_path: Path) -> None:
    with refused(StudyError, Code.INVALID, "hvae.patience"):
        make_small_study({"splits": {"train": 0.8, "validation": 0, "test": 0.2}, "hvae.patience": 3})
    pipeline = Pipeline(copy_of(imported, tmp_path, make_small_study({"scm.patience": 3})), make_fabric("cpu"))
    pipeline.store.table["split"] = "train"  # as it may happen where there are few
    pipeline.keys["import"] = pipeline.store.fingerprint
    with refused(StudyError, Code.EMPTY, "scm.patience"):
        pipeline.run_stage("scm")
