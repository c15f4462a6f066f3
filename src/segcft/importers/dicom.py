"""A folder of DICOM files, anywhere below it, as a folder that studies read, without names and dates."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segcft.config.study import Splits
from segcft.data.resize import border_median, pad_to_aspect
from segcft.errors import DataError
from segcft.importers.convert import Converted, Summary, Value, convert
from segcft.importers.fit import fit_values
from segcft.importers.masks import FolderMasks, Masking, Plausibility, Segmenter
from segcft.io import dicom
from segcft.io.dicomfile import text_of
from segcft.io.imagefile import strip_suffix
from segcft.io.reject import Excluded, Rejected
from segcft.io.turn import AS_STORED, Turn
from segcft.utils.progress import Progress

Naming = Literal["digest", "uid", "file"]

READING = 3
"""Another number where the same file becomes another image; a conversion does not mix them. 2: images are turned; 3:
mammograms are not."""

SQUARE = 0.01
"""How far the ratio of a pixel's sides may be from 1 for masks of the file's pixels to fit: headers are rounded."""


@dataclass(frozen=True)
class Pseudonyms:
    """How images and patients are called.

    Attributes:
        salt: a secret without which nobody can find out by trial whose pseudonym one is; the same salt gives the same
            pseudonyms.
        naming: an image's id is a ``digest`` of its SOP Instance UID, this ``uid`` itself, or the ``file``'s path.
        keep_patients: patients keep the ids that they have in the files.
    """

    salt: str = ""
    naming: Naming = "digest"
    keep_patients: bool = False

    def of(self, text: str) -> str:
        """The pseudonym of ``text``, 16 hexadecimal digits."""
        return hmac.new(self.salt.encode(), text.encode(), hashlib.sha256).hexdigest()[:16]


def convert_dicom(
    folder: Path,
    out: Path,
    *,
    size: tuple[int, int] = (256, 256),
    window: tuple[float, float] | None = None,
    views: Sequence[str] = (),
    pseudonyms: Pseudonyms | None = None,
    segmenter: Segmenter | None = None,
    plausibility: Plausibility | None = None,
    batch_size: int = 16,
    splits: Splits | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Convert all DICOM images below ``folder`` to the folder ``out``, which a study with ``source: folder`` reads.

    Images are turned to be looked at and padded to the aspect ratio of ``size``, that of their pixels respected. There
    are no masks in DICOM images: without a ``segmenter`` bring your own, of the converted size, into ``out/masks``.

    Args:
        folder: every file below it is looked at; the rest of them is listed as left out.
        out: folder to write; an interrupted conversion goes on.
        size: (H, W) of the converted images, in pixels.
        window: percentiles of each image that become black and white; default: what the file says.
        views: projections to keep, e.g. ``("PA", "AP")``; default: all.
        pseudonyms: how images and patients are called.
        segmenter: gives the masks, with the flags of :data:`segcft.importers.masks.BITS`; default: there are none.
        plausibility: which masks to believe.
        batch_size: images that go through a network at once.
        splits: shares of the parts, by patient.
        workers: threads that read images.
        progress: wraps the loop over files.

    Raises:
        DataError: ``folder`` is none or is empty, ``size`` has another shape than the segmenter's, ``out`` holds
            something else, or no image is usable.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    own = out.resolve()
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and own not in path.resolve().parents]
    if not paths:
        raise DataError(f"{folder}: holds no file")
    pseudonyms = pseudonyms or Pseudonyms()
    masking = Masking(segmenter, size, plausibility or Plausibility()) if segmenter else None
    reader = _Reader(size, window, tuple(map(dicom.view_name, views)), pseudonyms, masking)
    return convert(
        _items(folder, paths, pseudonyms, segmenter),
        len(paths),
        reader.read,
        out,
        settings={
            "format": "dicom",
            "reading": READING,
            "size": size,
            "window": window,
            "views": reader.views,
            "naming": pseudonyms.naming,
            "keep_patients": pseudonyms.keep_patients,
            "salt": pseudonyms.of("settings"),
            **(masking.settings if masking else {}),
        },
        finish=masking.finish if masking else None,
        batch_size=batch_size,
        splits=splits,
        workers=workers,
        progress=progress,
    )


@dataclass(frozen=True)
class _File:
    id: str
    path: Path
    shows: str | None = None
    segmenter: Segmenter | None = None
    problem: Rejected | None = None

    @property
    def stamp(self) -> str | None:
        """What it shows, where its id does not say so, and the stamp of its mask."""
        mask = self.segmenter.stamp(self.id) if self.segmenter else None
        return " ".join(part for part in (self.shows, mask) if part) or None


def _items(folder: Path, paths: Sequence[Path], pseudonyms: Pseudonyms, segmenter: Segmenter | None) -> Iterator[_File]:
    """The files of ``paths``; one that cannot be named is listed by its path, with the reason."""
    named: dict[str, Path] = {}  # ids that are names of files, which several may have: IM1 and IM1.dcm
    for path in paths:
        place = path.relative_to(folder).as_posix()
        try:
            uid = str(dicom.open_dicom(path, pixels=False).get("SOPInstanceUID") or "")
            if not uid and pseudonyms.naming != "file":
                raise Excluded("no SOP Instance UID", f"{path}: has no SOP Instance UID to be named after (--id file)")
            id = {"digest": pseudonyms.of(uid), "uid": uid, "file": strip_suffix(place)}[pseudonyms.naming]
            if pseudonyms.naming == "file" and named.setdefault(id, path) != path:
                raise Excluded("name taken", f"{path}: would be called {id!r}, as {named[id]} is; rename one of them")
            # A name may come to stand for another image: the file is replaced, or one that comes before it arrives.
            yield _File(id, path, pseudonyms.of(uid) if pseudonyms.naming == "file" else None, segmenter)
        except Rejected as problem:
            yield _File(place, path, problem=problem)


@dataclass(frozen=True)
class _Reader:
    """Makes a sample of a file."""

    size: tuple[int, int]
    window: tuple[float, float] | None
    views: tuple[str, ...]
    pseudonyms: Pseudonyms
    masking: Masking | None

    def read(self, item: _File) -> Converted | Rejected:
        if item.problem is not None:
            return item.problem
        dataset = dicom.open_dicom(item.path)
        view = dicom.view(dataset)
        if self.views and view not in self.views:
            kind = f"view is not {' or '.join(self.views)}"
            return Excluded(kind, f"{item.path}: view is {view or 'not in the header'}")
        picture = dicom.shown(item.path, dataset, window=self.window)
        if self.masking and isinstance(self.masking.segmenter, FolderMasks):
            self._check_ready_made(item.path, picture)
        ratio = self.size[1] / self.size[0] * picture.aspect  # in pixels of the file
        canvas = pad_to_aspect(picture.grey[None], ratio, border_median(picture.grey[None]))[0]

        def fitted(size: tuple[int, int]) -> NDArray[np.uint8]:
            return np.rint(fit_values(canvas, size, lambda part: part) * 255).astype(np.uint8)

        sample = Converted(
            item.id,
            self._patient(item, dataset),
            fitted(self.size),
            attributes=self._attributes(dataset, picture.turn),
            remarks=tuple(remark.of(item.path, item.id) for remark in picture.remarks),
        )
        if self.masking is None:
            return sample
        return self.masking.begin(replace(sample, large=fitted(self.masking.segmenter.size)))

    @staticmethod
    def _check_ready_made(path: Path, picture: dicom.Shown) -> None:
        """Refuse an image of which a ready-made mask may be of the file's pixels or of the frame made of them."""
        if abs(picture.aspect - 1) > SQUARE:  # one of the pixels would have to be stretched, and the other not
            reason = f"pixels are {picture.aspect:.3g} times as high as wide, for which ready-made masks are not read"
            raise Excluded("pixels not square", f"{path}: {reason}")
        if picture.turn != AS_STORED:
            reason = f"pixels are {picture.turn} to be seen as usual, for which ready-made masks are not read"
            raise Excluded("pixels turned", f"{path}: {reason}: they may be of the one or of the other")

    def _patient(self, item: _File, dataset: dicom.Dataset) -> str:
        patient = str(dataset.get("PatientID") or "").strip()
        if patient and self.pseudonyms.keep_patients:
            return patient
        # Who is not named at all is told apart by study, so that images of one study are in one part at least.
        who = patient or str(dataset.get("StudyInstanceUID") or item.id)
        return self.pseudonyms.of(f"patient {who}")

    def _attributes(self, dataset: dicom.Dataset, turn: Turn) -> dict[str, Value]:
        lengths = dicom.field_of_view(dataset) or (None, None), (dataset.Rows, dataset.Columns)
        extent, pixels = (pair[::-1] if turn.exchanged else pair for pair in lengths)
        return {
            **dicom.person(dataset),
            "view": dicom.view(dataset),
            "modality": text_of(dataset, "Modality"),
            "body_part": text_of(dataset, "BodyPartExamined"),
            "file_height": pixels[0],
            "file_width": pixels[1],
            "height_mm": extent[0],
            "width_mm": extent[1],
        }
