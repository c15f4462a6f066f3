"""JSRT (Shiraishi et al. 2000) in its own format, with the masks of SCR (van Ginneken et al. 2006).

Three downloads meet here: 247 raw images, a text file each on the subjects with a nodule (``CLNDAT_EN.TXT``) and on
those without (``CNNDAT_EN.TXT``), and SCR's outlines of lungs and heart as GIF files. Every image is of another
subject.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from segcft.data.resize import pad_to_aspect
from segcft.errors import Code, DataError
from segcft.importers.convert import Summary, convert
from segcft.importers.converted import Converted, Value
from segcft.importers.fit import fit_window
from segcft.importers.masks import BITS, Plausibility, areas, check_polarity, to_flags
from segcft.io.picture import read_picture
from segcft.io.reject import Excluded, Rejected, about
from segcft.utils.loop import ahead
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.formats.jsrt import JSRT

SIDE = 2048
"""Rows and columns of a raw image."""
BLACK = 4095
"""The largest value of its 12 bits; 0 is white."""

Key = TypeVar("Key")

_ID = r"JPC[LN]N\d{3}"
_FOLDERS = ("left lung", "right lung", "heart")  # SCR's; it has the clavicles too
_MISSING = "?"

# What follows the name of a file. One of the text files separates columns by tabs, the other by blanks.
_NORMAL = re.compile(r"(?P<age>\S+)\s+(?P<sex>[a-z]+)\b\s*(?P<rest>.*)", re.IGNORECASE)
_NODULE = re.compile(
    r"(?P<subtlety>[1-5])\s+(?P<nodule_mm>\d+(?:\.\d+)?|\?)\s+(?P<age>\S+)\s+(?P<sex>[a-z]+)\s+"
    r"(?P<nodule_x>\d+|\?)\s+(?P<nodule_y>\d+|\?)\s+(?P<nodule>malignant|benign)\b(?P<rest>.*)",
    re.IGNORECASE,
)


def convert_jsrt(options: JSRT, out: Path, progress: Progress | None = None) -> Summary:
    """See :class:`~segcft.importers.formats.jsrt.JSRT`.

    Raises:
        DataError: also where two files claim to be the same image or mask, or the images are mirrored.
    """
    files = find_images(options.images)
    outlines = find_masks(options.masks)
    records, digest = read_clinical(options.clinical)
    ids = sorted({*files, *records})
    wanted = [id for id in ids if all((name, id) in outlines for name in _FOLDERS)]
    swapped = named_by_image_side(outlines, wanted, options.masks, progress)
    plausibility = options.plausibility or Plausibility()
    return convert(
        [_Item(id) for id in ids],
        len(ids),
        _Reader(options, files, outlines, records, swapped, plausibility).read,
        out,
        settings={
            **options.settings,
            "clinical": digest,
            "plausibility": asdict(plausibility),
            "lungs named by the side of the image": swapped,
        },
        splits=options.splits,
        workers=options.workers,
        progress=progress,
    )


def find_images(folder: Path) -> dict[str, Path]:
    """Id, ``JPCLN001``, -> raw file of every image below ``folder``.

    Raises:
        DataError: there is none, or there are two of one image.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() == ".img" and re.fullmatch(_ID, path.stem.upper()):
            _claim(found, path.stem.upper(), path, "--images")
    if not found:
        raise DataError(Code.EMPTY, folder, "holds no raw image like JPCLN001.IMG or JPCNN001.IMG (--images)")
    return found


def find_masks(folder: Path) -> dict[tuple[str, str], Path]:
    """(SCR's name of the structure, id) -> its GIF file, below ``folder``.

    Raises:
        DataError: one of lungs and heart has no file, or there are two of one.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"[\s_-]+", " ", path.parent.name.lower())
        if path.suffix.lower() == ".gif" and name in _FOLDERS and re.fullmatch(_ID, path.stem.upper()):
            _claim(found, (name, path.stem.upper()), path, "--masks")
    for name in _FOLDERS:
        if not any(key[0] == name for key in found):
            raise DataError(Code.EMPTY, folder, f"holds no file of SCR like fold1/masks/{name}/JPCLN001.gif (--masks)")
    return found


def read_clinical(paths: Sequence[Path]) -> tuple[dict[str, Mapping[str, Value] | Rejected], str]:
    """Attributes of each id that the text files name, or why they cannot be read; and a digest of the files.

    Raises:
        DataError: a file cannot be read, or names no image.
    """
    records: dict[str, Mapping[str, Value] | Rejected] = {}
    digest = hashlib.sha256()
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(Code.UNREADABLE, path, f"cannot read this file ({error.strerror}) (--clinical)") from None
        digest.update(content)
        found = parse_clinical(content.decode("utf-8", errors="replace"))
        if not found:
            raise DataError(Code.EMPTY, path, "names no image of JSRT like JPCLN001.IMG (--clinical)")
        for id, attributes in found:
            if id in records and records[id] != attributes:
                attributes = Excluded("clinical data unclear", f"{path}: {id} is there before, with other data")
            elif isinstance(attributes, Excluded):
                attributes = Excluded(attributes.kind, f"{path}: {attributes}")
            records[id] = attributes
    return records, digest.hexdigest()


def parse_clinical(text: str) -> list[tuple[str, Mapping[str, Value] | Excluded]]:
    """(id, attributes) of each record of a clinical text file; :class:`Excluded` where one is not understood.

    A record begins with the name of a file, wherever that stands: some copies have lost line breaks. After it come

    - of ``JPCNN``: age, sex, ``non-nodule``;
    - of ``JPCLN``: subtlety 1 to 5, size in mm, age, sex, x and y in pixels of the raw image, ``malignant`` or
      ``benign``, location, diagnosis (see :func:`split_place`)

    with a ``?`` for what is not known. Ages are in years; sex becomes F or M.
    """
    _, *parts = re.split(rf"({_ID})(?:\.IMG)?\b", text, flags=re.IGNORECASE)
    names, records = parts[::2], parts[1::2]
    return [(name.upper(), _parse_record(name.upper(), record)) for name, record in zip(names, records, strict=True)]


def split_place(text: str) -> tuple[str | None, str | None]:
    """Location and diagnosis of a nodule, from the last columns of its record.

    Tabs part either the two, or two pieces of each as in the file that JSRT hands out, where ``r.middle lobe`` is
    ``r.middl`` and ``e lobe``. Without tabs several blanks part the two.

    Args:
        text: what follows ``malignant`` or ``benign``, with all of its tabs.

    Returns:
        None for what is empty or ``?``; twice None where the two cannot be told apart.
    """
    cells = [cell.strip() for cell in text.strip(" ").split("\t")]
    if not cells[0]:  # else a blank, not a tab, is before the first one
        del cells[0]
    if len(cells) == 1:
        cells = re.split(r" {2,}", cells[0])
    while len(cells) > 4 and not cells[-1]:  # empty columns, as spreadsheets add
        del cells[-1]
    match cells:
        case [place, finding] | [place, finding, ""]:
            pass
        case [start, end, *pieces] if len(pieces) <= 2 and (any(pieces) or not end):
            # Locations are cut after seven letters. A blank at the cut is lost, which only `lobe` has before it.
            gap = "" if len(start) == 7 and not end.startswith("lobe") else " "
            place, finding = f"{start}{gap}{end}".strip(), " ".join(pieces).strip()
        case _:
            return None, None
    return _known(place), _known(finding)


def _known(cell: str) -> str | None:
    return None if cell in ("", _MISSING) else cell


def _parse_record(id: str, record: str) -> Mapping[str, Value] | Excluded:
    nodule = id.startswith("JPCLN")
    content = record.strip()
    columns = re.split(r"[\r\n]", record[len(record.rstrip()) :], maxsplit=1)[0]  # tabs at its end
    line = re.sub(r"[\r\n]+", " ", content) + columns
    match = (_NODULE if nodule else _NORMAL).fullmatch(line)
    if match is None:
        wanted = "subtlety, size, age, sex, x, y, malignant or benign, ..." if nodule else "age, sex, ..."
        return Excluded("clinical data unclear", f"{id}: expected {wanted}, found {record.strip()!r}")
    cells = match.groupdict()
    sex = cells["sex"][0].upper()
    if cells["sex"].lower() not in ("f", "m", "female", "male"):
        return Excluded("clinical data unclear", f"{id}: {cells['sex']!r} is no sex")
    age = cells["age"]
    if age != _MISSING and not (re.fullmatch(r"[0-9]{1,3}", age) and int(age) <= 120):
        return Excluded("clinical data unclear", f"{id}: {age!r} is no age in years")
    place, finding = split_place(cells["rest"]) if nodule else (None, " ".join(cells["rest"].split()) or None)
    about: dict[str, Value] = {
        name: None if cells[name] == _MISSING else float(cells[name])
        for name in ("subtlety", "nodule_mm", "nodule_x", "nodule_y")
        if nodule
    }
    return {
        "age": None if age == _MISSING else int(age),
        "sex": sex,
        "diagnosis": finding,
        "nodule": cells["nodule"].lower() if nodule else "none",
        "location": place,
        **about,
    }


def read_raw(path: Path) -> NDArray[np.uint16]:
    """Grey values of a raw image, uint16 (2048, 2048) from 0 to 4095, air dark.

    Files are big-endian 16-bit numbers without a header and hold 0 for white.

    Raises:
        Rejected: the file cannot be read, or is of another size or depth.
    """
    expected = 2 * SIDE * SIDE
    try:
        found = path.stat().st_size
        content = path.read_bytes() if found == expected else b""
    except OSError as error:
        raise Rejected(f"{path}: cannot read this file ({error.strerror})") from None
    if found != expected:
        raise Rejected(f"{path}: has {found} bytes, a raw image of {SIDE} x {SIDE} pixels has {expected}")
    raw = np.frombuffer(content, dtype=">u2").reshape(SIDE, SIDE)
    if raw.max() > BLACK:
        swapped = raw.byteswap().max() <= BLACK
        hint = "the bytes of each number are swapped" if swapped else "damaged, or not JSRT's"
        raise Rejected(f"{path}: holds {raw.max()}, more than 12 bits: {hint}")
    return (BLACK - raw).astype(np.uint16)


def named_by_image_side(
    outlines: Mapping[tuple[str, str], Path], ids: Sequence[str], folder: Path, progress: Progress | None = None
) -> bool:
    """Whether the lungs of ``ids`` are named by the side of the image that they are on, not by the patient's.

    Raises:
        DataError: no mask can be read; names follow no rule; or most hearts are in the half of the chest that is on
            the left of the image, so that images and masks must be mirrored.
    """
    by_patient: list[bool] = []
    heart_left: list[bool] = []

    def centres(id: str) -> list[float] | None:
        try:
            return [_column(read_outline(outlines[name, id])) for name in _FOLDERS]
        except Rejected:
            return None  # the conversion will say so

    with closing(ahead(centres, ids, workers=2, depth=8)) as reading:
        for columns in (progress or Progress())(reading, len(ids), "Looking at masks"):
            if columns is not None:
                left, right, heart = columns
                by_patient.append(left > right)
                heart_left.append(heart > (left + right) / 2)
    if not by_patient:
        raise DataError(Code.UNREADABLE, folder, "no image has masks of lungs and heart that can be read (--masks)")
    if sum(heart_left) * 2 < len(heart_left):
        count = f"{len(heart_left) - sum(heart_left)} of {len(heart_left)}"
        why = f"{count} hearts are nearer to the lung on the left of the image: the masks are mirrored (--masks)"
        raise DataError(Code.CONFLICT, folder, why)
    if any(by_patient) and not all(by_patient):
        count = f"of {len(by_patient)} images {sum(by_patient)}"
        why = f"{count} have 'left lung' on the right, as SCR does, and the others on the left (--masks)"
        raise DataError(Code.CONFLICT, folder, why)
    return not by_patient[0]


def read_outline(path: Path) -> NDArray[np.bool_]:
    """A mask of SCR: what is inside, bool (H, W).

    Raises:
        Rejected: the file cannot be read, has more than two values, or is empty.
    """
    pixels = read_picture(path).values
    grey = pixels.max(axis=-1) if pixels.ndim == 3 else pixels
    values = np.count_nonzero(np.bincount(grey.astype(np.uint8).ravel()))
    if values > 2:
        raise Rejected(f"{path}: {values} values, a mask of SCR has two")
    if not grey.any() or grey.all():
        raise Rejected(f"{path}: the mask is {'full' if grey.all() else 'empty'}")
    return grey != 0


def _column(mask: NDArray[np.bool_]) -> float:
    """Column of a mask's centre of mass."""
    columns = mask.sum(axis=0)
    return float(columns @ np.arange(len(columns)) / columns.sum())


@dataclass(frozen=True)
class _Item:
    id: str


@dataclass(frozen=True)
class _Reader:
    """Makes a sample of an id."""

    options: JSRT
    files: Mapping[str, Path]
    outlines: Mapping[tuple[str, str], Path]
    records: Mapping[str, Mapping[str, Value] | Rejected]
    swapped: bool
    plausibility: Plausibility

    def read(self, item: _Item) -> Converted | Rejected:
        attributes = self.records.get(item.id) or Excluded("no clinical data", f"no clinical file names {item.id}")
        if isinstance(attributes, Rejected):
            return attributes
        if item.id not in self.files:
            raise Excluded("image file missing", f"{self.options.images}: no {item.id}.IMG")
        flags = self._flags(item.id)
        self.plausibility.check(flags)
        path = self.files[item.id]
        with about(path):
            (image,) = fit_window(read_raw(path), self.options.window, self.options.size)
        check_polarity(image, flags)
        measured = {f"{name}_area": area for name, area in areas(flags).items()}
        return Converted(item.id, item.id, image, flags, {**attributes, **measured})

    def _flags(self, id: str) -> NDArray[np.uint8]:
        by_patient = dict(zip(_FOLDERS, BITS, strict=True))
        if self.swapped:
            by_patient |= {"left lung": "right_lung", "right lung": "left_lung"}
        masks = {}
        for name, structure in by_patient.items():
            if (name, id) not in self.outlines:
                raise Excluded("mask file missing", f"{self.options.masks}: no {name}/{id}.gif")
            masks[structure] = read_outline(self.outlines[name, id])
        if len({mask.shape for mask in masks.values()}) > 1:
            raise Rejected(f"{self.options.masks}: the masks of {id} have different sizes")
        coverage = np.stack([masks[structure] for structure in BITS]).astype(np.float64)
        height, width = self.options.size
        return to_flags(pad_to_aspect(coverage, width / height, 0.0), self.options.size)


def _claim(found: dict[Key, Path], key: Key, path: Path, option: str) -> None:
    if key in found:
        raise DataError(Code.DUPLICATE, path, f"is also {found[key]}; name the folder of one of them ({option})")
    found[key] = path
