r"""Does a model give its training people away? What it does to them, beside what it does to people it has never seen.

**Copies.** Of an image that the model drew, the nearest real one is looked for, among as many training people as
held-out ones. Where it is a training one more often than in half of the cases, what is drawn leans on them. Distances
are root mean squares of grey levels after shrinking, so that noise does not decide.

**Membership** (Yeom et al. 2018, https://arxiv.org/abs/1709.01604): somebody who has an image asks whether it was
trained on, by how likely the image mechanism finds it, or by how well a reader reads it. The area under the curve is
how often a training person scores higher than a held-out one, 0.5 being chance. What hurts are the few who are known
for certain (Carlini et al. 2022, https://arxiv.org/abs/2112.03570): the share of training people above 99 % of the
held-out ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from segcft.evaluate.table import grid
from segcft.grid import Grid
from segcft.utils.atomic import write_text

Floats = NDArray[np.float64]

TEXT, DATA = "privacy.md", "privacy.json"
SHRUNK = 32
"""Elements a side at which images are compared."""
FALSE = 0.01
"""Share of held-out people who are wrongly called training people, where those who are known are counted."""
DRAWS = 1000
LEVEL = 0.95
NEAREST, AUC, KNOWN = "nearest is a training image", "AUC", "known for certain"
CHANCE = {NEAREST: 0.5, AUC: 0.5, KNOWN: FALSE}


class Row(TypedDict):
    """One figure with its 95 % interval; ``by`` is what it was found by."""

    metric: str
    by: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scored:
    """How high training people and as many held-out ones score, (N,) and (M,); NaN where a person has no score."""

    train: Floats
    held_out: Floats

    @property
    def known(self) -> Scored:
        """Without those who have no score."""
        return Scored(self.train[np.isfinite(self.train)], self.held_out[np.isfinite(self.held_out)])


@dataclass(frozen=True)
class Distances:
    """Of each of N drawn images to M training people and to as many held-out ones, (N, M) each."""

    train: Floats
    held_out: Floats


def figures(apart: Mapping[str, Distances], scored: Mapping[str, Scored], seed: int = 0) -> list[Row]:
    """Figures with intervals over people, and over drawn images.

    Args:
        apart: how far what was drawn is from real people, by what it is.
        scored: how high people score, by what they are scored by.
        seed: of resampling.
    """
    random = np.random.default_rng(seed)
    rows = []
    for by, found in apart.items():
        n, m = found.train.shape
        drawn = []
        for _ in range(DRAWS):
            images, people, others = random.integers(n, size=n), random.integers(m, size=m), random.integers(m, size=m)
            drawn.append(nearest_share(found.train[images][:, people], found.held_out[images][:, others]))
        rows.append(_row(NEAREST, by, nearest_share(found.train, found.held_out), np.array(drawn)))
    for by, all_scores in scored.items():
        some = all_scores.known
        for metric, figure in ((AUC, auc), (KNOWN, known_share)):
            rows.append(_row(metric, by, figure(some), _resampled(some, figure, random)))
    return rows


def auc(scored: Scored) -> float:
    """How often a training person scores higher than a held-out one, ties counting half."""
    n, m = len(scored.train), len(scored.held_out)
    ranks = rankdata(np.concatenate([scored.train, scored.held_out]))[:n]
    return float((ranks.sum() - n * (n + 1) / 2) / (n * m))


def known_share(scored: Scored) -> float:
    """The share of training people who score higher than all but :data:`FALSE` of the held-out ones."""
    return float((scored.train > np.quantile(scored.held_out, 1 - FALSE, method="higher")).mean())


def nearest_share(train: Floats, held_out: Floats) -> float:
    """How often the nearest is a training person, of distances (N, M) to training and to held-out ones; a tie counts
    half."""
    first, second = train.min(axis=1), held_out.min(axis=1)
    return float((first < second).mean() + 0.5 * (first == second).mean())


def distances(drawn: Tensor, train: Tensor, held_out: Tensor) -> Distances:
    """How far drawn images are from real ones, in grey levels.

    Args:
        drawn: (N, C, *size) in grey levels.
        train: (M, C, *size), of training people.
        held_out: (M, C, *size), of as many held-out ones.
    """
    small = [shrunk(images).flatten(1) for images in (drawn, train, held_out)]
    scale = small[0].shape[1] ** 0.5
    to_train, to_others = (torch.cdist(small[0], real).numpy() / scale for real in small[1:])
    return Distances(to_train, to_others)


def shrunk(images: Tensor) -> Tensor:
    """Images (N, C, *size) in grey levels at :data:`SHRUNK` elements a side at most, averaged."""
    size = [min(SHRUNK, n) for n in images.shape[2:]]
    return Grid.like(images).pool(images.float(), tuple(size))


def render(rows: Sequence[Row], study: str, people: int, drawn: int) -> str:
    """The figures as Markdown.

    Args:
        rows: of :func:`figures`.
        study: its name.
        people: training people, and as many held-out ones.
        drawn: images that the model drew.
    """
    body = [
        [row["metric"], row["by"], f"{row['value']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}", f"{chance:g}"]
        for row in rows
        for chance in [CHANCE[row["metric"]]]
    ]
    leaks = [row for row in rows if row["low"] > CHANCE[row["metric"]]]
    said = "; ".join(f"{row['metric']} ({row['by']})" for row in leaks)
    verdict = (
        f"**Training people are told from others by: {said}.**"
        if leaks
        else "No figure is above chance by more than its interval. That is no proof: it is how much these people show."
    )
    return f"""# {study}: what is given away of training people

{grid(["what", "by", "found", "95 % interval", "chance"], body, labels=2)}

{verdict}

{people} training people and as many held-out ones, an image each; {drawn} drawn images.

- nearest is a training image: how often, of an image that the model drew, the nearest real one is a training person's,
  among as many held-out ones. Above a half, what is drawn leans on training images.
- AUC: how often a training person scores higher than a held-out one: by the likelihood of the image given its values,
  or by how well a reader's masks overlap with the experts' (Dice).
- known for certain: share of training people who score higher than all but {FALSE:.0%} of held-out ones.

An attacker needs the image to ask so. Stronger attacks, with models trained to attack, may find more.
"""


def write(rows: Sequence[Row], study: str, people: int, drawn: int, folder: Path, keys: Mapping[str, str]) -> None:
    """Write the figures to ``folder``, as ``privacy.json`` and ``privacy.md``; ``keys`` are those of the parts."""
    said = {"rows": rows, "people": people, "drawn": drawn, "keys": keys}
    write_text(folder / TEXT, render(rows, study, people, drawn))
    write_text(folder / DATA, json.dumps(said, indent=2) + "\n")


def _resampled(scored: Scored, figure: Callable[[Scored], float], random: np.random.Generator) -> Floats:
    return np.array(
        [
            figure(
                Scored(
                    random.choice(scored.train, len(scored.train)), random.choice(scored.held_out, len(scored.held_out))
                )
            )
            for _ in range(DRAWS)
        ]
    )


def _row(metric: str, by: str, value: float, drawn: Floats) -> Row:
    low, high = np.percentile(drawn, [50 - 50 * LEVEL, 50 + 50 * LEVEL])
    return Row(metric=metric, by=by, value=value, low=float(low), high=float(high))
