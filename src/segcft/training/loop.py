"""The training loop of every stage, from the first step to the last, resumable at every checkpoint.

An :class:`Objective` says what is minimised; :func:`train` does the rest, through Lightning Fabric, so that
another device, several of them or several nodes are one option. Every step is a function of (seed, step) and of
the weights, so a resumed run repeats what the uninterrupted one would have done.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from segcft.config.section import Training
from segcft.data.batches import Batch, Batches
from segcft.errors import Code, RunError, SegcftError, StudyError
from segcft.grid import channels_last
from segcft.training import artefact
from segcft.training.average import MovingAverage
from segcft.training.findings import RETURNS
from segcft.training.schedule import Schedule, Stopped
from segcft.utils.atomic import append, write_text
from segcft.utils.progress import Progress
from segcft.utils.signals import HeldBack

if TYPE_CHECKING:
    from lightning.fabric import Fabric


M = TypeVar("M", bound=nn.Module)

RESIDENT_SHARE = 0.25
"""Samples are kept on a GPU if they take no more than this share of its free memory; the rest is for the network."""

VALIDATION = "validation"
"""The figure of a validation, in the rows of those steps after which there was one."""

BEFORE_ALL_STEPS = -1
"""In place of a step in the seeds of validations, whose draws are the same every time and those of no step."""

LOST = 20
"""Refused steps in a row after which a training has lost its way, and goes back to its average."""
SLOWER = 0.5
"""What its learning rates are multiplied with then."""

Row = dict[str, float]
"""The figures of a step."""


class Objective(nn.Module):
    """What one stage minimises. ``network`` is the module whose weights are kept."""

    network: nn.Module

    settles: int = 0
    """Steps in which what is minimised still changes, and no plateau is one."""

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and figures to log."""
        raise NotImplementedError

    def parameter_groups(self, spec: Training) -> list[dict[str, Any]]:
        """Groups for AdamW. ``scheduled: False`` holds a group's learning rate constant."""
        return [{"params": [p for p in self.network.parameters() if p.requires_grad], "lr": spec.learning_rate}]

    def after_step(self) -> None:
        """Called after every step of the optimiser, to project parameters."""

    def validate(self, batch: Batch) -> Tensor:
        """The figure by which it is known whether the training still improves the network, lower being better.

        Of each validation sample (B,), NaN where it does not count; the mean over samples is compared. Draws are
        seeded, so they are the same every time. By default it is the loss of the batch.
        """
        loss, _ = self(batch, self.settles)
        return loss.expand(len(batch["index"]))


def make_fabric(device: str = "auto", devices: int | list[int] = 1, nodes: int = 1) -> Fabric:
    """The hardware of a run: ``device`` is auto, cpu, cuda or mps; how many ``devices`` (or which) on each node.

    Raises:
        SegcftError: the machine has no such device.
    """
    from lightning.fabric import Fabric

    try:
        fabric = Fabric(accelerator=device, devices=devices, num_nodes=nodes)
        fabric.launch()
    except Exception as error:  # Lightning raises several kinds for hardware that is not there
        if device in ("cuda", "mps") and not getattr(torch, device).is_available():
            raise SegcftError(
                Code.NOT_INSTALLED, f"--device {device}", "PyTorch finds none here; leave it out, or take cpu"
            ) from error
        raise SegcftError(Code.NOT_INSTALLED, f"--device {device} --devices {devices}", f"{error}") from error
    return fabric


class Trained(NamedTuple):
    """What is known of a training that is done.

    ``figures``: the last ones, their mean over the last tenth of the steps, of those whose figure is finite;
    ``skipped``, how many steps were skipped; and ``data_wait``, the share of the time in which the training waited for
    samples. ``history``: the figures of every step. ``stopped``: where it ended, and why.
    """

    figures: Row
    history: Sequence[Row]
    stopped: Stopped


def train(
    objective: Objective,
    batches: Batches,
    spec: Training,
    fabric: Fabric,
    *,
    folder: Path,
    name: str,
    key: str,
    validation: Sequence[Batch] = (),
    progress: Progress | None = None,
) -> Trained:
    """Minimise ``objective`` for ``spec.steps`` steps and leave the (averaged) weights in ``objective.network``.

    With ``spec.patience`` it may end earlier, by what :meth:`Objective.validate` says of the ``validation`` batches, of
    which there is at least one.

    Checkpoints go to ``folder/name.checkpoint`` every ``spec.checkpoint_steps`` steps and figures to
    ``folder/name.jsonl``. A checkpoint made from the same ``key`` is continued. Ctrl-C and, where they have a handler
    (:func:`segcft.utils.signals.orderly_end`), SIGTERM and SIGUSR1 take effect once the step is done and its checkpoint
    kept.

    Raises:
        SegcftError: the loss is not finite for a whole checkpoint interval.
        StudyError: a device's share of the batch cannot be worked off in ``spec.accumulate`` equal parts.
    """
    checkpoint, log = folder / f"{name}.checkpoint", folder / f"{name}.jsonl"
    training = _Training(objective, spec, fabric, name, validation)
    training.restore(artefact.load_checkpoint(checkpoint, key))
    start, waited = training.step, 0.0
    history = _keep_history(log, start, write=fabric.is_global_zero)
    if fabric.device.type == "cuda":
        torch.cuda.empty_cache()  # what earlier stages have left is free, too
        batches.keep_on(fabric.device, room=int(RESIDENT_SHARE * torch.cuda.mem_get_info(fabric.device)[0]))
    began = time.perf_counter()
    with (
        (progress or Progress()).task(f"training {name}", spec.steps, start) as task,
        log.open("ab", buffering=0) as lines,
        HeldBack() as signals,
        closing(batches.from_step(start, spec.steps, fabric.device)) as upcoming,
    ):
        while training.step < training.schedule.end:
            asked = time.perf_counter()
            batch = next(upcoming)
            waited += time.perf_counter() - asked
            row = training.take_step(batch)
            history.append(row)
            if fabric.is_global_zero:
                append(lines, json.dumps(row))
            task.advance(note=f"loss {row['loss']:.4f}")
            ending = signals.pending is not None
            due = training.step % spec.checkpoint_steps == 0 and training.step < training.schedule.end
            if (due or ending) and fabric.is_global_zero:
                os.fsync(lines.fileno())  # whoever goes on from the checkpoint needs the lines before it
                artefact.save_checkpoint(checkpoint, {"key": key} | training.state())
            if ending:  # one that came since waits for a checkpoint of the next step
                signals.deliver()
    if training.returns and progress:
        progress.note(f"warning: {name}: went back to its average {training.returns} times, each time at half the rate")
    if training.skipped and progress:
        progress.note(
            f"warning: {name}: {training.skipped} of {training.step} steps were skipped: their gradient norm was not "
            "finite, or over gradient_skip"
        )
    stopped = training.schedule.stopped
    if stopped.why == "plateau" and progress:
        progress.note(f"  {name}: ended at step {stopped.step} of at most {spec.steps}: validation no longer improved")
    training.end()
    figures = _mean_of_tail(history, training.step) | {"data_wait": waited / (time.perf_counter() - began)}
    return Trained(figures, history, stopped)


class _Training:
    """An objective, its optimiser and how far they are: one step at a time, and what a checkpoint holds of it."""

    def __init__(
        self, objective: Objective, spec: Training, fabric: Fabric, name: str, validation: Sequence[Batch]
    ) -> None:
        self.objective, self.spec, self.fabric, self.name = channels_last(objective), spec, fabric, name
        optimizer: Any = torch.optim.AdamW(
            objective.parameter_groups(spec), weight_decay=spec.weight_decay, betas=spec.betas, fused=True
        )
        self.rates = [(group["lr"], group.get("scheduled", True)) for group in optimizer.param_groups]
        self.model: Any
        self.model, self.optimizer = fabric.setup(objective, optimizer)
        objective.train()
        self.average = MovingAverage(objective.network, spec.ema) if spec.ema else None
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.schedule, self.validation = Schedule(spec, objective.settles), validation
        self.step = self.skipped = self.refused = self.returns = self.since_return = 0

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from the :meth:`state` of a checkpoint, if there is one."""
        if state is None:
            return
        self.step, self.skipped = state["step"], state["skipped"]
        self.refused, self.returns, self.since_return = state.get("course", (0, 0, 0))
        self.schedule.restore(state)
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.updates = state["updates"]
            self.average.weights = {k: v.to(self.fabric.device) for k, v in state["average"].items()}

    def state(self) -> dict[str, Any]:
        averaged = {} if self.average is None else {"average": self.average.weights, "updates": self.average.updates}
        return {
            "step": self.step,
            "skipped": self.skipped,
            "course": (self.refused, self.returns, self.since_return),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **averaged,
            **self.schedule.state(),
        }

    def take_step(self, batch: Batch) -> Row:
        """One step; its figures.

        Raises:
            SegcftError: so many steps in a row were refused as are between two checkpoints, and there is no way back.
        """
        share = self.schedule.rate(self.step) * SLOWER**self.returns
        for group, (rate, scheduled) in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share if scheduled else rate
        figures = self._gradients(batch)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.spec.gradient_clip or math.inf))
        self._update(norm)
        self.optimizer.zero_grad(set_to_none=True)
        if self.fabric.world_size > 1:  # the mean over the devices' shares is that of the whole batch
            figures = cast(dict[str, Tensor], self.fabric.all_reduce(figures, reduce_op="mean"))
        self.step += 1
        row = {"step": self.step, "gradient_norm": norm, "skipped": self.skipped}
        row |= {RETURNS: self.returns} if self.returns else {}
        row |= {figure: float(value) for figure, value in figures.items()}
        if self.schedule.due(self.step):
            row[VALIDATION] = self.validate()
            self.schedule.add(self.step, row[VALIDATION])
        return row

    @torch.no_grad()
    def validate(self) -> float:
        """The mean of :meth:`Objective.validate` over validation samples, of the weights that would be kept."""
        network, average = self.objective.network, self.average
        trained = {name: value.clone() for name, value in network.state_dict().items()} if average else None
        if average:
            average.apply()
        self.objective.eval()
        found = []
        for number, batch in enumerate(self.validation):
            torch.manual_seed(_step_seed(self.spec.seed, BEFORE_ALL_STEPS, number))
            here = {field: value.to(self.fabric.device) for field, value in batch.items()}
            with self._precision():
                found.append(self.objective.validate(here).float())
        self.objective.train()
        if trained is not None:
            network.load_state_dict(trained)
        # All devices have read the same samples, so that each would decide alike; the first one's figure counts.
        return float(self.fabric.broadcast(torch.cat(found).nanmean()))

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16")

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Leave the gradients of a batch in the parameters; its loss and other figures."""
        spec, fabric = self.spec, self.fabric
        shown: dict[str, Tensor] = {}
        for part, here in enumerate(parts(batch, self.step, spec, fabric.global_rank)):
            with fabric.no_backward_sync(self.model, enabled=part + 1 < spec.accumulate):
                with self._precision():
                    loss, figures = self.model(here, self.step)
                fabric.backward(loss / spec.accumulate)
            for figure, value in {"loss": loss, **figures}.items():
                shown[figure] = shown.get(figure, 0) + value.detach() / spec.accumulate
        return shown

    def _update(self, norm: float) -> None:
        """Change the weights by gradients of this norm, unless it is a spike."""
        spec = self.spec
        if math.isfinite(norm) and (spec.gradient_skip is None or norm < spec.gradient_skip):
            self.optimizer.step()
            self.objective.after_step()
            if self.average is not None:
                self.average.update()
            self.refused, self.since_return = 0, self.since_return + 1
            return
        # Better no step than one that undoes a thousand.
        self.skipped, self.refused = self.skipped + 1, self.refused + 1
        if self.refused >= LOST and self.average is not None and self.since_return > 0:
            self._go_back()
        elif self.refused >= spec.checkpoint_steps:
            raise SegcftError(
                Code.FAILED,
                self.name,
                f"{self.refused} steps in a row had a gradient norm that is not finite or over "
                f"gradient_skip ({norm:g} last); lower the learning rate or raise gradient_skip",
            )

    def _go_back(self) -> None:
        """Give the network its averaged weights, which lie behind it, and go on from there more slowly. The optimiser
        forgets the gradients that led astray."""
        assert self.average is not None
        self.average.apply()
        for moments in self.optimizer.optimizer.state.values():
            for moment in moments.values():
                moment.zero_()
        self.returns, self.refused, self.since_return = self.returns + 1, 0, 0

    def end(self) -> None:
        """Leave the network with its averaged weights, in evaluation mode."""
        if self.average is not None:
            self.average.apply()
        self.objective.eval()


def parts(batch: Batch, step: int, spec: Training, rank: int) -> Iterator[Batch]:
    """The parts in which device ``rank`` works its share of a batch off, torch's generator seeded for each.

    The seed is of (seed, step, place of the part among all devices' parts): two parts on one device draw what two
    devices would.

    Raises:
        StudyError: the parts would not be equal.
    """
    samples = len(batch["index"])
    if samples % spec.accumulate:
        raise StudyError(
            Code.CONFLICT,
            "accumulate",
            f"{samples} samples a device (batch_size) are not {spec.accumulate} equal parts",
        )
    for part in range(spec.accumulate):
        torch.manual_seed(_step_seed(spec.seed, step, rank * spec.accumulate + part))
        yield {field: value.chunk(spec.accumulate)[part] for field, value in batch.items()}


def freeze(module: M) -> M:
    """Evaluation mode and no gradients of its own; gradients still flow through it to its input."""
    return module.eval().requires_grad_(False)


def _step_seed(seed: int, step: int, part: int) -> int:
    """One stream a step and part; the multipliers keep neighbouring triples apart."""
    return (seed * 1_000_003 + step) * 1_009 + part


def _keep_history(log: Path, steps: int, write: bool) -> list[Row]:
    """The first ``steps`` rows of an interrupted log; what came after the checkpoint is dropped from the file.

    Raises:
        RunError: a row is no row of figures.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    if steps and log.is_file():
        try:
            rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()[:steps]]
            named = rows[0].keys() | {VALIDATION}
            if not all(
                row.keys() | {VALIDATION} == named and {*map(type, row.values())} <= {int, float} for row in rows
            ):
                raise ValueError("not every line has the same figures")
        except (ValueError, AttributeError, RecursionError) as error:
            raise RunError(
                Code.DAMAGED, log, f"damaged ({error}); remove it to go on without its first {steps} lines"
            ) from None
    if write:
        write_text(log, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _mean_of_tail(history: Sequence[Row], steps: int) -> Row:
    tail = history[-max(1, steps // 10) :]
    means = {}
    for figure in tail[-1].keys() - {"step", "skipped", VALIDATION}:
        finite = [row[figure] for row in tail if math.isfinite(row[figure])]  # a skipped step's may not be
        if finite:
            means[figure] = sum(finite) / len(finite)
    return {figure: means[figure] for figure in tail[-1] if figure in means} | {"skipped": tail[-1]["skipped"]}
