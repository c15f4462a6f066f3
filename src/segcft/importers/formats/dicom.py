"""DICOM files, anywhere below a folder, without names and dates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segcft.importers.importer import IMPORTERS, MaskedImporter
from segcft.importers.options import FLAG, FOLDER, Kind, choice, option, percentiles
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.convert import Summary


@dataclass(frozen=True, kw_only=True)
class DICOM(MaskedImporter):
    """DICOM images as a folder that a study with ``source: folder`` reads.

    Images are turned to be looked at and padded to the aspect ratio of ``size``, that of their pixels respected. There
    are no masks in DICOM images: without a ``segmenter`` bring your own, of the converted size, into ``out/masks``.
    """

    name = "dicom"
    summary = "make a folder of DICOM files"

    folder: Path = option(FOLDER, "folder with the files, at any depth", flag="")
    window: tuple[float, float] | None = percentiles(None, shown="what the file says, else 0.5 99.5")
    views: tuple[str, ...] = option(
        Kind("NAME"),
        "projections to keep, e.g. PA AP",
        (),
        flag="--view",
        many="list",
        shown="all, and files that do not say",
    )
    naming: Literal["digest", "uid", "file"] = option(
        choice("digest", "uid", "file"),
        "images are called by a digest of their SOP Instance UID, by this uid, or by their file below DIR, which may "
        "hold names or dates",
        "digest",
        flag="--id",
    )
    salt: str = option(
        Kind("SECRET"),
        "any text that you keep to yourself: without it nobody can tell by trial whose digest one is, and the same "
        "salt gives the same digests",
        "",
        setting="",
    )
    keep_patient_ids: bool = option(
        FLAG, "keep the ids of patients, instead of a digest of them", False, setting="keep_patients"
    )

    def convert(self, out: Path, progress: Progress | None = None) -> Summary:
        from segcft.importers.dicom import convert_dicom

        return convert_dicom(self, out, progress)


IMPORTERS.add(DICOM.name, DICOM)
