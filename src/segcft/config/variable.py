"""A variable of the causal graph, as a study file describes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import model_validator

from segcft.config.formula import Formula
from segcft.config.graph import Graph
from segcft.config.section import Section

OLDEST = 130
"""Ages above this, in years, are not believed; nobody has been older than 122."""


class Variable(Section):
    """A scalar of the causal graph.

    ``scale: log`` models a positive variable through its logarithm. With ``zero_inflated`` it may also be exactly 0,
    as the area of an absent structure is, and the scale is that of its positive values. ``parents`` are direct causes.
    ``range`` are the values that are believed where a table has them; of an age it is 0 to 130 years by default.

    With a ``formula`` it is derived: it follows from other variables, which are its parents, without noise, and causes
    nothing by itself. An intervention on it sets the one that it is to ``solve_for``, the others being as they are.
    """

    LATER = frozenset({"zero_inflated", "range", "formula", "solve_for"})

    kind: Literal["continuous", "categorical"]
    parents: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    scale: Literal["linear", "log"] = "linear"
    zero_inflated: bool = False
    unit: str = ""
    range: tuple[float, float] | None = None
    formula: str = ""
    solve_for: str = ""

    @model_validator(mode="before")
    @classmethod
    def _causes_are_in_the_formula(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("formula"), str) and given["formula"]:
            names = list(Formula(given["formula"]).names)
            if list(given.get("parents") or names) != names:
                raise ValueError(f"'parents' are those in the formula, {', '.join(names)}; leave them out")
            return given | {"parents": names}
        return given

    @model_validator(mode="after")
    def _formula_can_be_solved(self) -> Variable:
        if not self.formula:
            if self.solve_for:
                raise ValueError("'solve_for' is of a variable with a 'formula'")
            return self
        if self.kind != "continuous" or self.scale != "linear" or self.range is not None:
            raise ValueError("a variable with a 'formula' is continuous; leave out 'scale' and 'range'")
        if Formula(self.formula).count(self.solve_for) != 1:
            raise ValueError(f"'solve_for' is a variable that is once in the formula, not {self.solve_for!r}")
        return self

    @model_validator(mode="after")
    def _categories_fit_kind(self) -> Variable:
        if self.kind == "categorical" and len(set(self.categories)) < 2:
            raise ValueError("a categorical variable needs at least two different 'categories'")
        if self.kind == "continuous" and self.categories:
            raise ValueError("only a categorical variable has 'categories'")
        if self.range is not None and (self.kind != "continuous" or not self.range[0] < self.range[1]):
            raise ValueError("'range' is of a continuous variable and goes from a smaller to a larger number")
        if self.zero_inflated and (self.kind != "continuous" or self.scale != "log"):
            # On a linear scale nothing would keep the values that are not 0 above it.
            raise ValueError("'zero_inflated' is of a continuous variable with 'scale: log'")
        return self

    @property
    def derived(self) -> Formula | None:
        """Its formula, if it has one."""
        return Formula(self.formula) if self.formula else None

    def allows(self, number: float) -> bool:
        """Whether a continuous variable can be this number."""
        return self.scale == "linear" or number > 0 or (self.zero_inflated and number == 0)


def solving_order(variables: Mapping[str, Variable], asked: Iterable[str]) -> tuple[str, ...]:
    """Derived variables that are asked for at once, each after those whose solution moves what is in its formula.

    Raises:
        CycleError: there is no such order, as each moves what is in the other's.
    """
    graph = Graph.of(variables)
    derived = {name: variables[name] for name in asked}
    moved = {name: {one.solve_for} | graph.descendants([one.solve_for]) for name, one in derived.items()}
    before = {
        name: [other for other in derived if moved[other] & ({*one.parents} - {one.solve_for})]
        for name, one in derived.items()
    }
    return Graph(before).order
