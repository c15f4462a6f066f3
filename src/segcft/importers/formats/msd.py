"""Medical Segmentation Decathlon (Antonelli et al. 2022): volumes and label maps of a task, in NIfTI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.importers.importer import IMPORTERS, Importer
from segcft.importers.options import FOLDER, number, option
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.convert import Summary


@dataclass(frozen=True, kw_only=True)
class MSD(Importer):
    """A task of the Decathlon as a folder that a study of volumes reads; see :mod:`segcft.importers.msd`."""

    name = "msd"
    summary = "make a folder of volumes of a task of the Medical Segmentation Decathlon"
    needs = ("nibabel",)

    folder: Path = option(FOLDER, "the task as it is unpacked, with dataset.json, imagesTr and labelsTr", flag="")
    margin: float | None = option(
        number(low=0), "cut volumes around their labels, so far beyond them", None, unit="mm", shown="not"
    )

    def convert(self, out: Path, progress: Progress | None = None) -> Summary:
        from segcft.importers.msd import convert_msd

        return convert_msd(self, out, progress)


IMPORTERS.add(MSD.name, MSD)
