"""The area under the ROC curve: how often one of a kind scores higher than one of the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def auc(of_the_kind: NDArray[np.floating[Any]], others: NDArray[np.floating[Any]]) -> float:
    """Of all pairs of one score (N,) of the kind and one (M,) of the others, the share in which the former is higher;
    ties count half. In [0, 1], chance has 0.5; NaN without pairs.

    It is the Mann-Whitney statistic over N M: with the ranks r among all N + M scores, (sum r - N (N + 1) / 2) / (N M).
    """
    n, pairs = len(of_the_kind), len(of_the_kind) * len(others)
    if not pairs:
        return float("nan")
    ranks = rankdata(np.concatenate([of_the_kind, others]))[:n]
    return float((ranks.sum() - n * (n + 1) / 2) / pairs)
