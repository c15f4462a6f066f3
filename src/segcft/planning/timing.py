"""What a training step takes on this machine."""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
from segcft.pipeline.stage import training_stage
from segcft.planning.budget import NEEDS
from segcft.planning.planned import Machine
from segcft.training.loop import make_fabric
from segcft.utils.progress import Progress, Task

BESIDE = 1.15
"""A step takes so many times as long where another training runs beside it, on cores of its own."""
TIMED = 4
"""Steps of each stage that are timed, after a first one, which is slower."""
EACH = 2
"""Samples of every part of the split, at least: one alone has no spread."""


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
            with progress.task(f"Timing steps at {study.image.words}", total) as shown:
                timer = _Timer(shown, clock)
                pipeline = Pipeline(run, make_fabric(machine.device), progress=timer)
                pipeline.keys["import"] = _made_up(short, Path(folder) / "store").fingerprint
                for part in run.parts:
                    pipeline.run_stage(part)
    finally:
        torch.set_num_threads(threads)
    found: dict[str, float] = {}
    for part in run.parts:
        section = training_stage(part).section
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
    for structure in raw["structures"].values():
        if structure.get("zone"):  # of made-up masks it may be empty, and what a step takes does not depend on that
            raw["variables"][structure["variable"]] |= {"scale": "linear", "zero_inflated": False}
    return parse_study(raw)


def _made_up(study: Study, folder: Path) -> Store:
    """Samples of noise, of which any part of the study can be trained: boxes in noise, any attributes."""
    random = np.random.default_rng(0)
    size = study.image.size
    count = max(study.hvae.batch_size, study.segmentor.batch_size if study.segmentor else 0)
    kept = dict.fromkeys(study.data.keep, "0")
    with StoreWriter(folder, study) as writer:
        for number in range(count + EACH * len(PARTS)):
            image = random.integers(0, 256, (study.image.channels, *size), dtype=np.uint8)
            masks = np.zeros((len(study.masked), *size), dtype=np.uint8)
            for mask in masks:
                mask[tuple(slice(random.integers(side // 4, side)) for side in size)] = 255
            attributes = {
                name: str(random.choice(one.categories)) if one.categories else float(random.uniform(1, 2))
                for name, one in study.variables.items()
            }
            part = PARTS[number // EACH] if number < EACH * len(PARTS) else "train"
            writer.append(str(number), str(number), part, image, masks, attributes, kept)
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
