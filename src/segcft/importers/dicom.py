"""A folder of DICOM files, anywhere below it, as a folder that studies read, without names and dates."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.errors import Code, DataError
from segcft.importers.convert import Summary, convert
from segcft.importers.converted import Converted, Value
from segcft.importers.fit import fit
from segcft.importers.masks import FolderMasks, Masking, Plausibility, Segmenter
from segcft.io import dicom
from segcft.io.dicomfile import open_dicom, text_of
from segcft.io.imagefile import strip_suffix
from segcft.io.reject import Excluded, Rejected
from segcft.io.turn import AS_STORED, Turn
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.formats.dicom import DICOM

READING = 3
"""Another number where the same file becomes another image; a conversion does not mix them. 2: images are turned; 3:
mammograms are not."""

SQUARE = 0.01
"""How far the ratio of a pixel's sides may be from 1 for masks of the file's pixels to fit: headers are rounded."""


def pseudonym(text: str, salt: str) -> str:
    """16 hexadecimal digits that stand for ``text``. Without the ``salt``, a secret, nobody can find out by trial whose
    they are; the same salt gives the same ones."""
    return hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()[:16]


def convert_dicom(options: DICOM, out: Path, progress: Progress | None = None) -> Summary:
    """See :class:`~segcft.importers.formats.dicom.DICOM`. Every file is looked at; what is no image is listed as left
    out."""
    folder, own = options.folder, out.resolve()
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and own not in path.resolve().parents]
    if not paths:
        raise DataError(Code.EMPTY, folder, "holds no file")
    segmenter = options.segmenter
    masking = Masking(segmenter, options.size, options.plausibility or Plausibility()) if segmenter else None
    reader = _Reader(options, tuple(map(dicom.view_name, options.views)), masking)
    return convert(
        _items(options, paths),
        len(paths),
        reader.read,
        out,
        settings={
            **options.settings,
            "reading": READING,
            "views": reader.views,
            "salt": pseudonym("settings", options.salt),
            **(masking.settings if masking else {}),
        },
        finish=masking.finish if masking else None,
        batch_size=options.batch_size,
        splits=options.splits,
        workers=options.workers,
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


def _items(options: DICOM, paths: Sequence[Path]) -> Iterator[_File]:
    """The files of ``paths``; one that cannot be named is listed by its path, with the reason."""
    naming, by_file = options.naming, options.naming == "file"
    named: dict[str, Path] = {}  # ids that are names of files, which several may have: IM1 and IM1.dcm
    for path in paths:
        place = path.relative_to(options.folder).as_posix()
        try:
            uid = str(open_dicom(path, pixels=False).get("SOPInstanceUID") or "")
            if not uid and not by_file:
                raise Excluded("no SOP Instance UID", f"{path}: has no SOP Instance UID to be named after (--id file)")
            digest = pseudonym(uid, options.salt)
            id = {"digest": digest, "uid": uid, "file": strip_suffix(place)}[naming]
            if by_file and named.setdefault(id, path) != path:
                raise Excluded("name taken", f"{path}: would be called {id!r}, as {named[id]} is; rename one of them")
            # A name may come to stand for another image: the file is replaced, or one that comes before it arrives.
            yield _File(id, path, digest if by_file else None, options.segmenter)
        except Rejected as problem:
            yield _File(place, path, problem=problem)


@dataclass(frozen=True)
class _Reader:
    """Makes a sample of a file."""

    options: DICOM
    views: tuple[str, ...]
    masking: Masking | None

    def read(self, item: _File) -> Converted | Rejected:
        if item.problem is not None:
            return item.problem
        dataset = open_dicom(item.path)
        view = dicom.view(dataset)
        if self.views and view not in self.views:
            kind = f"view is not {' or '.join(self.views)}"
            return Excluded(kind, f"{item.path}: view is {view or 'not in the header'}")
        picture = dicom.shown(item.path, dataset, window=self.options.window)
        if self.masking and isinstance(self.masking.segmenter, FolderMasks):
            self._check_ready_made(item.path, picture)
        sizes = [self.options.size, *([self.masking.segmenter.size] if self.masking else [])]
        image, *large = fit(picture.grey, *sizes, aspect=picture.aspect)
        sample = Converted(
            item.id,
            self._patient(item, dataset),
            image,
            attributes=self._attributes(dataset, picture.turn),
            remarks=tuple(remark.of(item.path, item.id) for remark in picture.remarks),
        )
        if self.masking is None:
            return sample
        return self.masking.begin(replace(sample, large=large[0]))

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
        if patient and self.options.keep_patient_ids:
            return patient
        # Who is not named at all is told apart by study, so that images of one study are in one part at least.
        who = patient or str(dataset.get("StudyInstanceUID") or item.id)
        return pseudonym(f"patient {who}", self.options.salt)

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
