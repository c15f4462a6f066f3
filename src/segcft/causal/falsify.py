"""Do the data speak against a causal graph? What it says of who is independent of whom can be tested.

A graph that is right may fail a few tests by chance or by a small fault, so its failures are compared with those of
graphs that have the same arrows between other variables (Eulig et al. 2023, "Toward falsifying causal graphs using a
permutation-based test"). A graph that fails no fewer tests than these says nothing about the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import networkx as nx
import numpy as np

from segcft.causal.independence import IndependenceTest
from segcft.config.graph import Graph

LEVEL = 0.05
"""The p below which an independence is called violated."""

MOST = 200
"""The most graphs that the given one is compared with."""

Parents = Mapping[str, Sequence[str]]
Pairs = Sequence[tuple[str, str]]


class Implied(NamedTuple):
    """An independence that a graph implies, of two variables ``given`` others, and the p of its test."""

    first: str
    second: str
    given: tuple[str, ...]
    p: float

    @property
    def violated(self) -> bool:
        return self.p < LEVEL


class Falsification(NamedTuple):
    """What the data say against a graph.

    ``compared`` is the number of other graphs, without the ``equivalent`` ones, which imply the same as it, so that no
    data tell them apart; ``as_good`` is the share of the compared that violate no more than it does.
    """

    implied: tuple[Implied, ...]
    compared: int
    equivalent: int
    as_good: float

    @property
    def violated(self) -> tuple[Implied, ...]:
        """The implied independences that do not hold, the clearest first."""
        return tuple(sorted((one for one in self.implied if one.violated), key=lambda one: one.p))


def falsify(
    parents: Parents,
    confounded: Pairs,
    test: IndependenceTest,
    seed: int = 0,
) -> Falsification:
    """Test all that a graph implies, and compare it with others that have its arrows between other variables.

    Args:
        parents: of each variable, in the order of the test's columns.
        confounded: pairs that have an unknown cause in common.
        test: of the variables' values.
        seed: of which graphs it is compared with, where there are more than :data:`MOST`.
    """
    names = list(parents)
    columns = {name: k for k, name in enumerate(names)}

    def tested(one: tuple[str, str, tuple[str, ...]]) -> Implied:
        first, second, given = one
        return Implied(first, second, given, test.p(columns[first], columns[second], [columns[n] for n in given]))

    claims, whole = implied(parents, confounded), _whole(parents, confounded)
    own = [tested(one) for one in claims]
    violations = sum(one.violated for one in own)
    others = list(_orders(len(names), seed))
    as_good = equivalent = 0
    for order in others:
        renamed = {name: names[k] for name, k in zip(names, order, strict=True)}
        moved = {_claim(renamed[a], renamed[b], [renamed[n] for n in given], names) for a, b, given in claims}
        other = nx.relabel_nodes(whole, renamed)
        if _separates(whole, moved) and _separates(other, claims):
            equivalent += 1
        else:
            as_good += sum(tested(one).violated for one in moved) <= violations
    compared = len(others) - equivalent
    return Falsification(tuple(own), compared, equivalent, as_good / max(1, compared))


def implied(parents: Parents, confounded: Pairs = ()) -> list[tuple[str, str, tuple[str, ...]]]:
    """The independences (first, second, given) that a graph implies: of a variable and what it does not cause, given
    its causes (the local Markov property), where no common cause that is unknown speaks against it."""
    graph, names, whole = Graph(parents), list(parents), _whole(parents, confounded)
    found: dict[tuple[str, str, tuple[str, ...]], None] = {}
    for name in names:
        given = tuple(parents[name])
        for other in names:
            if other in (name, *given) or other in graph.descendants([name]):
                continue
            if nx.is_d_separator(whole, {name}, {other}, set(given)):
                found[_claim(name, other, given, names)] = None
    return list(found)


def _whole(parents: Parents, confounded: Pairs) -> nx.DiGraph:
    """The graph with a cause, that is no variable, of every confounded pair: numbers are no names."""
    whole = nx.DiGraph([(cause, name) for name, causes in parents.items() for cause in causes])
    whole.add_nodes_from(parents)
    for number, pair in enumerate(confounded):
        whole.add_edges_from((number, name) for name in pair)
    return whole


def _separates(whole: nx.DiGraph, claims: Iterable[tuple[str, str, tuple[str, ...]]]) -> bool:
    """Whether a graph implies all of some independences."""
    return all(nx.is_d_separator(whole, {first}, {second}, set(given)) for first, second, given in claims)


def _claim(first: str, second: str, given: Sequence[str], names: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    """An independence as it is written whichever of the two comes first."""
    first, second = sorted((first, second), key=names.index)
    return first, second, tuple(sorted(given, key=names.index))


def _orders(size: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Orders of so many variables but their own: all of them, or :data:`MOST` at random."""
    own = tuple(range(size))
    if math.factorial(size) - 1 <= MOST:
        yield from (order for order in permutations(own) if order != own)
        return
    rng, seen = np.random.default_rng(seed), {own}
    while len(seen) <= MOST:
        order = tuple(int(k) for k in rng.permutation(size))
        if order not in seen:
            seen.add(order)
            yield order
