"""Exact answers: what the mechanism is asked for is corrected until the guide reads what the user has asked for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segcft.counterfactual.model import Abduction
from segcft.readers.reader import Reader

ROUNDS = 8
"""The most corrections."""

CLOSE = 0.01
"""A miss of at most this share of a standard deviation is none."""

LARGEST = 1.5
"""The largest correction in all, in standard deviations: what takes more is not obtained by asking for more."""


class Corrected(NamedTuple):
    """``values`` (B, V) to ask the mechanism for, and what the guide then misses, (B, M), in its units."""

    values: Tensor
    missed: Tensor


@torch.no_grad()
def corrected(
    abduction: Abduction,
    guide: Reader,
    image: Tensor,
    before: Tensor,
    after: Tensor,
    columns: list[int],
    spread: Tensor,
    ratios: Tensor,
) -> Corrected:
    r"""Values for which the guide reads the change that is asked for.

    With :math:`r(v)` the guide's reading of the answer to v, :math:`r_0` of the image, and b and a the values before
    and after, :math:`v_{k+1} = v_k + (a - b) - (r(v_k) - r_0)`. Changes are compared, so what the guide misreads in
    both images does not count. Of all rounds the one with the smallest largest miss is kept, of each sample for itself:
    it is never worse than the first, which is the plain answer.

    Args:
        abduction: of the images.
        guide: reads the measured variables.
        image: (B, C, *size) in [-1, 1].
        before: the values as they are, (B, V).
        after: the values asked for, (B, V).
        columns: which of them are measured, in the guide's order.
        spread: the standard deviation of each among the training subjects, (M,).
        ratios: of which 0 is nothing, (M,) bool.
    """
    asked = after.clone()
    wanted, first = (after - before)[:, columns], guide.read(image)
    best, missed = after.clone(), torch.full_like(wanted, torch.inf)
    for _ in range(ROUNDS + 1):
        miss = wanted - (guide.read(abduction.predict(asked)) - first)
        # Those that are close enough stay: an answer does not depend on the ones beside it.
        better = (_worst(miss, spread) < _worst(missed, spread)) & (_worst(missed, spread) >= CLOSE)
        best, missed = torch.where(better[:, None], asked, best), torch.where(better[:, None], miss, missed)
        if (_worst(missed, spread) < CLOSE).all():
            break
        further = (asked - after)[:, columns] + miss.nan_to_num()
        further = torch.maximum(torch.minimum(further, LARGEST * spread), -LARGEST * spread)
        asked = asked.clone()
        sought = after[:, columns] + further
        asked[:, columns] = torch.where(ratios, _above_nothing(after[:, columns], sought), sought)
    return Corrected(best, missed)


def _worst(miss: Tensor, spread: Tensor) -> Tensor:
    """The largest of misses (B, M) in standard deviations, (B,), of those that the guide can read."""
    return (miss.abs() / spread).nan_to_num(nan=0.0, posinf=torch.inf).amax(dim=1)


def _above_nothing(after: Tensor, asked: Tensor) -> Tensor:
    """What is asked for, where that is not negative as what was to be obtained is not: a tenth of that, then."""
    return torch.where((after >= 0) & (asked < 0.1 * after), 0.1 * after, asked)
