"""Small charts of numbers as SVG: their content is computed here, their look is in the template."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segcft.config.variable import Variable
from segcft.errors import Code, RunError
from segcft.evaluate.names import plain

WIDTH, HEIGHT = 216.0, 104.0
LEFT, BOTTOM, TOP, RIGHT = 42.0, 18.0, 8.0, 16.0
BINS = 24
POINTS = 120
"""Steps of a training are gathered into so many points of a curve."""


@dataclass(frozen=True)
class Tick:
    place: float
    """In px."""
    label: str


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Chart:
    """A chart of ``WIDTH`` x ``HEIGHT`` px."""

    title: str
    text: str
    """The chart in words."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...] = ()
    bars: tuple[Bar, ...] = ()
    line: str = ""
    """``d`` of an SVG path."""
    band: str = ""
    threads: tuple[str, ...] = ()
    """The same of single subjects."""
    left: float = LEFT
    width, height = WIDTH, HEIGHT
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM


def marginal(name: str, variable: Variable, values: NDArray[np.float32]) -> Chart:
    """The distribution of a variable over samples, ``values`` (N,), where it is known; of a ``zero_inflated`` one that
    of the values above 0."""
    known = values[np.isfinite(values)]
    facts = [f"{len(known):,} known"] + [f"{len(values) - len(known):,} missing"] * (len(known) < len(values))
    if variable.categories:
        counts = np.bincount(known.astype(int), minlength=len(variable.categories))
        facts += [f"{c} {_share(n, len(known))}" for c, n in zip(variable.categories, counts, strict=True)]
        step = (WIDTH - 2 * RIGHT) / len(counts)
        centres = RIGHT + step * (np.arange(len(counts)) + 0.5)
        ticks = tuple(Tick(float(x), category) for x, category in zip(centres, variable.categories, strict=True))
        return Chart(
            plain(name), ", ".join(facts), ticks, bars=_bars(counts, centres - 0.3 * step, 0.6 * step), left=RIGHT
        )
    title = plain(name) + (f", {variable.unit}" if variable.unit else "")
    if variable.zero_inflated:
        facts.append(f"absent {_share(int((known == 0).sum()), len(known))}")
        known = known[known > 0]
    if len(known) == 0:
        return Chart(title, ", ".join(facts), ())
    quartiles = np.quantile(known, [0.25, 0.5, 0.75])
    facts.append(f"median {number(quartiles[1])}, quartiles {number(quartiles[0])} and {number(quartiles[2])}")
    facts.append(f"range {number(known.min())} to {number(known.max())}")
    counts, edges = np.histogram(known, BINS)
    scale = _Scale(float(edges[0]), float(edges[-1]), RIGHT, WIDTH - RIGHT)
    x = np.array([scale.place(edge) for edge in edges])
    bars = _bars(counts, x[:-1], float(x[1] - x[0]) - 0.6)
    return Chart(title, ", ".join(facts), scale.ticks(4), bars=bars, left=RIGHT)


def read_history(path: Path) -> dict[str, NDArray[np.float64]]:
    """The figures of every step of a training: name -> values, "step" among them; {} where there is no record.

    Raises:
        RunError: a line cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(Code.UNREADABLE, path, f"cannot read this record of a training ({error})") from None
    rows = []
    for number_, line in enumerate(text.splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({str(name): float(value) for name, value in row.items()})
            rows[-1]["step"]
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
            raise RunError(
                Code.DAMAGED, f"{path}: line {number_}", f"not the figures of a training step: {line[:80]!r}"
            ) from None
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}


def curve(name: str, steps: NDArray[np.float64], values: NDArray[np.float64]) -> Chart | None:
    """A figure of a training over its steps, both (N,): the median of nearby steps, and the middle 80 % of them.

    On a logarithmic scale where it is positive and varies by more than a factor of ten; None where it is never finite.
    """
    groups = [g for g in np.array_split(np.arange(len(steps)), min(POINTS, len(steps))) if np.isfinite(values[g]).any()]
    if not groups:
        return None
    finite = [values[group][np.isfinite(values[group])] for group in groups]
    low, middle, high = np.array([np.quantile(some, [0.1, 0.5, 0.9]) for some in finite]).T
    logarithmic = bool(low.min() > 0 and high.max() > 10 * low.min())
    across = _Scale(float(steps[0]), float(steps[-1]), LEFT, WIDTH - RIGHT)
    up = _Scale(float(low.min()), float(high.max()), HEIGHT - BOTTOM, TOP, logarithmic)
    x = [across.place(float(steps[g].mean())) for g in groups]
    line, band = _banded(x, up, low, middle, high)
    text = (
        f"from {number(middle[0])} at the first of {steps[-1]:,.0f} steps to {number(middle[-1])} at the last"
        f"{', logarithmic scale' if logarithmic else ''}"
    )
    return Chart(plain(name), text, across.ticks(3), up.ticks(3), line=line, band=band)


def response(
    title: str,
    text: str,
    doses: NDArray[np.float64],
    names: Sequence[str],
    low: NDArray[np.float64],
    middle: NDArray[np.float64],
    high: NDArray[np.float64],
    each: NDArray[np.float64],
) -> Chart | None:
    """A dose-response: its ``middle`` and a band from ``low`` to ``high`` over ``doses``, all (D,), with 0 on the
    scale; categories have ``names``. Behind it are those of some subjects, (N, D), NaN where there is none. None of
    fewer than two doses of which it is known."""
    known = np.isfinite(middle)
    if known.sum() < 2:
        return None
    doses, middle, each = doses[known], middle[known], each[:, known]
    low, high = (np.where(np.isfinite(end[known]), end[known], middle) for end in (low, high))
    across = _Scale(float(doses.min()), float(doses.max()), LEFT, WIDTH - RIGHT)
    ends = np.concatenate([low, high, each[np.isfinite(each)], [0.0]])
    up = _Scale(float(ends.min()), float(ends.max()), HEIGHT - BOTTOM, TOP)
    x = [across.place(float(dose)) for dose in doses]
    line, band = _banded(x, up, low, middle, high)
    ticks = tuple(Tick(x[k], names[int(dose)]) for k, dose in enumerate(doses)) if names else across.ticks(3)
    there = [np.flatnonzero(np.isfinite(one)) for one in each]
    threads = [
        _path([x[k] for k in own], [up.place(float(one[k])) for k in own])
        for one, own in zip(each, there, strict=True)
        if len(own) > 1
    ]
    return Chart(title, text, ticks, up.ticks(3), line=line, band=band, threads=tuple(threads))


def _banded(x: Sequence[float], up: _Scale, *series: NDArray[np.float64]) -> tuple[str, str]:
    """The paths of a line, and of the band from the first of three series to the last."""
    lower, line, upper = ([up.place(float(v)) for v in values] for values in series)
    return _path(x, line), _path([*x, *reversed(x)], [*upper, *reversed(lower)]) + "Z"


def number(value: float) -> str:
    """A number of three figures, or as whole as it is large."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}") if "e" not in text else text


def signed(value: float) -> str:
    """A difference, of two decimals and with its sign."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "\N{MINUS SIGN}")


class _Scale:
    """Maps ``low`` to ``high`` linearly, or by logarithms, to places ``start`` to ``end`` in px."""

    def __init__(self, low: float, high: float, start: float, end: float, logarithmic: bool = False) -> None:
        self.logarithmic = logarithmic
        if high <= low:  # one value only: it is in the middle
            low, high = low - 0.5, high + 0.5
        self.low, self.high, self.start, self.end = low, high, start, end

    def place(self, value: float) -> float:
        low, high = self._map(self.low), self._map(self.high)
        return self.start + (self._map(value) - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int) -> tuple[Tick, ...]:
        """Round numbers within the scale."""
        from matplotlib.ticker import LogLocator, MaxNLocator  # late: slow to import

        locator = LogLocator(numticks=most) if self.logarithmic else MaxNLocator(most, steps=[1, 2, 5, 10])
        values = [float(v) for v in locator.tick_values(self.low, self.high) if self.low <= v <= self.high]
        if len(values) < 2 and self.logarithmic:
            values = [self.low, self.high]
        return tuple(Tick(self.place(value), number(value)) for value in values)

    def _map(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def _bars(counts: NDArray[np.int64], left: NDArray[np.floating], width: float) -> tuple[Bar, ...]:
    height = (HEIGHT - BOTTOM - TOP) * counts / max(1, counts.max())
    return tuple(Bar(float(x), float(HEIGHT - BOTTOM - h), width, float(h)) for x, h in zip(left, height, strict=True))


def _path(x: Sequence[float], y: Sequence[float]) -> str:
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.0f} %" if of else "\N{EN DASH}"
