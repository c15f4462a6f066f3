r"""What readers say of images, not knowing which are real: how often they are right, and how far they agree.

Every reader says of every image how sure they are that it is real or made, on four levels. Of two kinds of images the
area under the curve is the share of pairs, one of each kind, in which the made one was found more likely to be made,
ties counting half: 0.5 is chance. Agreement of two readers is Cohen's kappa (1960) of real against made, of several
Fleiss' (1971),

.. math:: \kappa = \frac{p_o - p_e}{1 - p_e},

with :math:`p_o` how often they agree, and :math:`p_e` how often they would by chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from segcft.evaluate.table import grid

Floats = NDArray[np.float64]

LEVELS = ("surely real", "rather real", "rather made", "surely made")
"""What a reader may say, by number from 0."""
MADE_FROM = 2
"""The first of them that says made."""
ALL = "all readers"
REAL, ANSWER, RECONSTRUCTION = "real", "counterfactual", "reconstruction"
DRAWS = 2000
LEVEL = 0.95


class Row(TypedDict):
    """One figure: of a reader or of all, of a kind of images, and its 95 % interval, NaN where there is none."""

    reader: str
    metric: str
    kind: str
    value: float
    low: float
    high: float
    n: int


class Ratings(NamedTuple):
    """Levels that R readers gave N images, (R, N), NaN where a reader did not say; ``kinds`` of the images."""

    readers: tuple[str, ...]
    kinds: tuple[str, ...]
    levels: Floats


def scores(ratings: Ratings, seed: int = 0) -> list[Row]:
    """Figures of every reader and of all.

    Intervals are over images, each of which is of another person; of all readers over readers, too, so that they are of
    another panel that sees other people.

    Args:
        ratings: what was said.
        seed: of resampling.
    """
    readers, kinds, levels = ratings
    kind, made = np.array(kinds), tuple(dict.fromkeys(one for one in kinds if one != REAL))
    panels = [(name, levels[[k]]) for k, name in enumerate(readers)]
    if len(readers) > 1:
        panels.append((ALL, levels))
    resample = _Resample(kind, np.random.default_rng(seed))
    rows = []
    for name, panel in panels:
        for one in (REAL, *made):
            rows.append(resample.row(name, "called made", one, panel, (one,), _called_made))
        for one in made:
            rows.append(resample.row(name, "auc", one, panel, (REAL, one), auc))
    among: list[tuple[tuple[int, ...], str]] = [
        ((k, j), f"{readers[k]}, {readers[j]}") for k, j in itertools.combinations(range(len(readers)), 2)
    ]
    if len(readers) > 2:
        among.append((tuple(range(len(readers))), ALL))
    for some, name in among:
        rows.append(resample.row(name, "kappa", "", levels[list(some)], (REAL, *made), _agreement, fixed=True))
    return rows


class _Resample:
    """Figures with percentile intervals over images, kind by kind, and over readers.

    Args:
        kinds: (N,) of the images.
        random: what draws.
    """

    def __init__(self, kinds: NDArray[np.str_], random: np.random.Generator) -> None:
        self.kinds, self.random = kinds, random

    def row(
        self,
        reader: str,
        metric: str,
        kind: str,
        levels: Floats,
        among: Sequence[str],
        figure: Callable[[Floats, NDArray[np.str_]], float],
        fixed: bool = False,
    ) -> Row:
        """A figure of levels (R, N) of images of the kinds ``among``; with ``fixed`` it is of these readers alone."""
        places = [np.flatnonzero(self.kinds == one) for one in among]
        here = np.concatenate(places)
        value = figure(levels[:, here], self.kinds[here])
        drawn = np.full(DRAWS, np.nan)
        for k in range(DRAWS):
            who = np.arange(len(levels)) if fixed else self.random.integers(len(levels), size=len(levels))
            some = np.concatenate([self.random.choice(place, len(place)) for place in places])
            drawn[k] = figure(levels[np.ix_(who, some)], self.kinds[some])
        known = drawn[np.isfinite(drawn)]
        tails = [50 - 50 * LEVEL, 50 + 50 * LEVEL]
        low, high = np.percentile(known, tails) if len(known) and len(here) > 1 else (np.nan, np.nan)
        said = int(np.isfinite(levels[:, here]).sum())
        return Row(reader=reader, metric=metric, kind=kind, value=value, low=float(low), high=float(high), n=said)


def _called_made(levels: Floats, kinds: NDArray[np.str_]) -> float:
    said = levels[np.isfinite(levels)]
    return float((said >= MADE_FROM).mean()) if said.size else float("nan")


def auc(levels: Floats, kinds: NDArray[np.str_]) -> float:
    """The area under the curve of made against real images, (R, N) levels of N images of ``kinds``: the mean over
    readers; NaN where no reader saw both."""
    each = []
    for own in levels:
        known = np.isfinite(own)
        real, made = own[known & (kinds == REAL)], own[known & (kinds != REAL)]
        if len(real) and len(made):
            above = made[:, None] - real[None]
            each.append(float((above > 0).mean() + 0.5 * (above == 0).mean()))
    return float(np.mean(each)) if each else float("nan")


def _agreement(levels: Floats, kinds: NDArray[np.str_]) -> float:
    return kappa(levels)


def kappa(levels: Floats) -> float:
    """How far readers agree on real against made, of levels (R, N), over images of which all of them spoke: of two
    readers Cohen's kappa, of more Fleiss'; NaN where all say the same of everything, or there is no such image."""
    made = (levels[:, np.isfinite(levels).all(axis=0)] >= MADE_FROM).astype(np.float64)
    readers, images = made.shape
    if readers < 2 or not images:
        return float("nan")
    if readers == 2:
        agreed = float((made[0] == made[1]).mean())
        first, second = made.mean(axis=1)
        chance = first * second + (1 - first) * (1 - second)
    else:
        votes = np.stack([made.sum(axis=0), readers - made.sum(axis=0)])
        agreed = float(((votes**2).sum(axis=0) - readers).mean() / (readers * (readers - 1)))
        chance = float((votes.mean(axis=1) / readers) @ (votes.mean(axis=1) / readers))
    return (agreed - chance) / (1 - chance) if chance < 1 else float("nan")


def render(rows: Sequence[Row], study: str, counts: Mapping[str, int]) -> str:
    """The figures as Markdown.

    Args:
        rows: of :func:`scores`.
        study: its name.
        counts: images of each kind.
    """
    kinds = list(counts)
    made = [kind for kind in kinds if kind != REAL]
    found = {(row["reader"], row["metric"], row["kind"]): row for row in rows}
    names = list(dict.fromkeys(row["reader"] for row in rows if row["metric"] == "called made"))
    head = ["reader", *(f"{kind} called made, %" for kind in kinds), *(f"AUC of {kind}" for kind in made)]
    body = [
        [
            name,
            *(_cell(found[name, "called made", kind], 100, 0) for kind in kinds),
            *(_cell(found[name, "auc", kind], 1, 2) for kind in made),
        ]
        for name in names
    ]
    pairs = [[row["reader"], _cell(row, 1, 2)] for row in rows if row["metric"] == "kappa"]
    agreement = f"\n\n## Agreement\n\n{grid(['readers', 'kappa'], pairs)}" if pairs else ""
    shown = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"""# {study}: what readers say

{grid(head, body)}

Images: {shown}; each is of another person. In brackets 95 % intervals: of another panel and other people where readers
are taken together, else of other people. An AUC of 0.5 is chance, 1 is certainty. A reconstruction is what the model
explains of an image, without the noise of each pixel: readers should tell it from a real one, or they see too little to
tell any.{agreement}
"""


def _cell(row: Row, scale: float, digits: int) -> str:
    if not np.isfinite(row["value"]):
        return "-"
    text = f"{scale * row['value']:.{digits}f}"
    if not np.isfinite(row["low"]):
        return text
    return f"{text} ({scale * row['low']:.{digits}f} to {scale * row['high']:.{digits}f})"
