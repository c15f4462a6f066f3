r"""What readers say of images, not knowing which are real: how often they are right, and how far they agree.

Every reader says of every image how sure they are that it is real or made, on four levels. Of two kinds of images the
area under the curve is the share of pairs, one of each kind, in which the made one was found more likely to be made,
ties counting half: 0.5 is chance. Agreement of two readers is Cohen's kappa (1960) of real against made, of several
Fleiss' (1971),

.. math:: \kappa = \frac{p_o - p_e}{1 - p_e},

with :math:`p_o` how often they agree, and :math:`p_e` how often they would by chance.

Intervals are over images, and of these readers: of shares Wilson's (1927), of areas that of Newcombe (2006, method 5),
which both have a width where all are right. A mean over readers is given that of one reader, which is wider than it
need be.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from segcft.evaluate.auc import auc
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
NEAR = 1e-9
"""How near to an area its interval is looked for."""


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

    Args:
        ratings: what was said.
        seed: of resampling, by which kappa has its interval.
    """
    readers, kinds, levels = ratings
    kind, made = np.array(kinds), tuple(dict.fromkeys(one for one in kinds if one != REAL))
    panels = [(name, levels[[k]]) for k, name in enumerate(readers)]
    if len(readers) > 1:
        panels.append((ALL, levels))
    rows = []
    for name, panel in panels:
        for one in (REAL, *made):
            share, count = _called_made(panel[:, kind == one]), _seen(panel[:, kind == one])
            rows.append(_row(name, "called made", one, share, wilson(share, count), count))
        for one in made:
            both = np.isin(kind, (REAL, one))
            counts = _seen(panel[:, kind == REAL]), _seen(panel[:, kind == one])
            area = told_apart(panel[:, both], kind[both])
            rows.append(_row(name, "auc", one, area, newcombe(area, *counts), sum(counts)))
    among: list[tuple[tuple[int, ...], str]] = [
        ((k, j), f"{readers[k]}, {readers[j]}") for k, j in itertools.combinations(range(len(readers)), 2)
    ]
    if len(readers) > 2:
        among.append((tuple(range(len(readers))), ALL))
    random = np.random.default_rng(seed)
    for some, name in among:
        rows.append(_kappa_row(name, levels[list(some)], random))
    return rows


def wilson(share: float, count: int) -> tuple[float, float]:
    """The interval of a share of ``count``; NaN where there is none."""
    if not count or not np.isfinite(share):
        return float("nan"), float("nan")
    found = binomtest(round(share * count), count).proportion_ci(LEVEL, "wilson")
    return float(found.low), float(found.high)


def newcombe(area: float, real: int, made: int) -> tuple[float, float]:
    """The interval of an area under the curve of so many real and made images; NaN where there is none.

    It has the areas from which the one that was found is at most so many of their own standard errors away, by Hanley
    and McNeil's (1982) with the mean of both numbers for each.
    """
    if not (real and made and np.isfinite(area)):
        return float("nan"), float("nan")
    z, n = norm.ppf(0.5 + LEVEL / 2), (real + made) / 2 - 1

    def beyond(other: float) -> float:
        variance = other * (1 - other) * (1 + n * ((1 - other) / (2 - other) + other / (1 + other))) / (real * made)
        return float(abs(area - other) - z * np.sqrt(variance))

    # At the found area itself it is below 0, but for 0 and 1, where nothing varies.
    low = brentq(beyond, 0, area - NEAR) if area > 0 else 0.0
    high = brentq(beyond, area + NEAR, 1) if area < 1 else 1.0
    return float(low), float(high)


def _row(reader: str, metric: str, kind: str, value: float, interval: tuple[float, float], n: int) -> Row:
    return Row(reader=reader, metric=metric, kind=kind, value=value, low=interval[0], high=interval[1], n=n)


def _seen(levels: Floats) -> int:
    """Images of which a reader spoke, of (R, N)."""
    return int(np.isfinite(levels).any(axis=0).sum())


def _kappa_row(name: str, levels: Floats, random: np.random.Generator) -> Row:
    """Kappa with its interval by resampling images; there is none where it is not defined of more than a twentieth."""
    images = levels.shape[1]
    drawn = np.array([kappa(levels[:, random.integers(images, size=images)]) for _ in range(DRAWS)])
    known = drawn[np.isfinite(drawn)]
    interval = (float("nan"), float("nan"))
    if len(known) >= LEVEL * DRAWS:
        low, high = np.percentile(known, [50 - 50 * LEVEL, 50 + 50 * LEVEL])
        interval = float(low), float(high)
    return _row(name, "kappa", "", kappa(levels), interval, _seen(levels))


def _called_made(levels: Floats) -> float:
    """The mean over readers of how often they called an image made, of levels (R, N)."""
    each = [float((own[np.isfinite(own)] >= MADE_FROM).mean()) for own in levels if np.isfinite(own).any()]
    return float(np.mean(each)) if each else float("nan")


def told_apart(levels: Floats, kinds: NDArray[np.str_]) -> float:
    """The area under the curve of made against real images, (R, N) levels of N images of ``kinds``: the mean over
    readers; NaN where no reader saw both."""
    each = []
    for own in levels:
        known = np.isfinite(own)
        real, made = own[known & (kinds == REAL)], own[known & (kinds != REAL)]
        if len(real) and len(made):
            each.append(auc(made, real))
    return float(np.mean(each)) if each else float("nan")


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

Images: {shown}; each is of another person. In brackets 95 % intervals over people, of these readers: what others would
say is not in them. An AUC of 0.5 is chance, 1 is certainty. A reconstruction is what the model explains of an image,
without the noise of each pixel: readers should tell it from a real one, or they see too little to tell any.{agreement}
"""


def _cell(row: Row, scale: float, digits: int) -> str:
    if not np.isfinite(row["value"]):
        return "-"
    text = f"{scale * row['value']:.{digits}f}"
    if not np.isfinite(row["low"]):
        return text
    return f"{text} ({scale * row['low']:.{digits}f} to {scale * row['high']:.{digits}f})"
