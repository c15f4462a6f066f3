"""Options that are declared once: the command line, its help, Python, the checks and the journal follow from that."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from segcft.config.sources import Splits


@dataclass(frozen=True)
class Kind:
    """What the values of an option are; ``metavar`` stands for one in help."""

    metavar: str

    def parse(self, text: str) -> Any:
        """The value that a word of the command line is.

        Raises:
            ValueError: it is none; the message says what was expected.
        """
        self.check(text)
        return text

    def check(self, value: Any) -> None:
        """See that Python gives a value of this kind.

        Raises:
            ValueError: it is none.
        """


@dataclass(frozen=True)
class Number(Kind):
    """A finite number from ``low`` to ``high``, above ``above``; ``what`` it is, for errors."""

    metavar: str = "X"
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    whole: bool = False
    what: str = "a number"

    def parse(self, text: str) -> float:
        try:
            value: float = int(text) if self.whole else float(text)
        except ValueError:
            raise ValueError(f"expected {self}, not {text!r}") from None
        self.check(value)
        return value

    def check(self, value: float) -> None:
        within = math.isfinite(value) and self.low <= value <= self.high and value > self.above
        if not within or (self.whole and value != int(value)):
            raise ValueError(f"expected {self}, not {value:g}")

    def __str__(self) -> str:
        if math.isfinite(self.high):
            return f"{self.what} from {self.low:g} to {self.high:g}"
        if math.isfinite(self.above):
            return f"{self.what} above {self.above:g}"
        return f"{self.what}, {self.low:g} or more" if math.isfinite(self.low) else self.what


NUMBER = Number()
COUNT = Number("N", low=1, whole=True, what="a whole number")
WHOLE = Number("N", low=0, whole=True, what="a whole number")
PERCENTILE = Number(low=0, high=100, what="a percentile")


@dataclass(frozen=True)
class Choice(Kind):
    """One of several words."""

    choices: tuple[str, ...] = ()

    @classmethod
    def of(cls, *choices: str) -> Choice:
        return cls("{" + ",".join(choices) + "}", choices)

    def check(self, value: str) -> None:
        if value not in self.choices:
            raise ValueError(f"expected one of {', '.join(self.choices)}, not {value!r}")


@dataclass(frozen=True)
class Place(Kind):
    """A path, at which there must be what ``kind`` says."""

    kind: Literal["folder", "table", "file", ""] = ""

    def parse(self, text: str) -> Path:
        return Path(text)  # which is checked once all options are there

    def check(self, value: Path) -> None:
        if not (value.is_dir() if self.kind == "folder" else value.is_file()):
            raise ValueError(f"{value}: no such {self.kind}")


FOLDER, TABLE, FILE = Place("DIR", "folder"), Place("FILE", "table"), Place("FILE", "file")


@dataclass(frozen=True)
class Size(Kind):
    """(H, W) in pixels; on the command line HxW, or one number for both."""

    metavar: str = "HxW"

    def parse(self, text: str) -> tuple[int, int]:
        height, _, width = text.lower().partition("x")
        try:
            return int(COUNT.parse(height)), int(COUNT.parse(width or height))
        except ValueError:
            raise ValueError(f"expected height x width in pixels, e.g. 224x224, not {text!r}") from None

    def check(self, value: tuple[int, int]) -> None:
        for side in value:
            COUNT.check(side)


@dataclass(frozen=True)
class Flag(Kind):
    """True or False; the command line names it or does not."""

    metavar: str = ""


@dataclass(frozen=True)
class SplitSeed(Kind):
    """Shares of the parts; on the command line the seed of the usual shares."""

    metavar: str = "N"

    def parse(self, text: str) -> Splits:
        from segcft.config.sources import Splits

        return Splits(seed=int(WHOLE.parse(text)))


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
            the result does not depend on it.
    """

    kind: Kind
    help: str
    flag: str | None = None
    many: Literal["pair", "list", "repeated", ""] = ""
    unit: str = ""
    shown: str = ""
    setting: str | None = None

    def check(self, value: Any) -> None:
        """Raise ValueError where ``value`` cannot be one of this option."""
        for one in value if self.many else [value]:
            self.kind.check(one)
        if self.many == "pair" and not value[0] < value[1]:
            raise ValueError(f"{value[0]:g} is not below {value[1]:g}")


def option(kind: Kind, help: str, default: Any = MISSING, **more: Any) -> Any:
    """A field of an importer that is an option, with ``more`` of :class:`Option`; required if it has no ``default``.

    Files and folders are no settings unless ``more`` says so, as they may move.
    """
    if isinstance(kind, Place):
        more = {"setting": "", **more}
    return field(default=default, metadata={"option": Option(kind, help, **more)})


def percentiles(default: tuple[float, float] | None = (0.5, 99.5), **more: Any) -> Any:
    """The option of what becomes black and white."""
    help = "percentiles of each image that become black and white"
    return option(PERCENTILE, help, default, many="pair", **more)
