"""What segcft does on one GPU, in minutes: ``make gpu``, or ``python -m benchmarks.gpu --help``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

import segcft
from benchmarks.gpu.part import ROOT, Part, Row
from benchmarks.gpu.table import markdown
from benchmarks.measure import describe_device
from segcft.utils.atomic import write_text

PARTS = "benchmarks.gpu.parts"
LEAST = 5.0
"""Seconds under which no part is begun: its process takes as long to import PyTorch."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write what is there after every part. 0 if all parts and tests went well, else 1."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            f"--device cuda: PyTorch {torch.__version__} finds no CUDA device (--device cpu --tiny tries this)"
        )
    if options.causal_gen and not (Path(options.causal_gen) / "src" / "vae.py").is_file():
        parser.error(f"--causal-gen: {options.causal_gen}: no causal-gen here (src/vae.py is missing)")
    parts = plan(options.device, options.tiny, options.causal_gen)
    unknown = {*options.parts} - {part.name for part in parts}
    if unknown:
        parser.error(f"--parts: {', '.join(sorted(unknown))}: not one of {', '.join(part.name for part in parts)}")
    chosen = [part for part in parts if part.name in options.parts or not options.parts]
    record = describe(options.device, options.tiny)
    whole = options.device == "cuda" and not options.tiny and not options.parts
    out = options.out or (ROOT / "benchmarks" / "gpu.json" if whole else ROOT / "build" / "gpu" / "gpu.json")
    results = run(chosen, 60 * options.minutes, record, out)
    print(markdown(record))
    print(f"written: {out}, {out.with_suffix('.md')}", file=sys.stderr)
    return int(any(result["outcome"] == "failed" or _failures(result) for result in results))


def plan(device: str, tiny: bool, causal_gen: str = "") -> list[Part]:
    """All parts, the most important first: time may run out."""
    published = yaml.safe_load((ROOT / "benchmarks" / "published.yaml").read_text())
    names = ["morphomnist32"] if tiny else ["mimic192", "padchest224"]
    tasks = ["train", "cft-segmentor", "counterfactual"]
    precisions = ["bf16", "tf32", "32"] if device == "cuda" else ["bf16", "32"]  # a CPU has no TF32
    seconds = 0.05 if tiny else 0.5
    shared = {"device": device, "seconds": seconds}

    def steps(contender: str, limit: float, multiples: list[int], **more: Any) -> list[Part]:
        found = []
        for name in names:
            base = 2 if tiny else published[name]["batch"]
            arguments = {"tasks": tasks, "precisions": precisions, "batches": [n * base for n in multiples], **more}
            label = f"{name}, {contender}{', compiled' if arguments.get('compile') else ''}"
            arguments |= shared | {"configuration": name, "contender": contender}
            found.append(Part(label, f"{PARTS}:steps", limit, arguments))
        return found

    sizes = dict.fromkeys(precisions, 256 if tiny else 8192)
    study, samples = ("configs/quickstart.yaml", 32) if tiny else ("configs/padchest.yaml", 1024)
    # Compiling takes minutes. A step that is not compiled is bound by what it launches, and gains the most.
    compiled: Any = {"tasks": tasks[:2], "precisions": precisions[:1], "compile": "aot_eager" if tiny else "inductor"}
    theirs = {"folder": causal_gen}
    return [
        Part("product", f"{PARTS}:product", 40, shared | {"sizes": sizes}),
        Part("tests", f"{PARTS}:tests", 90, {}),
        *steps("two-stream", 75, [1, 4] if tiny else [1, 4, 16]),
        *(steps("causal-gen", 45, [1, 4], **theirs) if causal_gen else []),
        Part("training", f"{PARTS}:training", 60, {"study": study, "samples": samples} | shared),
        *steps("two-stream", 90, [1], **compiled),
        *steps("causal-gen's network", 45, [1, 4]),
    ]


def run(parts: list[Part], seconds: float, record: Row, out: Path) -> list[Row]:
    """Do the parts one after another, in ``seconds`` all together. ``record`` and its table are written after each."""
    deadline = time.monotonic() + seconds
    results: list[Row] = record.setdefault("parts", [])
    for part in parts:
        left = deadline - time.monotonic()
        if left < LEAST:
            results.append(part.result("not begun", "no time was left"))
        else:
            print(f"{part.name} ...", file=sys.stderr, flush=True)
            results.append(part.run(left))
        write_text(out, json.dumps(record, indent=1) + "\n")
        write_text(out.with_suffix(".md"), markdown(record))
    return results


def describe(device: str, tiny: bool) -> Row:
    """With what and when it was measured."""
    found: Row = {"device": describe_device(device, torch.get_num_threads())}
    if device == "cuda":
        found["GiB"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
        found["driver"] = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]
        found["CUDA"], found["cuDNN"] = torch.version.cuda, torch.backends.cudnn.version()
    found |= {"torch": torch.__version__, "segcft": segcft.__version__}
    found |= {"commit": _said("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12")}
    return found | {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "tiny": tiny}


def _said(*command: str) -> str:
    """What a command prints; "" where there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _failures(result: Row) -> list[Row]:
    return [row for row in result["rows"] if row.get("outcome") == "failed"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Runs the tests that need a GPU and times training, fine-tuning and counterfactuals on it. What is "
        "done is kept when time runs out.",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="networks of 32 pixels, to try the command itself")
    parser.add_argument("--minutes", type=float, default=8, metavar="N", help="for all parts together (default: 8)")
    parser.add_argument("--causal-gen", default="", metavar="DIR", help="a checkout of causal-gen, to be timed beside")
    parser.add_argument("--parts", nargs="+", default=[], metavar="NAME", help="only these parts")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON, with the table beside it (default: benchmarks/gpu.json after a whole run on a GPU, else "
        "build/gpu/gpu.json)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
