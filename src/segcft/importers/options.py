"""Options that are declared once: the command line, its help, Python, the checks and the journal follow from that."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from segcft.config.sources import Splits


@dataclass(frozen=True)
class Kind:
    """What the values of an option are.

    Attributes:
        metavar: stands for a value in help; "": the command line names the option or does not.
        parse: makes a value of a word, or raises ValueError, saying what was expected.
        write: makes the word of a value.
        place: what must be at a path.
    """

    metavar: str
    parse: Callable[[str], Any] = field(default_factory=lambda: str)
    write: Callable[[Any], str] = field(default_factory=lambda: str)
    place: Literal["folder", "table", "file", ""] = ""

    def check(self, value: Any) -> None:
        """Raise ValueError or FileNotFoundError, saying what was expected; TypeError of another type of ``value``."""
        if self.place and not (value.is_dir() if self.place == "folder" else value.is_file()):
            raise FileNotFoundError(f"{value}: no such {self.place}")
        self.parse(self.write(value))


def number(
    metavar: str = "X",
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    whole: bool = False,
    what: str = "a number",
) -> Kind:
    """Finite numbers from ``low`` to ``high``, above ``above``; ``what`` they are, for errors."""
    if math.isfinite(high):
        what += f" from {low:g} to {high:g}"
    elif math.isfinite(above):
        what += f" above {above:g}"
    elif math.isfinite(low):
        what += f", {low:g} or more"

    def parse(text: str) -> float:
        try:
            value: float = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high and value > above):
            raise ValueError(f"expected {what}, not {text!r}")
        return value

    return Kind(metavar, parse, lambda value: f"{value:.15g}")


def choice(*names: str) -> Kind:
    """One of several words."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"expected one of {', '.join(names)}, not {text!r}")
        return text

    return Kind("{" + ",".join(names) + "}", parse)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    try:
        return COUNT.parse(height), COUNT.parse(width or height)
    except ValueError:
        raise ValueError(f"expected height x width in pixels, e.g. 224x224, not {text!r}") from None


def _splits(text: str) -> Splits:
    from segcft.config.sources import Splits

    return Splits(seed=WHOLE.parse(text))


NUMBER, PERCENTILE = number(), number(low=0, high=100, what="a percentile")
COUNT = number("N", low=1, whole=True, what="a whole number")
WHOLE = number("N", low=0, whole=True, what="a whole number")
FOLDER, TABLE, FILE = (
    Kind("DIR", Path, place="folder"),
    Kind("FILE", Path, place="table"),
    Kind("FILE", Path, place="file"),
)
FLAG = Kind("")
SIZE = Kind("HxW", _size, lambda size: "x".join(map(str, size)))
"""(H, W) in pixels; on the command line one number stands for both."""
SPLITS = Kind("N", _splits, lambda splits: str(splits.seed))
"""Shares of the parts; on the command line the seed of the usual shares."""


@dataclass(frozen=True)
class Option:
    """What is declared of an option beside its name, type and default.

    Attributes:
        kind: of its values.
        help: what it is.
        flag: on the command line; None: ``--`` and its name; "": it stands at its place without a flag.
        many: ``pair``: a lower and an upper limit; ``list``: several words after the flag; ``repeated``: the flag may
            be given several times.
        unit: of a number.
        shown: the default in words.
        setting: where the journal's settings have it, e.g. ``threshold.floor``; None: by its name; "": nowhere, since
            the result does not depend on it, or on what a path is called.
    """

    kind: Kind
    help: str
    flag: str | None = None
    many: Literal["pair", "list", "repeated", ""] = ""
    unit: str = ""
    shown: str = ""
    setting: str | None = None

    def check(self, value: Any) -> None:
        """Raise as :meth:`Kind.check` where ``value`` cannot be one of this option."""
        for one in value if self.many else [value]:
            self.kind.check(one)
        if self.many == "pair" and not value[0] < value[1]:
            raise ValueError(f"{value[0]:g} is not below {value[1]:g}")

    def write(self, value: Any) -> str:
        """The words of a value."""
        return " ".join(map(self.kind.write, value)) if self.many else self.kind.write(value)


def option(kind: Kind, help: str, default: Any = MISSING, **more: Any) -> Any:
    """A field of an importer that is an option, with ``more`` of :class:`Option`; required if it has no ``default``."""
    if kind.place:
        more = {"setting": "", **more}
    return field(default=default, metadata={"option": Option(kind, help, **more)})


def percentiles(default: tuple[float, float] | None = (0.5, 99.5), **more: Any) -> Any:
    """The option of what becomes black and white."""
    help = "percentiles of each image that become black and white"
    return option(PERCENTILE, help, default, many="pair", **more)
