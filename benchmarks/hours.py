"""Hours of training on many devices, estimated from steps measured on one: ``python -m benchmarks.hours --help``.

A step of training on the likelihood and one of fine-tuning are timed here, taking turns with a large matrix product
whose rate is what this device reaches at best. A step of n devices is taken to last as long as one device's step on
its own share, and then the all-reduce of the gradients. What is not measured is an option, and is printed with the
hours. Another device than the one at hand is an assumption too: its peak, and the share of it that a step reaches.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

import segcft
from benchmarks.measure import Contender, Timing, cell, compare, describe_device
from benchmarks.ours import Ours
from benchmarks.work import Precision, use_precision

GIGA, TERA, HOUR = 1e9, 1e12, 3600
STAGES = {"train": "training", "cft-segmentor": "fine-tuning"}
"""Tasks of :class:`benchmarks.work.Work`, and what the tables call them."""
PRODUCT_SIZE = {"cpu": 4096, "cuda": 8192}
"""Rows of a matrix product that is large enough to come close to a device's peak, and not much slower."""


def main(arguments: list[str] | None = None) -> None:
    configurations: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    options = _parse(_parser(list(configurations)), arguments)
    configuration = configurations[options.configuration]
    options.batch = options.batch or configuration["batch"]
    device = describe_device(options.device, options.threads)
    print(f"segcft {segcft.__version__}, PyTorch {torch.__version__}, {device}", file=sys.stderr)

    peak, *timings = compare(_contenders(configuration, options), options.rounds, options.threads)
    steps = [_step(timing, peak, options.batch) for timing in timings]
    gradient = timings[0].facts["gradient"]
    bases = {f"measured on {device}": [timing.seconds for timing in timings]}
    if options.peak:
        rate = options.peak * TERA * options.share
        name = f"assumed: {options.share:.3g} of {options.peak:g} TFLOP/s"
        bases[name] = [timing.facts["flop"] / rate for timing in timings]
    rows = [_row(basis, n, seconds, gradient, options) for basis, seconds in bases.items() for n in options.devices]

    print(f"{options.network} of {options.configuration}, {'bf16' if options.bf16 else 'float32'}\n")
    _print_table([{"measured": "matrix product", "GFLOP/s": _rate(peak) / GIGA}, *steps], list(steps[0]))
    _print_table(rows, list(rows[0]))
    print("\n".join(f"- {line}" for line in _assumptions(gradient, options)))
    if options.json:
        facts = {"segcft": segcft.__version__, "torch": torch.__version__, "device": device}
        asked = {name: value for name, value in vars(options).items() if name != "json"}
        measured = {"gradient_bytes": gradient, "product_flop": peak.facts["flop"], "product_s": peak.seconds}
        record = facts | {"options": asked, "measured": measured, "steps": steps, "hours": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def count_flop(call: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products and convolutions in a call, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def all_reduce_seconds(devices: int, size: float, bandwidth: float) -> float:
    """Time in which a ring of devices sums ``size`` bytes of each, at ``bandwidth`` bytes a second."""
    return 2 * (devices - 1) / devices * size / bandwidth


def counted_step(**arguments: Any) -> Ours:
    """A step as a contender (see :func:`benchmarks.measure.compare`) that knows its operations and gradients."""
    step = Ours(**arguments)
    size = sum(p.numel() * p.element_size() for p in step.parameters)
    step.facts |= {"flop": count_flop(step), "gradient": size}
    return step


class Product:
    """A square matrix product as a contender, in the precision of the steps' convolutions."""

    def __init__(self, size: int, device: str, precision: Precision) -> None:
        use_precision(precision, torch.device(device))
        self.matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else None)
        self.facts = {"flop": count_flop(self)}

    def __call__(self) -> None:
        torch.mm(self.matrix, self.matrix)
        if self.matrix.is_cuda:
            torch.cuda.synchronize()


def _parser(configurations: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hours", description=__doc__)
    count, amount = _positive(int), _positive(float)
    parser.add_argument("--configuration", choices=configurations, default="padchest224", metavar="NAME")
    parser.add_argument("--network", choices=["two-stream", "causal-gen"], default="two-stream")
    parser.add_argument("--batch", type=count, metavar="N", help="images a device and step (default: as published)")
    parser.add_argument("--rounds", type=count, default=5, metavar="N", help="turns, whose median counts (default: 5)")
    parser.add_argument("--threads", type=count, default=torch.get_num_threads(), metavar="N", help="CPU threads")
    parser.add_argument("--device", choices=list(PRODUCT_SIZE), default="cpu")
    parser.add_argument("--bf16", action="store_true", help="steps under bfloat16 autocast")
    assumed = parser.add_argument_group("assumptions")
    for name, kind, default, what in (
        ("images", count, 160_000, "of the data set"),
        ("train-share", amount, 0.72, "of the images that train"),
        ("epochs", amount, 130.0, "of training on the likelihood, as published for PadChest"),
        ("finetune-epochs", amount, 10.0, "of fine-tuning"),
        ("per-node", count, 8, "devices of a node"),
        ("bandwidth-inside", amount, 300.0, "GB/s of a device's link inside a node"),
        ("bandwidth", amount, 50.0, "GB/s of a device's link to another node"),
        ("peak", amount, None, "dense TFLOP/s of another device"),
        ("share", amount, None, "of that peak which a step reaches, up to 1"),
    ):
        text = what if default is None else f"{what} (default: {default:g})"
        assumed.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=text)
    numbers = "numbers of devices to estimate for (default: 1 8 64)"
    assumed.add_argument("--devices", nargs="+", type=count, default=[1, 8, 64], metavar="N", help=numbers)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all of it there")
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    options = parser.parse_args(arguments)
    if (options.peak is None) != (options.share is None):
        parser.error("--peak and --share go together: a device's peak, and what a step is assumed to reach of it")
    for name in ("train_share", "share"):
        if (getattr(options, name) or 0) > 1:
            parser.error(f"--{name.replace('_', '-')}: {getattr(options, name):g} is over 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device on this machine")
    return options


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number above 0")
        return value

    return parse


def _contenders(configuration: dict[str, Any], options: argparse.Namespace) -> list[Contender]:
    where = {"device": options.device, "precision": "bf16" if options.bf16 else "tf32"}
    shared = where | {"architecture": options.network, "configuration": configuration, "batch": options.batch}
    product = Contender("matrix product", "benchmarks.hours:Product", where | {"size": PRODUCT_SIZE[options.device]})
    step = "benchmarks.hours:counted_step"
    return [product, *(Contender(name, step, shared | {"task": task}) for task, name in STAGES.items())]


def _rate(timing: Timing) -> float:
    return float(timing.facts["flop"] / timing.seconds)


def _step(timing: Timing, peak: Timing, batch: int) -> dict[str, Any]:
    return {
        "measured": f"{timing.name} step",
        "ms": 1000 * timing.seconds,
        "GFLOP an image": timing.facts["flop"] / batch / GIGA,
        "GFLOP/s": _rate(timing) / GIGA,
        "share of the product's": _rate(timing) / _rate(peak),
    }


def _row(basis: str, devices: int, seconds: list[float], gradient: int, options: argparse.Namespace) -> dict[str, Any]:
    """The hours on so many devices of which one takes ``seconds`` for each stage's step."""
    bandwidth = options.bandwidth_inside if devices <= options.per_node else options.bandwidth
    reduce = all_reduce_seconds(devices, gradient, bandwidth * GIGA)
    row = {"step": basis, "devices": devices, "global batch": devices * options.batch, "all-reduce, ms": 1000 * reduce}
    hours = {}
    epochs = (options.epochs, options.finetune_epochs)
    for name, step, passes in zip(STAGES.values(), seconds, epochs, strict=True):
        row[f"{name} step, ms"] = 1000 * step
        steps = passes * options.images * options.train_share / row["global batch"]
        hours[f"{name}, h"] = steps * (step + reduce) / HOUR
    return row | hours | {"both, h": sum(hours.values())}


def _assumptions(gradient: int, options: argparse.Namespace) -> list[str]:
    return [
        f"Assumed: {options.images:,} images, {options.train_share:.3g} of which train; {options.epochs:g} epochs of "
        f"training, {options.finetune_epochs:g} of fine-tuning; {options.batch} images a device and step.",
        f"Assumed: all-reduce in a ring, 2 (n - 1) / n of {gradient / GIGA:.3g} GB of gradients at "
        f"{options.bandwidth_inside:g} GB/s up to {options.per_node} devices, {options.bandwidth:g} GB/s beyond; none "
        "of it hidden behind the computation, as an upper bound.",
        "Counted: matrix products and convolutions, forward and backward, a multiply-add as two operations.",
        "Not in the hours: waiting for data, moving average of weights, checkpoints, the other stages.",
    ]


def _print_table(rows: list[dict[str, Any]], columns: list[str]) -> None:
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(cell(row.get(column, '')) for column in columns)} |")
    print()


if __name__ == "__main__":
    main()
