"""Where brackets run that join boxes of one layer of a drawn graph, so that none lies on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

Pair = tuple[str, str]


class Bracket(NamedTuple):
    """Where it leaves and arrives across the layer, and its track, 1 for the one next to the boxes."""

    start: float
    end: float
    track: int

    @property
    def width(self) -> float:
        """From one end to the other."""
        return abs(self.end - self.start)


def brackets(pairs: Sequence[Pair], boxes: Mapping[str, tuple[float, float]]) -> dict[Pair, Bracket]:
    """The bracket of each pair of boxes, of which the middle and the size across are given.

    The ends at a box are apart, in an order in which brackets that can be nested do not cross. A bracket has the first
    track beyond those of shorter ones that it overlaps with.
    """
    ends: dict[tuple[str, str], float] = {}
    for name, (middle, size) in boxes.items():
        others = [other for pair in pairs if name in pair for other in pair if other != name]
        # Those to one side, the nearest first, then those to the other side, the nearest last.
        others.sort(key=lambda other: (boxes[other][0] > middle, -(boxes[other][0] - middle)))
        for k, other in enumerate(others, start=1):
            ends[name, other] = middle + size * (k / (len(others) + 1) - 0.5)
    found: dict[Pair, Bracket] = {}
    spans = {(a, b): (ends[a, b], ends[b, a]) for a, b in pairs}
    for pair in sorted(spans, key=lambda pair: abs(spans[pair][1] - spans[pair][0])):
        low, high = sorted(spans[pair])
        below = [one.track for one in found.values() if min(one[:2]) <= high and max(one[:2]) >= low]
        found[pair] = Bracket(*spans[pair], 1 + max(below, default=0))
    return found
