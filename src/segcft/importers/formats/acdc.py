"""ACDC (Bernard et al. 2018): short-axis cardiac MR with masks at end-diastole and end-systole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segcft.importers.importer import IMPORTERS, Importer
from segcft.importers.options import COUNT, FOLDER, SIZE, Kind, number, option, percentiles
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.convert import Summary

EVERY: Literal["all"] = "all"
"""As many slices as there are."""


def _slices(text: str) -> int | str:
    try:
        return EVERY if text == EVERY else int(COUNT.parse(text))
    except ValueError:
        raise ValueError(f"expected a whole number, 1 or more, or {EVERY!r}, not {text!r}") from None


@dataclass(frozen=True, kw_only=True)
class ACDC(Importer):
    """ACDC as a folder that ``configs/acdc.yaml`` reads: slices of hearts, each at end-diastole and at end-systole.

    Slices are taken from those that show both ventricles and the myocardium at both times, evenly from base to apex.
    Both images of a slice have one crop, around the heart at end-diastole, and one grey scale, that of end-diastole:
    what differs between them is what the heart has done. Masks are flags of :data:`segcft.importers.acdc.BITS`.
    """

    name = "acdc"
    summary = "make a folder of ACDC's hearts at end-diastole and end-systole"
    needs = ("nibabel",)

    folder: Path = option(FOLDER, "ACDC as it is unpacked: folders patientNNN, at any depth", flag="")
    size: tuple[int, int] = option(SIZE, "of the images, in pixels", (128, 128))
    field_of_view: float = option(
        number(low=0),
        "height of what an image shows; 0: as many of the scan's own pixels as --size says, whatever their size",
        180.0,
        unit="mm",
    )
    slices: int | str = option(
        Kind("N", _slices, str), f"of each heart, from base to apex, or {EVERY!r}; fewer where there are fewer", 3
    )
    window: tuple[float, float] = percentiles()

    def convert(self, out: Path, progress: Progress | None = None) -> Summary:
        from segcft.importers.acdc import convert_acdc

        return convert_acdc(self, out, progress)


IMPORTERS.add(ACDC.name, ACDC)
