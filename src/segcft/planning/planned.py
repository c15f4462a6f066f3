"""What a plan is made of: values, each with the reason for it; and the machine that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Planned(NamedTuple):
    """A value of a key, as YAML has it, and why."""

    value: Any
    reason: str


Keys = dict[str, Planned]
"""Keys of a section that are planned."""


@dataclass(frozen=True)
class Machine:
    """What trains. ``memory`` is in bytes, of the GPU where there is one; ``jobs`` trainings run at the same time."""

    device: str
    cores: int
    memory: int
    jobs: int

    def __str__(self) -> str:
        return f"{self.device}, {self.cores} cores, {self.memory / 2**30:.0f} GiB, {self.jobs} at a time"
