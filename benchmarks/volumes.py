"""What a step on volumes takes, in time and memory: ``python -m benchmarks.volumes``.

The trainings of ``configs/volume-sim.yaml`` run for some steps on made-up volumes of several sizes, each size in a
process of its own, so that its largest memory is known. Time and memory of a larger volume, as of a head, are then
those of the largest that was measured, in proportion to voxels: an estimate, and told as one.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
from pathlib import Path
from typing import Any

import yaml

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.evaluate.table import grid
from segcft.planning.timing import machine_of, measure
from segcft.utils.progress import ConsoleProgress

STUDY = Path(__file__).parents[1] / "configs" / "volume-sim.yaml"
SIZES = ("36x52x36", "64x64x64", "96x96x96")
HEAD = (256, 256, 256)
"""A head in voxels of 1 mm, beside a margin."""
SECTIONS = ("segmentor", "judge", "regressor", "hvae", "finetune")
MULTIPLE = 8
"""Patches and levels of the networks need sides that are multiples of this."""

Size = tuple[int, ...]
Taken = tuple[dict[str, float], float]
"""Seconds of a step of each section, and the largest memory in GiB."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.volumes", description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=_size, default=[_size(one) for one in SIZES], metavar="DxHxW")
    parser.add_argument("--batch", type=int, default=1, help="volumes of a step (default: 1)")
    parser.add_argument("--recompute", action="store_true", help="activations are computed again: time for memory")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    more = {"precision": options.precision}
    rows, measured = [], dict[Size, Taken]()
    for size in sorted(options.sizes, key=math.prod):
        measured[size] = _apart(size, options.batch, more, options.recompute, options.device)
        rows.append(_row(size, *measured[size]))
    largest, (seconds, memory) = list(measured.items())[-1]
    ratio = math.prod(HEAD) / math.prod(largest)
    rows.append(_row(HEAD, {name: ratio * one for name, one in seconds.items()}, ratio * memory, "estimated: "))
    print(grid(["voxels", "number", *(f"{name}, s" for name in SECTIONS), "GiB"], rows, labels=1))


def study_of(size: Size, batch: int, more: dict[str, Any], recompute: bool) -> Study:
    """The study on a grid of ``size`` voxels of 1 mm."""
    raw = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    raw["image"] |= {"size": list(size), "field_of_view": list(size)}
    raw["data"] = {"source": "folder"}
    for number, structure in enumerate(raw["structures"].values(), start=1):
        structure["label"] = number
    for section in SECTIONS:
        raw[section] |= {"batch_size": batch} | more
    raw["hvae"]["recompute"] = recompute
    return parse_study(raw)


def _apart(
    size: Size, batch: int, more: dict[str, Any], recompute: bool, device: str
) -> tuple[dict[str, float], float]:
    """:func:`_measured` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (size, batch, more, recompute, device))


def _measured(size: Size, batch: int, more: dict[str, Any], recompute: bool, device: str) -> Taken:
    seconds = measure(study_of(size, batch, more, recompute), machine_of(device, 1), ConsoleProgress())
    unit = 1 if sys.platform == "darwin" else 1024  # of what the system calls the largest resident set
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device == "cuda":
        import torch

        memory = torch.cuda.max_memory_allocated()
    return seconds, memory / 2**30


def _row(size: Size, seconds: dict[str, float], memory: float, said: str = "") -> list[str]:
    times = (f"{seconds[name]:.3g}" if name in seconds else "–" for name in SECTIONS)
    return [said + " x ".join(map(str, size)), f"{math.prod(size):,}", *times, f"{memory:.1f}"]


def _size(text: str) -> Size:
    size = tuple(int(one) for one in text.lower().split("x"))
    if len(size) != 3 or min(size) < MULTIPLE:
        raise argparse.ArgumentTypeError(f"depth x height x width, {MULTIPLE} or more each, not {text!r}")
    return tuple(MULTIPLE * math.ceil(one / MULTIPLE) for one in size)


if __name__ == "__main__":
    main()
