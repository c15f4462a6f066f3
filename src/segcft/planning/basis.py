"""What a plan is made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from segcft.config.outline import Outline
from segcft.config.sources import Splits
from segcft.planning.fingerprint import Fingerprint
from segcft.planning.planned import Machine, Planned
from segcft.planning.subjects import splits


@dataclass(frozen=True)
class Basis:
    """What the values of a section are planned from.

    Args:
        outline: what is given.
        fingerprint: of the data.
        machine: what trains.
        hours: for all stages together.
        size: of the grid, (height, width), of volumes (depth, height, width).
        why_size: the reason for it.
        steps: section -> steps and why, once the machine was timed.
    """

    outline: Outline
    fingerprint: Fingerprint
    machine: Machine
    hours: float
    size: tuple[int, ...]
    why_size: str = ""
    steps: dict[str, Planned] = field(default_factory=dict)

    @property
    def pixels(self) -> int:
        """Pixels of the grid, or voxels."""
        return math.prod(self.size)

    @property
    def side(self) -> float:
        """Of a square or cube with as many."""
        return math.pow(self.pixels, 1 / len(self.size))

    @property
    def volumes(self) -> bool:
        """Whether the study is of volumes."""
        return len(self.size) == 3

    @property
    def training(self) -> int:
        """Subjects that train."""
        share = self.outline.section("splits").get("train")
        if not isinstance(share, int | float) or not 0 <= share <= 1:  # of what is wrong the study says so
            planned = splits(self.outline, self.fingerprint).get("train")
            share = planned.value if planned else Splits().train
        return self.fingerprint.training(share)

    @property
    def judging(self) -> int:
        """Subjects that train the judge: its own, if it has any."""
        share = self.outline.section("splits").get("judge")
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            planned = splits(self.outline, self.fingerprint).get("judge")
            share = planned.value if planned else 0.0
        own = self.fingerprint.parts.get("judge", 0) or round(self.fingerprint.subjects * share)
        return own or self.training
