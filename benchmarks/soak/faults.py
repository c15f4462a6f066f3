"""Processes of their own, and what befalls them."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.soak import SoakError

PRELOADED = [
    "segcft.cli",
    "segcft.pipeline.pool",
    "segcft.api.many",
    "segcft.evaluate.figures",
    "segcft.simulate.chest",
]
PRELOADED += ["lightning.fabric", "monai.networks.nets", "torch._dynamo"]
FULL_DISK = "full disk"
KINDS = {"SIGKILL": 2, "SIGTERM": 1, "SIGINT": 1, FULL_DISK: 1}
"""What happens, and how often."""
PATIENCE = 60.0
"""Seconds within which a process that was told to end, or finds no room, must have ended."""

_NO_ROOM = re.compile(r"segcft: error: (?P<path>.*): (?:cannot (?:be written|write here)|.*stopped) \(")
_NO_TEMPORARY = "No usable temporary directory found"  # what Python says of a full disk at the first use of one


class Fault(NamedTuple):
    """What happens, to whom and when: after ``delay`` seconds, or (``aimed``) once a file is written after that."""

    kind: str
    group: bool
    delay: float
    aimed: bool


class Command:
    """A command of segcft in a process that has imported PyTorch already, in a group of its own.

    Args:
        arguments: of the command.
        room: how many bytes a file may have, as on a full disk (None: any number).
    """

    def __init__(self, arguments: list[str], room: int | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        reader, writer = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(target=_work, args=(arguments, writer, room))
        self.process.start()
        writer.close()
        self._said = bytearray()
        # Not to a file, since a full disk must not keep the message back.
        self._listener = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        self._listener.start()

    def _listen(self, reader: Connection) -> None:
        while said := os.read(reader.fileno(), 1 << 16):
            self._said += said
        reader.close()

    @property
    def output(self) -> str:
        """What a command that has ended said."""
        self._listener.join(PATIENCE)
        return self._said.decode(errors="replace")

    def finish(self) -> None:
        """Wait for a success.

        Raises:
            SoakError: it is none.
        """
        self.process.join()
        if self.process.exitcode != 0:
            raise SoakError(f"status {self.process.exitcode}:\n{self.output[-2000:]}")

    def suffer(self, fault: Fault, folder: Path) -> bool:
        """Have the fault happen; whether the command ended by it.

        Raises:
            SoakError: the command or a worker goes on, or has not told the file in ``folder`` that found no room.
        """
        assert self.process.pid is not None
        group = members(self.process.pid)
        for pid in group if fault.group or fault.kind == FULL_DISK else [self.process.pid]:
            with suppress(ProcessLookupError):  # it was faster
                if fault.kind == FULL_DISK:  # for these processes: no file may grow any more
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
                else:
                    os.kill(pid, signal.Signals[fault.kind])
        self.process.join(PATIENCE)
        if self.process.is_alive():
            raise SoakError(f"{fault.kind}: the process still runs after {PATIENCE:.0f} s")
        deadline = time.monotonic() + PATIENCE
        while left := members(self.process.pid):
            if time.monotonic() > deadline:
                raise SoakError(f"{fault.kind}: left behind: {left}")
            time.sleep(0.02)
        if fault.kind == FULL_DISK:
            return self._found_no_room(folder)
        return True

    def _found_no_room(self, folder: Path) -> bool:
        if self.process.exitcode == 0:  # all was written before
            return False
        last = self.output.strip().splitlines()[-1]
        match = _NO_ROOM.match(last)
        told = (match and str(folder) in match["path"]) or _NO_TEMPORARY in last
        if self.process.exitcode != 1 or "Traceback" in self.output or not told:
            raise SoakError(f"{FULL_DISK}: status {self.process.exitcode}:\n{self.output[-2000:]}")
        return True


def _work(arguments: list[str], writer: Connection, room: int | None) -> None:
    os.setsid()
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    for output in (1, 2):
        os.dup2(writer.fileno(), output)
    writer.close()
    import torch

    from segcft.cli import main

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sys.exit(main(arguments))


def members(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except ProcessLookupError:
            pass
    return found
