"""Runs the readers and prints a table of what became of the inputs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

from benchmarks.fuzz.corpus import READERS
from benchmarks.fuzz.work import MEMORY, SECONDS, Reader, Runner, Tally, judge, working_folder

COLUMNS = ("reader", "inputs", "read", "refused", "findings", "inputs/s", "worst s", "worst MiB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if there are findings."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    if options.replay:
        return _replay(READERS[options.replay[0]], Path(options.replay[1]))
    start = time.monotonic()
    readers = [READERS[name] for name in options.only or READERS]
    tallies = fuzz(readers, options.inputs, options.seed, options.jobs, options.out)
    total = Tally()
    for tally in tallies.values():
        for key in ("inputs", "read", "refused", "findings"):
            setattr(total, key, getattr(total, key) + getattr(tally, key))
        total.busy += tally.busy
        total.slowest, total.largest = max(total.slowest, tally.slowest), max(total.largest, tally.largest)
    print(_line("all", total))
    print(
        f"\nseed {options.seed}, {time.monotonic() - start:.0f} s with {options.jobs} processes; an input may take "
        f"{SECONDS:g} s and {MEMORY >> 20} MiB"
    )
    for name, tally in tallies.items():
        for kind, count in tally.kinds.most_common():
            print(f"{name}: {count} x {kind}")
    if total.findings:
        print(f"findings are in {options.out}")
    return 1 if total.findings else 0


def fuzz(readers: Sequence[Reader], inputs: int, seed: int, jobs: int, out: Path) -> dict[str, Tally]:
    """Inputs, shared among ``readers`` by their weights, and what became of them; prints a line a reader."""
    weights = sum(reader.weight for reader in readers)
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    tallies: dict[str, Tally] = {}
    corpora = {reader.name: reader.make() for reader in readers}  # all before the first process is forked
    with ThreadPoolExecutor(jobs) as pool:  # each thread waits for a process
        running = {
            pool.submit(
                Runner(reader, corpora[reader.name], seed, out).run, max(1, -int(-inputs * reader.weight // weights))
            ): reader.name
            for reader in readers
        }
        for done in as_completed(running):
            tallies[running[done]] = done.result()
            print(_line(running[done], done.result()), flush=True)
    return {reader.name: tallies[reader.name] for reader in readers}


def _line(name: str, tally: Tally) -> str:
    rate = tally.inputs / tally.busy if tally.busy else 0.0
    cells = (name, tally.inputs, tally.read, tally.refused, tally.findings, f"{rate:.0f}")
    return f"| {' | '.join(map(str, cells))} | {tally.slowest:.2f} | {tally.largest / 2**20:.0f} |"


def _replay(reader: Reader, file: Path) -> int:
    with working_folder(reader) as path:
        path.write_bytes(file.read_bytes())
        kind, detail = judge(reader.open(), path, reader.named)
    print(f"{kind}\n{detail}")
    return 0 if kind in ("read", "refused") else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description="Mutated input for every reader.")
    parser.add_argument("--inputs", type=int, default=100_000, metavar="N", help="in all (default: 100000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the mutations (default: 0)")
    parser.add_argument("--only", nargs="+", choices=list(READERS), metavar="READER", help=", ".join(READERS))
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), metavar="DIR", help="for findings")
    parser.add_argument("--replay", nargs=2, metavar=("READER", "FILE"), help="read one file and say how it ends")
    return parser


if __name__ == "__main__":
    sys.exit(main())
