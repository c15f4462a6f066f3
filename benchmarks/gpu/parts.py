"""What ``make gpu`` measures: every function keeps a row of what it measures, see :mod:`benchmarks.gpu.part`."""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks.baseline import Baseline
from benchmarks.gpu.part import ROOT, Keep, Row
from benchmarks.hours import Product, count_flop
from benchmarks.measure import MiB, time_call
from benchmarks.ours import Ours
from benchmarks.work import Work, fresh
from segcft.config.loader import load_study
from segcft.config.study import Study
from segcft.data.batches import Batches
from segcft.data.store import Store
from segcft.data.writer import StoreWriter
from segcft.image_models.objective import LikelihoodObjective
from segcft.training.loop import make_fabric, train

TERA, GIGA = 1e12, 1e9


def product(keep: Keep, device: str, sizes: dict[str, int], seconds: float) -> None:
    """The rate of a square matrix product in every precision: ``sizes`` has its number of rows."""
    for precision, size in sizes.items():
        product = Product(size, device, precision)  # type: ignore[arg-type]
        time_call(product, seconds / 4)  # warm up
        spent = time_call(product, seconds)
        keep({"precision": precision, "rows": size, "TFLOP/s": product.facts["flop"] / spent / TERA})


def tests(keep: Keep) -> None:
    """The tests marked ``cuda``, from the files that have some: others may need packages that are not there."""

    class Outcomes:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or report.outcome != "passed":
                why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext[-2000:]
                keep({"test": report.nodeid, "outcome": report.outcome, "why": why, "seconds": report.duration})

    files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if "mark.cuda" in path.read_text()]
    outcome = pytest.main(["-m", "cuda", "-o", "addopts=", "-p", "no:cacheprovider", *files], plugins=[Outcomes()])
    if outcome not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {outcome!r}")


def steps(
    keep: Keep,
    configuration: str,
    contender: str,
    device: str,
    tasks: list[str],
    batches: list[int],
    precisions: list[str],
    seconds: float,
    compile: str = "",
    folder: str = "",
) -> None:
    """Steps of a contender in every precision and at every batch size, the smallest first.

    Args:
        contender: ``two-stream``, ``causal-gen's network`` (ours), or ``causal-gen``: that of the checkout ``folder``.
        compile: the backend that compiles the network; "" compiles nothing.
    """
    published = yaml.safe_load((ROOT / "benchmarks" / "published.yaml").read_text())[configuration]

    def make(task: str, batch: int, precision: str) -> Work:
        shared: Any = {"task": task, "batch": batch, "device": device, "precision": precision}
        if contender == "causal-gen":
            return Baseline(folder, configuration=published, **shared)
        architecture = "two-stream" if contender == "two-stream" else "causal-gen"
        return Ours(architecture, compile=compile, configuration=published, **shared)

    counted: set[str] = set()
    for batch in batches:
        for precision in precisions:
            for task in tasks:
                asked: Row = {"configuration": configuration, "contender": contender, "compile": compile}
                asked |= {"task": task, "batch": batch, "precision": precision}
                try:
                    # Operations grow with the batch and are counted once; compiled code hides them.
                    count = not compile and task not in counted
                    found = _step(make(task, batch, precision), batch, seconds, count)
                    counted.add(task)
                except Exception as error:
                    found = {"error": reason(error)}
                keep(asked | found)
                _forget(device)


def _step(work: Work, batch: int, seconds: float, count: bool) -> Row:
    found: Row = {"parameters": work.facts["parameters"]}
    if count:
        found["GFLOP an image"] = count_flop(work) / batch / GIGA
    for _ in range(2):  # the compiler, and the choice of algorithms
        work()
    on_gpu = work.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    spent = time_call(work, seconds)
    found |= {"ms": 1000 * spent, "images/s": batch / spent}
    return found | ({"MiB": torch.cuda.max_memory_allocated() / MiB} if on_gpu else {})


def _forget(device: str) -> None:
    """What the row before has left is no part of the next one."""
    torch.compiler.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def training(keep: Keep, study: str, samples: int, device: str, seconds: float) -> None:
    """Training of the image mechanism as ``segcft run`` does it, on random images: how long it waits for them.

    Where there is a GPU, once with the samples kept on it, and once sent to it from the host, as larger sets are. A
    training takes ten times ``seconds`` at least; shorter ones before it warm up.
    """

    class Sent(Batches):
        def keep_on(self, device: torch.device, room: int) -> bool:
            return False

    plan = load_study(ROOT / study)
    fabric = make_fabric(device)
    kinds: dict[str, type[Batches]] = {"the GPU": Batches, "the host": Sent} if device == "cuda" else {"the host": Sent}
    with tempfile.TemporaryDirectory() as name:
        store = random_store(Path(name) / "store", plan, samples)
        for precision in ("32", "bf16"):
            for where, kind in kinds.items():
                steps, spent = 1, 0.0
                while spent < 10 * seconds:
                    steps *= 4
                    spec = plan.hvae.model_copy(update={"steps": steps, "precision": precision})
                    batches = kind(store, store.indices("train", complete=True), spec.batch_size, spec.seed)
                    network = fresh(plan, "hvae")
                    network.parents.set_statistics(torch.from_numpy(store.values()[batches.indices]))
                    objective = LikelihoodObjective(network, plan.model_copy(update={"hvae": spec}))
                    key = f"{precision}, {where}, {steps}"
                    began = time.perf_counter()
                    figures = train(objective, batches, spec, fabric, folder=Path(name), name=key, key=key).figures
                    spent = time.perf_counter() - began
                found: Row = {"study": plan.name, "samples on": where, "batch": spec.batch_size, "steps": steps}
                found |= {"precision": precision if precision == "bf16" else "default"}
                keep(found | {"images/s": steps * spec.batch_size / spent, "data wait": figures["data_wait"]})


def random_store(folder: Path, study: Study, samples: int) -> Store:
    """A store of noise of the study's size."""
    random = np.random.default_rng(0)
    size = study.image.size
    with StoreWriter(folder, study) as writer:
        for number in range(samples):
            image = random.integers(256, size=(study.image.channels, *size), dtype=np.uint8)
            masks = random.integers(256, size=(len(study.masked), *size), dtype=np.uint8)
            attributes: dict[str, float | str | None] = {
                name: str(random.choice(one.categories)) if one.kind == "categorical" else float(random.uniform(20, 80))
                for name, one in study.variables.items()
            }
            writer.append(str(number), str(number), "train", image, masks, attributes)
    return Store(folder)


def reason(error: BaseException) -> str:
    """Why something failed, in a line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:300]
