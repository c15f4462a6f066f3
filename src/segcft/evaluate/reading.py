"""How well readers see structures in images whose masks are known: each by itself, and all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from segcft.config.study import Study
from segcft.data.batches import sequential
from segcft.data.store import SOURCE, Store
from segcft.evaluate.names import plain
from segcft.evaluate.table import grid
from segcft.grey import to_unit
from segcft.measures.measurements import Measurements
from segcft.readers.reader import MaskReader
from segcft.readers.segmentor import dice

TOGETHER = "together"
"""Several readers, which see what they see on average: as masks for images without are made."""

BATCH = 16
"""Images at once; of volumes as many as an evaluation takes."""


@dataclass(frozen=True)
class Reading:
    """What a reader saw in N samples.

    Attributes:
        reader: its name, or :data:`TOGETHER`.
        study: of the samples.
        rows: (N,) of the store.
        dice: (N, S) with the known masks, NaN where a structure is absent.
        values: (N, M) of every measure.
        known: (N, M) of the same.
    """

    reader: str
    study: Study
    rows: NDArray[np.int64]
    dice: NDArray[np.float32]
    values: NDArray[np.float32]
    known: NDArray[np.float32]

    @property
    def overlap(self) -> dict[str, float]:
        """Structure -> mean Dice."""
        return dict(zip(self.study.masked, np.nanmean(self.dice, axis=0).tolist(), strict=True))

    @property
    def misread(self) -> dict[str, float]:
        """Structure -> mean absolute error of its area or volume, in % of it; of samples that have the structure. What
        has a mask and is no variable has none."""
        names = list(self.study.measured)
        found = {}
        for name, structure in self.study.own.items():
            column = names.index(structure.variable)
            value, known = self.values[:, column], self.known[:, column]
            found[name] = float(100 * np.mean(np.abs(value - known)[known > 0] / known[known > 0]))
        return found

    def of(self, variable: str) -> NDArray[np.float32]:
        """What was read of one measure, (N,)."""
        return self.values[:, list(self.study.measured).index(variable)]


@torch.inference_mode()
def readings(study: Study, readers: Mapping[str, MaskReader], store: Store, rows: NDArray[np.int64]) -> list[Reading]:
    """What each of the ``readers`` sees in ``rows`` of the store, and what they see together, where there are several.

    All readers are of ``study``, and where their networks are is where it is computed.
    """
    every = {name: [name] for name in readers} | ({TOGETHER: list(readers)} if len(readers) > 1 else {})
    measurements = Measurements.of(study)
    found: dict[str, list[tuple[torch.Tensor, ...]]] = {name: [] for name in every}
    device = next(next(iter(readers.values())).parameters()).device
    for batch in sequential(store, rows, study.evaluation.batch_size if study.image.is_volume else BATCH):
        image, mask = to_unit(batch["image"].to(device)), (batch["mask"].to(device) >= 128).float()
        known = batch["values"][:, study.measured_columns]
        seen = {name: reader.masks(image) for name, reader in readers.items()}
        for name, several in every.items():
            masks = torch.stack([seen[one] for one in several]).mean(dim=0)
            overlaps = dice((masks > 0.5).float(), mask)
            found[name].append((overlaps.cpu(), measurements.read(masks, image).cpu(), known))
    joined = {name: [torch.cat(parts).numpy() for parts in zip(*some, strict=True)] for name, some in found.items()}
    return [Reading(name, study, rows, *arrays) for name, arrays in joined.items()]


def by_source(store: Store, rows: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The rows of each source, where there are several; else all under no name."""
    if SOURCE not in store.table:
        return {"": rows}
    sources = store.table[SOURCE].iloc[rows].to_numpy(dtype=str)
    return {name: rows[sources == name] for name in sorted(set(sources))}


def render(found: Mapping[str, Sequence[Reading]]) -> str:
    """A table in Markdown of the readings of each source."""
    study = next(iter(found.values()))[0].study
    named = " / ".join(map(plain, study.masked))
    body = [
        [
            *([source] if source else []),
            one.reader,
            str(len(one.rows)),
            " / ".join(f"{value:.3f}" for value in one.overlap.values()),
            " / ".join(f"{one.misread[name]:.1f}" if name in one.misread else "-" for name in study.masked),
        ]
        for source, some in found.items()
        for one in some
    ]
    labels = [*(["source"] if all(found) else []), "reader"]
    measured = "volume" if study.image.is_volume else "area"
    return grid([*labels, "samples", f"Dice of {named}", f"error of the {measured}, %"], body, labels=len(labels))
