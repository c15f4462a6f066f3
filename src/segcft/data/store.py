"""Samples on disk: the one form in which every later stage reads images, masks and attributes.

A store is a folder, which :class:`segcft.data.writer.StoreWriter` writes::

    store.json     version, shapes, variables with their categories, fingerprint, SHA-256 of the other files
    images.u8      raw uint8 (N, C, H, W)
    masks.u8       raw uint8 (N, S, H, W), coverage: 255 where a pixel lies wholly inside the structure
    table.parquet  one row a sample: id, patient, split, every variable, extra columns; with several sources
                   segcft:source, and segcft:masked (0 or 1) if some have no masks
    rejected.csv   id and reason of every sample that was left out
    warnings.csv   id, kind and text of of remarks on samples that are used; no id: on the whole data set

The raw files are memory-mapped, so a store may be larger than memory and opens at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segcft.config.structure import Structure
from segcft.config.study import Study
from segcft.data.splits import PARTS, listed
from segcft.errors import Code, DataError
from segcft.grid import Grid
from segcft.io.reject import REMARK_COLUMNS, WARNINGS

VERSION = 1
IMAGES, MASKS, TABLE = "images.u8", "masks.u8", "table.parquet"
REJECTED, REJECTED_COLUMNS = "rejected.csv", ("id", "reason")
SOURCE = "segcft:source"
"""Column of the table, where there are several sources: the name of a sample's. No table of a user's has the like."""
MASKED = "segcft:masked"
"""Column of the table: 1 where the masks of a sample are known, else 0. A store without it has masks of all."""


class Store:
    """A data set that was imported, opened for reading.

    Args:
        folder: the store's folder.
        verify: also read everything and compare it with its checksums (as slow as the disk).

    Attributes:
        images: uint8 (N, C, *size), memory-mapped, read-only.
        masks: uint8 (N, S, *size), coverage in 0..255, structures in the study's order.
        table: a row a sample: ``id``, ``patient``, ``split``, every variable of the study (continuous:
            float64; categorical: its category; NaN where missing), and extra columns.
        rejected: ``id`` and ``reason`` of the samples that the import left out.
        variables: variable -> its categories; () for a continuous one. In the study's order.
        structures: structure -> the variable that is its area, "" if none is, in the order of the masks.
        pixel_area, area_unit: what a pixel of full coverage adds to an area, and in which unit.
        fingerprint: SHA-256 over images, masks and table.

    Raises:
        DataError: there is no store, or one of another version, or its files do not fit together.
    """

    def __init__(self, folder: str | Path, verify: bool = False) -> None:
        self.folder = Path(folder)
        self._filled: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        meta = self._read_meta()
        try:
            samples, channels, *size = map(operator.index, (meta["samples"], meta["channels"], *meta["size"]))
            self.variables: dict[str, tuple[str, ...]] = {k: tuple(map(str, v)) for k, v in meta["variables"].items()}
            self.structures: dict[str, str] = {k: str(v) for k, v in meta["structures"].items()}
            self.derived = frozenset(map(str, meta.get("formulas", {})))
            self.pixel_area = float(meta["pixel_area"])
            self.area_unit = str(meta["area_unit"])
            self.fingerprint = str(meta["fingerprint"])
            # Older stores have no checksums of their files.
            self._checksums = {k: str(v) for k, v in meta["sha256"].items()} if "sha256" in meta else None
            if min(samples, channels, *size) < 0 or len(size) not in (2, 3):
                raise ValueError("a size is negative, or of neither an image nor a volume")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise self._damaged(self.folder / "store.json", f"damaged ({error!r})") from None
        self.images = self._map(IMAGES, (samples, channels, *size))
        self.masks = self._map(MASKS, (samples, len(self.structures), *size))
        self.table = self._read_table(samples)
        self.rejected = self._read_csv(REJECTED, REJECTED_COLUMNS)
        if verify:
            self.verify()

    @cached_property
    def remarks(self) -> pd.DataFrame:
        """``id``, ``kind`` and ``text`` of remarks on the samples that the import took; the id is "" where
        it is of the data set as a whole.

        Raises:
            DataError: they cannot be read.
        """
        if not (self.folder / WARNINGS).is_file():  # a store from before there were any
            return pd.DataFrame(columns=REMARK_COLUMNS)
        return self._read_csv(WARNINGS, REMARK_COLUMNS)[[*REMARK_COLUMNS]]

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        parts = ", ".join(f"{count} {part}" for part, count in self.samples.items())
        return f"Store({str(self.folder)!r}: {parts}; {len(self.rejected)} rejected)"

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.folder,)  # another process maps the files itself

    def values(self) -> NDArray[np.float32]:
        """Variables in the study's order, float32 (N, V); a categorical one as the index of its category.

        NaN where a value is missing and was not taken by :meth:`fill`.
        """
        columns = []
        for name, categories in self.variables.items():
            column = self.table[name]
            if categories:
                index = {category: i for i, category in enumerate(categories)}
                column = column.map(lambda value, index=index: index.get(value, np.nan))
            columns.append(column.to_numpy(dtype=np.float32, na_value=np.nan))
        values = np.stack(columns, axis=1)
        for rows, filled in self._filled:
            values[rows] = filled
        return values

    def fill(self, rows: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Take ``values`` (N, V) for those of ``rows`` (N,), as what is missing in them was inferred: in this copy of
        the store, not on disk."""
        self._filled.append((rows, values))

    def indices(self, split: str | None = None, complete: bool = False, masked: bool = False) -> NDArray[np.int64]:
        """Ascending row numbers of one part (default: all); ``complete``: of rows that miss no variable, ``masked``: of
        rows whose masks are known. What is derived is not one of the variables: where its formula has no value, nothing
        is missing."""
        if split is not None and split not in PARTS:
            raise ValueError(f"split must be one of {', '.join(PARTS)}, not {split!r}")
        chosen = np.ones(len(self), dtype=bool)
        if split is not None:
            chosen &= (self.table["split"] == split).to_numpy(dtype=bool)
        if complete:
            needed = [name not in self.derived for name in self.variables]
            chosen &= ~np.isnan(self.values()[:, needed]).any(axis=1)
        if masked and MASKED in self.table:
            chosen &= (self.table[MASKED] == 1).to_numpy(dtype=bool)
        return np.flatnonzero(chosen)

    @property
    def samples(self) -> dict[str, int]:
        """How many samples each part has, see :func:`segcft.data.splits.listed`."""
        return listed(Counter(self.table["split"]))

    def verify(self) -> None:
        """Read everything and compare it with its checksums (as slow as the disk).

        Raises:
            DataError: an image, a mask or the table, the split included, is not what was imported.
        """
        if self._checksums is None:
            if self.fingerprint_with(self.table) != self.fingerprint:
                why = "the content differs from its fingerprint in store.json: damaged, or changed since the import"
                raise self._damaged(self.folder, why)
            return
        for name in (IMAGES, MASKS, TABLE):  # not what store.json names, which may be any file
            with (self.folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self._checksums.get(name):
                why = "the content differs from its checksum in store.json: damaged, or changed since the import"
                raise self._damaged(self.folder / name, why)

    def require(self, study: Study) -> None:
        """Check that the store has the grid, variables and structures of ``study``.

        Raises:
            DataError: it does not; the message says what differs.
        """
        wanted = shape_of(study)
        for what in SHAPE_KEYS:
            ours, theirs = wanted.get(what, {}), self._meta.get(what, {})
            if theirs != ours:
                why = f"that of another study: {theirs}, where {study.name!r} has {ours}; import the data again"
                raise DataError(Code.OTHER, f"{self.folder}: {what}", why)

    def _damaged(self, path: Path | str, why: str, code: Code = Code.DAMAGED) -> DataError:
        """An error that says what helps, since an import passes over a store that is there."""
        return DataError(code, path, f"{why}; remove {self.folder} and import again")

    def _read_meta(self) -> dict[str, Any]:
        path = self.folder / "store.json"
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(Code.MISSING, self.folder, "no data store here (store.json is missing)") from None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(Code.UNREADABLE, path, f"cannot read this file ({error})") from None
        version = meta.get("version") if isinstance(meta, dict) else None
        if version != VERSION:
            raise self._damaged(path, f"store version {version}, this segcft reads version {VERSION}", Code.OTHER)
        self._meta: dict[str, Any] = meta
        return meta

    def _map(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        path = self.folder / name
        found = path.stat().st_size if path.exists() else 0
        if found != math.prod(shape):
            raise self._damaged(path, f"{found} bytes, but store.json describes {math.prod(shape)}")
        if found == 0:  # an empty file cannot be mapped
            return np.zeros(shape, dtype=np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)

    def _read_table(self, samples: int) -> pd.DataFrame:
        path = self.folder / TABLE
        try:
            table = pd.read_parquet(path)
            for column in table.columns:
                table[column].to_numpy()  # decodes texts, which fails where they are damaged
        except Exception as error:  # pyarrow and pandas raise almost anything over a damaged file
            raise self._damaged(path, f"cannot read this table ({error})", Code.UNREADABLE) from None
        for column in ("id", "patient", "split", *self.variables):
            if column not in table.columns:
                raise self._damaged(f"{path}: column {column!r}", "missing")
        for name, categories in self.variables.items():
            if not categories and not pd.api.types.is_numeric_dtype(table[name]):
                why = "holds no numbers, but store.json has no categories for it"
                raise self._damaged(f"{path}: column {name!r}", why)
        if len(table) != samples:
            raise self._damaged(path, f"{len(table)} rows, but store.json describes {samples}")
        return table

    def _read_csv(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        path = self.folder / name
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise self._damaged(path, f"cannot read this table ({error})", Code.UNREADABLE) from None
        if not {*columns} <= {*table.columns}:
            raise self._damaged(path, f"expected columns {', '.join(columns)}")
        return table

    def fingerprint_with(self, table: pd.DataFrame) -> str:
        """The fingerprint of these images and masks with ``table`` (as slow as the disk)."""
        fingerprint = Fingerprint({key: self._meta[key] for key in SHAPE_KEYS if key in self._meta})
        for row, image, mask in zip(records(table), self.images, self.masks, strict=True):
            fingerprint.add(row, image, mask)
        return fingerprint.hexdigest()


class Fingerprint:
    """SHA-256 over the shape and then sample after sample: its row, its image, its masks."""

    def __init__(self, shape: Mapping[str, Any]) -> None:
        self._hash = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())

    def add(self, row: Mapping[str, Any], image: NDArray[np.uint8], masks: NDArray[np.uint8]) -> None:
        known = {key: value for key, value in row.items() if not is_missing(value)}
        self._hash.update(json.dumps(known, sort_keys=True).encode())
        self._hash.update(np.ascontiguousarray(image).data)
        self._hash.update(np.ascontiguousarray(masks).data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


SHAPE_KEYS = (
    *("size", "channels", "variables", "structures", "pixel_area", "area_unit"),
    *("measures", "lengths", "zones", "quantiles", "references", "formulas", "fit"),
)
"""What a store says of its study; ``measures`` only of structures that are measured by other than their own area,
and ``lengths``, the sizes of a pixel and their unit, where there are some."""


def shape_of(study: Study) -> dict[str, Any]:
    """The values of :data:`SHAPE_KEYS`, in JSON's types."""
    default = Structure.model_fields["measure"].default
    measures: dict[str, Any] = {
        name: [one.variable, one.measure, *one.of] if one.of else one.measure
        for name, one in study.structures.items()
        if one.of or one.measure != default
    }
    zones = {name: one.zone.model_dump(mode="json") for name, one in study.structures.items() if one.zone}
    quantiles = {name: one.quantile for name, one in study.structures.items() if one.quantile is not None}
    references = {name: one.reference for name, one in study.structures.items() if one.reference is not None}
    formulas = {name: variable.formula for name, variable in study.variables.items() if variable.formula}
    grid = Grid.of(study.image)
    return {
        "size": list(study.image.size),
        "channels": study.image.channels,
        "variables": {name: list(variable.categories) for name, variable in study.variables.items()},
        "structures": {name: study.own[name].variable if name in study.own else "" for name in study.masked},
        "pixel_area": study.image.cell_size,
        "area_unit": study.image.cell_unit,
        # Left out where there are none, so that stores keep their fingerprints.
        **({"fit": study.image.fit} if study.image.fit != "pad" else {}),
        **({"measures": measures, "lengths": [*grid.pitch, grid.length_unit]} if measures else {}),
        **({"zones": zones} if zones else {}),
        **({"quantiles": quantiles} if quantiles else {}),
        **({"references": references} if references else {}),
        **({"formulas": formulas} if formulas else {}),
    }


def records(table: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """The rows of a table, column -> value."""
    columns = {str(name): table[name].tolist() for name in table.columns}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
