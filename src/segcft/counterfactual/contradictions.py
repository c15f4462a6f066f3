"""Values that no image can have: a part that is larger than the whole."""

from __future__ import annotations

from itertools import permutations

from torch import Tensor

from segcft.errors import Code, InterventionError
from segcft.measures.measurements import Measurement, Measurements

TOLERANCE = 1e-3
"""The share by which a part may be larger than the whole: numbers are read from images, and rounded."""


def check_parts(measurements: Measurements, names: list[str], asked: Tensor, after: Tensor) -> None:
    """Check that no part is larger than the whole, nor parts together, of what an intervention sets.

    What only follows is predicted, part by part, and never to the digit: it is no contradiction of the user's.

    Args:
        measurements: of the study.
        names: of the V variables.
        asked: what is set, (V,), NaN elsewhere; with what derived variables are solved for.
        after: the values that are asked for, and what follows from them, (V,).

    Raises:
        InterventionError: one is; the field is its variable.
    """
    value = {name: float(after[k]) for k, name in enumerate(names)}
    changed = {name for k, name in enumerate(names) if not bool(asked[k].isnan())}
    for part, whole in permutations(measurements.all, 2):
        if not _is_part(part, whole) or not {part.variable, whole.variable} & changed:
            continue
        if value[part.variable] > value[whole.variable] * (1 + TOLERANCE):
            raise _larger(part.variable, value[part.variable], whole.variable, value[whole.variable])
        others = [one for one in measurements.all if _is_part(one, whole) and one is not part]
        for apart in _apart(part, others):
            total = sum(value[one.variable] for one in apart)
            if {one.variable for one in apart} & changed and total > value[whole.variable] * (1 + TOLERANCE):
                joined = " + ".join(one.variable for one in apart)
                raise _larger(joined, total, whole.variable, value[whole.variable])


def _is_part(one: Measurement, other: Measurement) -> bool:
    """Whether the first measures a part of what the second does, by a measure that adds up."""
    if one.measure is not other.measure or not one.measure.adds_up or one.zone is None:
        return False
    return one.channels == other.channels and one.zone != other.zone and one.zone.within(other.zone)


def _apart(part: Measurement, others: list[Measurement]) -> list[list[Measurement]]:
    """The part with others of the same whole that have nothing in common with it or with each other."""
    chosen = [part]
    for other in others:
        if all(one.zone and other.zone and one.zone.apart(other.zone) for one in chosen):
            chosen.append(other)
    return [chosen] if len(chosen) > 1 else []


def _larger(part: str, much: float, whole: str, little: float) -> InterventionError:
    return InterventionError(
        Code.CONFLICT, part, f"{much:g} is more than {whole}, {little:g}, of which it is a part; set both"
    )
