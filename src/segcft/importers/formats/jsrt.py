"""JSRT (Shiraishi et al. 2000) in its own format, with the masks of SCR (van Ginneken et al. 2006)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.importers.importer import IMPORTERS, RadiographImporter
from segcft.importers.options import FILE, FOLDER, option, percentiles
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.convert import Summary


@dataclass(frozen=True, kw_only=True)
class JSRT(RadiographImporter):
    """JSRT as a folder that ``configs/jsrt.yaml`` reads.

    Left and right are the patient's, and are told by where the lungs are, not by the names of their folders: an image
    shows a patient from the front, so the left lung is on its right. SCR names them the same way; a copy that names
    all lungs by the side of the image is read as well.
    """

    name = "jsrt"
    summary = "make a folder of JSRT with the masks of SCR"

    images: Path = option(FOLDER, "folder of the raw .IMG files")
    masks: Path = option(FOLDER, "folder of SCR's fold1 and fold2 with GIF files")
    clinical: tuple[Path, ...] = option(
        FILE, "JSRT's text files on subjects with a nodule and without, CLNDAT_EN.txt and CNNDAT_EN.TXT", many="list"
    )
    window: tuple[float, float] = percentiles()

    def convert(self, out: Path, progress: Progress | None = None) -> Summary:
        from segcft.importers.jsrt import convert_jsrt

        return convert_jsrt(self, out, progress)


IMPORTERS.add(JSRT.name, JSRT)
