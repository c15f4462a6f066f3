"""The page's server as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Served:
    """A server: its ``address``, and all that it ``said`` on its standard error, once it has ended."""

    def __init__(self, address: str) -> None:
        self.address, self.said = address, ""


@contextmanager
def served_by_command(*models: Path) -> Iterator[Served]:
    """A server of some models, started by the command line on any port. It must end as it is asked to."""
    command = [sys.executable, "-m", "segcft.cli", "app", *map(str, models), "--no-open", "--port", "0"]
    server = subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stderr is not None
    first = server.stdout.readline()
    served = Served(first.split()[0] if first else "")
    try:
        assert first.startswith("http://127.0.0.1:"), server.stderr.read()
        yield served
    finally:
        server.terminate()
        _, served.said = server.communicate(timeout=30)
    assert server.returncode == 0, served.said
