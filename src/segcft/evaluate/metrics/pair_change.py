"""The change against the true one: how much of it is obtained, and how much else?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from segcft.config.study import Study
from segcft.evaluate.answered import PairedAnswer
from segcft.evaluate.metrics.metric import METRICS, PairMetric, Result, Words
from segcft.evaluate.names import TRUTH


def along(change: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """A ``change`` e in terms of the ``true`` one t, both (B, ...): the share of it that is obtained,
    ``e.t / |t|**2``, and the size of all else, ``|e - (e.t / |t|**2) t| / |t|``; (B,) each, NaN where nothing truly
    changes.
    """
    # On the CPU: some devices have no double precision.
    e, t = change.flatten(1).cpu().double(), true.flatten(1).cpu().double()
    size = t.square().sum(dim=1)
    share = (e * t).sum(dim=1) / size  # 0 / 0 is NaN
    rest = (e - share[:, None] * t).square().sum(dim=1)
    return share, torch.sqrt(rest / size)


def along_truth(answer: PairedAnswer) -> tuple[Tensor, Tensor]:
    """:func:`along` of an answer, near the structures."""
    near = answer.asked.near[:, None]
    return along(answer.change * near, answer.asked.change * near)


class PairEffectiveness(PairMetric):
    """Share of the true change that the answer has, pixel by pixel, near the structures."""

    name = "pair effectiveness"
    better = "near 1"

    def words(self, study: Study) -> Words:
        text = """\
share of the true change that is obtained near the structures, e.t / |t|² of the answer's change e and
  the true one t."""
        return Words("effectiveness", "", text)

    def of_pair(self, answer: PairedAnswer) -> Iterator[Result]:
        if answer.method != TRUTH:
            yield Result(along_truth(answer)[0])


class PairAmplification(PairMetric):
    """Size of what the answer changes otherwise than truly, near the structures, over that of the true change."""

    name = "pair amplification"

    def words(self, study: Study) -> Words:
        text = """\
size of what else is changed near the structures, |e - (e.t / |t|²) t| / |t|: change that is not along the
  true one."""
        return Words("amplification", "", text)

    def of_pair(self, answer: PairedAnswer) -> Iterator[Result]:
        if answer.method != TRUTH:
            yield Result(along_truth(answer)[1])


METRICS.add(PairEffectiveness.name, PairEffectiveness())
METRICS.add(PairAmplification.name, PairAmplification())
