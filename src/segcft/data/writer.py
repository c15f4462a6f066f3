"""Writing a store, one sample at a time, all or nothing."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segcft.config.sources import SeveralFolders
from segcft.config.study import Study
from segcft.data.splits import PARTS
from segcft.data.store import IMAGES, MASKED, MASKS, REJECTED, REJECTED_COLUMNS, TABLE, VERSION, Fingerprint, shape_of
from segcft.errors import Code, DataError
from segcft.io.reject import REMARK_COLUMNS, WARNINGS, Remark
from segcft.measures.measurements import Measurements
from segcft.utils.atomic import reason, replaced_folder


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
        data = study.data
        self._some_unmasked = isinstance(data, SeveralFolders) and not all(one.masked for one in data.folders.values())
        self._rows: list[dict[str, Any]] = []
        self._rejected: list[tuple[str, str]] = []
        self._remarks: list[tuple[str, str, str]] = []
        self._fingerprint = Fingerprint(shape_of(study))
        self._digests = {IMAGES: hashlib.sha256(), MASKS: hashlib.sha256()}

    def __enter__(self) -> StoreWriter:
        if self.folder.exists() and not _may_replace(self.folder):
            raise DataError(Code.EXISTS, self.folder, "exists and is not a data store; it will not be overwritten")
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
            with suppress(OSError):  # of a full disk, which has been reported
                self._opened.__exit__(kind, value, trace)
            return
        try:
            with ExitStack() as opened:
                opened.push(self._opened)
                self._finish()
        except OSError as error:
            raise self._cannot_write(error) from None

    def _cannot_write(self, error: OSError) -> DataError:
        return DataError(Code.NOT_WRITABLE, self.folder, f"cannot write here ({reason(error)})")

    def append(
        self,
        id: str,
        patient: str,
        split: str,
        image: NDArray[np.uint8],
        masks: NDArray[np.uint8] | None,
        attributes: Mapping[str, float | str | None],
        extra: Mapping[str, int | float | str] | None = None,
    ) -> None:
        """Add a sample.

        Args:
            id: unique name of the sample.
            patient: who it is of; one patient is in one part.
            split: its part, one of :data:`segcft.data.splits.PARTS`.
            image: uint8 (C, *size).
            masks: coverage, uint8 (S, *size), those that have masks, in the study's order. None: not known. All
                measures are then missing, and the store holds zeros.
            attributes: variables by name; None, NaN or absent is a missing value. Areas are measured from
                ``masks`` and ignored here.
            extra: further columns, the same ones for every sample.

        Raises:
            ValueError: an array has another shape or type, or a value is not one the variable can take.
        """
        grid = self.study.image.size
        _check_array("image", image, (self.study.image.channels, *grid))
        if masks is not None:
            _check_array("masks", masks, (len(self.study.masked), *grid))
        if split not in PARTS:
            raise ValueError(f"split must be one of {', '.join(PARTS)}, not {split!r}")
        row: dict[str, Any] = {"id": id, "patient": patient, "split": split}
        measured = dict.fromkeys(self.study.measured, math.nan)
        row |= self._values(attributes, measured if masks is None else self.measurements.exact(masks, image))
        if self._some_unmasked:
            row[MASKED] = int(masks is not None)
        row |= {key: _plain(value) for key, value in (extra or {}).items()}
        if self._rows and row.keys() != self._rows[0].keys():
            raise ValueError(f"extra columns {list(extra or {})} differ from those of the first sample")
        if masks is None:
            masks = np.zeros((len(self.study.masked), *grid), dtype=np.uint8)
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
        """Note remarks on the sample ``id``, which is used; on the data set as a whole where ``id`` is ""."""
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
            raise DataError(Code.EMPTY, source, f"no usable sample{_first_reasons(self._rejected)}")
        filled = {row["split"] for row in self._rows}
        for part in parts:
            if part not in filled:
                why = f"none of {len(self._rows)} usable samples is in the {part} part; {remedy}"
                raise DataError(Code.EMPTY, source, why + _first_reasons(self._rejected))

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
        return values | self._derived(values)

    def _derived(self, values: Mapping[str, float | str | None]) -> dict[str, float]:
        """What follows from the others; NaN where one is missing, or the formula has no value."""
        found = {}
        for name, variable in self.study.variables.items():
            if variable.derived:
                try:
                    number = float(variable.derived.value(values))
                except ZeroDivisionError:
                    number = math.nan
                found[name] = number if math.isfinite(number) else math.nan
        return found

    def _finish(self) -> None:
        if not self._rows and not self.partial:
            raise DataError(Code.EMPTY, self.folder, "no sample to store" + _first_reasons(self._rejected))
        for file in (self._images, self._masks):
            file.flush()
        self._table().to_parquet(self._partial / TABLE, index=False)
        pd.DataFrame(self._rejected, columns=REJECTED_COLUMNS).to_csv(
            self._partial / REJECTED, index=False, errors="backslashreplace"
        )
        pd.DataFrame(self._remarks, columns=REMARK_COLUMNS).to_csv(
            self._partial / WARNINGS, index=False, errors="backslashreplace"
        )
        meta = {"version": VERSION, "samples": len(self._rows), **shape_of(self.study)}
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
