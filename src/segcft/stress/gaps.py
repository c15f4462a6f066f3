"""Whether an output answers differently in groups of subjects: women and men, the old and the young, sites, views.

That a group differs at all is tested, by shuffling labels among patients; by how much is estimated. Shuffles are drawn
one after the other until :data:`ENOUGH` of them are as far apart as the data, or there have been so many as are
needed, at most :data:`MOST_SHUFFLES` (Besag and Clifford, Biometrika 1991).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segcft.evaluate.groups import halves
from segcft.stress.effects import CHUNK, FEWEST, LEAST, LEVEL, ROUNDING, Floats, Slopes, holm, slopes, spread_of, sums
from segcft.stress.responses import Responses

SHUFFLES = 1999
"""Of the groups' labels, unless :data:`ENOUGH` of them come before."""
SHUFFLES_OF_ONE = 40
"""The same for each gap, so that the smallest p-value is small even after its adjustment."""
MOST_SHUFFLES = 19_999
"""Of these. The smallest p-value is one in so many and one: of more gaps than :data:`MOST_GAPS` none can be found."""
MOST_GAPS = int((MOST_SHUFFLES + 1) * LEVEL)
"""Gaps that are looked at, above which none can be found."""
ENOUGH = 100
"""Shuffles as far apart as the data, after which no more are drawn: p is known well enough, and is not small."""
RESAMPLES = 2000
"""Of patients, for an interval."""


@dataclass(frozen=True)
class Gap:
    """The slope in a group less that of all others.

    Attributes:
        variable: that is set; ``contrast`` and ``output`` are as in :class:`segcft.stress.effects.Effect`.
        group: what is grouped by; ``label`` is the group, of ``patients``.
        slope: in the group; ``rest`` that of all others.
        low: of the 95 % interval of their difference over patients; ``high`` its end.
        p: by shuffling labels among patients; ``adjusted`` is adjusted by Holm for all gaps.
        sd: standard deviation of the output over the images.
    """

    variable: str
    contrast: str
    output: str
    group: str
    label: str
    patients: int
    slope: float
    rest: float
    low: float
    high: float
    p: float
    sd: float
    adjusted: float = float("nan")

    @property
    def found(self) -> bool:
        """Whether the group is shown to differ from the others, and the difference that is estimated is no trifle
        (:data:`~segcft.stress.effects.LEAST`): that it is none is not tested."""
        return self.adjusted <= LEVEL and abs(self.slope - self.rest) > LEAST * self.sd


def groups_of(found: Responses, units: Mapping[str, str]) -> dict[str, NDArray[np.str_]]:
    """What is grouped by -> the group of every subject, "" where nobody knows; numbers fall into two halves, with their
    units, and what has fewer than two groups of :data:`~segcft.stress.effects.FEWEST` patients is left out."""
    groups = {}
    for name, texts in found.labels.items():
        labels = texts
        if name in units:
            labels = halves(np.array([float(text) if text else np.nan for text in texts]), units[name])
        sizes = [len(set(found.patients[labels == label].tolist())) for label in set(labels.tolist()) - {""}]
        if sum(size >= FEWEST for size in sizes) > 1:
            groups[name] = labels
    return groups


def gaps(found: Responses, groups: Mapping[str, NDArray[np.str_]], seed: int = 0) -> list[Gap]:
    """The gaps of all outputs, variables and groups. Of two groups one is told, the other being the rest."""
    several = [labels for texts in groups.values() for labels in set(texts.tolist()) - {""}]
    asked = sum(len(one.doses.contrasts()) for one in found.of.values()) * len(found.outputs) * len(several)
    shuffles = min(MOST_SHUFFLES, max(SHUFFLES, SHUFFLES_OF_ONE * asked))
    rows = [gap for name, labels in groups.items() for gap in _of(found, name, labels, shuffles, seed)]
    return [replace(row, adjusted=p) for row, p in zip(rows, holm([row.p for row in rows]), strict=True)]


def _of(found: Responses, name: str, labels: NDArray[np.str_], shuffles: int, seed: int) -> Iterator[Gap]:
    for response in found.of.values():
        if response.doses.variable == name:  # whoever is in the group has the value: there is no other group to compare
            continue
        for contrast, category in response.doses.contrasts():
            for k, output in enumerate(found.outputs):
                own = slopes(response, found.null, k, category)
                counts = (own.weight > 0) & (labels != "")
                sd, known = spread_of(found, k), sorted(set(labels[counts].tolist()))
                for label in known if len(known) > 2 else known[1:]:
                    gap = _gap(own, counts, labels == label, found.patients, shuffles, seed)
                    if gap is not None:
                        yield Gap(response.doses.variable, contrast, output, name, label, *gap, sd)


def _gap(
    own: Slopes,
    counts: NDArray[np.bool_],
    member: NDArray[np.bool_],
    patients: NDArray[np.str_],
    shuffles: int,
    seed: int,
) -> tuple[int, float, float, float, float, float] | None:
    """Patients, slope, that of the rest, the interval of the difference and its p-value; None of too few patients.

    A patient whose images are in both groups counts in each.
    """
    units = np.char.add(patients[counts], np.where(member[counts], "\0in", "\0out"))
    _, first, owner = np.unique(units, return_index=True, return_inverse=True)
    top, weight = (sums(one[counts], owner) for one in (own.top, own.weight))
    inside = member[counts][first]
    if min(inside.sum(), (~inside).sum()) < FEWEST:
        return None
    random = np.random.default_rng(seed)
    chosen = inside.astype(float)
    slope, rest = _slope(chosen[None], top, weight)[0], _slope(1 - chosen[None], top, weight)[0]
    times = random.multinomial(len(inside), np.full(len(inside), 1 / len(inside)), size=RESAMPLES)
    drawn = _slope(times * chosen, top, weight) - _slope(times * (1 - chosen), top, weight)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    p = _p_value(abs(slope - rest), chosen, top, weight, shuffles, random)
    return int(inside.sum()), float(slope), float(rest), float(low), float(high), p


def _p_value(
    apart: float, chosen: Floats, top: Floats, weight: Floats, shuffles: int, random: np.random.Generator
) -> float:
    """That slopes of those who are ``chosen`` and of the others are so far ``apart`` by chance."""
    done = reached = 0
    while done < shuffles:
        size = min(SHUFFLES, shuffles - done, max(1, CHUNK // len(chosen)))
        some = random.permuted(np.tile(chosen, (size, 1)), axis=1)
        shuffled = _slope(some, top, weight) - _slope(1 - some, top, weight)
        beyond = np.flatnonzero(np.abs(shuffled) >= (1 - ROUNDING) * apart)
        if reached + len(beyond) >= ENOUGH:
            return ENOUGH / (done + int(beyond[ENOUGH - reached - 1]) + 1)
        reached, done = reached + len(beyond), done + size
    return (1 + reached) / (1 + shuffles)


def _slope(times: Floats, top: Floats, weight: Floats) -> Floats:
    """The slopes (R,) of subjects who count so many times, (R, P)."""
    below = times @ weight
    return np.divide(times @ top, below, out=np.full(len(times), np.nan), where=below > 0)
