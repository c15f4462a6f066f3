"""What a plan is made of: values, each with the reason for it, and what a plan is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from segcft.config.outline import Outline
from segcft.config.sources import Splits
from segcft.planning.fingerprint import Fingerprint


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


@dataclass(frozen=True)
class Basis:
    """What the values of a section are planned from.

    Args:
        outline: what is given.
        fingerprint: of the data.
        machine: what trains.
        hours: for all stages together.
        size: of the grid, (height, width).
        why_size: the reason for it.
        steps: section -> steps and why, once the machine was timed.
    """

    outline: Outline
    fingerprint: Fingerprint
    machine: Machine
    hours: float
    size: tuple[int, int]
    why_size: str = ""
    steps: dict[str, Planned] = field(default_factory=dict)

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def training(self) -> int:
        """Subjects that train."""
        share = self.outline.section("splits").get("train", Splits().train)
        known = isinstance(share, int | float) and 0 <= share <= 1
        return self.fingerprint.training(share if known else Splits().train)
