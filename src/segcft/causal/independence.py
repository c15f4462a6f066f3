"""Is one variable independent of another, given some others? Numbers and categories alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray
from scipy.stats import chi2, rankdata

from segcft.config.variable import Variable

Floats = NDArray[np.float64]

TESTED = 2
"""Polynomials of a number whose residuals are compared: of its rank, and of how far from the middle that is."""

CONDITION = 4
"""The degree of the polynomials that explain a variable by those that are given, one or two at a time."""

SAMPLES_EACH = 8
"""Samples for each feature that explains: with fewer, residuals are what is left of noise."""

RIDGE = 1e-6
"""Keeps the fit finite where features say the same, as a share of the samples."""


class IndependenceTest:
    r"""A test of :math:`a \perp b \mid Z` by the generalised covariance measure (Shah and Peters 2020).

    Features of a and of b are regressed on features of Z. Where independence holds, the products of the residuals,
    :math:`r_{ij} = \epsilon_{a,i} \epsilon_{b,j}`, have mean 0, and

    .. math:: T = N \bar r^\top \operatorname{Cov}(r)^{-1} \bar r

    is :math:`\chi^2` with as many degrees of freedom as there are products. Numbers become ranks, whose features are
    Legendre polynomials; categories become zeros and ones; Z has products of two of its variables, too. So trends are
    seen, and a spread that changes; interactions of three and more variables are not.

    Args:
        values: of samples, (N, V), categories by index; NaN is missing, and its sample is left out of a test.
        variables: the V variables.
        each: what a sample is worth of a subject, where subjects have several.
    """

    def __init__(self, values: Floats, variables: Sequence[Variable], each: float = 1.0) -> None:
        self.values, self.variables, self.each = values, list(variables), each
        self._known: dict[tuple[int, int, frozenset[int]], float] = {}

    def p(self, a: int, b: int, given: Sequence[int] = ()) -> float:
        """How likely a dependence at least as clear as that of a and b is by chance, given others: columns of the
        values. 1 where too few samples know all of them, or one of them does not vary."""
        key = (min(a, b), max(a, b), frozenset(given))
        if key not in self._known:
            self._known[key] = self._tested(*key)
        return self._known[key]

    def _tested(self, a: int, b: int, given: frozenset[int]) -> float:
        columns = sorted(given)
        known: NDArray[np.bool_] = np.asarray(self._complete[:, [a, b, *columns]].all(axis=1))
        samples = int(known.sum())
        if samples < 2:
            return 1.0
        explaining = self._explaining(known, columns)
        left = samples - explaining.shape[1]
        first, second = (self._residuals(self._features(known, k, TESTED), explaining) for k in (a, b))
        products = (first[:, :, None] * second[:, None, :]).reshape(samples, -1)
        if left <= 2 * products.shape[1] or products.shape[1] == 0:
            return 1.0
        mean = products.mean(axis=0)
        covariance = np.cov(products, rowvar=False, bias=True).reshape(len(mean), len(mean))
        # Residuals of a fit are smaller than the errors; what was fitted is no evidence.
        statistic = self.each * left * float(mean @ np.linalg.pinv(covariance, hermitian=True) @ mean)
        return float(chi2.sf(statistic, np.linalg.matrix_rank(covariance, hermitian=True)))

    @cached_property
    def _complete(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.values)

    def _features(self, known: NDArray[np.bool_], column: int, degree: int) -> Floats:
        """Features of one variable, each with mean 0 and variance 1, without those that do not vary, (N, F)."""
        values, variable = self.values[known, column], self.variables[column]
        if variable.categories:
            found = values[:, None] == np.arange(1, len(variable.categories))
        else:
            found = legvander(2 * (rankdata(values) - 0.5) / max(len(values), 1) - 1, degree)[:, 1:]
        found = found - found.mean(axis=0) if len(found) else found.astype(float)
        spread = found.std(axis=0) if len(found) else np.zeros(found.shape[1])
        return np.asarray(found[:, spread > 0] / spread[spread > 0])

    def _explaining(self, known: NDArray[np.bool_], given: Sequence[int]) -> Floats:
        """A constant, and features of what is given: products of those of up to two variables, the simplest first, as
        many as the samples can tell apart."""
        each = {column: self._features(known, column, CONDITION) for column in given}
        found = [(0, np.ones(int(known.sum())))]
        found += [(degree, one) for column in given for degree, one in self._by_degree(column, each[column])]
        for first, second in combinations(given, 2):
            for degree, one in self._by_degree(first, each[first]):
                for other_degree, other in self._by_degree(second, each[second]):
                    if degree + other_degree <= CONDITION:
                        found.append((degree + other_degree, one * other))
        found.sort(key=lambda one: one[0])
        most = max(1 + len(given), int(known.sum()) // SAMPLES_EACH)
        return np.stack([feature for _, feature in found[:most]], axis=1)

    def _by_degree(self, column: int, features: Floats) -> Iterator[tuple[int, Floats]]:
        """A variable's features, each with its degree: zeros and ones of a category have the first."""
        for k, feature in enumerate(features.T):
            yield 1 if self.variables[column].categories else k + 1, feature

    @staticmethod
    def _residuals(features: Floats, explaining: Floats) -> Floats:
        gram = explaining.T @ explaining + RIDGE * len(explaining) * np.eye(explaining.shape[1])
        return np.asarray(features - explaining @ np.linalg.solve(gram, explaining.T @ features))
