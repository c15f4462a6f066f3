"""A row of the table of a user's folder becomes a sample, with its image and masks."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.config.sources import FolderKeys, SourceFolder
from segcft.config.study import Study
from segcft.config.variable import Variable
from segcft.data import resize
from segcft.data.attributes import MISSING, Row, disbelief, nearest, parse, read_table
from segcft.data.columns import SPELLINGS, alike_ids, find_columns, other_split
from segcft.data.extent import contradiction
from segcft.data.splits import PARTS, assign, expected_parts
from segcft.data.store import SOURCE
from segcft.errors import Code, DataError
from segcft.io.imagefile import ImageFile, check_id, find_file, find_mask, find_named, strip_suffix
from segcft.io.maskfile import Masks, read_masks
from segcft.io.reject import Rejected, Remark, about
from segcft.io.scan import find_scan, names_in, read_seen
from segcft.measures.measure import FULL
from segcft.measures.measurements import Measurements

CUT_OFF = 0.02
"""Share of a structure that may be beyond the grid before it is told of: resampling moves as much."""
LENGTH = Variable(kind="continuous", scale="log", unit="mm")
"""As which the sizes of pixels are read: they are above 0."""


class Sample(NamedTuple):
    """What :meth:`segcft.data.writer.StoreWriter.append` takes after the id, and the remarks on its files."""

    patient: str
    part: str
    image: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    attributes: dict[str, float | str | None]
    kept: dict[str, str]
    remarks: tuple[Remark, ...]


class Ragged(NamedTuple):
    """A line of the table that is no row, and why."""

    line: int
    reason: str


class Folder:
    """A folder data set: where its parts are and how a row becomes a sample.

    Args:
        study: what is read.
        spec: how the folder is read.
        data: the folder.
        split: see :func:`folders_of`.
        source: its name, where it is one of several.
    """

    def __init__(self, study: Study, spec: FolderKeys, data: Path, split: str | None, source: str = "") -> None:
        self.forced_split, self.source = split, source
        self.key = f"data.folders.{source}" if source else "data"
        """Where the study says how the folder is read."""
        self.study, self.spec, self.measurements = study, spec, Measurements.of(study)
        self.masked = not isinstance(spec, SourceFolder) or spec.masked
        self.images, self.masks = data / self.spec.images, data / self.spec.masks
        self.table = self.images if spec.table is None else data / spec.table
        """What lists the samples: the table, or the folder of images itself."""
        for key, folder in (("images", self.images), ("masks", self.masks)):
            needed = key == "images" or (self.masked and study.masked)
            if needed and not folder.is_dir():
                raise DataError(Code.MISSING, folder, f"no such folder ({self.key}.{key})")
        if study.image.channels not in (1, 3) and not self.volumes:
            why = f"image files have 1 or 3 channels, not {study.image.channels}"
            raise DataError(Code.UNSUPPORTED, "image.channels", why)
        self._check_names("columns", self.spec.columns, study.variables)
        self._check_names("may_be_absent", self.spec.may_be_absent, study.masked)
        self.split_column = self.spec.split if split is None else None
        self.patient_column = self.spec.patient or self.spec.id
        self.remarks: list[Remark] = []
        """Remarks on the table as a whole."""
        self._first_lines: dict[str, int] = {}  # of each id
        for name in self.spec.columns:
            if name in study.measured:
                why = "areas are measured from the masks, not read from the table"
                raise DataError(Code.CONFLICT, f"{self.key}.columns.{name}", why)
        self.values: dict[str, float | str | None] = {}
        """Of variables that are the same for all samples, or missing in all."""
        if isinstance(spec, SourceFolder):
            self.values |= dict.fromkeys(spec.lacks)
            for name, value in spec.values.items():
                self.values[name] = str(value) if study.variables[name].categories else float(value)
        self.columns = {  # of all variables but those that are measured from masks
            name: self.spec.columns.get(name, name) for name in study.attributes if name not in self.values
        }
        if spec.table is None and self.columns:
            why = f"attributes are read from a table, and there is none: {', '.join(self.columns)}"
            raise DataError(Code.CONFLICT, f"{self.key}.table", why)

    def read_lines(self) -> list[Row | Ragged]:
        """Lines of the table in their order, those among them that are no rows included. Without a table an image is
        one.

        Raises:
            DataError: the table, a column, or any image is missing, or the table cannot be right.
        """
        rows, ragged = self._read_table() if self.spec.table is not None else (self._list_images(), [])
        for row in rows:
            self._first_lines.setdefault(row.cells[self.spec.id], row.line)
        lines: list[Row | Ragged] = [*rows, *(Ragged(line, reason) for line, reason in ragged)]
        return sorted(lines, key=lambda line: line.line)

    def _list_images(self) -> list[Row]:
        """Rows of a table that has the names of all images and nothing else."""
        ids = names_in(self.images, self.spec.file, self.volumes)
        if self.images in self.masks.parents:  # masks are no images
            below = self.masks.relative_to(self.images).as_posix()
            ids = [id for id in ids if not id.startswith(f"{below}/")]
        files = [mask.file for mask in self.study.masked.values() if mask.file is not None]
        masks = {strip_suffix(str(self.masks / file.replace("{id}", id))) for file in files for id in ids}
        ids = [id for id in ids if str(self.images / id) not in masks]  # which may be beside the images
        if not ids:
            raise DataError(Code.EMPTY, self.images, f"no image is in it ({self.key}.images)")
        self.remarks += alike_ids(ids)
        return [Row(number, {self.spec.id: id}) for number, id in enumerate(ids, start=1)]

    def _read_table(self) -> tuple[list[Row], list[tuple[int, str]]]:
        if not self.table.is_file():
            raise DataError(Code.MISSING, self.table, f"no such table ({self.key}.table)")
        required = {self.spec.id: f"{self.key}.id"}
        if self.spec.patient is not None:
            required[self.spec.patient] = f"{self.key}.patient"
        if self.split_column is not None:
            required[self.split_column] = f"{self.key}.split"
        required |= {column: f"variable {name}" for name, column in self.columns.items()}
        required |= dict.fromkeys(self.spec.keep, f"{self.key}.keep")
        required |= {one: f"{self.key}.spacing" for one in self.spec.spacing or () if isinstance(one, str)}
        rows, ragged = read_table(self.table, required)
        self._check_columns(rows, set(required))
        if self.split_column is not None:
            self._check_patients_stay_in_one_part(rows, self.split_column)
        return rows, ragged

    def _place(self, line: Row | Ragged) -> str:
        """Where a line is, for messages."""
        return str(self.table) if self.spec.table is None else f"{self.table}: line {line.line}"

    def read_sample(self, row: Row | Ragged) -> Sample | Rejected:
        """The sample of a line, or why there is none."""
        if isinstance(row, Ragged):
            return Rejected(f"{self._place(row)}: {row.reason}")
        try:
            patient, part, attributes, doubted = self.read_cells(row)  # before the images, which take longer
            image, masks, remarks = self._pixels(row)
            kept = {column: row.cells[column] for column in self.spec.keep}
            kept |= {SOURCE: self.source} if self.source else {}
            return Sample(patient, part, image, masks, attributes, kept, (*doubted, *remarks))
        except Rejected as reason:
            return reason

    def name_of(self, line: Row | Ragged) -> str:
        """The id of the sample of a line; of a line without one its number."""
        id = line.cells[self.spec.id] if isinstance(line, Row) else ""
        return self._named(id or f"line {line.line}")

    def _named(self, id: str) -> str:
        """An id of the table, behind the name of the source where there are several."""
        return f"{self.source}/{id}" if self.source else id

    def expected_parts(self) -> tuple[tuple[str, ...], str, str]:
        """The arguments of :meth:`StoreWriter.check_parts`."""
        if self.forced_split is not None:
            return (self.forced_split,), str(self.table), ""
        parts = expected_parts(self.study.splits)
        if self.split_column is not None:
            remedy = (
                f"column {self.split_column!r} decides: name that part there, or set its share in 'splits' to 0 "
                "(test subjects are needed)"
            )
        else:
            remedy = "change the seed or the shares in 'splits', or bring more subjects"
        return parts, str(self.table), remedy

    def read_cells(self, row: Row) -> tuple[str, str, dict[str, float | str | None], list[Remark]]:
        """Patient, part, attributes and remarks of a row.

        Raises:
            Rejected: a cell is not what it should be.
        """
        try:
            id = row.cells[self.spec.id]
            if not id:
                raise Rejected(f"column {self.spec.id!r}: no id")
            if self._first_lines[id] != row.line:
                raise Rejected(f"column {self.spec.id!r}: id {id!r} is already on line {self._first_lines[id]}")
            check_id(id)
            patient = self._patient(row)
            attributes, doubted = self._attributes(row)
            return patient, self._part(row, patient), attributes, doubted
        except Rejected as reason:
            raise Rejected(f"{self._place(row)}: {reason}") from None

    def _attributes(self, row: Row) -> tuple[dict[str, float | str | None], list[Remark]]:
        """Values by variable, and remarks on those that are not believed and count as missing."""
        attributes = dict(self.values)
        doubted = []
        for name, column in self.columns.items():
            text, variable = row.cells[column], self.study.variables[name]
            value = attributes[name] = parse(text, name, column, variable, row.comma)
            if isinstance(value, float) and (doubt := disbelief(value, name, variable)):
                attributes[name] = None
                where = f"{self._place(row)}: column {column!r}"
                doubted.append(Remark(f"{name} not believed", f"{where}: {doubt}"))
        return attributes, doubted

    @property
    def volumes(self) -> bool:
        """Whether its images are volumes."""
        return self.study.image.is_volume

    def read_files(self, id: str) -> tuple[Path, ImageFile, Masks | None]:
        """The file of a sample's image, what it shows, and its masks if it has any, all at the size of the files.

        Raises:
            Rejected: a file is missing or cannot be used.
        """
        spec = self.spec
        if spec.file is not None:
            path = find_named(self.images, id, spec.file)
        else:
            path = find_scan(self.images, id) if self.volumes else find_file(self.images, id)
        dimensions = len(self.study.image.size)
        seen = read_seen(path, dimensions, self.study.image.channels, spec.grey_range, spec.window, spec.nifti_axes)
        if not self.masked:
            return path, seen, None
        masks = read_masks(self.masks, id, self.study.masked, seen, spec.nifti_axes, spec.thin_structures)
        return path, seen, masks

    def _pixels(self, row: Row) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, tuple[Remark, ...]]:
        grid, spec, id = self.study.image, self.spec, row.cells[self.spec.id]
        path, seen, masks = self.read_files(id)
        pixel = self._pixel(row, seen)
        wrong = contradiction(seen.size, pixel, grid, str(path))
        if wrong and not spec.ignore_spacing:
            raise Rejected(wrong.text)
        with about(path):
            pixels = resize.fit_image(seen.grey, grid, pixel)
        if masks is None:
            return pixels, None, seen.remarks
        coverage = resize.fit_masks(masks.coverage, grid, pixel)
        cut = self._cut_off(path, masks.coverage, coverage, pixel)
        self._check_presence(id, coverage, pixels)
        return pixels, coverage, (*seen.remarks, *masks.remarks, *cut)

    def _cut_off(
        self, path: Path, whole: NDArray[np.float64], shown: NDArray[np.uint8], pixel: resize.Pixel
    ) -> list[Remark]:
        """What to tell of structures that are cut off by the grid, of masks (S, H, W) and what the grid shows of them.

        Raises:
            Rejected: nothing of a structure is left.
        """
        grid, size = self.study.image, whole.shape[1:]
        if grid.fit in ("pad", "stretch"):
            return []
        _, extent = resize.window_of(size, grid, pixel)
        ratio = math.prod(extent) / math.prod(grid.size)  # pixels of the image in one of the grid
        cut = []
        for name, own, seen in zip(self.study.masked, whole, shown, strict=True):
            left = ratio * float(seen.sum()) / FULL / max(float(own.sum()), 1e-9)
            if own.any() and not seen.any():
                raise Rejected(f"{path}: {name} is beyond what the grid shows (image.fit: {grid.fit})")
            if own.any() and left < 1 - CUT_OFF:
                text = f"{path}: {1 - left:.0%} of {name} is beyond what the grid shows (image.fit: {grid.fit})"
                cut.append(Remark("structures are cut off", text))
        return cut

    def _pixel(self, row: Row, seen: ImageFile) -> resize.Pixel:
        """The size of an image's pixels, as the study says, or else its header.

        Raises:
            Rejected: a cell is no length.
        """
        if self.spec.spacing is None:
            return resize.pixel_of(seen)
        height, width = (self._length(row, one) for one in self.spec.spacing)
        return resize.pixel_of(seen, (height, width))

    def _length(self, row: Row, said: float | str) -> float:
        if not isinstance(said, str):
            return said
        with about(self._place(row)):
            number = parse(row.cells[said], said, said, LENGTH, row.comma)
            if not isinstance(number, float):
                raise Rejected(f"column {said!r}: no size of a pixel")
            return number

    def _check_presence(self, id: str, coverage: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> None:
        names = list(self.study.masked)
        for i, j in itertools.combinations(range(len(names)), 2):
            if coverage[i].any() and np.array_equal(coverage[i], coverage[j]):
                path = find_mask(self.masks, id, names[j], self.study.masked[names[j]])
                raise Rejected(f"{path}: {names[i]} and {names[j]} have the same mask (structures: bit, label or file)")
        for (name, shown), mask in zip(self.study.masked.items(), coverage, strict=True):
            if mask.any():
                continue
            path, structure = find_mask(self.masks, id, name, shown), self.study.own.get(name)
            variable = self.study.variables[structure.variable] if structure else None
            if structure and variable and not variable.allows(0):
                raise Rejected(f"{path}: the mask of {name} is empty, and {structure.variable} is on a log scale")
            if name not in self.spec.may_be_absent and not (variable and variable.zero_inflated):
                raise Rejected(f"{path}: the mask of {name} is empty ({self.key}.may_be_absent)")
        for name, number in self.measurements.exact(coverage, pixels).items():
            if not (math.isnan(number) or self.study.variables[name].allows(number)):
                raise Rejected(f"variables.{name}: {number:g} of {id!r} is on a log scale")

    def _patient(self, row: Row) -> str:
        patient = row.cells[self.patient_column]
        if patient.lower() in MISSING and self.patient_column != self.spec.id:
            raise Rejected(f"column {self.patient_column!r}: no patient")
        return self._named(patient)

    def _part(self, row: Row, patient: str) -> str:
        if self.forced_split is not None:
            return self.forced_split
        if self.split_column is None:
            return assign(patient, self.study.splits)
        text = row.cells[self.split_column]
        if text.lower() not in SPELLINGS:
            raise Rejected(f"column {self.split_column!r}: {text!r} is not one of {', '.join(PARTS)}")
        return SPELLINGS[text.lower()]

    def _check_columns(self, rows: list[Row], named: set[str]) -> None:
        """See that no column says who is who, or who is in which part, and the study does not name it.

        Where every sample is a test sample, the study may be another's, which its user does not change. Intervals are
        then over the patients that the table has.

        Raises:
            DataError: a column seems to be of patients, of whom there are several images.
        """
        found = find_columns(rows, {*named, *filter(None, (self.spec.split,))}, self.spec.id)
        if self.spec.patient is None and found.patient is not None:
            use = f"column {found.patient!r} has patients with several images"
            if self.forced_split is None:
                why = (
                    f"{use} in {self.table}, and without this key each image would be a subject of its own, in "
                    f"training or in test. Add 'patient: {found.patient}' to the study's data section, or "
                    f"'patient: {self.spec.id}' if it is something else"
                )
                raise DataError(Code.MISSING, f"{self.key}.patient", why)
            self.patient_column = found.patient
            self.remarks.append(Remark("patients", f"{self.table}: {use}, which the study does not name: it is used"))
        elif self.spec.patient is None:
            self.remarks += alike_ids(list(dict.fromkeys(row.cells[self.spec.id] for row in rows)))
        if found.split is not None and self.spec.split is None and self.forced_split is None:
            self.remarks += other_split(rows, found.split, self._drawn_part)

    def _drawn_part(self, row: Row) -> str | None:
        """The part that the study draws for the patient of a row, if it has one."""
        patient = row.cells[self.patient_column]
        return assign(self._named(patient), self.study.splits) if patient else None

    def _check_patients_stay_in_one_part(self, rows: list[Row], column: str) -> None:
        parts: dict[str, dict[str, int]] = defaultdict(dict)
        for row in rows:
            part = SPELLINGS.get(row.cells[column].lower())
            patient = row.cells[self.patient_column]
            if part and patient:
                parts[patient].setdefault(part, row.line)
        for lines in parts.values():
            if len(lines) > 1:  # lines of the table name the patient, and no log does
                where = " and ".join(f"{part} (line {line})" for part, line in lines.items())
                raise DataError(Code.CONFLICT, f"{self.table}: column {column!r}", f"one patient is in {where}")

    def _check_names(self, key: str, names: Iterable[str], known: Iterable[str]) -> None:
        for name in names:
            if name not in known:
                raise DataError(Code.UNKNOWN, f"{self.key}.{key}", f"the study has no {name!r}{nearest(name, known)}")
