"""PadChest (Bustos et al. 2020) in its own format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.importers.importer import IMPORTERS, MaskedImporter
from segcft.importers.options import COUNT, FOLDER, NUMBER, SIZE, TABLE, Kind, option, percentiles
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    import torch

    from segcft.importers.convert import Summary
    from segcft.importers.masks import Segmenter


@dataclass(frozen=True, kw_only=True)
class PadChest(MaskedImporter):
    """PadChest as a folder that a study with ``source: folder`` reads.

    An image is padded to the aspect ratio of ``size`` with the median of its border, as the import of a folder does;
    nothing is cropped.
    """

    name = "padchest"
    summary = "make a folder of PadChest"
    otherwise = "made by the PSPNet of torchxrayvision: pip install 'segcft[padchest]'"

    csv: Path = option(TABLE, "PadChest's table, plain or gzip")
    images: Path = option(FOLDER, "folder of its PNG files or numbered folders")
    size: tuple[int, int] = option(SIZE, "of the images, in pixels", (224, 224))
    window: tuple[float, float] = percentiles()
    projections: tuple[str, ...] = option(
        Kind("NAME"),
        "projection to keep, e.g. PA; may be repeated",
        ("PA",),
        flag="--projection",
        many="repeated",
        setting="selection.projections",
    )
    ages: tuple[float, float] = option(
        NUMBER, "least age, and the largest that is believed", (18, 110), many="pair", setting="selection.ages"
    )
    labels: tuple[str, ...] = option(
        Kind("LABEL"),
        "leave out images with this label; may be repeated",
        ("exclude", "suboptimal study"),
        flag="--exclude-label",
        shown="'exclude' and 'suboptimal study'",
        many="repeated",
        setting="selection.labels",
    )
    limit: int | None = option(COUNT, "use the first rows of the table only", None, setting="")

    def __post_init__(self) -> None:
        super().__post_init__()
        from segcft.importers.padchest import read_rows

        next(read_rows(self.csv), None)  # a wrong table is told before anything heavy is imported

    def default_segmenter(self, device: torch.device | str = "cpu") -> Segmenter:
        from segcft.importers.masks import PSPNet

        return PSPNet(device)

    def convert(self, out: Path, progress: Progress | None = None) -> Summary:
        from segcft.importers.padchest import convert_padchest

        return convert_padchest(self, out, progress)


IMPORTERS.add(PadChest.name, PadChest)
