"""A store of samples, each of its files damaged in turn."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.fuzz.corpus.common import chest
from benchmarks.fuzz.mutate import Structure
from benchmarks.fuzz.work import Reader


def readers() -> list[Reader]:
    return [_reader("store.json", "json"), _reader("table.parquet", "bytes"), _reader("rejected.csv", "csv")]


def _reader(name: str, structure: Structure) -> Reader:
    suffix = Path(name).suffix
    return Reader(f"store {name}", suffix, lambda: _files(name), lambda: _read, structure, _write, name, weight=0.6)


def _files(name: str) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder) / "store")
        return [(Path(folder) / "store" / name).read_bytes()]


def _write(folder: Path) -> None:
    from segcft.data.writer import StoreWriter

    study = chest()
    size = study.image.size
    random = np.random.default_rng(0)
    with StoreWriter(folder, study, partial=True) as writer:
        for number in range(3):
            image = random.integers(0, 256, (1, *size), dtype=np.uint8)
            masks = np.full((len(study.masked), *size), 255, np.uint8)
            writer.append(f"s{number}", f"p{number}", "train", image, masks, {"sex": "F", "age": 60.0 + number})
        writer.reject("s9", "why not")


def _read(path: Path) -> None:
    from segcft.data.store import Store

    store = Store(path.parent, verify=True)
    store.values()
    store.require(chest())
    repr(store)
    store.indices("train", complete=True)
