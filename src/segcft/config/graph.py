"""The causal graph of the attributes: who causes whom, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError as _CycleError
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segcft.config.variable import Variable


class CycleError(ValueError):
    """The graph has a directed cycle, so it is not causal."""


class Graph:
    """A directed acyclic graph over named variables.

    Args:
        parents: for each variable, its direct causes.

    Raises:
        CycleError: the message shows the cycle, each cause before its effect.
        ValueError: a parent is not a variable.
    """

    def __init__(self, parents: Mapping[str, Sequence[str]]) -> None:
        self.parents = {name: tuple(causes) for name, causes in parents.items()}
        for name, causes in self.parents.items():
            for cause in causes:
                if cause not in self.parents:
                    raise ValueError(f"{cause!r}, a parent of {name!r}, is not a variable")
        try:
            self.order = tuple(TopologicalSorter(self.parents).static_order())  #: causes before effects
        except _CycleError as error:
            raise CycleError("the causal graph has a cycle: " + " -> ".join(error.args[1])) from None

    @classmethod
    def of(cls, variables: Mapping[str, Variable]) -> Graph:
        """That of a study's variables."""
        return cls({name: variable.parents for name, variable in variables.items()})

    def descendants(self, names: Iterable[str]) -> set[str]:
        """Every variable below any of ``names``, themselves not included unless below another."""
        sources = set(names)
        below: set[str] = set()
        for name in self.order:  # parents come first
            if any(parent in sources or parent in below for parent in self.parents[name]):
                below.add(name)
        return below
