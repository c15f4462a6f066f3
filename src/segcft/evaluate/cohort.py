"""The samples that methods are compared on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segcft.config.study import Study
from segcft.data.batches import sequential
from segcft.data.store import Store
from segcft.errors import Code, DataError
from segcft.grey import to_unit


class SampleBatch(NamedTuple):
    """B samples: image (B, C, *size) in [-1, 1], masks (B, S, *size) in 0..1, values (B, V) and where they are:
    rows of the store (B,) and places in the cohort (B,)."""

    image: Tensor
    mask: Tensor
    values: Tensor
    rows: Tensor
    places: Tensor


@dataclass(frozen=True)
class Cohort:
    """All that are judged: ``rows`` of the store, ascending, and where to compute."""

    study: Study
    store: Store
    rows: np.ndarray
    device: torch.device

    @classmethod
    def choose(cls, study: Study, store: Store, indices: np.ndarray, device: torch.device) -> Cohort:
        """All of ``indices``, or ``study.evaluation.people`` of them at random.

        Raises:
            DataError: there is no sample, or one alone.
        """
        spec = study.evaluation
        if len(indices) == 0:
            raise DataError(Code.EMPTY, store.folder, "no complete sample to evaluate on")
        seed = spec.seed if spec.people_seed is None else spec.people_seed
        rows = np.random.default_rng(seed).permutation(indices)[: spec.people]
        cohort = cls(study, store, np.sort(rows), device)
        if len(indices) == len(cohort.lenders) == 1:
            raise DataError(Code.EMPTY, store.folder, "only one complete sample: no other one lends it a value")
        return cohort

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lenders(self) -> np.ndarray:
        """Rows of the store, ascending, whose values the judged are asked for: their own. In a fold it is those of the
        samples of all folds, so that all folds together ask what one evaluation of all samples would."""
        return self.rows if self.study.splits.fold is None else self.store.indices(complete=True)

    @cached_property
    def values(self) -> Tensor:
        """The values of all, (N, V)."""
        return torch.from_numpy(self.store.values()[self.rows]).to(self.device)

    def named(self, column: str) -> list[str]:
        """The ``id`` or ``patient`` of all, as text."""
        return self.store.table[column].iloc[self.rows].astype(str).tolist()

    def column(self, variable: str) -> int:
        """Where a variable is among the values."""
        return list(self.study.variables).index(variable)

    @property
    def measured_columns(self) -> list[int]:
        """Which values are measures, in the order of the structures."""
        return self.study.measured_columns

    def batches(self) -> Iterator[SampleBatch]:
        """All once, in order."""
        places = torch.arange(len(self), device=self.device)
        size = self.study.evaluation.batch_size
        for batch, here in zip(sequential(self.store, self.rows, size), places.split(size), strict=True):
            yield self._batch(batch, here)

    def samples(self, places: Tensor) -> SampleBatch:
        """Some of them, by their places in the cohort (B,)."""
        rows = self.rows[places.cpu().numpy()]
        return self._batch(next(sequential(self.store, rows, len(rows))), places)

    def _batch(self, batch: dict[str, Tensor], places: Tensor) -> SampleBatch:
        batch = {field: value.to(self.device) for field, value in batch.items()}
        mask = batch["mask"].float() / 255
        return SampleBatch(to_unit(batch["image"]), mask, batch["values"], batch["index"], places)


def one_each(store: Store, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Of ``rows`` of a store one image at random of each patient, ascending."""
    patients = store.table["patient"].iloc[rows].astype(str).to_numpy()
    return rows[sorted({patients[k]: k for k in random.permutation(len(rows))}.values())]
