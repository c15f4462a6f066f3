"""Samples on disk: the one form in which every later stage reads images, masks and attributes.

A store is a folder::

    store.json     version, shapes, variables with their categories, fingerprint, SHA-256 of the other files
    images.u8      raw uint8 (N, C, H, W)
    masks.u8       raw uint8 (N, S, H, W), coverage: 255 where a pixel lies wholly inside the structure
    table.parquet  one row a sample: id, patient, split, every variable, extra columns
    rejected.csv   id and reason of every sample that was left out
    warnings.csv   id, kind and text of what is to be told of samples that are used; no id: of the whole data set

The raw files are memory-mapped, so a store may be larger than memory and opens at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segcft.config.study import Study
from segcft.data.splits import PARTS
from segcft.errors import DataError
from segcft.io.reject import REMARK_COLUMNS, WARNINGS, Remark
from segcft.measures.measurements import Measurements
from segcft.utils.atomic import reason, replaced_folder

VERSION = 1
FULL = 255  # coverage of a pixel that lies wholly inside a structure
IMAGES, MASKS, TABLE = "images.u8", "masks.u8", "table.parquet"


class Store:
    """A data set that :class:`StoreWriter` wrote, opened for reading.

    Args:
        folder: the store's folder.
        verify: also read everything and compare it with its checksums (as slow as the disk).

    Attributes:
        images: uint8 (N, C, H, W), memory-mapped, read-only.
        masks: uint8 (N, S, H, W), coverage in 0..255, structures in the study's order.
        table: a row a sample: ``id``, ``patient``, ``split``, every variable of the study (continuous:
            float64; categorical: its category; NaN where missing), and extra columns.
        rejected: ``id`` and ``reason`` of the samples that the import left out.
        remarks: ``id``, ``kind`` and ``text`` of what is to be told of those that it took; the id is "" where it is of
            the data set as a whole.
        variables: variable -> its categories; () for a continuous one. In the study's order.
        structures: structure -> the variable that is its area, in the order of the masks.
        pixel_area, area_unit: what a pixel of full coverage adds to an area, and in which unit.
        fingerprint: SHA-256 over images, masks and table.

    Raises:
        DataError: there is no store, or one of another version, or its files do not fit together.
    """

    def __init__(self, folder: str | Path, verify: bool = False) -> None:
        self.folder = Path(folder)
        meta = self._read_meta()
        try:
            samples, channels, height, width = map(operator.index, (meta["samples"], meta["channels"], *meta["size"]))
            self.variables: dict[str, tuple[str, ...]] = {k: tuple(map(str, v)) for k, v in meta["variables"].items()}
            self.structures: dict[str, str] = {k: str(v) for k, v in meta["structures"].items()}
            self.pixel_area = float(meta["pixel_area"])
            self.area_unit = str(meta["area_unit"])
            self.fingerprint = str(meta["fingerprint"])
            # Older stores have no checksums of their files.
            self._checksums = {k: str(v) for k, v in meta["sha256"].items()} if "sha256" in meta else None
            if min(samples, channels, height, width) < 0:
                raise ValueError("a size is negative")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"{self.folder / 'store.json'}: damaged ({error!r}); {self._again}") from None
        self.images = self._map(IMAGES, (samples, channels, height, width))
        self.masks = self._map(MASKS, (samples, len(self.structures), height, width))
        self.table = self._read_table(samples)
        self.rejected = self._read_rejected()
        self.remarks = self._read_remarks()
        if verify:
            self.verify()

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(self.indices(part))} {part}" for part in PARTS)
        return f"Store({str(self.folder)!r}: {parts}; {len(self.rejected)} rejected)"

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.folder,)  # another process maps the files itself

    def values(self) -> NDArray[np.float32]:
        """Variables in the study's order, float32 (N, V); a categorical one as the index of its category.

        NaN where a value is missing.
        """
        columns = []
        for name, categories in self.variables.items():
            column = self.table[name]
            if categories:
                index = {category: i for i, category in enumerate(categories)}
                column = column.map(lambda value, index=index: index.get(value, np.nan))
            columns.append(column.to_numpy(dtype=np.float32, na_value=np.nan))
        return np.stack(columns, axis=1)

    def indices(self, split: str | None = None, complete: bool = False) -> NDArray[np.int64]:
        """Ascending row numbers of one part (default: all); ``complete``: of rows that miss no variable."""
        if split is not None and split not in PARTS:
            raise ValueError(f"split must be one of {', '.join(PARTS)}, not {split!r}")
        chosen = np.ones(len(self), dtype=bool)
        if split is not None:
            chosen &= (self.table["split"] == split).to_numpy(dtype=bool)
        if complete:
            chosen &= ~np.isnan(self.values()).any(axis=1)
        return np.flatnonzero(chosen)

    def verify(self) -> None:
        """Read everything and compare it with its checksums (as slow as the disk).

        Raises:
            DataError: an image, a mask or the table, the split included, is not what was imported.
        """
        if self._checksums is None:
            if self._recompute_fingerprint() != self.fingerprint:
                raise DataError(
                    f"{self.folder}: the content differs from its fingerprint in store.json, so images, masks or the "
                    f"table (the split included) were changed since the import; {self._again}"
                )
            return
        for name in (IMAGES, MASKS, TABLE):  # not what store.json names, which may be any file
            with (self.folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self._checksums.get(name):
                raise DataError(
                    f"{self.folder / name}: the content differs from its checksum in store.json, so it was damaged, or "
                    f"changed since the import; {self._again}"
                )

    def require(self, study: Study) -> None:
        """Check that the store has the grid, variables and structures of ``study``.

        Raises:
            DataError: it does not; the message says what differs.
        """
        for what, ours in _shape_of(study).items():
            theirs = self._meta[what]
            if theirs != ours:
                raise DataError(
                    f"{self.folder}: made for another study: its {what} is {theirs}, "
                    f"that of {study.name!r} is {ours}; import the data again"
                )

    @property
    def _again(self) -> str:
        """What helps: an import passes over a store that is there."""
        return f"remove {self.folder} and import again"

    def _read_meta(self) -> dict[str, Any]:
        path = self.folder / "store.json"
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{self.folder}: no data store here (store.json is missing)") from None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: cannot read this file ({error})") from None
        version = meta.get("version") if isinstance(meta, dict) else None
        if version != VERSION:
            raise DataError(f"{path}: store version {version}, this segcft reads version {VERSION}; {self._again}")
        self._meta: dict[str, Any] = meta
        return meta

    def _map(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        path = self.folder / name
        found = path.stat().st_size if path.exists() else 0
        if found != math.prod(shape):
            raise DataError(f"{path}: {found} bytes, but store.json describes {math.prod(shape)}; {self._again}")
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
            raise DataError(f"{path}: cannot read this table ({error}); {self._again}") from None
        missing = [c for c in ("id", "patient", "split", *self.variables) if c not in table.columns]
        if missing:
            raise DataError(f"{path}: column {missing[0]!r} is missing; {self._again}")
        for name, categories in self.variables.items():
            if not categories and not pd.api.types.is_numeric_dtype(table[name]):
                raise DataError(f"{path}: column {name!r} holds no numbers, but store.json has no categories for it")
        if len(table) != samples:
            raise DataError(f"{path}: {len(table)} rows, but store.json describes {samples}; {self._again}")
        return table

    def _read_rejected(self) -> pd.DataFrame:
        path = self.folder / "rejected.csv"
        try:
            rejected = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot read this table ({error}); {self._again}") from None
        if not {"id", "reason"} <= {*rejected.columns}:
            raise DataError(f"{path}: expected columns id and reason; {self._again}")
        return rejected

    def _read_remarks(self) -> pd.DataFrame:
        path = self.folder / WARNINGS
        if not path.is_file():  # a store from before there were any
            return pd.DataFrame(columns=REMARK_COLUMNS)
        try:
            return pd.read_csv(path, dtype=str, keep_default_na=False)[[*REMARK_COLUMNS]]
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot read this table ({error}); {self._again}") from None
        except KeyError:
            raise DataError(f"{path}: expected columns {', '.join(REMARK_COLUMNS)}; {self._again}") from None

    def _recompute_fingerprint(self) -> str:
        fingerprint = _Fingerprint({key: self._meta[key] for key in _SHAPE_KEYS})
        for row, image, mask in zip(records(self.table), self.images, self.masks, strict=True):
            fingerprint.add(row, image, mask)
        return fingerprint.hexdigest()


class StoreWriter:
    """Writes a store, one sample at a time, all or nothing. Use it as a context manager.

    Samples go to a hidden folder beside ``folder``, which takes the place of ``folder`` once everything is
    safely on disk, see :func:`segcft.utils.atomic.replaced_folder`. Leaving the ``with`` block by an exception removes
    it and leaves an older store untouched.

    Args:
        folder: where the store will be; an older store there is replaced.
        study: gives the grid, the variables and the structures.
        partial: this is one shard of a store, so that parts of the split, or all of it, may be empty.

    Raises:
        DataError: ``folder`` exists and is not a store, cannot be written, or no sample was appended.
    """

    def __init__(self, folder: str | Path, study: Study, partial: bool = False) -> None:
        self.folder = Path(folder).absolute()
        self.study, self.partial = study, partial
        self.measurements = Measurements.of(study)
        self._rows: list[dict[str, Any]] = []
        self._rejected: list[tuple[str, str]] = []
        self._remarks: list[tuple[str, str, str]] = []
        self._fingerprint = _Fingerprint(_shape_of(study))
        self._digests = {IMAGES: hashlib.sha256(), MASKS: hashlib.sha256()}

    def __enter__(self) -> StoreWriter:
        if self.folder.exists() and not _may_replace(self.folder):
            raise DataError(f"{self.folder}: exists and is not a data store; it will not be overwritten")
        try:
            with ExitStack() as opened:
                self._partial = opened.enter_context(replaced_folder(self.folder))
                self._images: BinaryIO = opened.enter_context((self._partial / IMAGES).open("wb"))
                self._masks: BinaryIO = opened.enter_context((self._partial / MASKS).open("wb"))
                self._opened = opened.pop_all()
        except OSError as error:
            raise self._cannot_write(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with suppress(OSError):  # of a full disk, which was told
                self._opened.__exit__(kind, value, trace)
            return
        try:
            with ExitStack() as opened:
                opened.push(self._opened)
                self._finish()
        except OSError as error:
            raise self._cannot_write(error) from None

    def _cannot_write(self, error: OSError) -> DataError:
        return DataError(f"{self.folder}: cannot write here ({reason(error)})")

    def append(
        self,
        id: str,
        patient: str,
        split: str,
        image: NDArray[np.uint8],
        masks: NDArray[np.uint8],
        attributes: Mapping[str, float | str | None],
        extra: Mapping[str, int | float | str] | None = None,
    ) -> None:
        """Add a sample.

        Args:
            id: unique name of the sample.
            patient: who it is of; one patient is in one part.
            split: its part, ``train``, ``validation`` or ``test``.
            image: uint8 (C, H, W).
            masks: coverage, uint8 (S, H, W), structures in the study's order.
            attributes: variables by name; None, NaN or absent is a missing value. Areas are measured from
                ``masks`` and ignored here.
            extra: further columns, the same ones for every sample.

        Raises:
            ValueError: an array has another shape or type, or a value is not one the variable can take.
        """
        grid = self.study.image.size
        _check_array("image", image, (self.study.image.channels, *grid))
        _check_array("masks", masks, (len(self.study.structures), *grid))
        if split not in PARTS:
            raise ValueError(f"split must be one of {', '.join(PARTS)}, not {split!r}")
        row: dict[str, Any] = {"id": id, "patient": patient, "split": split}
        row |= self._values(attributes, self.measurements.exact(masks))
        row |= {key: _plain(value) for key, value in (extra or {}).items()}
        if self._rows and row.keys() != self._rows[0].keys():
            raise ValueError(f"extra columns {list(extra or {})} differ from those of the first sample")
        image, masks = np.ascontiguousarray(image), np.ascontiguousarray(masks)
        try:
            self._images.write(image.data)
            self._masks.write(masks.data)
        except OSError as error:
            raise self._cannot_write(error) from None
        self._fingerprint.add(row, image, masks)
        self._digests[IMAGES].update(image.data)
        self._digests[MASKS].update(masks.data)
        self._rows.append(row)

    def reject(self, id: str, reason: str) -> None:
        """Note that the sample ``id`` is left out, and why."""
        self._rejected.append((id, reason))

    def remark(self, id: str, remarks: Iterable[Remark]) -> None:
        """Note what is to be told of the sample ``id`` though it is used, or, with an ``id`` of "", of the data set."""
        self._remarks += [(id, *remark) for remark in remarks]

    def check_parts(self, parts: Iterable[str], source: str, remedy: str) -> None:
        """Check that each of ``parts`` has a sample by now.

        Args:
            parts: parts of the split that must not be empty.
            source: the file or simulator that the samples come from, for the error.
            remedy: what the user can do about an empty part, for the error.

        Raises:
            DataError: one has none, or there is no sample at all; the message has the first few rejections.
        """
        if self.partial:
            return
        if not self._rows:
            raise DataError(f"{source}: no usable sample{_first_reasons(self._rejected)}")
        filled = {row["split"] for row in self._rows}
        for part in parts:
            if part not in filled:
                raise DataError(
                    f"{source}: none of {len(self._rows)} usable samples is in the {part} part; {remedy}"
                    + _first_reasons(self._rejected)
                )

    def _values(
        self, attributes: Mapping[str, float | str | None], measured: Mapping[str, float]
    ) -> dict[str, float | str | None]:
        values: dict[str, float | str | None] = {}
        for name, variable in self.study.variables.items():
            value = measured[name] if name in measured else attributes.get(name)
            if variable.kind == "continuous":
                value = math.nan if value is None else float(value)
                if math.isinf(value):
                    raise ValueError(f"{name} must be finite")
            elif value is not None and value not in variable.categories:
                raise ValueError(f"{name}: {value!r} is not one of {', '.join(variable.categories)}")
            values[name] = value
        return values

    def _finish(self) -> None:
        if not self._rows and not self.partial:
            raise DataError(f"{self.folder}: no sample to store" + _first_reasons(self._rejected))
        for file in (self._images, self._masks):
            file.flush()
        self._table().to_parquet(self._partial / TABLE, index=False)
        pd.DataFrame(self._rejected, columns=["id", "reason"]).to_csv(
            self._partial / "rejected.csv", index=False, errors="backslashreplace"
        )
        pd.DataFrame(self._remarks, columns=REMARK_COLUMNS).to_csv(
            self._partial / WARNINGS, index=False, errors="backslashreplace"
        )
        meta = {"version": VERSION, "samples": len(self._rows), **_shape_of(self.study)}
        meta["fingerprint"] = self._fingerprint.hexdigest()
        digests = {**self._digests, TABLE: hashlib.sha256((self._partial / TABLE).read_bytes())}
        meta["sha256"] = {name: digest.hexdigest() for name, digest in digests.items()}
        (self._partial / "store.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

    def _table(self) -> pd.DataFrame:
        names = list(self._rows[0]) if self._rows else ["id", "patient", "split", *self.study.variables]
        table = pd.DataFrame(self._rows, columns=names)
        for name, variable in self.study.variables.items():
            # Spelt out because a column of nothing but missing values has no type of its own.
            table[name] = table[name].astype("float64" if variable.kind == "continuous" else "str")
        return table


class _Fingerprint:
    """SHA-256 over the shape and then sample after sample: its row, its image, its masks."""

    def __init__(self, shape: Mapping[str, Any]) -> None:
        self._hash = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())

    def add(self, row: Mapping[str, Any], image: NDArray[np.uint8], masks: NDArray[np.uint8]) -> None:
        known = {key: value for key, value in row.items() if not _is_missing(value)}
        self._hash.update(json.dumps(known, sort_keys=True).encode())
        self._hash.update(np.ascontiguousarray(image).data)
        self._hash.update(np.ascontiguousarray(masks).data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


_SHAPE_KEYS = ("size", "channels", "variables", "structures", "pixel_area", "area_unit")


def _shape_of(study: Study) -> dict[str, Any]:
    """What a store says of its study, in JSON's types; the keys are :data:`_SHAPE_KEYS`."""
    return {
        "size": list(study.image.size),
        "channels": study.image.channels,
        "variables": {name: list(variable.categories) for name, variable in study.variables.items()},
        "structures": {name: structure.variable for name, structure in study.structures.items()},
        "pixel_area": study.image.cell_size,
        "area_unit": study.image.cell_unit,
    }


def records(table: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """The rows of a table, column -> value."""
    columns = {str(name): table[name].tolist() for name in table.columns}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> int | float | str:
    """A NumPy scalar as the Python number that JSON and the fingerprint know."""
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (int, float, str)):
        raise ValueError(f"an extra column holds numbers or text, not {type(value).__name__}")
    return value


def _check_array(name: str, array: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    if array.dtype != np.uint8 or array.shape != shape:
        raise ValueError(f"{name} must be uint8 {shape}, not {array.dtype} {array.shape}")


def _first_reasons(rejected: list[tuple[str, str]], count: int = 3) -> str:
    """The first few rejections, to append to an error."""
    if not rejected:
        return ""
    lines = [f"\n  {id}: {reason}" for id, reason in rejected[:count]]
    more = len(rejected) - count
    return f"; {len(rejected)} rejected:" + "".join(lines) + (f"\n  and {more} more" if more > 0 else "")


def _may_replace(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "store.json").is_file() or not any(folder.iterdir()))
