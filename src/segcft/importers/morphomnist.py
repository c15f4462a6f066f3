"""Morpho-MNIST (Castro et al. 2019) in the layout of its own code, which others keep.

Of each set, ``train`` and ``t10k``, there are ``SET-images-idx3-ubyte.gz``, ``SET-labels-idx1-ubyte.gz`` and
``SET-morpho.csv``, whose column ``index`` counts images from 0 and whose other columns are numbers. Where both sets are
read, images of ``t10k`` test, and those of ``train`` are split into training and validation. One set alone is split
into all parts. Nobody knows who wrote which digit, so every image counts as a person.

References:
    | Morpho-MNIST: Quantitative Assessment and Diagnostics for Representation Learning (Castro et al., 2019),
      https://arxiv.org/abs/1809.10780
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.config.sources import Splits
from segcft.config.variable import Variable
from segcft.data.attributes import parse, read_table
from segcft.data.splits import assign
from segcft.errors import Code, DataError
from segcft.importers.convert import Summary, convert
from segcft.importers.converted import COLUMNS, Converted
from segcft.io.idx import read_idx
from segcft.io.reject import Excluded
from segcft.utils.digest import key_of
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.formats.morphomnist import MorphoMNIST

INDEX, DIGIT = "index", "digit"
DIGITS = 10
NUMBER = Variable(kind="continuous")


class Files(NamedTuple):
    """The files of a set."""

    images: Path
    labels: Path
    table: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> Files:
        """Those of the set that is called ``name``."""
        return cls(
            folder / f"{name}-images-idx3-ubyte.gz",
            folder / f"{name}-labels-idx1-ubyte.gz",
            folder / f"{name}-morpho.csv",
        )


class Digits(NamedTuple):
    """A set: its images (N, H, W), what they show, (N,), and of each the cells of its row, {} where it has none."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    cells: list[dict[str, str]]


class Item(NamedTuple):
    """An image: which of a set it is."""

    id: str
    digits: Digits
    place: int
    tests: bool
    stamp: str
    """Changes when a file of the set does."""


def convert_morphomnist(options: MorphoMNIST, out: Path, progress: Progress | None = None) -> Summary:
    """See :meth:`segcft.importers.importer.Importer.convert`."""
    items: list[Item] = []
    for name in dict.fromkeys(options.sets):
        files = Files.of(options.folder, name)
        digits = read_digits(files)
        stamp = key_of([(one.st_size, one.st_mtime_ns) for one in (path.stat() for path in files)])
        items += [Item(f"{name}-{k:05d}", digits, k, name == options.TEST, stamp) for k in range(len(digits.images))]
    both = len({item.tests for item in items}) == 2
    return convert(
        items,
        len(items),
        partial(_read, padding=options.padding, splits=(options.splits or Splits()) if both else None),
        out,
        settings=options.settings,
        splits=options.splits,
        workers=options.workers,
        progress=progress,
    )


def read_digits(files: Files) -> Digits:
    """A set of digits.

    Raises:
        DataError: a file is missing or damaged, or images, labels and table are not of the same digits.
    """
    images, labels = read_idx(files.images), read_idx(files.labels)
    if images.ndim != 3 or not images.size:
        raise DataError(Code.INVALID, files.images, f"expected images (N, H, W), and it has {images.shape}")
    if labels.shape != images.shape[:1]:
        why = f"expected a label of each of {len(images)} images, and it has {labels.shape}"
        raise DataError(Code.INVALID, files.labels, why)
    if labels.max() >= DIGITS:
        raise DataError(Code.OUT_OF_RANGE, files.labels, f"it has the label {labels.max()}, and digits are 0 to 9")
    cells: list[dict[str, str]] = [{} for _ in range(len(images))]
    rows, _ = read_table(files.table, {INDEX: "which image a row is about"})
    if wrong := [name for name in rows[0].cells if name in (*COLUMNS, DIGIT)]:
        why = "the converted table has a column of this name"
        raise DataError(Code.CONFLICT, f"{files.table}: column {wrong[0]!r}", why)
    for row in rows:
        place, where = row.cells.pop(INDEX), f"{files.table}: line {row.line}: column {INDEX!r}"
        if not place.isdecimal() or int(place) >= len(images):
            why = f"expected a whole number below {len(images)}, as many as there are images, not {place!r}"
            raise DataError(Code.OUT_OF_RANGE, where, why)
        if cells[int(place)]:
            raise DataError(Code.DUPLICATE, where, f"{place} is there before")
        cells[int(place)] = row.cells
    return Digits(images, labels, cells)


def _read(item: Item, padding: int, splits: Splits | None) -> Converted:
    """An image with its row; ``splits`` where both sets are read.

    Raises:
        Rejected: it has no row, or a cell of it is no number.
    """
    cells = item.digits.cells[item.place]
    if not cells:
        raise Excluded("no row in the table", f"no row has {INDEX} {item.place}")
    image = np.pad(item.digits.images[item.place], padding)
    numbers = {name: parse(text, name, name, NUMBER) for name, text in cells.items()}
    split = None
    if splits is not None:
        part = "validation" if assign(item.id, splits) == "validation" else "train"
        split = "test" if item.tests else part
    attributes = {DIGIT: int(item.digits.labels[item.place])} | numbers
    return Converted(item.id, item.id, image, attributes=attributes, split=split)
