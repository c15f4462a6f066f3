"""PadChest (Bustos et al. 2020) in its own format: one CSV of 160,861 images, 16-bit PNG files in numbered folders.

What is left out, and why, is :func:`select`'s and :class:`~segcft.importers.masks.Plausibility`'s to say.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from segcft.data.attributes import MISSING, nearest
from segcft.errors import Code, DataError
from segcft.importers.convert import Summary, convert
from segcft.importers.converted import Converted, Value
from segcft.importers.fit import fit_window
from segcft.importers.masks import Masking, Plausibility, Segmenter
from segcft.io.imagefile import check_id, strip_suffix
from segcft.io.picture import read_picture
from segcft.io.reject import Excluded, Rejected, Unreadable, about
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.formats.padchest import PadChest


class Row(NamedTuple):
    """A line of the table: the columns that are used, by their names there, as text without surrounding blanks."""

    ImageID: str
    ImageDir: str
    StudyDate_DICOM: str
    StudyID: str
    PatientID: str
    PatientBirth: str
    PatientSex_DICOM: str
    Projection: str
    Pediatric: str
    Modality_DICOM: str
    Manufacturer_DICOM: str
    PhotometricInterpretation_DICOM: str
    MethodLabel: str
    Labels: str

    @property
    def id(self) -> str:
        return strip_suffix(self.ImageID)


def convert_padchest(options: PadChest, out: Path, progress: Progress | None = None) -> Summary:
    """See :class:`~segcft.importers.formats.padchest.PadChest`."""
    total, digest = _survey(options.csv)
    segmenter = options.segmenter or options.default_segmenter()
    masking = Masking(segmenter, options.size, options.plausibility or Plausibility())
    return convert(
        (_Item(row, segmenter) for row in islice(read_rows(options.csv), options.limit)),
        min(total, options.limit or total),
        _Reader(options, masking).read,
        out,
        settings={**options.settings, "table": digest, **masking.settings},
        finish=masking.finish,
        batch_size=options.batch_size,
        splits=options.splits,
        workers=options.workers,
        progress=progress,
    )


def select(row: Row, options: PadChest) -> dict[str, Value]:
    """What the converted table says of ``row``.

    Raises:
        Excluded: the row is not to be used, and why.
    """
    if row.Projection not in options.projections:
        wanted = " or ".join(options.projections)
        raise Excluded(f"projection is not {wanted}", f"Projection is {row.Projection!r}")
    young = f"paediatric or under {options.ages[0]:g}"
    if row.Pediatric == "PED":
        raise Excluded(young, "Pediatric is 'PED'")
    labels = parse_labels(row.Labels)
    for label in options.labels:
        if label in labels:
            raise Excluded(f"label {label!r}", f"Labels have {label!r}")
    if row.PatientSex_DICOM not in ("F", "M"):
        raise Excluded("sex unknown", f"PatientSex_DICOM is {row.PatientSex_DICOM!r}")
    age = parse_age(row.PatientBirth, row.StudyDate_DICOM)
    if age is None:
        where = f"PatientBirth is {row.PatientBirth!r}, StudyDate_DICOM is {row.StudyDate_DICOM!r}"
        raise Excluded("age unknown", where)
    if not 0 <= age <= options.ages[1]:
        raise Excluded("age implausible", f"age is {age:g}")
    if age < options.ages[0]:
        raise Excluded(young, f"age is {age:g}")
    if row.PhotometricInterpretation_DICOM == "MONOCHROME1":
        raise Excluded("inverted grey values", "PhotometricInterpretation_DICOM is 'MONOCHROME1'")
    return {
        "age": age,
        "sex": row.PatientSex_DICOM,
        "study": row.StudyID,
        "date": row.StudyDate_DICOM,
        "projection": row.Projection,
        "labels": "; ".join(labels),
        "label_method": row.MethodLabel,
        "manufacturer": row.Manufacturer_DICOM,
        "modality": row.Modality_DICOM,
    }


def read_rows(table: Path) -> Iterator[Row]:
    """The rows of PadChest's table, one after another.

    Raises:
        DataError: the file cannot be read, lacks a column, or has a line of too few or too many cells.
    """
    try:
        with _open(table) as file:
            reader = csv.reader(_lines(file))
            header = [cell.strip() for cell in next(reader, [])]
            for column in Row._fields:
                if column not in header:
                    why = f"PadChest's table has it, and this one not{nearest(column, header)} (--csv)"
                    raise DataError(Code.MISSING, f"{table}: column {column!r}", why)
            places = [header.index(column) for column in Row._fields]
            for cells in reader:
                if cells and len(cells) != len(header):
                    why = f"{len(cells)} cells in a table of {len(header)} columns; download it again"
                    raise DataError(Code.DAMAGED, f"{table}: line {reader.line_num}", why)
                if cells:
                    yield Row(*(cells[place].strip() for place in places))
    except FileNotFoundError:
        raise DataError(Code.MISSING, table, "no such table (--csv)") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(Code.UNREADABLE, table, f"cannot read this table ({error})") from None


def parse_labels(text: str) -> list[str]:
    """The labels that a cell lists, ``"['normal', ' pacemaker', '']"``, without blanks and empty ones.

    Raises:
        Excluded: the cell is empty or no list of texts.
    """
    if text.lower() in MISSING:
        raise Excluded("no labels", f"Labels is {text!r}")
    try:
        labels = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise Excluded("no labels", f"Labels is no list: {text!r}")
    return [label.strip() for label in labels if label.strip()]


def parse_age(birth: str, date: str) -> float | None:
    """Age in whole years from a year of birth (``1930.0``) and the date of the study (``20140915``), or None.

    The year of birth is all that is known, so that the age may be one too high.
    """
    try:
        year = float(birth)
    except ValueError:
        return None
    if not math.isfinite(year) or year != int(year) or len(date) != 8 or not (date.isascii() and date.isdigit()):
        return None
    return int(date[:4]) - year


MOST_LINE = 1 << 20
"""Characters of a line; the longest of PadChest's has some 2,000."""


@dataclass(frozen=True)
class _Item:
    row: Row
    segmenter: Segmenter

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def stamp(self) -> str | None:
        return self.segmenter.stamp(self.id)


@dataclass(frozen=True)
class _Reader:
    """Makes a sample of a row."""

    options: PadChest
    masking: Masking

    def read(self, item: _Item) -> Converted | Rejected:
        row = item.row
        attributes = select(row, self.options)
        if row.PatientID.lower() in MISSING:
            raise Excluded("patient unknown", "PatientID is empty")
        path = self._find(row)
        picture = read_picture(path)
        pixels = picture.values
        sizes = self.masking.size, self.masking.segmenter.size
        with about(path):
            image, large = fit_window(pixels, self.options.window, *sizes)
        attributes |= {"file_height": pixels.shape[0], "file_width": pixels.shape[1]}
        sample = Converted(row.id, row.PatientID, image, attributes=attributes, large=large, remarks=picture.remarks)
        return self.masking.begin(sample)

    def _find(self, row: Row) -> Path:
        """The file of a row, in the numbered folder that the table names or in none.

        Raises:
            Rejected: it is not there.
        """
        check_id(f"{row.ImageDir}/{row.ImageID}")
        images = self.options.images
        for path in (images / row.ImageDir / row.ImageID, images / row.ImageID):
            if path.is_file():
                return path
        raise Unreadable("image file missing", f"{images}: neither {row.ImageDir}/{row.ImageID} nor {row.ImageID}")


def _open(table: Path) -> TextIO:
    """The text of a CSV file, plain or compressed by gzip, whatever it is called."""
    with table.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed:
        return gzip.open(table, "rt", encoding="utf-8-sig", newline="")
    return table.open(encoding="utf-8-sig", newline="")


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file, none of which may be so long that it fills memory."""
    while line := file.readline(MOST_LINE):
        if len(line) == MOST_LINE:
            raise csv.Error(f"a line of {MOST_LINE} characters or more")
        yield line


def _survey(table: Path) -> tuple[int, str]:
    """How many rows the table has, and a digest of them."""
    digest, total = hashlib.sha256(), 0
    for row in read_rows(table):
        digest.update("\0".join(row).encode())
        total += 1
    if total == 0:
        raise DataError(Code.EMPTY, table, "the table has no rows (--csv)")
    return total, digest.hexdigest()
