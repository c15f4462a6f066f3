"""Sharded import: several processes or machines each import a share of the samples, and the shares are joined.

The shares are consecutive parts of the same list, so the joined store is the one that a single import makes,
with the same fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd

from segcft.config.study import Study
from segcft.data.splits import expected_parts
from segcft.data.store import MASKED, Store, records
from segcft.data.writer import StoreWriter
from segcft.errors import Code, DataError
from segcft.io.reject import Remark
from segcft.utils.progress import Progress

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Share ``index`` of ``count``; the first is 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``"3/8"`` is the third of eight.

        Raises:
            ValueError: it is not of that form, or there is no such share.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"a shard is I/N with 1 <= I <= N, as in 3/8, not {text!r}")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """This share of ``items``; the shares in order are all of them, and their sizes differ by at most 1."""
        first, last = (len(items) * i // self.count for i in (self.index - 1, self.index))
        return items[first:last]

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


def join(study: Study, shards: Sequence[Path], out: Path, progress: Progress | None = None) -> Store:
    """Write the samples of the stores ``shards``, in their order, to the store ``out``.

    Raises:
        DataError: one of them is no store or is of another study, two hold the same sample, or a part of the
            split is empty.
    """
    stores = [Store(folder) for folder in shards]
    owners: dict[str, Path] = {}
    with StoreWriter(out, study) as writer:
        for store in (progress or Progress())(stores, len(stores), "Joining shards"):
            store.require(study)
            extra = [c for c in store.table.columns if c not in ("id", "patient", "split", MASKED, *study.variables)]
            for row, image, masks in zip(records(store.table), store.images, store.masks, strict=True):
                id, patient, part = row["id"], row["patient"], row["split"]
                if id in owners:
                    raise DataError(Code.DUPLICATE, store.folder, f"sample {id!r} is also in {owners[id]}")
                owners[id] = store.folder
                attributes = {name: None if pd.isna(row[name]) else row[name] for name in study.variables}
                known = masks if row.get(MASKED, 1) else None
                writer.append(id, patient, part, image, known, attributes, {name: row[name] for name in extra})
            for id, reason in zip(store.rejected["id"], store.rejected["reason"], strict=True):
                writer.reject(id, reason)
            for id, *remark in store.remarks.itertuples(index=False):
                writer.remark(id, [Remark(*remark)])
        writer.check_parts(expected_parts(study.splits), str(shards[0].parent), "bring more subjects")
    return Store(out)
