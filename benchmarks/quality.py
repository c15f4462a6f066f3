"""Bits per pixel at equal wall time, ours beside causal-gen's: ``python -m benchmarks.quality --help``.

Both networks see the training people of the same store in the same batches, minimise the negative ELBO with
beta = 1 and a constant learning rate, and are asked for that of the validation people at the same seconds of
training. Each works in a process of its own, at the same time, on the same number of threads; the time of the
asking is not counted. It is for CPUs: on one GPU contenders would take each other's time.

Each is scored by its own likelihood. causal-gen's counts a grey level's probability as 1e-12 at least, ours has no such
floor, which can only make ours look worse.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.baseline import Baseline
from benchmarks.ours import Ours
from benchmarks.work import Work
from segcft.data.batches import Batch, Batches, sequential
from segcft.data.store import Store

CONTENDERS = ("causal-gen", "causal-gen's network", "two-stream")


def main(arguments: list[str] | None = None) -> None:
    """Print bits per pixel (lower is better) of every contender at every tenth of the time."""
    configurations = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("store", type=Path, metavar="STORE", help="a run's store, e.g. runs/quickstart/store")
    parser.add_argument("--configuration", choices=list(configurations), required=True)
    parser.add_argument("--causal-gen", metavar="DIR", help="a checkout of causal-gen; without it there is no baseline")
    parser.add_argument("--seconds", type=float, default=600, metavar="S", help="of training, each (default: 600)")
    parser.add_argument("--batch", type=int, default=16, metavar="N")
    parser.add_argument("--learning-rate", type=float, default=1e-3, metavar="R")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each contender")
    parser.add_argument("--people", type=int, default=128, metavar="N", help="validation people judged (default: 128)")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=["causal-gen", "two-stream"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args(arguments)
    names = [name for name in options.contenders if name != "causal-gen" or options.causal_gen]
    configuration = configurations[options.configuration]
    size = Store(options.store).images.shape[-2:]
    if size != (configuration["size"],) * 2:
        parser.error(f"{options.store}: images of {size}, but {options.configuration} is of {configuration['size']}")

    context = multiprocessing.get_context("spawn")
    runs = []
    for name in names:
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, name, configuration, vars(options)), daemon=True).start()
        theirs.close()
        runs.append(ours)
    print("| seconds | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
    rows = []
    for _ in range(10):
        answers = [run.recv() for run in runs]
        for answer in answers:
            if "error" in answer:
                raise SystemExit(answer["error"])
        cells = [f"{answer['bits']:.3f} ({answer['steps']} steps)" for answer in answers]
        print(f"| {answers[0]['seconds']:.0f} | " + " | ".join(cells) + " |", flush=True)
        rows.append(dict(zip(names, answers, strict=True)))
    if options.json:
        options.json.write_text(json.dumps({"configuration": options.configuration, "rows": rows}, indent=1) + "\n")


def _serve(parent: Connection, name: str, configuration: dict[str, Any], options: dict[str, Any]) -> None:
    import traceback

    try:
        torch.set_num_threads(options["threads"])
        store = Store(options["store"])
        configuration = configuration | {"parents": len(store.variables)}
        work = _contender(name, configuration, options)
        for answer in _train(work, store, options):
            parent.send(answer)
    except Exception:
        parent.send({"error": f"{name}:\n{traceback.format_exc()}"})


def _contender(name: str, configuration: dict[str, Any], options: dict[str, Any]) -> Work:
    arguments = {
        "configuration": configuration,
        "task": "train",
        "batch": options["batch"],
    }
    torch.manual_seed(0)
    if name == "causal-gen":
        return Baseline(options["causal_gen"], **arguments)
    return Ours("two-stream" if name == "two-stream" else "causal-gen", **arguments)


def _train(work: Work, store: Store, options: dict[str, Any]) -> Any:
    batches = Batches(store, store.indices("train", complete=True), options["batch"], seed=0)
    values = torch.from_numpy(store.values()[batches.indices])
    mean, std = values.mean(dim=0), values.std(dim=0)
    asked, spent, step = options["seconds"] / 10, 0.0, 0
    for group in work.optimizer.param_groups:
        group["lr"] = options["learning_rate"]
    while asked <= options["seconds"] * 1.001:
        start = time.perf_counter()
        batch = batches.batch(step)
        work.batch = _standardised(batch, mean, std, work.device)
        work()
        step += 1
        spent += time.perf_counter() - start
        if spent >= asked:
            yield {"seconds": asked, "steps": step, "bits": _bits(work, store, mean, std, options["people"])}
            asked += options["seconds"] / 10


@torch.no_grad()
def _bits(work: Work, store: Store, mean: torch.Tensor, std: torch.Tensor, people: int) -> float:
    """Negative ELBO of the first validation people in bits per pixel, one draw of the latents each."""
    work.network.eval()
    torch.manual_seed(1)
    total, rows = 0.0, store.indices("validation", complete=True)[:people]
    for batch in sequential(store, rows, 32):
        work.batch = _standardised(batch, mean, std, work.device)
        total += float(work.loss()) * len(batch["image"])
    work.network.train()
    return total / len(rows) / math.log(2)


def _standardised(batch: Batch, mean: torch.Tensor, std: torch.Tensor, device: torch.device) -> Batch:
    return {field: value.to(device) for field, value in (batch | {"values": (batch["values"] - mean) / std}).items()}


if __name__ == "__main__":
    main()
