r"""What is found: how strongly each output answers to each variable, with intervals, and tests against the control.

Of subject i let :math:`\Delta_{id}` be by how much dose d differs from the own value, in standard deviations, and
:math:`r_{id}` the output under it less the output of the null answer. The subject's slope is that of least squares
through the origin, :math:`b_i = \sum_d \Delta_{id} r_{id} / w_i` with :math:`w_i = \sum_d \Delta_{id}^2`, doses out of
support left out; that of all is :math:`\sum_i w_i b_i / \sum_i w_i`. Shams have slopes :math:`s_{ij}` likewise. Those
that change an image less than its answer does (:data:`segcft.stress.sham.LEAST_ENERGY`) at a dose that counts are none,
and a subject without any has no control.

A variable is *found* where two things are shown, so that the larger of two p-values counts (an intersection-union test:
Berger, Technometrics 1982):

- its effect is no trifle: :math:`E\, w_i |b_i| > \lambda \sigma\, E\, w_i`, with :math:`\sigma` the standard deviation
  of the output over the images and :math:`\lambda` = :data:`LEAST`;
- it is larger than where the change is elsewhere:
  :math:`E\, w_i |b_i| > \kappa\, E\, w_i \operatorname{mean}_j |s_{ij}|`, with :math:`\kappa` = :data:`SPECIFIC`,
  over subjects with a control.

Each is a one-sided test of a mean over patients by flipping signs (Fisher 1935): exact where differences are symmetric
around 0, and about right of many patients else. So far as it is right, Holm's adjustment (1979) over all variables and
outputs that are tested keeps the chance of any false one among these effects at :data:`LEVEL`. That says nothing of
gaps between groups, which are another family, nor of the direction, which is read from an interval that is not
adjusted. What is not told from shams is not shown to be as large as these.

The smallest p-value of n signs is about :math:`2^{-n}`. Where that times the number of effects is above :data:`LEVEL`,
nothing could be found, and an effect is not tested: there are too few people (:func:`enough`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.evaluate.bootstrap import bootstrap_means
from segcft.readers.classifier import HALF
from segcft.stress.doses import Doses
from segcft.stress.responses import Response, Responses

Floats = NDArray[np.float64]

LEAST = 0.1
"""Effects of less than this share of the output's standard deviation, for a standard deviation of the variable, are
trifles."""
SPECIFIC = 1.5
"""How many times as strong as to shams."""
LEVEL = 0.05
FLIPS = 9999
"""Of signs, at least; the smallest p-value is one in so many and one."""
FLIPS_OF_ONE = 200
"""The same for each effect that is tested, so that the smallest p-value is small even after its adjustment."""
FEWEST = 5
"""Patients of whom a mean says something."""
CHUNK = 1 << 22
"""Signs drawn at once."""
ROUNDING = 1e-12
"""Of sums: the share by which equal ones may differ."""


@dataclass(frozen=True)
class Effect:
    """Of one variable on one output. Slopes are in units of the output, for a standard deviation of the variable, or
    for another category.

    Attributes:
        variable: that is set.
        contrast: what the slope is for: "per sd", or which category against which.
        output: that answers.
        images: who counts: some dose is another value than their own, and within support.
        patients: whom these are of.
        left_out: the share of their answers that is out of support.
        slope: mean over subjects; ``low`` and ``high`` are its 95 % interval over patients.
        sd: standard deviation of the output over the images.
        size: mean of the slopes without their signs.
        sham: the same of shams, over subjects who have a control; NaN where nobody has.
        controlled: patients who have a control.
        overlap: of shams with the answers; near 1 they are nearly the same change, and the control says little. NaN of
            how images were taken.
        flips: of those whose decision flips at some dose the share; NaN where nothing is decided.
        sham_flips: the same of shams, on average.
        grey: how large changes are, in grey levels; ``sham_grey`` those of shams.
        obtained: the change of the variable that the judge reads for one that is asked for; NaN where it reads none.
        within: in 90 % of answers what was asked for is within this of what is read, in standard deviations.
        p_least: of the first test, NaN of too few patients.
        p_sham: of the second, NaN of too few patients with a control.
        adjusted_least: the first one, adjusted for all variables and outputs.
        adjusted: the larger one, likewise; NaN where one of both is.
        models: whose answers were asked for; the slopes by each are between ``least`` and ``most``.
    """

    variable: str
    contrast: str
    output: str
    images: int
    patients: int
    left_out: float
    slope: float
    low: float
    high: float
    sd: float
    size: float
    sham: float
    controlled: int
    overlap: float
    flips: float
    sham_flips: float
    grey: float
    sham_grey: float
    obtained: float
    within: float
    p_least: float = float("nan")
    p_sham: float = float("nan")
    adjusted_least: float = float("nan")
    adjusted: float = float("nan")
    models: int = 1
    least: float = float("nan")
    most: float = float("nan")

    @property
    def found(self) -> bool:
        """Whether the output answers to the variable."""
        return self.adjusted <= LEVEL

    @property
    def verdict(self) -> str:
        """What is found, in words."""
        if np.isnan(self.p_least):
            return "too few people"
        if np.isnan(self.p_sham):
            return "no control"
        if self.found:
            return "rises" if self.low > 0 else "falls" if self.high < 0 else "answers both ways"
        return "not told from shams" if self.adjusted_least <= LEVEL else "none seen"


class Slopes(NamedTuple):
    """Of N subjects: the numerators of their slopes (N,), and of those of shams without their signs, on average, NaN of
    subjects without a control (N,); the weights (N,); which shams count (N, S), and which answers count, and which were
    asked for, (N, D)."""

    top: Floats
    sham: Floats
    weight: Floats
    kept: NDArray[np.bool_]
    used: NDArray[np.bool_]
    asked: NDArray[np.bool_]

    @property
    def slope(self) -> Floats:
        """(N,), NaN of those who do not count."""
        return np.divide(self.top, self.weight, out=np.full(len(self.top), np.nan), where=self.weight > 0)

    @property
    def controlled(self) -> NDArray[np.bool_]:
        """Who counts and has a control, (N,)."""
        return (self.weight > 0) & self.kept.any(axis=1)


class Curve(NamedTuple):
    """The dose-response of one output: the mean over those within support, with 95 % intervals over patients, (D,); and
    that of each subject, (N, D), NaN out of support."""

    doses: Doses
    output: str
    value: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]
    each: Floats


def changes(response: Response, category: int) -> Floats:
    """By how much doses differ from the subjects' own values, in standard deviations, (N, D), 0 where nothing is asked;
    ``category`` is that which everybody else becomes, or -1; see :meth:`segcft.stress.doses.Doses.contrasts`."""
    values = np.array(response.doses.values)
    if category >= 0:
        return ((values == category) & (response.own[:, None] != category)).astype(float)
    return (values - response.own[:, None]) / response.doses.spread


def slopes(response: Response, null: Floats, output: int, category: int) -> Slopes:
    """The slopes of one output, of which ``null`` (N, K) are those of the null answers."""
    asked = changes(response, category)
    change, start = np.where(response.supported, asked, 0.0), null[:, output]
    top = (change * (response.output[..., output] - start[:, None])).sum(axis=1)
    sham = (change[..., None] * (response.sham[..., output] - start[:, None, None])).sum(axis=1)
    used = change != 0
    kept = (response.kept | ~used[..., None]).all(axis=1)  # at every dose that counts
    size = np.where(kept, np.abs(sham), 0.0).sum(axis=1)
    size = np.divide(size, kept.sum(axis=1), out=np.full(len(size), np.nan), where=kept.any(axis=1))
    return Slopes(top, size, np.square(change).sum(axis=1), kept, used, asked != 0)


def effects(found: Responses, draws: int = 2000, seed: int = 0) -> list[Effect]:
    """All effects, by variables and outputs; ``draws`` resamples of the patients."""
    asked = [(one, *contrast) for one in found.of.values() for contrast in one.doses.contrasts()]
    tests = len(asked) * len(found.outputs)
    flips = max(FLIPS, FLIPS_OF_ONE * tests)
    rows = []
    for response, contrast, category in asked:
        for k, output in enumerate(found.outputs):
            own = slopes(response, found.null, k, category)
            row = _effect(found, response, contrast, output, k, own, draws, seed)
            least, sham = _p_values(row, own, found.patients, tests, flips, seed)
            rows.append(replace(row, p_least=least, p_sham=sham))
    return adjust(rows)


def adjust(rows: Sequence[Effect]) -> list[Effect]:
    """Effects with p-values that are adjusted for all that are tested, those without a control included."""
    known = [row for row in rows if not np.isnan(row.p_least)]
    least = iter(holm([row.p_least for row in known]))
    both = iter(holm([1.0 if np.isnan(row.p_sham) else max(row.p_least, row.p_sham) for row in known]))
    found = []
    for row in rows:
        if not np.isnan(row.p_least):
            first, second = next(least), next(both)
            row = replace(row, adjusted_least=first, adjusted=float("nan") if np.isnan(row.p_sham) else second)
        found.append(row)
    return found


def enough(patients: int, tests: int) -> bool:
    """Whether so many patients can show anything, were it as clear as can be, if so many effects are tested."""
    return patients >= FEWEST and tests * 2.0**-patients <= LEVEL


def fewest(tests: int) -> int:
    """Patients who are :func:`enough`."""
    return next(n for n in itertools.count(FEWEST) if enough(n, tests))


def mean_slopes(found: Responses) -> dict[tuple[str, str, str], float]:
    """Variable, contrast and output -> the slope of all subjects; NaN where nobody counts."""
    means = {}
    for response in found.of.values():
        for contrast, category in response.doses.contrasts():
            for k, output in enumerate(found.outputs):
                own = slopes(response, found.null, k, category)
                means[response.doses.variable, contrast, output] = _ratio(float(own.top.sum()), own.weight.sum())
    return means


def spread_of(found: Responses, k: int) -> float:
    """The standard deviation of an output over the images."""
    return float(found.null[:, k].std(ddof=1)) if len(found.null) > 1 else 0.0


def beside(effects: Sequence[Effect], models: Sequence[Responses]) -> list[Effect]:
    """Effects with the range of their slopes by several ``models``, of the same people and doses."""
    means, found = [mean_slopes(one) for one in models], []
    for one in effects:
        known = [slope for of in means if np.isfinite(slope := of[one.variable, one.contrast, one.output])]
        known = known or [float("nan")]
        found.append(replace(one, models=len(models), least=min(known), most=max(known)))
    return found


def curves(found: Responses, draws: int = 2000, seed: int = 0) -> Iterator[Curve]:
    """The dose-response of every output to every variable."""
    for response in found.of.values():
        for k, output in enumerate(found.outputs):
            gain = response.output[..., k] - found.null[:, k, None]
            gain = np.where(response.supported, gain, np.nan)
            mean = bootstrap_means(gain, found.patients, draws, seed=seed)
            yield Curve(response.doses, output, mean.value, mean.low, mean.high, mean.n, gain)


def _effect(
    found: Responses, response: Response, contrast: str, output: str, k: int, own: Slopes, draws: int, seed: int
) -> Effect:
    counts = own.weight > 0
    patients = found.patients[counts]
    people = len(set(patients.tolist()))
    sd = spread_of(found, k)
    mean = bootstrap_means(own.slope[:, None], found.patients, draws, seed=seed, weights=own.weight[:, None])
    total, controlled = own.weight.sum(), own.controlled
    flips, sham_flips = _flips(found, response, k, own)
    obtained, within = _reading(response, own)
    return Effect(
        variable=response.doses.variable,
        contrast=contrast,
        output=output,
        images=int(counts.sum()),
        patients=people,
        left_out=_ratio(float((own.asked & ~own.used).sum()), float(own.asked.sum())),
        slope=float(mean.value[0]),
        low=float(mean.low[0]),
        high=float(mean.high[0]),
        sd=sd,
        size=_ratio(float(np.abs(own.top).sum()), total),
        sham=_ratio(float(own.sham[controlled].sum()), own.weight[controlled].sum()),
        controlled=len(set(found.patients[controlled].tolist())),
        overlap=_mean(response.overlap, own.used),
        flips=flips,
        sham_flips=sham_flips,
        grey=_mean(response.size, own.used),
        sham_grey=_mean(response.sham_size, own.used),
        obtained=obtained,
        within=within,
    )


def _p_values(
    row: Effect, own: Slopes, patients: NDArray[np.str_], tests: int, flips: int, seed: int
) -> tuple[float, float]:
    """Of both tests; NaN of too few patients."""
    if not enough(row.patients, tests):
        return float("nan"), float("nan")
    size, has = np.abs(own.top), own.controlled
    least = one_sided(_by_patient(size - LEAST * row.sd * own.weight, patients), flips, seed)
    if not enough(row.controlled, tests):
        return least, float("nan")
    return least, one_sided(_by_patient((size - SPECIFIC * own.sham)[has], patients[has]), flips, seed)


def _flips(found: Responses, response: Response, k: int, own: Slopes) -> tuple[float, float]:
    """The share of those whose decision flips at some dose that counts, and of shams, on average."""
    counts, kept = own.weight > 0, own.kept & own.controlled[:, None]
    if not found.decides or not counts.any():
        return float("nan"), float("nan")
    before = found.null[:, k] >= HALF
    flipped = ((response.output[..., k] >= HALF) != before[:, None]) & own.used
    moved = ((response.sham[..., k] >= HALF) != before[:, None, None]) & own.used[..., None]
    return float(flipped.any(axis=1)[counts].mean()), _mean(moved.any(axis=1).astype(float), kept)


def _reading(response: Response, own: Slopes) -> tuple[float, float]:
    """The change that the judge reads for one asked for, by least squares, and how far what was asked for may be from
    it, in standard deviations."""
    asked = np.array(response.doses.values) - response.own[:, None]
    known = own.used & np.isfinite(response.obtained)
    if not known.any():
        return float("nan"), float("nan")
    slope = float((asked * response.obtained)[known].sum() / np.square(asked[known]).sum())
    return slope, _mean(response.half_width / response.doses.spread, known)


def one_sided(differences: Floats, flips: int = FLIPS, seed: int = 0) -> float:
    """The p-value of a mean of ``differences`` (P,) that is 0 or less, by flipping signs: of so many sets of signs and
    that of the data the share in which the mean is at least as large."""
    if not (differences != 0).any():
        return 1.0
    random, least, reached = np.random.default_rng(seed), differences.sum(), 0
    block = max(1, CHUNK // len(differences))
    for first in range(0, flips, block):
        signs = 2.0 * random.integers(0, 2, (min(block, flips - first), len(differences))) - 1
        reached += int((signs @ differences >= least - ROUNDING * abs(least)).sum())
    return (1 + reached) / (1 + flips)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's step-down, by which the chance of any false one is at most the level."""
    order, adjusted, largest = np.argsort(p, kind="stable"), np.zeros(len(p)), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = largest
    return adjusted.tolist()


def _by_patient(values: Floats, patients: NDArray[np.str_]) -> Floats:
    _, owner = np.unique(patients, return_inverse=True)
    return sums(values, owner)


def sums(values: Floats, owner: NDArray[np.intp]) -> Floats:
    """The sum of the values (N,) of each owner, (P,)."""
    total = np.zeros(int(owner.max()) + 1)
    np.add.at(total, owner, values)
    return total


def _mean(values: Floats, where: NDArray[np.bool_]) -> float:
    known = values[where & np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom else float("nan")
