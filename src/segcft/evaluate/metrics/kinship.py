"""Kinship: does the judge err where the guide errs? Then what pleases the guide may please the judge as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcft.config.study import Study
from segcft.evaluate import names
from segcft.evaluate.answered import GuideBatch
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words

KIN = 0.6
"""Correlation of errors above which the judge is called kin to the guide."""


class Kinship(Metric):
    """Pearson correlation of a guide's errors with the judge's, on images as they are."""

    name = "error correlation"

    def words(self, study: Study) -> Words:
        return Words("correlation of its errors with the judge's")

    def of_guide(self, batch: GuideBatch) -> Iterator[Result]:
        known = batch.factual.known
        theirs, ours = ((read - known).cpu().double() for read in (batch.read, batch.factual.read))
        moments = torch.stack([theirs, ours, theirs.square(), ours.square(), theirs * ours], dim=-1)
        return (Result(moments[:, s], structure) for s, structure in enumerate(batch.factual.study.structures))

    def of_means(self, means: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the means of x, y, x², y² and xy, (..., 5): NaN where one of the two errors is always the same."""
        x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
        spread = np.sqrt(_left(xx, x * x) * _left(yy, y * y))
        return np.divide(xy - x * y, spread, out=np.full(spread.shape, np.nan), where=spread > 0).clip(-1, 1)


def _left(square: NDArray[np.float64], of_mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """A mean square less the square of the mean, 0 where it is but the rounding of these."""
    left = square - of_mean
    return np.where(left > 1e-12 * square, left, 0.0)


def kin(rows: Sequence[dict[str, Any]], study: Study) -> list[str]:
    """What a reader must know of the rows of an evaluation whose judge is kin to a guide: a sentence a guide."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["metric"] == Kinship.name and row["value"] is not None and row["value"] > KIN:
            found.setdefault(row["method"], []).append(f"{names.plain(row['structure'])} {row['value']:.2f}")
    return [
        f"The judge is kin to the {names.guided_by(method)}: their errors correlate by more than {KIN:g} "
        f"({', '.join(where)}). What pleases such a guide may please this judge. Give the judge another architecture, "
        "loss and augmentation, and subjects of its own (splits.judge), or judge with `segcft evaluate --judge`."
        for method, where in found.items()
    ]


METRICS.add(Kinship.name, Kinship())
