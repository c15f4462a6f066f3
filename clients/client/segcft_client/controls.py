"""What a person can set of a model: a control for each of its variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Control:
    """Of one variable: a choice among categories, or a slider."""

    variable: str
    label: str
    unit: str
    categories: tuple[str, ...] = ()
    """Of a choice."""
    low: float = 0.0
    """The least value of training people, of a slider."""
    high: float = 1.0
    """The largest one."""

    @property
    def title(self) -> str:
        """What a person reads beside it."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def start(self, record: Mapping[str, Any]) -> float | str:
        """Where it stands before anything is set: what was read of the image."""
        found: float | str = record["variables"][self.variable]["before"]
        return found


def controls(described: Mapping[str, Any]) -> list[Control]:
    """The controls of a model.

    Args:
        described: what :meth:`segcft_client.client.Client.model` gives. Of what follows by a formula there is none.
    """
    return [
        Control(
            variable["name"],
            variable["label"],
            variable["unit"],
            tuple(variable["categories"]),
            variable.get("low", 0.0),
            variable.get("high", 1.0),
        )
        for variable in described["variables"]
        if not variable["isDerived"]
    ]


def summary(record: Mapping[str, Any]) -> list[str]:
    """A line a variable that was set or read again: before, asked for, obtained; then warnings."""
    lines = []
    for name, row in record["variables"].items():
        before, after = _shown(row["before"]), _shown(row["after"])
        obtained = f", read from the answer: {_shown(row['obtained'])}" if "obtained" in row else ""
        lines.append(f"{name}: {before} -> {after}{obtained}{' (set)' if row['intervened'] else ''}")
    return [*lines, *(f"Warning: {text}" for text in record["warnings"])]


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
