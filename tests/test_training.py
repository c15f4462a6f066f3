"""The training loop: budgets, averages, spikes, and that interruptions change nothing; and parts on disk."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import segcft
from benchmarks.soak.faults import Command
from refused import refused
from segcft.config.section import Training
from segcft.config.study import Study
from segcft.data.batches import Batch, Batches
from segcft.errors import Code, RunError, SegcftError, StudyError
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training import artefact
from segcft.training.average import MovingAverage
from segcft.training.findings import astray
from segcft.training.loop import LOST, Objective, freeze, make_fabric, train
from segcft.training.schedule import Schedule
from segcft.utils.digest import key_of
from segcft.utils.progress import Progress, Task


class LineFit(Objective):
    """A line through (age, heart area): a training that takes microseconds. ``spikes`` spoils some steps."""

    def __init__(self, spikes: Callable[[int], float] = lambda step: 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(1, 1)
        self.spikes = spikes

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        age, area = batch["values"][:, 1:2] / 50 - 1, batch["values"][:, 4:] / 100 - 1
        noise = 0.1 * torch.randn_like(area)  # of torch's own generator, as augmentation and latents are
        error = (self.network(age) - area + noise).square().mean()
        return error * self.spikes(step), {"error": error}


class CutOffError(Exception):
    pass


class StopAfter(Progress):
    """Ctrl-C, or a scheduler's signal, in the middle of a training."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Task]:
        class Counter(Task):
            left = self.steps

            def advance(self, amount: int = 1, note: str = "") -> None:
                self.left -= 1
                if not self.left:
                    raise CutOffError

        yield Counter() if description.startswith("training") else Task()


@pytest.fixture
def batches(small_run: Run) -> Batches:
    store = small_run.store()
    return Batches(store, store.indices("train", complete=True), 8, seed=5)


@pytest.fixture
def fit(batches: Batches, tmp_path: Path) -> Callable[..., tuple[dict[str, Tensor], dict[str, float]]]:
    """``fit(objective, **spec)`` trains in ``tmp_path`` and returns the weights and the last figures."""

    def run(
        objective: Objective,
        key: str = "key",
        progress: Progress | None = None,
        name: str = "line",
        **changes: Any,
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        spec = Training.model_validate({"steps": 30, "checkpoint_steps": 7, "learning_rate": 0.05} | changes)
        fabric = make_fabric("cpu")
        trained = train(objective, batches, spec, fabric, folder=tmp_path, name=name, key=key, progress=progress)
        figures = trained.figures
        return {k: v.clone() for k, v in objective.network.state_dict().items()}, figures

    return run


def log_of(folder: Path, name: str = "line") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def tensors_of(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


# --- the loop ---


def test_the_learning_rate_rises_then_falls_to_its_final_share() -> None:
    schedule = Schedule(Training(steps=100, warmup_steps=9, final_learning_rate=0.2))
    rates = [schedule.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1
    assert rates[100] == pytest.approx(0.2)
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert (Schedule(Training(steps=10, warmup_steps=0)).rate(0), rates[54]) == (
        1,
        pytest.approx(0.6, abs=0.02),
    )
    assert all(0 < Schedule(Training(steps=3, warmup_steps=50)).rate(step) < 0.1 for step in range(3))


def test_the_moving_average_is_the_one_of_the_formula() -> None:
    network = nn.BatchNorm1d(1)
    average, expected = MovingAverage(network, 0.75), 1.0  # a fresh gain is 1
    for update in range(1, 60):
        with torch.no_grad():
            network.weight.fill_(float(update % 7))
        network.num_batches_tracked += 1
        average.update()
        decay = min(0.75, update / (update + 10))
        expected = decay * expected + (1 - decay) * (update % 7)
        assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-5)
    average.apply()
    assert network.weight.item() == pytest.approx(expected, rel=1e-5)
    assert network.num_batches_tracked == 59  # a counter is not averaged


def test_the_average_is_what_is_kept(fit: Any, tmp_path: Path) -> None:
    last, _ = fit(LineFit())
    averaged, _ = fit(LineFit(), name="averaged", ema=0.9)
    assert not same(last, averaged)
    assert log_of(tmp_path) == log_of(tmp_path, "averaged")  # the training itself is the same


def test_the_loss_falls_and_the_last_figures_are_those_of_the_tail(fit: Any, tmp_path: Path) -> None:
    objective = LineFit()
    _, figures = fit(objective)
    rows = log_of(tmp_path)
    assert figures["loss"] < 0.5 * rows[0]["loss"]
    assert figures["loss"] == pytest.approx(sum(row["loss"] for row in rows[-3:]) / 3)
    assert set(figures) == {"loss", "gradient_norm", "skipped", "error", "data_wait"}
    assert 0 <= figures["data_wait"] < 1
    assert not objective.training


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("stop", [3, 7, 8, 20, 29])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(fit: Any, tmp_path: Path, stop: int, ema: float) -> None:
    whole, figures = fit(LineFit(), ema=ema, name="whole")
    with pytest.raises(CutOffError):
        fit(LineFit(), ema=ema, progress=StopAfter(stop))
    resumed, resumed_figures = fit(LineFit(), ema=ema)
    assert same(whole, resumed)
    assert figures | {"data_wait": 0} == resumed_figures | {"data_wait": 0}
    rows = log_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert rows == log_of(tmp_path, "whole")


def test_a_checkpoint_of_another_key_is_ignored(fit: Any, tmp_path: Path) -> None:
    whole, _ = fit(LineFit(), name="whole")
    with pytest.raises(CutOffError):
        fit(LineFit(), key="another", learning_rate=1.0, progress=StopAfter(20))
    fresh, _ = fit(LineFit())
    assert same(whole, fresh)
    assert [row["step"] for row in log_of(tmp_path)] == list(range(1, 31))


@pytest.mark.parametrize("line", [b"{broken", b"\xff", b"[1]", b'{"step": "2"}', b'{"step": 2}', b"[" * 100_000])
def test_a_damaged_log_is_told_and_may_be_removed(fit: Any, tmp_path: Path, line: bytes) -> None:
    whole, _ = fit(LineFit(), name="whole")
    with pytest.raises(CutOffError):
        fit(LineFit(), progress=StopAfter(20))
    log = tmp_path / "line.jsonl"
    first, _, *more = log.read_bytes().splitlines()
    log.write_bytes(b"\n".join([first, line, *more, b""]))
    with refused(RunError, Code.DAMAGED, "line.jsonl"):
        fit(LineFit())
    log.unlink()
    assert same(whole, fit(LineFit())[0])


def test_a_damaged_checkpoint_is_told(fit: Any, tmp_path: Path) -> None:
    (tmp_path / "line.checkpoint").write_bytes(b"not a checkpoint")
    with pytest.raises(RunError, match=r"line\.checkpoint: ") as caught:
        fit(LineFit())
    assert "weights_only" not in str(caught.value)  # torch's own advice would run what is in the file


@pytest.mark.parametrize("spike", [1e6, math.inf, math.nan])
def test_a_spike_is_skipped_and_counted(fit: Any, tmp_path: Path, spike: float) -> None:
    weights, figures = fit(LineFit(lambda step: spike if step in (4, 9) else 1.0), gradient_skip=1e3)
    rows = log_of(tmp_path)
    assert [row["skipped"] for row in rows[3:6]] == [0, 1, 1]
    assert rows[-1]["skipped"] == 2
    assert all(value.isfinite().all() for value in weights.values())
    assert figures["loss"] < 0.5 * rows[0]["loss"]


def test_a_count_of_skipped_steps_survives_an_interruption(fit: Any, tmp_path: Path) -> None:
    def spikes(step: int) -> float:
        return math.nan if step in (1, 12) else 1.0

    with pytest.raises(CutOffError):
        fit(LineFit(spikes), progress=StopAfter(11))
    fit(LineFit(spikes))
    assert log_of(tmp_path)[-1]["skipped"] == 2


def test_a_whole_interval_of_refused_steps_is_an_error(fit: Any, tmp_path: Path) -> None:
    with refused(SegcftError, Code.FAILED, "line"):
        fit(LineFit(lambda step: math.nan if step >= 10 else 1.0))
    assert len(log_of(tmp_path)) >= 10


class Cliff(LineFit):
    """A line that is lost for good once its bias is over an edge; one step pushes it there."""

    EDGE, PUSH_AT = 5.0, 40

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        bias = self.network.bias.sum()
        if step == self.PUSH_AT:
            with torch.no_grad():
                self.network.bias.add_(2 * self.EDGE)
        loss = bias.square() + self.network.weight.square().sum()
        return torch.where(bias > self.EDGE, torch.nan, 1.0) * loss, {}


CLIFF: dict[str, Any] = {"steps": 120, "checkpoint_steps": 50, "ema": 0.9}


def test_a_training_that_is_lost_goes_back_to_its_average(fit: Any, tmp_path: Path) -> None:
    weights, _ = fit(Cliff(), **CLIFF)
    rows = log_of(tmp_path)
    assert rows[-1]["step"] == CLIFF["steps"]
    assert rows[-1]["returns"] == 1
    assert rows[-1]["skipped"] == LOST
    assert "returns" not in rows[Cliff.PUSH_AT + LOST - 1]
    assert weights["bias"] < Cliff.EDGE
    assert math.isfinite(rows[-1]["loss"])
    (finding,) = astray(rows, "hvae")
    assert finding.code == "training-went-astray"


@pytest.mark.parametrize("stop", [45, 55, 65])
def test_the_way_back_survives_an_interruption(fit: Any, tmp_path: Path, stop: int) -> None:
    """Cut off before, among and after the refused steps."""
    with pytest.raises(CutOffError):
        fit(Cliff(), progress=StopAfter(stop), **CLIFF | {"checkpoint_steps": 22})
    interrupted, _ = fit(Cliff(), **CLIFF | {"checkpoint_steps": 22})
    whole, _ = fit(Cliff(), name="whole", **CLIFF | {"checkpoint_steps": 22})
    assert same(interrupted, whole)
    assert log_of(tmp_path) == log_of(tmp_path, "whole")


def test_gradient_clipping_bounds_the_step_not_the_log(fit: Any, tmp_path: Path) -> None:
    fit(LineFit(), gradient_clip=1e-3)
    assert log_of(tmp_path)[0]["gradient_norm"] > 1e-2


def test_steps_have_their_own_random_numbers(fit: Any, tmp_path: Path) -> None:
    """What was drawn before the training does not matter, the seed does."""
    torch.manual_seed(123)
    first, _ = fit(LineFit())
    torch.rand(99)
    again, _ = fit(LineFit(), name="again")
    other, _ = fit(LineFit(), name="other", seed=1)
    assert same(first, again)
    assert not same(first, other)


def test_bf16_trains_and_keeps_float32_weights(small_run: Run, make_small_study: Any, tmp_path: Path) -> None:
    run = copy_of(small_run, tmp_path, make_small_study({"hvae.precision": "bf16", "hvae.steps": 20}))
    Pipeline(run, make_fabric("cpu")).run_stage("hvae")
    rows = log_of(run.training, "hvae")
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert rows[0]["loss"] == pytest.approx(log_of(small_run.training, "hvae")[0]["loss"], rel=0.01)
    assert rows[0]["loss"] != log_of(small_run.training, "hvae")[0]["loss"]
    assert {tensor.dtype for tensor in tensors_of(run.path("hvae")).values()} == {torch.float32}


def test_hardware_that_is_not_there_is_told() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with refused(SegcftError, Code.NOT_INSTALLED, "--device cuda"):
        make_fabric("cuda")


# --- whole stages, cut off ---


def copy_of(run: Run, folder: Path, study: Study | None = None) -> Run:
    """A run that may be changed; ``study`` in place of its own."""
    shutil.copytree(run.folder, folder / "run")
    return Run(folder / "run", study or run.study)


class Begun(Command):
    """A command in a process of its own that can be watched and struck; an interpreter of its own takes seconds."""

    def __init__(self, *arguments: object, room: int | None = None) -> None:
        super().__init__([*map(str, arguments), "--device", "cpu"], room)

    def strike(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> tuple[int | None, str]:
        """Its status and what it said, once it has ended."""
        self.process.join()
        return self.process.exitcode, self.output


def wait_for(path: Path, command: Begun, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not path.is_file():
        assert command.process.is_alive(), command.output
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.002)


@pytest.mark.slow
def test_a_killed_training_ends_like_one_that_ran_through(
    small_run: Run, small_study_file: Path, tmp_path: Path
) -> None:
    run = copy_of(small_run, tmp_path)
    run.path("hvae").unlink()
    command = Begun("hvae", small_study_file, "--out", run.folder)
    wait_for(run.training / "hvae.checkpoint", command)
    command.strike(signal.SIGKILL)  # nothing can be tidied up
    command.end()
    assert not run.path("hvae").exists()
    status, messages = Begun("hvae", small_study_file, "--out", run.folder).end()
    assert status == 0, messages
    assert "import: up to date" in messages
    assert same(tensors_of(run.path("hvae")), tensors_of(small_run.path("hvae")))
    assert [row["step"] for row in log_of(run.training, "hvae")] == list(range(1, 61))
    assert log_of(run.training, "hvae") == log_of(small_run.training, "hvae")
    assert not (run.training / "hvae.checkpoint").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "stop"), [("segmentor", 70), ("cft-segmentor", 3), ("cft-regressor", 5)])
def test_a_stage_that_was_cut_off_ends_like_one_that_ran_through(
    small_run: Run, make_small_study: Any, tmp_path: Path, stage: str, stop: int
) -> None:
    changes = {"segmentor.checkpoint_steps": 30} if stage == "segmentor" else {}
    study = make_small_study(changes)
    run = copy_of(small_run, tmp_path, study)
    run.path(stage).unlink()
    with pytest.raises(CutOffError):
        Pipeline(run, make_fabric("cpu"), progress=StopAfter(stop)).run_stage(stage)
    assert (run.training / f"{stage}.checkpoint").is_file()
    assert not run.path(stage).exists()
    Pipeline(run, make_fabric("cpu")).run_stage(stage)
    assert same(tensors_of(run.path(stage)), tensors_of(small_run.path(stage)))
    # The log holds the multiplier after every step, too.
    assert log_of(run.training, stage) == log_of(small_run.training, stage)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "figures"),
    [
        (
            {"scm": 1, "hvae": 2, "finetune": 2},  # the SCM draws no noise: for it a whole batch is the same
            {
                "scm": ["loss"],
                "hvae": ["loss", "distortion", "rate"],
                "cft-segmentor": ["loss", "guide", "violation", "multiplier"],
            },
        ),
        ({"hvae": 4, "segmentor": 2}, {"hvae": ["loss", "distortion", "rate"], "segmentor": ["loss", "dice_loss"]}),
    ],
    ids=["a part each", "two parts each"],
)
def test_two_devices_have_the_losses_of_one(
    small_run: Run, make_small_study: Any, tmp_path: Path, parts: dict[str, int], figures: dict[str, list[str]]
) -> None:
    """The same global batch, of which one device works off all parts and two the half of them each: the same noise.

    Of few steps: what two orders of adding differ by grows with every step.
    """
    steps = {f"{part}.steps": 4 for part in (*parts, "finetune")} | {"hvae.checkpoint_steps": 2}
    ours, theirs = (
        make_small_study(steps | {f"{part}.accumulate": max(1, count // devices) for part, count in parts.items()})
        for devices in (1, 2)
    )
    one, two = copy_of(small_run, tmp_path / "one", ours), copy_of(small_run, tmp_path / "two", theirs)
    Pipeline(one, make_fabric("cpu")).run_stage("cft-segmentor")
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(theirs.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    # Fabric starts the second process as the first was started: by the interpreter.
    words = ["cft-segmentor", path, "--out", two.folder, "--device", "cpu", "--devices", "2"]
    done = subprocess.run([sys.executable, "-m", "segcft.cli", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for stage, names in figures.items():
        alone, shared = log_of(one.training, stage), log_of(two.training, stage)
        assert [row["step"] for row in shared] == [row["step"] for row in alone] == [1, 2, 3, 4]
        for name in [*names, "gradient_norm"]:
            expected = [row[name] for row in alone]
            assert [row[name] for row in shared] == pytest.approx(expected, rel=1e-3, abs=1e-4), (stage, name)
        if stage != "segmentor":  # whose statistics of its features each device keeps of its own parts
            weights = tensors_of(one.path(stage))
            for name, tensor in tensors_of(two.path(stage)).items():
                torch.testing.assert_close(tensor, weights[name], rtol=1e-2, atol=1e-3)


def test_a_batch_in_parts_is_the_batch(fit: Any, tmp_path: Path) -> None:
    class Plain(LineFit):
        """Without noise, so that parts and whole must agree."""

        def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            age, area = batch["values"][:, 1:2] / 50 - 1, batch["values"][:, 4:] / 100 - 1
            error = (self.network(age) - area).square().mean()
            return error, {"error": error}

    whole, _ = fit(Plain(), name="whole")
    parts, _ = fit(Plain(), name="parts", accumulate=4, batch_size=8)
    assert log_of(tmp_path, "parts")[-1]["error"] == pytest.approx(log_of(tmp_path, "whole")[-1]["error"], rel=1e-5)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight)
    with refused(StudyError, Code.CONFLICT, "accumulate"):
        fit(Plain(), accumulate=3, batch_size=9)
    with pytest.raises(ValueError, match=r"the 8 samples of batch_size cannot be worked off in 3 equal parts"):
        Training(steps=1, batch_size=8, accumulate=3)


def test_a_trained_part_records_where_it_comes_from(small_run: Run) -> None:
    for part in ("segmentor", "judge", "regressor", "scm", "hvae", "cft-regressor", "cft-segmentor"):
        meta = artefact.read_meta(small_run.path(part))
        assert meta["part"] == part
        assert meta["version"] == segcft.__version__
        assert meta["data"] == small_run.store().fingerprint
        assert Study.model_validate(meta["study"]) == small_run.study
        assert len(meta["key"]) == 16
        assert {"loss", "skipped"} <= set(meta["metrics"])
        assert all(math.isfinite(value) for value in meta["metrics"].values())
    assert "validation_bits_per_pixel" in artefact.read_meta(small_run.path("hvae"))["metrics"]
    assert "bound" in artefact.read_meta(small_run.path("cft-segmentor"))["metrics"]


# --- parts on disk ---


def test_weights_and_their_record_are_read_back(tmp_path: Path) -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    meta = {"key": "abc", "metrics": {"loss": 0.5}, "name": "Lunge, groß"}
    artefact.save(tmp_path / "deep" / "part.safetensors", ours, meta)
    assert artefact.load(tmp_path / "deep" / "part.safetensors", theirs) == meta
    assert artefact.read_meta(tmp_path / "deep" / "part.safetensors") == meta
    assert same(dict(ours.state_dict()), dict(theirs.state_dict()))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["part.safetensors"]  # and no .partial


def test_a_write_that_fails_leaves_the_old_part(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    artefact.save(path, nn.Linear(3, 2), {"key": "old"})
    with pytest.raises(TypeError):
        artefact.save(path, nn.Linear(3, 2), {"key": object()})
    assert artefact.read_meta(path) == {"key": "old"}
    (tmp_path / "part.safetensors.partial").write_bytes(b"left by a killed process")
    artefact.save(path, nn.Linear(3, 2), {"key": "new"})
    assert artefact.read_meta(path) == {"key": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["part.safetensors"]


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "cut", "foreign", "another network"])
def test_a_part_that_cannot_be_used_is_told_by_its_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "hvae.safetensors"
    artefact.save(path, nn.Linear(3, 2), {"key": "abc"})
    whole = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "garbage":
            path.write_bytes(bytes(range(256)) * 4)
        case "cut":
            path.write_bytes(whole[:-5])
        case "foreign":
            save_file({"weight": torch.zeros(2)}, path)
    network = nn.Linear(4, 2) if damage == "another network" else nn.Linear(3, 2)
    with pytest.raises(RunError, match=r"hvae\.safetensors: "):
        artefact.load(path, network)


@pytest.mark.parametrize(
    ("meta", "field"),
    [
        ({}, "key"),
        ({"key": 5}, "key"),
        ({"key": "k", "made_from": ["hvae"]}, "made_from"),
        ({"key": "k", "made_from": {"hvae": {}}}, "made_from.hvae"),
        ({"key": "k", "metrics": {"loss": "low"}}, "metrics.loss"),
        ({"key": "k", "study": None}, "study"),
    ],
)
def test_a_header_that_is_none_of_a_part_is_told(tmp_path: Path, meta: dict[str, Any], field: str) -> None:
    path = tmp_path / "hvae.safetensors"
    artefact.save(path, nn.Linear(3, 2), meta)
    for read in (lambda: artefact.read_meta(path), lambda: artefact.load(path, nn.Linear(3, 2))):
        with refused(RunError, Code.DAMAGED, f"hvae.safetensors: {field}"):
            read()


def test_a_key_changes_with_every_part_and_not_with_the_order_of_settings() -> None:
    assert key_of("hvae", {"a": 1, "b": 2}) == key_of("hvae", {"b": 2, "a": 1})
    assert len({key_of(*parts) for parts in (("a", "b"), ("b", "a"), ("ab",), ("a", ["b"]), ())}) == 5


def test_frozen_means_no_gradients_and_no_batch_statistics() -> None:
    network = freeze(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
