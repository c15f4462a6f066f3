"""Coronary CT angiographies with traced vessels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.coronary.defaults import CALCIUM_DEVIATIONS, CALCIUM_FLOOR, SPACING, WINDOW
from segcft.coronary.defaults import SIZE as CROP
from segcft.errors import Code, DataError
from segcft.importers.importer import IMPORTERS, Importer
from segcft.importers.options import COUNT, FLAG, NUMBER, SIZE, TABLE, number, option
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.convert import Summary


@dataclass(frozen=True, kw_only=True)
class CCTA(Importer):
    """Straightened vessels as a folder that ``configs/ccta.yaml`` reads.

    An image is named ``ID_aNNN``, of the angle in degrees. What is done is not done again by the same call, unless its
    row or one of its files has changed; ``angles`` may differ, to add some.

    The table has a row a vessel: id, volume, centreline, lumen, wall; patient (default: the id), split (default: drawn
    by patient), centreline_in and meshes_in (coordinates, see :func:`segcft.io.space.parse_frame`) may follow, and any
    other columns, which are kept. Relative paths are below the table's folder.
    """

    name = "ccta"
    summary = "make a folder of straightened coronary arteries"

    table: Path = option(
        TABLE, "CSV with a row a vessel: id, volume, centreline, lumen, wall (files), perhaps patient, split and others"
    )
    size: tuple[int, int] = option(SIZE, "of the images, in pixels: across the vessel and along it", CROP)
    workers: int = option(COUNT, "threads", 2, shown="2; each holds a volume or two", setting="")
    spacing: float = option(number(above=0), "of pixels", SPACING, unit="mm")
    start: float = option(number(low=0), "where along the centreline images begin", 0.0, unit="mm")
    smooth: float = option(
        number(low=0),
        "how far, root mean square, the course may pass by the centreline's points; half a voxel where these are "
        "centres of voxels",
        0.0,
        unit="mm",
        shown="0, through all",
    )
    angles: tuple[float, ...] = option(
        NUMBER,
        "an image of each vessel at each angle about its centreline, to a tenth of a degree",
        (0.0,),
        many="list",
        unit="deg",
        setting="",
    )
    sweep: int | None = option(COUNT, "N angles, evenly over half a turn, instead", None, setting="")
    window: tuple[float, float] = option(NUMBER, "HU that become black and white", WINDOW, many="pair")
    calcium_floor: float = option(
        NUMBER,
        "calcified is what is brighter, and brighter than the lumen",
        CALCIUM_FLOOR,
        unit="HU",
        setting="threshold.floor",
    )
    calcium_deviations: float = option(
        NUMBER, "by this many of the lumen's standard deviations", CALCIUM_DEVIATIONS, setting="threshold.deviations"
    )
    ras: bool = option(
        FLAG,
        "coordinates of centrelines and meshes are RAS where neither they nor the table say so; otherwise LPS, as in "
        "DICOM. Volumes say themselves",
        False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sweep and self.angles != (0.0,):
            raise DataError(Code.CONFLICT, "--sweep", "gives the angles; leave out --angles")

    def convert(self, out: Path, progress: Progress | None = None) -> Summary:
        from segcft.importers.ccta import convert_ccta

        return convert_ccta(self, out, progress)


IMPORTERS.add(CCTA.name, CCTA)
