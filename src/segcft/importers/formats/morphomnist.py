"""Morpho-MNIST (Castro et al. 2019): digits of MNIST whose thickness and intensity are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segcft.importers.importer import IMPORTERS, Importer
from segcft.importers.options import FOLDER, choice, number, option
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.convert import Summary


@dataclass(frozen=True, kw_only=True)
class MorphoMNIST(Importer):
    """Morpho-MNIST as a folder that ``configs/morphomnist.yaml`` reads; see :mod:`segcft.importers.morphomnist`."""

    TRAIN: ClassVar[str] = "train"
    """What MNIST calls its training images."""
    TEST: ClassVar[str] = "t10k"
    """What MNIST calls its test images."""

    name = "morphomnist"
    summary = "make a folder of digits of Morpho-MNIST"

    folder: Path = option(
        FOLDER,
        "of each set SET-images-idx3-ubyte.gz, SET-labels-idx1-ubyte.gz and SET-morpho.csv",
        flag="",
    )
    sets: tuple[str, ...] = option(choice(TRAIN, TEST), "which are read", (TRAIN, TEST), many="list")
    padding: int = option(
        number("N", low=0, high=64, whole=True, what="a whole number"), "black pixels around each image", 2, unit="px"
    )

    def convert(self, out: Path, progress: Progress | None = None) -> Summary:
        from segcft.importers.morphomnist import convert_morphomnist

        return convert_morphomnist(self, out, progress)


IMPORTERS.add(MorphoMNIST.name, MorphoMNIST)
