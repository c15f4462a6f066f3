"""Which graph do the data suggest? Discovery of causes (FCI) on many parts of the subjects.

Found graphs are suggestions: they rest on tests of independence, on the assumption that nothing is independent by
accident, and on the tiers that are given. What is found in nearly all parts is at least no whim of a few subjects.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from segcft.causal.independence import IndependenceTest
from segcft.config.variable import Variable
from segcft.utils.extra import extra

PART = 0.632
"""The share of the subjects in a part, drawn without putting back: as many as differ in a bootstrap sample. A
bootstrap's own copies of subjects would look like dependence (Steck and Jaakkola 2003)."""

LEVEL = 0.01
"""The p below which two variables are joined."""

DEPTH = 3
"""The most variables that are given in the first search: with more, tests on hundreds of subjects say little."""

METHOD = "segcft"
ARROW, TAIL = 1, -1
"""Ends of an edge as causal-learn writes them."""


@dataclass
class Edge:
    """How often, as shares of the parts, two variables are joined (``found``): the first as a cause of the second
    (``forward``), the second as one of the first (``backward``), by an unknown common cause (``common``), or such that
    the parts leave it open."""

    first: str
    second: str
    found: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    common: float = 0.0

    @property
    def open(self) -> float:
        """Joined, but the data do not say by what."""
        return max(0.0, self.found - self.forward - self.backward - self.common)


def discover(
    values: NDArray[np.float64],
    subjects: Sequence[str],
    names: Sequence[str],
    variables: Sequence[Variable],
    tiers: Sequence[Sequence[str]],
    parts: int,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> list[Edge]:
    """Every pair of variables, and how often it is joined: the most often first.

    Fast causal inference (Spirtes et al. 2000), which does not take all common causes to be known, is run on each part.

    Args:
        values: of samples that miss none, (N, V), categories by index.
        subjects: whose they are, (N,): a subject is in a part with all samples or none.
        names: of the V variables.
        variables: the same, whole.
        tiers: of names: nothing is caused by what is in a later tier.
        parts: how many.
        seed: of the draws.
        advance: is called after each part.

    Raises:
        SegcftError: causal-learn is not installed.
    """
    extra("causallearn", "finding graphs", "graph")
    from causallearn.graph.GraphNode import GraphNode
    from causallearn.search.ConstraintBased.FCI import fci
    from causallearn.utils.PCUtils.BackgroundKnowledge import BackgroundKnowledge

    _register()
    known = BackgroundKnowledge()
    for tier, members in enumerate(tiers):
        for name in members:
            known.add_node_to_tier(GraphNode(name), tier)
    edges = {pair: Edge(*pair) for pair in combinations(names, 2)}
    rng, share = np.random.default_rng(seed), 1 / parts
    owners, owner = np.unique(np.asarray(subjects), return_inverse=True)
    for _ in range(parts):
        chosen = rng.permutation(len(owners))[: max(2, round(PART * len(owners)))]
        rows = np.flatnonzero(np.isin(owner, chosen))
        test = IndependenceTest(values[rows], variables, len(chosen) / len(rows))
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # it prints what it does
            warnings.simplefilter("ignore")
            graph, _ = fci(
                values[rows],
                METHOD,
                LEVEL,
                depth=DEPTH,
                background_knowledge=known,
                show_progress=False,
                node_names=list(names),
                test=test,
            )
        ends = graph.graph
        for (a, first), (b, second) in combinations(enumerate(names), 2):
            edge, at_first, at_second = edges[first, second], ends[a, b], ends[b, a]
            edge.found += share * bool(at_first or at_second)
            edge.forward += share * bool(at_first == TAIL and at_second == ARROW)
            edge.backward += share * bool(at_first == ARROW and at_second == TAIL)
            edge.common += share * bool(at_first == ARROW and at_second == ARROW)
        advance()
    return sorted(edges.values(), key=lambda edge: -edge.found)


def _register() -> None:
    """Make our test known to causal-learn."""
    from causallearn.utils.cit import CIT_Base, register_ci_test

    class Test(CIT_Base):
        def __init__(self, data: NDArray[np.float64], test: IndependenceTest) -> None:
            super().__init__(data)
            self.method, self.test = METHOD, test

        def __call__(self, X: int, Y: int, condition_set: Sequence[int] | None = None) -> float:
            return self.test.p(int(X), int(Y), [int(k) for k in condition_set or ()])

    register_ci_test(METHOD, Test)
