"""Batches of a store as a pure function of (seed, step): a resumed or distributed run sees the same ones."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Generator, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.data.store import Store
from segcft.errors import Code, DataError, StudyError
from segcft.utils.loop import ahead

Batch = dict[str, Tensor]

OTHER = "other_"
"""Before the names of the fields of samples' other images."""


class Batches:
    """Endless training batches: seeded permutations of ``indices``, end to end, cut every ``batch_size``.

    A batch may span two epochs, so sets that ``batch_size`` does not divide, or smaller ones, lose no sample.
    Batch ``step`` is the same whatever was asked before, and the ranks' shares, concatenated in order, are
    the batch that a single device would see.

    Args:
        store: where the samples are.
        indices: rows of the store to draw from, int (M,).
        batch_size: samples in a step, over all ranks together.
        seed: of the permutations.
        rank, world: which of how many devices this is.
        others: other images of each of ``indices``, int (M, K), which are among them; -1: none. With them a batch has
            one of each sample, drawn from the seed and the step.
        completions: of each of ``indices`` values in place of the store's, (M, K, V), of which a batch has one of K,
            drawn from the seed and the step.

    Raises:
        DataError: ``indices`` is empty.
        StudyError: ``world`` devices cannot share ``batch_size`` evenly.
    """

    def __init__(
        self,
        store: Store,
        indices: NDArray[np.int64],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        others: NDArray[np.int64] | None = None,
        completions: NDArray[np.float32] | None = None,
    ) -> None:
        if len(indices) == 0:
            raise DataError(Code.EMPTY, store.folder, "no complete sample to train on")
        if batch_size % world:
            why = f"{batch_size} samples cannot be shared evenly by {world} devices"
            raise StudyError(Code.CONFLICT, "batch_size", why)
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0..{world - 1}, not {rank}")
        self.store = store
        self.indices = np.asarray(indices, dtype=np.int64)
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self._others = None if others is None else _places_in(self.indices, others)
        self._completions = None if completions is None else torch.from_numpy(completions)
        self._values = store.values()
        self._resident: Batch | None = None
        # Two epochs: a batch that spans them needs both, and consecutive steps stay in them.
        self._permutation = functools.lru_cache(maxsize=2)(self._draw_permutation)

    def rows(self, step: int) -> NDArray[np.int64]:
        """Rows of the store in this rank's share of batch ``step``: int64 (batch_size / world,)."""
        return self.indices[self._places(step)]

    def batch(self, step: int) -> Batch:
        """This rank's share, B samples, of batch ``step``.

        Returns:
            ``image`` uint8 (B, C, H, W); ``mask`` uint8 (B, S, H, W), coverage in 0..255; ``values``
            float32 (B, V) as :meth:`Store.values`; ``index`` int64 (B,), rows of the store. Where samples have others,
            the same fields of these with :data:`OTHER` before their names, and ``has_other`` bool (B,); of a sample
            without one they are its own.
        """
        places = self._places(step)
        batch = self._at(places)
        if self._completions is not None:
            random = np.random.default_rng([self.seed, step, 2])
            drawn = random.integers(self._completions.shape[1], size=self.batch_size)[self.rank * len(places) :]
            values = self._completions[torch.from_numpy(places), torch.from_numpy(drawn[: len(places)])]
            batch["values"] = values.to(batch["index"].device)
        if self._others is not None:
            drawn = self._drawn_others(step, places)
            batch |= {f"{OTHER}{field}": value for field, value in self._at(np.where(drawn < 0, places, drawn)).items()}
            batch["has_other"] = torch.from_numpy(drawn >= 0).to(batch["index"].device)
        return batch

    def _at(self, places: NDArray[np.int64]) -> Batch:
        """The samples at ``places`` in ``indices``."""
        if self._resident is None:
            return _gather(self.store, self._values, self.indices[places])
        here = torch.from_numpy(places).to(self._resident["index"].device)
        return {field: value[here] for field, value in self._resident.items()}

    def _drawn_others(self, step: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """One of the others of the samples at ``places`` in ``indices``, its place, (B,); -1: there is none."""
        assert self._others is not None
        others = self._others[places]
        order = np.random.default_rng([self.seed, step, 1]).random((self.batch_size, others.shape[1]))
        order = order[self.rank * len(places) :][: len(places)]
        chosen = np.where(others < 0, -1, order).argmax(axis=1)
        return others[np.arange(len(places)), chosen]

    def from_step(
        self, start: int, stop: int | None = None, device: torch.device | None = None
    ) -> Generator[Batch, None, None]:
        """Batches ``start`` to ``stop - 1`` (default: no end), each read while the one before is in use.

        They come on ``device`` (default: where they are, which is the CPU unless they were kept elsewhere).
        """

        def batch(step: int) -> Batch:
            found = self.batch(step)
            return found if device is None else {field: _send(value, device) for field, value in found.items()}

        return ahead(batch, itertools.count(start) if stop is None else range(start, stop))

    def keep_on(self, device: torch.device, room: int) -> bool:
        """Keep all samples on ``device``, as the store has them, if they take no more than ``room`` bytes there.

        Then no batch is read or sent any more. Returns whether they are kept.
        """
        arrays = (self.store.images, self.store.masks, self._values)
        if len(self.indices) * sum(array[0].nbytes for array in arrays) > room:
            return False
        resident: Batch = {}
        first = 0
        for batch in sequential(self.store, self.indices, self.batch_size):  # the host never holds them all
            for field, value in batch.items():
                if field not in resident:
                    resident[field] = value.new_empty((len(self.indices), *value.shape[1:]), device=device)
                resident[field][first : first + len(value)] = value
            first += len(batch["index"])
        self._resident = resident
        return True

    def _places(self, step: int) -> NDArray[np.int64]:
        """Places in ``indices`` of this rank's share of batch ``step``."""
        share = self.batch_size // self.world
        first = step * self.batch_size + self.rank * share
        epochs, places = np.divmod(np.arange(first, first + share), len(self.indices))
        return np.array([self._permutation(int(e))[p] for e, p in zip(epochs, places, strict=True)], dtype=np.int64)

    def _draw_permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.indices))


def sequential(store: Store, indices: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
    """Every row of ``indices`` once, in order, as :meth:`Batches.batch`; the last batch may be smaller."""
    values = store.values()
    indices = np.asarray(indices, dtype=np.int64)
    for first in range(0, len(indices), batch_size):
        yield _gather(store, values, indices[first : first + batch_size])


def _gather(store: Store, values: NDArray[np.float32], rows: NDArray[np.int64]) -> Batch:
    return {
        "image": torch.from_numpy(np.asarray(store.images[rows])),
        "mask": torch.from_numpy(np.asarray(store.masks[rows])),
        "values": torch.from_numpy(values[rows]),
        "index": torch.from_numpy(rows),
    }


def _places_in(indices: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in ``indices`` rows of the store are, in the shape of ``rows``; -1 stays -1."""
    order = np.argsort(indices)
    return np.where(rows < 0, -1, order[np.searchsorted(indices, rows, sorter=order).clip(max=len(indices) - 1)])


def _send(value: Tensor, device: torch.device) -> Tensor:
    """``value`` on ``device``; to a GPU out of pinned memory, so that the host does not wait for the copy."""
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)
