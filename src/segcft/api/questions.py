"""The questions about many images: those of a folder, or of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from segcft.api.question import MATCH
from segcft.causal.intervention import Intervention
from segcft.config.study import Study
from segcft.data.attributes import MISSING, Row, disbelief, nearest, parse, read_table
from segcft.errors import Code, DataError
from segcft.io.dicomhead import DICOMDIR
from segcft.io.imagefile import SUFFIXES, find_file, is_dicom, strip_suffix
from segcft.io.nifti import NIFTI
from segcft.io.reject import Rejected
from segcft.io.scan import series_below
from segcft.utils.digest import key_of

ALIKE = 0.8
"""From this similarity, 0 to 1, a further column is taken for a misspelt one that is missing, and refused."""


@dataclass(frozen=True)
class Item:
    """A question of a batch.

    Attributes:
        id: of its answer's files, which may be in a subfolder.
        image: the file.
        known: what is known of the subject, ``VARIABLE=VALUE`` each.
        do: the interventions, ``VARIABLE=AMOUNT`` each.
    """

    id: str
    image: Path
    known: tuple[str, ...]
    do: tuple[str, ...]

    def stamp(self) -> str:
        """Changes with the question, with the image's file and with those that values are taken from."""
        others = (path for path in map(_matched, self.do) if path is not None)
        return key_of(str(self.image), self.known, self.do, *map(_state, (self.image, *others)))


def _state(path: Path) -> tuple[int, int] | list[tuple[str, int, int]]:
    try:
        if path.is_dir():  # a series: a slice may be another one
            stats = [(one.name, one.stat()) for one in sorted(path.iterdir())]
            return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        stat = path.stat()
    except (OSError, ValueError):  # ValueError: no path can be called so
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


class PassedOver(NamedTuple):
    """A file that was not asked about, or a column or cell of a table that was not read; and why."""

    name: str
    reason: str


class Questions(NamedTuple):
    """The questions of a batch, and what was passed over."""

    items: list[Item]
    passed: list[PassedOver]


def folder_items(folder: Path, known: Sequence[str], do: Sequence[str], volumes: bool = False) -> Questions:
    """The same question about every image file in ``folder`` and below, in the order of their names.

    An image has the suffix of one (:data:`segcft.io.imagefile.SUFFIXES`), or is a DICOM file, whatever it is called:
    those of an archive have no suffix, or ``.IMA``. Of ``volumes`` it is a NIfTI file, or a folder with DICOM files.
    Files whose names begin with a dot are the system's.

    Raises:
        DataError: there is no image.
    """
    images, passed = [], []
    series = series_below(folder) if volumes else set[Path]()
    images += [(path.relative_to(folder).as_posix(), path) for path in series]
    kinds = NIFTI if volumes else SUFFIXES
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        name = path.relative_to(folder).as_posix()
        if path.name.upper() == DICOMDIR:
            passed.append(PassedOver(name, "the contents of a DICOM medium, no image"))
        elif path.parent in series:
            continue  # a slice, or what lies beside slices
        elif path.name.lower().endswith(kinds) or (is_dicom(path) and not volumes):
            images.append((name, path))
        else:
            passed.append(PassedOver(name, f"no DICOM file, and its name ends in none of {', '.join(kinds)}"))
    if not images:
        others = f"; it has {len(passed)} other files, like {passed[0].name}" if passed else ""
        raise DataError(Code.EMPTY, folder, f"no image is in it ({', '.join(kinds)}, or DICOM){others}")
    images.sort()
    ids = _distinct([strip_suffix(name) for name, _ in images])
    return Questions(
        [Item(id, path, tuple(known), tuple(do)) for id, (_, path) in zip(ids, images, strict=True)],
        passed,
    )


def table_items(
    table: Path, study: Study, known: Sequence[str], do: Sequence[str], images: Path | None = None
) -> Questions:
    """The questions of a table, a row each, which is read as a study's own is; see
    :func:`segcft.data.attributes.read_table`.

    Its columns are ``image`` (a path, from the table's folder), ``do`` (interventions, with ``;`` between them; paths
    of ``match:`` are from the table's folder, too) and the names of variables, for what is known; all but ``image`` may
    be left out, empty or NA. ``id`` names the answers (default: as the image). ``known`` and ``do`` hold where a row
    does not say. Further columns are passed over, unless they are called almost like one of these. Of a table about a
    folder of ``images`` it is ``id`` that names the image, as in the data of a study, and ``image`` is left out.

    Raises:
        DataError: it is no such table.
    """
    expected, names_image = columns_of(study), "image" if images is None else "id"
    rows = table_rows(table, study, images)
    further = [column for column in rows[0].cells if column not in expected]
    missing = [name for name in expected if name not in rows[0].cells]
    for column in further:
        if near := nearest(column, missing, ALIKE):
            raise DataError(Code.UNKNOWN, f"{table}: {column}", f"this column is not read{near} Rename or remove it")
    given = {text.partition("=")[0].strip(): text for text in known}
    passed = [PassedOver(column, f"column of {table.name} that is no variable of the study") for column in further]
    known_columns = [name for name, variable in study.variables.items() if not variable.derived]
    follows = [name for name in study.variables if name not in known_columns and name in rows[0].cells]
    passed += [PassedOver(name, f"column of {table.name} that follows from others") for name in follows]
    items = []
    for row in rows:
        cells = row.cells
        if not cells[names_image]:
            raise DataError(Code.MISSING, f"{table}: line {row.line}: {names_image}", "the cell is empty")
        facts = given | {name: text for name in known_columns if (text := _fact(row, name, study, passed)) is not None}
        text = cells.get("do", "")
        parts = (part.strip() for part in text.split(";") if part.strip() and text.lower() not in MISSING)
        asked = tuple(_below(table.parent, part) for part in parts) or tuple(do)
        id = cells.get("id") or strip_suffix(Path(cells["image"]).name)
        image = table.parent / cells["image"] if images is None else _found(images, id)
        items.append(Item(id, image, tuple(facts.values()), asked))
    ids = _distinct([item.id for item in items])
    return Questions([replace(item, id=id) for id, item in zip(ids, items, strict=True)], passed)


def columns_of(study: Study) -> tuple[str, ...]:
    """The columns that a table of questions may have."""
    return ("id", "image", "do", *study.variables)


def table_rows(table: Path, study: Study, images: Path | None = None) -> list[Row]:
    """The rows of a table of questions, with the cells of all its columns; see :func:`table_items`.

    Raises:
        DataError: it is no such table.
    """
    names_image = "image" if images is None else "id"
    rows, ragged = read_table(table, {names_image: "file of the image"}, columns_of(study))
    if ragged:
        raise DataError(Code.INVALID, f"{table}: line {ragged[0][0]}", ragged[0][1])
    return rows


def _found(images: Path, id: str) -> Path:
    """The file of the image ``id``; one that is not there is told of where its question is asked."""
    try:
        return find_file(images, id)
    except Rejected:
        return images / id


def _fact(row: Row, name: str, study: Study, passed: list[PassedOver]) -> str | None:
    """What a row of a table says of a variable, ``age=63``; None if nothing, or an impossible value, which is
    ``passed`` over. What cannot be read stays as it is, so that the question is rejected and not the table."""
    variable = study.variables[name]
    try:
        value = parse(row.cells.get(name, ""), name, name, variable, row.comma)
    except Rejected:
        return f"{name}={row.cells[name]}"
    if isinstance(value, float) and (reason := disbelief(value, name, variable)):
        passed.append(PassedOver(f"line {row.line}: {name}", reason))
        return None
    return None if value is None else str(Intervention(name, value))


def _below(folder: Path, text: str) -> str:
    """An intervention of a table, whose paths are from the table's folder."""
    other = _matched(text)
    return text if other is None else f"{text.partition('=')[0]}={MATCH}{folder / other}"


def _matched(text: str) -> Path | None:
    """The image that an intervention takes its value from, if it does."""
    amount = text.partition("=")[2].strip()
    return Path(amount.removeprefix(MATCH).strip()) if amount.startswith(MATCH) else None


def _distinct(ids: Sequence[str]) -> Iterator[str]:
    """Each as it is, or with the first number that makes it another one: ``a``, ``a-2``, ``a-3``.

    ``./a`` and ``b//c`` are ``a`` and ``b/c``: they would name one file.
    """
    ids = [PurePosixPath(id).as_posix() for id in ids]
    taken = set(ids)
    seen: set[str] = set()
    for id in ids:
        name, number = id, 2
        while name in seen:
            candidate = f"{id}-{number}"
            name, number = (candidate, number) if candidate not in taken | seen else (name, number + 1)
        seen.add(name)
        yield name
