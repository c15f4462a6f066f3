"""Readers run in processes that may crash, hang or fill memory; what they are doing is known from outside."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from benchmarks.fuzz.mutate import Structure, mutate
from segcft.errors import SegcftError
from segcft.io.reject import Rejected

SECONDS = 10.0
"""An input that takes longer is a finding."""
MEMORY = 1 << 30
"""Bytes by which reading an input may raise the resident memory of the process."""
_ADDRESSES = 4 << 30  # more than the process had at first, so that the machine survives what passes MEMORY
_SLOW_START = 120.0
MOST_KEPT = 3
"""Inputs that are kept of findings of one kind."""


@dataclass(frozen=True)
class Reader:
    """One of the things that segcft reads.

    Attributes:
        name: of the reader.
        suffix: of its files.
        make: gives valid files; called once.
        open: gives a function that reads one file; called in each process.
        structure: what the mutator knows of the files.
        beside: names and places of what has to be there beside the file; folders and files are linked.
        file: what the file is called, if that matters.
        named: whether an error has to name the file, or the folder that it is in.
        weight: its share of the inputs, relative to the other readers.
    """

    name: str
    suffix: str
    make: Callable[[], list[bytes]]
    open: Callable[[], Callable[[Path], object]]
    structure: Structure = "bytes"
    beside: Callable[[Path], object] | None = None
    file: str = ""
    named: bool = True
    weight: float = 1.0


@dataclass
class Tally:
    """What became of the inputs of one reader."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    findings: int = 0
    busy: float = 0.0
    slowest: float = 0.0
    largest: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


def input_of(reader: Reader, corpus: list[bytes], seed: int, number: int) -> bytes:
    """Input ``number`` of a reader: always the same for a seed. The first ones are the corpus itself."""
    if number < len(corpus):
        return corpus[number]
    chance = random.Random(f"{seed}/{reader.name}/{number}")
    return mutate(chance.choice(corpus), corpus, reader.structure, chance)


def judge(read: Callable[[Path], object], path: Path, named: bool = True) -> tuple[str, str]:
    """How reading ends: ``read``, ``refused``, or a finding and its traceback."""
    try:
        read(path)
    except (SegcftError, Rejected) as error:
        text = str(error)
        if not text or (named and path.name not in text and path.parent.name not in text):
            return f"names no file: {type(error).__name__}", traceback.format_exc()
        return "refused", text
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}segcft{os.sep}" in f.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "outside"
        return f"{type(error).__name__} in {where}", traceback.format_exc()
    return "read", ""


def measured(read: Callable[[Path], object], path: Path, named: bool = True) -> tuple[str, str, float, int]:
    """How reading ends, as :func:`judge` tells it, with the seconds and the bytes of memory that it takes."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this input
    before, start = _status("VmRSS"), time.monotonic()
    kind, detail = judge(read, path, named)
    return kind, detail, time.monotonic() - start, _status("VmHWM") - before


class Runner:
    """Runs inputs of one reader in a process of its own, and another one where that is lost."""

    def __init__(self, reader: Reader, corpus: list[bytes], seed: int, out: Path) -> None:
        self.reader, self.corpus, self.seed, self.out = reader, corpus, seed, out
        self.again = -1

    def run(self, inputs: int) -> Tally:
        tally = Tally()
        first = 0
        while first < inputs:
            here, there = multiprocessing.Pipe()
            process = multiprocessing.get_context("fork").Process(
                target=_serve, args=(self.reader, self.corpus, self.seed, first, inputs, there, here)
            )
            process.start()
            there.close()
            first = self._follow(process, here, tally, first)
        return tally

    def _follow(self, process: Any, pipe: Connection, tally: Tally, number: int) -> int:
        """Count what the process tells; returns the number of the input after the last one that it came to."""
        patience = _SLOW_START
        ending = ""
        try:
            while True:
                # Another process may have inherited the pipe's other end, so that it does not close with this one.
                ready = wait([pipe, process.sentinel], patience)
                if ready == [process.sentinel] and not pipe.poll():
                    raise EOFError
                if not ready:
                    process.kill()
                    if number != self.again:  # the machine may have been busy: once more
                        self.again = number
                        process.join()
                        return number
                    ending = f"hang: more than {SECONDS:g} s"
                    break
                told = pipe.recv()
                if told is None:
                    process.join()
                    return 1 << 62
                if isinstance(told, int):  # it is at this input now
                    number, patience = told, SECONDS
                    continue
                self._count(tally, number, *told)
                number += 1
        except EOFError:
            process.join()
            ending = ending or f"crash: exit status {process.exitcode}"
        process.join()
        if number < len(self.corpus) and ending.startswith("crash"):
            raise RuntimeError(f"{self.reader.name}: valid input {number} ends with {ending}")
        self._count(tally, number, ending, "", SECONDS if ending.startswith("hang") else 0.0, 0)
        return number + 1

    def _count(self, tally: Tally, number: int, kind: str, detail: str, seconds: float, memory: int) -> None:
        tally.inputs += 1
        tally.busy += seconds
        tally.slowest, tally.largest = max(tally.slowest, seconds), max(tally.largest, memory)
        if kind in ("read", "refused") and memory > MEMORY:
            kind = f"memory: more than {MEMORY >> 20} MiB"
        if kind in ("read", "refused"):
            setattr(tally, kind, getattr(tally, kind) + 1)
            return
        tally.findings += 1
        tally.kinds[kind] += 1
        if tally.kinds[kind] <= MOST_KEPT:
            self.out.mkdir(parents=True, exist_ok=True)
            path = self.out / f"{self.reader.name.replace(' ', '-')}-{number}{self.reader.suffix}"
            path.write_bytes(input_of(self.reader, self.corpus, self.seed, number))
            again = f"python -m benchmarks.fuzz --replay {self.reader.name.replace(' ', '-')} {path}"
            path.with_name(path.name + ".txt").write_text(f"{kind}\n{again}\n\n{detail}", errors="backslashreplace")


def _serve(
    reader: Reader, corpus: list[bytes], seed: int, first: int, last: int, pipe: Connection, other: Connection
) -> None:
    """Read inputs and tell of each: its number before it is read, and how it ended."""
    other.close()  # so that writing fails once nobody reads
    torch.set_num_threads(1)  # those of the process that this one was forked from are not there
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with working_folder(reader) as path:
        read = reader.open()
        judge(read, _write(path, corpus[0]), reader.named)  # what is imported late takes memory too
        bound = _status("VmSize") + _ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
        for number in range(first, last):
            _write(path, input_of(reader, corpus, seed, number))
            pipe.send(number)
            pipe.send(measured(read, path, reader.named))
    pipe.send(None)


@contextlib.contextmanager
def working_folder(reader: Reader) -> Any:
    """A place for the file of a reader, with what it needs beside it."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        if reader.beside is not None:
            reader.beside(folder)
        yield folder / (reader.file or f"input{reader.suffix}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _status(key: str) -> int:
    """Bytes of this process's memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    raise KeyError(key)
