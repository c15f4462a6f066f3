"""How fast segcft is beside causal-gen, on this machine, in one run: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

import segcft
from benchmarks.measure import Contender, Timing, cell, compare, describe_device
from benchmarks.work import Task


def main(arguments: list[str] | None = None) -> None:
    configurations: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    options = _parser(list(configurations)).parse_args(arguments)
    device = describe_device(options.device, options.threads)
    print(f"segcft {segcft.__version__}, PyTorch {torch.__version__}, {device}", file=sys.stderr)
    rows = []
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for name in options.configurations:
        for task in options.tasks:
            configuration = configurations[name]
            for batch in options.batch or [configuration["batch"]]:
                for timing in compare(
                    _contenders(configuration, task, batch, options), options.rounds, options.threads
                ):
                    row = _row(name, task, batch, timing)
                    rows.append(row)
                    print(f"| {' | '.join(cell(row[column]) for column in COLUMNS)} |", flush=True)
    if options.json:
        record = {"segcft": segcft.__version__, "torch": torch.__version__, "device": device, "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


COLUMNS = ("configuration", "task", "batch", "contender", "parameters", "ms", "images/s", "ratio", "from", "to", "MiB")


def _parser(configurations: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times training steps, fine-tuning steps and counterfactuals of segcft and, where it is at hand, "
        "of causal-gen, taking turns on the same machine. Ratios are how many times faster than the first "
        "contender, the median over rounds with the lowest and highest.",
    )
    parser.add_argument("--causal-gen", metavar="DIR", help="a checkout of causal-gen; without it there is no baseline")
    parser.add_argument("--configurations", nargs="+", choices=configurations, default=configurations, metavar="NAME")
    parser.add_argument("--tasks", nargs="+", choices=get_args(Task), default=list(get_args(Task)), metavar="TASK")
    parser.add_argument(
        "--batch", nargs="+", type=int, metavar="N", help="images a call (default: the published batch)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each contender (default: 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--bf16", action="store_true", help="segcft also under bfloat16 autocast")
    parser.add_argument("--recompute", action="store_true", help="two-stream also with hvae.recompute, where it trains")
    parser.add_argument("--compile", action="store_true", help="two-stream also compiled (minutes), where it trains")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    return parser


def _contenders(configuration: dict[str, Any], task: str, batch: int, options: argparse.Namespace) -> list[Contender]:
    shared = {"configuration": configuration, "task": task, "batch": batch, "device": options.device}
    contenders = [
        Contender("causal-gen's network", "benchmarks.ours:published", shared),
        Contender("two-stream", "benchmarks.ours:two_stream", shared),
    ]
    for way, value in (("recompute", True), ("compile", "inductor")):
        if getattr(options, way) and task != "counterfactual":
            contenders.append(Contender(f"two-stream, {way}", "benchmarks.ours:two_stream", shared | {way: value}))
    if options.bf16:
        contenders += [
            Contender(f"{name}, bf16", make, arguments | {"precision": "bf16"}) for name, make, arguments in contenders
        ]
    if options.causal_gen:
        contenders.insert(
            0, Contender("causal-gen", "benchmarks.baseline:make", shared | {"folder": options.causal_gen})
        )
    return contenders


def _row(name: str, task: str, batch: int, timing: Timing) -> dict[str, Any]:
    low, high = timing.spread
    return {
        "configuration": name,
        "task": task,
        "batch": batch,
        "contender": timing.name,
        "parameters": timing.facts["parameters"],
        "ms": 1000 * timing.seconds,
        "images/s": batch / timing.seconds,
        "ratio": timing.ratio,
        "from": low,
        "to": high,
        "MiB": timing.peak,
    }


if __name__ == "__main__":
    main()
