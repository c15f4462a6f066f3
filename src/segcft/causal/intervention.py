"""What a user asks for, ``left_lung_area=+20%``, as data and as a ``do`` tensor."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from segcft.config.graph import CycleError
from segcft.config.variable import Variable, solving_order
from segcft.errors import Code, InterventionError

if TYPE_CHECKING:
    from segcft.causal.scm import StructuralCausalModel

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_RELATIVE = re.compile(rf"([+-]{_NUMBER})\s*(%|sd|)", re.ASCII)
_ABSOLUTE = re.compile(rf"({_NUMBER})|\(\s*([+-]?{_NUMBER})\s*\)", re.ASCII)
_KINDS: dict[str, Literal["add", "percent", "sd"]] = {"": "add", "%": "percent", "sd": "sd"}
_FORMS = "63 (set), +500 or -500 (add), +20% or -20%, +1.5sd or -1.5sd (training standard deviations)"


CHANGE = "a change is written as text, such as '-20%'"
"""What to say of a number that looks like one."""

Kind = Literal["set", "add", "percent", "sd"]


@dataclass(frozen=True)
class Intervention:
    """One variable and what is done to it; ``str()`` gives the text that :func:`parse_intervention` reads.

    ``kind`` says what ``amount`` is: the value itself (``set``), or a difference in the variable's unit
    (``add``), in per cent of the sample's value (``percent``) or in training standard deviations (``sd``).
    The amount of a categorical variable is the name of a category, and its kind is ``set``.
    """

    variable: str
    amount: float | str
    kind: Kind = "set"

    def __str__(self) -> str:
        if isinstance(self.amount, str):
            return f"{self.variable}={self.amount}"
        if self.kind == "set":
            negative = math.copysign(1, self.amount) < 0
            return f"{self.variable}=" + (f"({self.amount})" if negative else f"{self.amount}")
        return f"{self.variable}={self.amount:+}" + {"add": "", "percent": "%", "sd": "sd"}[self.kind]


def parse_intervention(text: str, variables: Mapping[str, Variable]) -> Intervention:
    """Read one intervention, ``VARIABLE=AMOUNT``.

    ======================  ==================================================================
    ``age=63``              set to 63
    ``offset=(-5)``         set to -5: a bare sign is relative, so a negative value has brackets
    ``heart_area=+500``     add 500, in the variable's unit (``-500``: subtract)
    ``heart_area=+20%``     add 20 % of the sample's own value
    ``heart_area=-1.5sd``   subtract 1.5 standard deviations of the training values
    ``sex=F``               set to a category, by its name
    ======================  ==================================================================

    Raises:
        InterventionError: the field is the variable; the text says what was expected.
    """
    name, equals, amount = (part.strip() for part in text.partition("="))
    if not equals or not name or not amount:
        raise InterventionError(Code.INVALID, f"{text!r}", "expected VARIABLE=AMOUNT, e.g. age=63 or heart_area=+20%")
    if name not in variables:
        raise unknown_variable(name, variables)
    if variables[name].kind == "categorical":
        _category(name, amount, variables[name])
        return Intervention(name, amount)
    relative, absolute = _RELATIVE.fullmatch(amount), _ABSOLUTE.fullmatch(amount)
    if relative:
        number, kind = relative[1], _KINDS[relative[2]]
        return Intervention(name, _finite(name, float(number)), kind)
    if absolute:
        return Intervention(name, _finite(name, float(absolute[1] or absolute[2])))
    if re.fullmatch(rf"{_NUMBER}\s*(%|sd)", amount, re.ASCII):
        raise InterventionError(Code.INVALID, name, f"a relative change needs its sign, +{amount} or -{amount}")
    raise InterventionError(Code.INVALID, name, f"{amount!r} is none of {_FORMS}; write a negative value as (-5)")


def resolve(interventions: Iterable[Intervention], values: Tensor, scm: StructuralCausalModel) -> Tensor:
    """The ``do`` tensor (B, V) of interventions on samples with these values (B, V).

    Raises:
        InterventionError: a variable is unknown or given twice, a category is unknown, an amount does not fit
            the variable, the value to change is missing, or is 0 and would change by per cent, or the result is
            infinite or none that the variable allows.
    """
    do = torch.full_like(values, math.nan)
    seen: set[str] = set()
    for intervention in interventions:
        name, amount, kind = intervention.variable, intervention.amount, intervention.kind
        variable = scm.definitions.get(name)
        if variable is None:
            raise unknown_variable(name, scm.variables)
        if name in seen:
            raise InterventionError(Code.DUPLICATE, name, "intervened on twice; give one value")
        seen.add(name)
        k = scm.variables.index(name)
        if variable.kind == "categorical":
            if kind != "set" or not isinstance(amount, str):
                raise InterventionError(Code.INVALID, name, "can only be set to the name of a category")
            do[:, k] = _category(name, amount, variable)
            continue
        if isinstance(amount, str):
            raise InterventionError(Code.INVALID, name, f"expected a number, not {amount!r}")
        change = _finite(name, amount)
        if kind != "set" and values[:, k].isnan().any():
            raise InterventionError(Code.MISSING, name, "unknown, so it cannot change by an amount; set it")
        match kind:
            case "set":
                do[:, k] = change
            case "add":
                do[:, k] = values[:, k] + change
            case "percent":
                if (values[:, k] == 0).any():
                    raise InterventionError(Code.CONFLICT, name, "0 has no percentage; set it, or add an amount")
                do[:, k] = values[:, k] * (1 + change / 100)
            case "sd":
                do[:, k] = values[:, k] + change * scm.natural_std[k].to(values)
        if not do[:, k].isfinite().all():
            raise InterventionError(Code.OUT_OF_RANGE, name, "the result is not a finite number")
        least = float(do[:, k].min())
        if not variable.allows(least):
            rule = (
                "must not be negative ('zero_inflated')"
                if variable.zero_inflated
                else "must be positive ('scale: log')"
            )
            hint = f"; this number sets it, and {CHANGE}" if kind == "set" else ""
            raise InterventionError(Code.OUT_OF_RANGE, name, f"{rule}, not {least:g}{hint}")
    _check_solvable(seen, scm)
    return do


def _check_solvable(asked: set[str], scm: StructuralCausalModel) -> None:
    """Check that what derived variables are solved for is left to them."""
    taken: dict[str, str] = {}
    for name in asked:
        variable = scm.definitions[name]
        if not variable.derived:
            continue
        other = variable.solve_for if variable.solve_for in asked else taken.get(variable.solve_for)
        if other:
            why = f"it follows from {', '.join(variable.parents)} and moves {variable.solve_for!r}, as {other!r} does"
            raise InterventionError(Code.CONFLICT, name, f"{why}; leave out one of them")
        taken[variable.solve_for] = name
    try:
        solving_order(scm.definitions, taken.values())
    except CycleError:
        names = ", ".join(taken.values())
        raise InterventionError(
            Code.CONFLICT, names, "each moves what the other follows from; set their parts"
        ) from None


def unknown_variable(name: str, variables: Iterable[str]) -> InterventionError:
    """The error about a name that is none of ``variables``."""
    return InterventionError(Code.UNKNOWN, name, f"not a variable{_near(name, variables)}")


def _category(name: str, category: str, variable: Variable) -> int:
    if category not in variable.categories:
        near = _near(category, variable.categories, listed=True)
        raise InterventionError(
            Code.UNKNOWN, name, f"{category!r} is not one of {', '.join(variable.categories)}{near}"
        )
    return variable.categories.index(category)


def _finite(name: str, number: float) -> float:
    if not abs(number) <= torch.finfo(torch.float32).max:  # values are float32; this catches NaN, too
        raise InterventionError(Code.OUT_OF_RANGE, name, "the amount must be a finite number below 3.4e38")
    return number


def _near(name: str, names: Iterable[str], listed: bool = False) -> str:
    """The end of an error message: names similar to a wrong one, else all names (unless listed already)."""
    known: Sequence[str] = list(names)
    near = difflib.get_close_matches(name, known, n=3)
    near = near or [one for one in known if name.casefold().startswith(one.casefold())]  # male: M
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return "" if listed else f" ({', '.join(known)})"
