"""What segcft does on one GPU, in minutes: ``make gpu``, or ``python -m benchmarks.gpu --help``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

import segcft
from benchmarks.gpu.parts import ROOT, Row
from benchmarks.gpu.table import markdown
from benchmarks.measure import describe_device
from segcft.utils.atomic import write_text

LEAST = 5.0
"""Seconds under which no part is begun: a process takes as long to import PyTorch."""


class Part(NamedTuple):
    """A function of :mod:`benchmarks.gpu.parts` with its arguments, which has ``limit`` seconds."""

    name: str
    kind: str
    limit: float
    arguments: dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write what is there after every part. 0 if all parts and tests went well, else 1."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            f"--device cuda: PyTorch {torch.__version__} finds no CUDA device (--device cpu --tiny tries this)"
        )
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
            found.append(Part(label, "steps", limit, arguments))
        return found

    sizes = dict.fromkeys(precisions, 256 if tiny else 8192)
    study, samples = ("configs/quickstart.yaml", 32) if tiny else ("configs/padchest.yaml", 1024)
    # Compiling takes minutes. A step that is not compiled is bound by what it launches, and gains the most.
    compiled: Any = {"tasks": tasks[:2], "precisions": precisions[:1], "compile": "aot_eager" if tiny else "inductor"}
    theirs = {"folder": causal_gen}
    return [
        Part("product", "product", 40, shared | {"sizes": sizes}),
        Part("tests", "tests", 90, {}),
        *steps("two-stream", 75, [1, 4] if tiny else [1, 4, 16]),
        *(steps("causal-gen", 45, [1, 4], **theirs) if causal_gen else []),
        Part(
            "training", "training", 45, {"device": device, "study": study, "samples": samples, "seconds": 16 * seconds}
        ),
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
            results.append(_result(part, 0.0, "no time left", "", []))
        else:
            print(f"{part.name} ...", file=sys.stderr, flush=True)
            results.append(run_part(part, min(part.limit, left)))
        write_text(out, json.dumps(record, indent=1) + "\n")
        write_text(out.with_suffix(".md"), markdown(record))
    return results


def run_part(part: Part, limit: float) -> Row:
    """Do one part in a process of its own, ended after ``limit`` seconds; the rows that it has by then are kept."""
    with tempfile.TemporaryDirectory() as name:
        rows, log = Path(name) / "rows", Path(name) / "log"
        rows.touch()
        command = [sys.executable, "-m", "benchmarks.gpu.parts", part.kind, json.dumps(part.arguments), str(rows)]
        began = time.monotonic()
        with log.open("wb") as output:
            # A group of its own: the compiler has processes too.
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
            try:
                outcome = "failed" if process.wait(limit) else "done"
            except subprocess.TimeoutExpired:
                outcome = "stopped"
            finally:
                _kill_group(process)
        spent = time.monotonic() - began
        last = (log.read_text(errors="replace").strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        reason = {"done": "", "stopped": f"not done after {limit:.0f} s", "failed": last[-300:]}[outcome]
        lines = rows.read_text().splitlines(keepends=True)
        return _result(part, spent, outcome, reason, [json.loads(line) for line in lines if line.endswith("\n")])


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


def _result(part: Part, seconds: float, outcome: str, reason: str, rows: list[Row]) -> Row:
    found = {"part": part.name, "kind": part.kind, "outcome": outcome, "reason": reason}
    return found | {"seconds": round(seconds, 1), "limit": part.limit, "rows": rows}


def _failures(result: Row) -> list[Row]:
    return [row for row in result["rows"] if row.get("outcome") == "failed"]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it began."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
        help="JSON, and the table beside it (default: benchmarks/gpu.json of a whole "
        "run on a GPU, else build/gpu/gpu.json)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
