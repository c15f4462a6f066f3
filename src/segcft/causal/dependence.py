"""Are the noises of the variables independent, as a causal model takes them to be?

Where two are not, something that is no variable causes both, or one causes the other and the graph does not say so. A
test can see that; it cannot see which of them it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray
from scipy.stats import chi2, rankdata, spearmanr

from segcft.config.graph import Graph
from segcft.config.study import Study
from segcft.training.findings import Finding

Floats = NDArray[np.float64]

DEGREES = 2
"""Polynomials of each noise whose correlations are tested: of its rank, and of how far from the middle that is."""

FEWEST = 20
"""Samples below which nothing is tested."""

LEVEL = 0.01
"""How likely it is that any pair is called dependent where none is."""

NOTABLE = 0.1
"""A correlation below this explains less than a hundredth of the variance: with thousands of samples a test sees it,
and no answer does."""


SHOWN = 5
"""Pairs of variables that are named; a table has all of them."""


class Dependence(NamedTuple):
    """What a test says of two variables' noises.

    ``correlation`` is theirs as normal numbers; ``strength`` is the largest in size of the correlations that are
    tested, those of squares too; ``p`` is corrected for all pairs (Holm 1979).
    """

    first: str
    second: str
    correlation: float
    strength: float
    p: float

    @property
    def notable(self) -> bool:
        """Whether they are dependent, and by an amount that matters."""
        return self.p < LEVEL and self.strength >= NOTABLE


def dependences(scores: Floats, names: Sequence[str], subjects: int | None = None) -> list[Dependence]:
    r"""A test of every pair of noises, the most certain first.

    Of ranks :math:`z` between -1 and 1, and Legendre polynomials :math:`h_1(z) = z, h_2(z) = (3 z^2 - 1) / 2`,

    .. math:: T = N \sum_{j, k = 1}^{2} \operatorname{corr}(h_j(z_a), h_k(z_b))^2

    is :math:`\chi^2` with 4 degrees of freedom if they are independent (a smooth test; Kallenberg and Ledwina 1999).

    Args:
        scores: the noises of samples as :meth:`segcft.causal.scm.StructuralCausalModel.normal_scores` gives them,
            (N, V); NaN is not known. Pairs with fewer than :data:`FEWEST` samples are left out.
        names: of the V variables.
        subjects: how many there are, if some have several samples: the test counts each once (default: one each).
    """
    each = 1.0 if subjects is None else subjects / len(scores)
    found = [(first, second, *tested) for first, second, tested in _pairs(scores, names, each)]
    found.sort(key=lambda one: one[-1])
    corrected, before = [], 0.0
    for rank, (first, second, correlation, strength, p) in enumerate(found):
        before = min(1.0, max(before, (len(found) - rank) * p))
        corrected.append(Dependence(first, second, correlation, strength, before))
    return corrected


def correlations(scores: Floats) -> Floats:
    """The correlations of normal numbers (N, V) whose monotone images have these ranks, (V, V); 0 of fewer than
    :data:`FEWEST` samples. One mistake among the samples does not move them."""
    size = scores.shape[1]
    found = np.eye(size)
    for a, b in combinations(range(size), 2):
        known = ~np.isnan(scores[:, [a, b]]).any(axis=1)
        if known.sum() >= FEWEST:
            found[a, b] = found[b, a] = _correlation(scores[known, a], scores[known, b])
    return found


def dependent_noises(tested: Sequence[Dependence], study: Study) -> Iterator[Finding]:
    """Noises that the causal model takes to be independent, and that are not."""
    confounded = {frozenset(pair) for pair in study.confounded}
    found = [one for one in tested if one.notable and frozenset((one.first, one.second)) not in confounded]
    if not found:
        return
    graph = Graph.of(study.variables)
    related = [one for one in found if _is_cause(graph, one)]
    apart = [one for one in found if one not in related]
    if apart:
        yield Finding(
            "dependent-noises",
            f"Noises that the graph takes to be independent are not: {_listed(apart)}. Something that is no variable "
            "causes both, or one causes the other: answers, samples and what is inferred then combine values that "
            "nobody has.",
            "the common cause as a variable, one as a parent of the other, or `confounded` for what is not known",
        )
    if related:
        yield Finding(
            "mechanism-misfits",
            f"A variable's noise still depends on a cause of it: {_listed(related)}. Its mechanism does not fit.",
            "more scm.steps, scm.bins or scm.transforms",
        )


def _listed(pairs: Sequence[Dependence]) -> str:
    """The pairs in words, the most certain first."""
    shown = [f"{one.first} and {one.second} (correlation {one.correlation:.2f})" for one in pairs[:SHOWN]]
    return ", ".join(shown) + (f" and {len(pairs) - SHOWN} more pairs" if len(pairs) > SHOWN else "")


def _is_cause(graph: Graph, pair: Dependence) -> bool:
    return pair.second in graph.descendants([pair.first]) or pair.first in graph.descendants([pair.second])


def _pairs(scores: Floats, names: Sequence[str], each: float) -> Iterator[tuple[str, str, tuple[float, float, float]]]:
    for a, b in combinations(range(len(names)), 2):
        known = ~np.isnan(scores[:, [a, b]]).any(axis=1)
        if known.sum() >= FEWEST:
            yield names[a], names[b], _test(scores[known, a], scores[known, b], each)


def _test(first: Floats, second: Floats, each: float) -> tuple[float, float, float]:
    """The correlation of two noises (N,), the largest of those tested, and the test's p, where a sample is worth
    ``each`` of a subject."""
    table = _polynomials(first).T @ _polynomials(second) / len(first)
    statistic = each * len(first) * float(np.square(table).sum())
    correlation = _correlation(first, second)
    return correlation, max(abs(correlation), float(np.abs(table).max())), float(chi2.sf(statistic, DEGREES**2))


def _correlation(first: Floats, second: Floats) -> float:
    """That of normal numbers whose monotone images have the ranks of ``first`` and ``second`` (N,)."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(2 * np.sin(np.pi / 6 * spearmanr(first, second).statistic))


def _polynomials(values: Floats) -> Floats:
    """Legendre polynomials of the ranks of values (N,), each with mean 0 and variance 1, (N, DEGREES)."""
    ranks = 2 * (rankdata(values) - 0.5) / len(values) - 1
    columns = legvander(ranks, DEGREES)[:, 1:]
    columns = columns - columns.mean(axis=0)
    spread = columns.std(axis=0)  # 0 of what has one value, and of how far two equally common ones are from the middle
    return np.asarray(np.divide(columns, spread, out=np.zeros_like(columns), where=spread > 1e-9))
