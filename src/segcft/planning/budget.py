"""Hours into steps: what a step takes on this machine, and how the stages share the time."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.data.splits import PARTS
from segcft.data.store import Store
from segcft.data.writer import StoreWriter
from segcft.pipeline.pool import threads_of
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.planning.planned import Machine, Planned
from segcft.training.loop import make_fabric
from segcft.utils.progress import Progress, Task

HOURS = 1.5
"""For all stages together, unless the user says otherwise."""
SPENT = 0.75
"""Share of the hours for trainings. The rest: import, evaluation, validation, and waiting of one stage for another."""
BESIDE = 1.15
"""A step takes so many times as long where another training runs beside it, on cores of its own."""
TIMED = 4
"""Steps of each stage that are timed, after a first one, which is slower."""


class Need(NamedTuple):
    """Of a section: its share of the time, and the steps that it needs to become good."""

    share: float
    steps: int


NEEDS: Mapping[str, Need] = {
    "segmentor": Need(0.12, 2000),
    "judge": Need(0.25, 3000),
    "regressor": Need(0.03, 1000),
    "scm": Need(0.01, 400),
    "hvae": Need(0.21, 3000),
    "finetune": Need(0.38, 1500),
}
"""Steps are those of studies of 128 x 128 pixels that were tuned by hand, and shares what these took on two cores.
Fine-tuning is done once for each guide, at the same number of steps."""
LEAST = 0.5
"""Share of the steps that are needed, below which no plan goes, whatever the hours."""
MOST = 3.0
"""Times the steps that are needed, above which more is of no use to a small set ..."""
PASSES = 60
"""... or passes over the training images, whichever is more. Trainings that stop by themselves stop earlier."""


class _Timer(Progress):
    """Notes by ``clock`` when each step of each task ended."""

    def __init__(self, shown: Task, clock: Callable[[], float]) -> None:
        self.shown, self.clock = shown, clock
        self.ended: dict[str, list[float]] = {}

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Task]:
        yield _Timed(self.ended.setdefault(description, []), self.shown, self.clock)


class _Timed(Task):
    """Notes in ``ends`` when each step ended."""

    def __init__(self, ends: list[float], shown: Task, clock: Callable[[], float]) -> None:
        self.ends, self.shown, self.clock = ends, shown, clock

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.ends.append(self.clock())
        self.shown.advance()


def measure(study: Study, machine: Machine, progress: Progress) -> dict[str, float]:
    """Seconds of a training step of each section on this machine, by some steps on made-up samples.

    The stages are run as they will be, in a folder that is then removed: what a step takes depends on the networks, the
    grid and the batch, not on what the images show. Sections of which several stages train count all of theirs. On a
    CPU the time is that of the cores, so that it is the same whatever else they do meanwhile.
    """
    short = _shortened(study)
    threads, own = torch.get_num_threads(), threads_of(machine.jobs)
    torch.set_num_threads(own)
    clock = time.perf_counter if machine.device != "cpu" else lambda: time.process_time() / own
    try:
        with tempfile.TemporaryDirectory(prefix="segcft-plan-") as folder:
            run = Run(folder, short)
            total = len(run.parts) * (TIMED + 1)
            height, width = study.image.size
            with progress.task(f"Timing steps at {height} x {width} pixels", total) as shown:
                timer = _Timer(shown, clock)
                pipeline = Pipeline(run, make_fabric(machine.device), progress=timer)
                pipeline.keys["import"] = _made_up(short, Path(folder) / "store").fingerprint
                for part in run.parts:
                    pipeline.run_stage(part)
    finally:
        torch.set_num_threads(threads)
    found: dict[str, float] = {}
    for part in run.parts:
        section = "finetune" if part.startswith("cft-") else part
        ends = timer.ended[f"training {part}"]
        step = statistics.median(after - before for before, after in itertools.pairwise(ends))
        found[section] = found.get(section, 0.0) + step * (BESIDE if machine.jobs > 1 else 1.0)
    return found


def _shortened(study: Study) -> Study:
    raw = study.model_dump(mode="json")
    for section in NEEDS:
        if raw.get(section):
            raw[section] |= {"steps": TIMED + 1, "warmup_steps": 0}
    raw["finetune"]["bound_batches"] = 1
    return parse_study(raw)


def _made_up(study: Study, folder: Path) -> Store:
    """Samples of noise, of which any part of the study can be trained: rectangles in noise, any attributes."""
    random = np.random.default_rng(0)
    height, width = study.image.size
    count = max(study.hvae.batch_size, study.segmentor.batch_size)
    with StoreWriter(folder, study) as writer:
        for number in range(count + len(PARTS)):
            image = random.integers(0, 256, (study.image.channels, height, width), dtype=np.uint8)
            masks = np.zeros((len(study.structures), height, width), dtype=np.uint8)
            for mask in masks:
                mask[: random.integers(height // 4, height), : random.integers(width // 4, width)] = 255
            attributes = {
                name: str(random.choice(one.categories)) if one.categories else float(random.uniform(1, 2))
                for name, one in study.variables.items()
            }
            part = PARTS[number] if number < len(PARTS) else "train"
            writer.append(str(number), str(number), part, image, masks, attributes)
    return Store(folder)


def machine_of(device: str, jobs: int) -> Machine:
    """This machine, with trainings on ``device``."""
    cores = os.cpu_count() or 1
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:  # Windows does not say
        memory = 8 * 2**30
    return Machine(device, cores, memory, jobs)


def seconds_for(section: str, sections: Mapping[str, float], hours: float, jobs: int) -> float:
    """What a section has of the hours, in seconds of its own training, among ``sections``."""
    share = NEEDS[section].share / sum(NEEDS[name].share for name in sections)
    return share * SPENT * hours * 3600 * jobs


def suffices(seconds: Mapping[str, float], hours: float, jobs: int) -> bool:
    """Whether every section gets the steps that it needs, where a step takes these ``seconds``."""
    return all(
        seconds_for(section, seconds, hours, jobs) >= NEEDS[section].steps * step for section, step in seconds.items()
    )


def steps(
    seconds: Mapping[str, float], hours: float, machine: Machine, batches: Mapping[str, int], images: int
) -> dict[str, Planned]:
    """The steps of each section, as a most.

    Args:
        seconds: section -> what a step takes.
        hours: for all of them.
        machine: what trains.
        batches: section -> samples in a step.
        images: that train.
    """
    found = {}
    for section, step in seconds.items():
        need, own = NEEDS[section], seconds_for(section, seconds, hours, machine.jobs)
        most = max(MOST * need.steps, PASSES * images / batches[section])
        count, why = own / step, f"{own / 60:.0f} minutes, {step:.2g} s a step on this machine"
        if count > most:
            count, why = most, f"more is of no use ({step:.2g} s a step)"
        elif count < LEAST * need.steps:
            count = LEAST * need.steps
            why = f"the fewest that make sense, though {step:.2g} s a step are more than {hours:g} hours allow"
        found[section] = Planned(_round(count), why)
    return found


def _round(count: float) -> int:
    """To two digits: the machine's speed is not known better."""
    unit = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return max(1, math.floor(count / unit) * unit)


def hours_of(steps: Mapping[str, Planned], seconds: Mapping[str, float], jobs: int) -> float:
    """What so many steps take, with all that is no training."""
    return sum(steps[section].value * seconds[section] for section in seconds) / (SPENT * 3600 * jobs)
