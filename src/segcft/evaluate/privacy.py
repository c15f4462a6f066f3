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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.evaluate.auc import auc
from segcft.evaluate.table import grid
from segcft.grid import Grid
from segcft.utils.atomic import write_text

Floats = NDArray[np.float64]

TEXT, DATA = "privacy.md", "privacy.json"
SHRUNK = 32
"""Elements a side at which images are compared."""
FALSE = 0.01
"""Share of held-out people who are wrongly called training people, where those who are known are counted."""
SHUFFLED = 2000
"""Times that who trained is dealt out anew."""
LEVEL = 0.95
NEAREST, COPIES = "nearest is a training image", "closer than any to others"
AUC, KNOWN = "AUC", "known for certain"


class Row(TypedDict):
    """One figure; ``by`` is what it was found by. ``low`` and ``high`` bound 95 % of what chance gives, ``p`` is how
    often chance gives as much or more."""

    metric: str
    by: str
    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Scored:
    """How high training people and held-out ones score, (N,) and (M,); NaN where a person has no score."""

    train: Floats
    held_out: Floats

    @property
    def known(self) -> Scored:
        """Without those who have no score."""
        return Scored(self.train[np.isfinite(self.train)], self.held_out[np.isfinite(self.held_out)])

    def shuffled(self, random: np.random.Generator) -> Scored:
        """The same scores, as many of whom are said to be of training people, whoever they are."""
        both = random.permutation(np.concatenate([self.train, self.held_out]))
        return Scored(both[: len(self.train)], both[len(self.train) :])


@dataclass(frozen=True)
class Distances:
    """Of each of N drawn images to M training people and to as many held-out ones, (N, M) each."""

    train: Floats
    held_out: Floats

    def shuffled(self, random: np.random.Generator) -> Distances:
        """The same distances, where half of the people are said to have trained, whoever they are."""
        both = np.concatenate([self.train, self.held_out], axis=1)[:, random.permutation(2 * self.train.shape[1])]
        return Distances(both[:, : self.train.shape[1]], both[:, self.train.shape[1] :])


def figures(apart: Mapping[str, Distances], scored: Mapping[str, Scored], seed: int = 0) -> list[Row]:
    """Figures, each beside what chance gives.

    Had nobody of them trained, training people and held-out ones would be alike: chance is what is found when they are
    dealt out anew (a permutation test).

    Args:
        apart: how far what was drawn is from real people, by what it is.
        scored: how high people score, by what they are scored by.
        seed: of dealing out.
    """
    random = np.random.default_rng(seed)
    rows = []
    for by, found in apart.items():
        dealt = (found.shuffled(random) for _ in range(SHUFFLED))  # one after the other: they are large
        chance = np.array([(nearest_share(one), copies(one)) for one in dealt])
        rows.append(_row(NEAREST, by, nearest_share(found), chance[:, 0]))
        rows.append(_row(COPIES, by, copies(found), chance[:, 1]))
    for by, all_scores in scored.items():
        some = all_scores.known
        shuffled = [some.shuffled(random) for _ in range(SHUFFLED)]
        for name, measure in ((AUC, training_scores_higher), (KNOWN, known_share)):
            rows.append(_row(name, by, measure(some), np.array([measure(one) for one in shuffled])))
    return rows


def leaks(rows: Sequence[Row]) -> list[Row]:
    """Those figures that chance gives too seldom, with as many as there are (Bonferroni)."""
    return [row for row in rows if row["p"] * len(rows) <= 1 - LEVEL]


def training_scores_higher(scored: Scored) -> float:
    """How often a training person scores higher than a held-out one, ties counting half."""
    return auc(scored.train, scored.held_out)


def known_share(scored: Scored) -> float:
    """The share of training people who score higher than all but :data:`FALSE` of the held-out ones."""
    return float((scored.train > np.quantile(scored.held_out, 1 - FALSE, method="higher")).mean())


def nearest_share(apart: Distances) -> float:
    """How often the nearest to a drawn image is a training person; a tie counts half."""
    first, second = apart.train.min(axis=1), apart.held_out.min(axis=1)
    return float((first < second).mean() + 0.5 * (first == second).mean())


def copies(apart: Distances) -> float:
    """The share of drawn images that are closer to a training image than any of them is to a held-out one. Who copies
    some of its training images draws several such, and chance seldom one."""
    return float((apart.train.min(axis=1) < apart.held_out.min()).mean())


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


def render(rows: Sequence[Row], study: str, method: str, people: int, drawn: int) -> str:
    """The figures as Markdown.

    Args:
        rows: of :func:`figures`.
        study: its name.
        method: whose image mechanism it is of, in words.
        people: training people, and as many held-out ones.
        drawn: images that the model drew.
    """
    body = [
        [row["metric"], row["by"], f"{row['value']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}", f"{row['p']:.3f}"]
        for row in rows
    ]
    said = "; ".join(f"{row['metric']} ({row['by']})" for row in leaks(rows))
    verdict = (
        f"**Training people are told from others by: {said}.**"
        if said
        else "Nothing tells training people from others here. That is no proof: it is how much so many people show."
    )
    return f"""# {study}: what is given away of training people

{grid(["what", "by", "found", "chance, 95 %", "p"], body, labels=2)}

{verdict}

Of {method}: {people} training people and as many held-out ones, an image each; {drawn} drawn images. Chance is what is
found when who trained is dealt out anew, p how often it gives as much; a figure counts where p times their number is at
most 0.05.

- nearest is a training image: how often, of an image that the model drew, the nearest real one is a training person's.
- closer than any to others: share of drawn images that are closer to a training image than any is to a held-out one.
- AUC: how often a training person scores higher than a held-out one: by the likelihood (or the bound) of the image
  given its values, or by how well a reader's masks overlap with the experts' (Dice); of a reader's own training people.
- known for certain: share of training people who score higher than all but {FALSE:.0%} of held-out ones.

An attacker needs the image to ask so. Stronger attacks, with models trained to attack, may find more. Where people are
not split at random, but by hospital or by date, what is found may be the difference of hospitals.
"""


def write(rows: Sequence[Row], text: str, folder: Path, keys: Mapping[str, str]) -> None:
    """Write the figures to ``folder``, as ``privacy.json`` and, in words, ``privacy.md``; ``keys`` are of the parts."""
    write_text(folder / TEXT, text)
    write_text(folder / DATA, json.dumps({"rows": rows, "keys": keys}, indent=2) + "\n")


def _row(metric: str, by: str, value: float, chance: Floats) -> Row:
    low, high = np.percentile(chance, [50 - 50 * LEVEL, 50 + 50 * LEVEL])
    p = (1 + int((chance >= value).sum())) / (1 + len(chance))
    return Row(metric=metric, by=by, value=value, low=float(low), high=float(high), p=p)
