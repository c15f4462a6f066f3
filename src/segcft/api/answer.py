"""The answer to a question about one image: pictures, numbers, and why it may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcft.api import arguments
from segcft.api.full import full_resolution
from segcft.api.question import MATCH, ImageLike, name_of, own_pixels
from segcft.api.saving import WHITE, WIDE, picture_of, save_answer
from segcft.causal.intervention import Intervention
from segcft.config.study import Study
from segcft.data.resize import Pixel, fit_image, frame_of
from segcft.errors import Code, DataError
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.planes import Planes
from segcft.grid import Grid
from segcft.io.lie import Lie
from segcft.io.provenance import png_bytes
from segcft.io.rendering import difference_colours, is_wide, outlined, to_html


@dataclass(frozen=True, eq=False)
class Answer:
    """A counterfactual of one image. Images are uint8 (C, H, W), volumes (C, D, H, W); values are in each variable's
    unit."""

    image: NDArray[np.uint8]
    """The counterfactual, from the mean of the posterior of the image's latents."""
    original: NDArray[np.uint8]
    """The image as the model sees it."""
    masks_before: NDArray[np.bool_]
    """Where the judge sees each structure in the image, (S, *size), in the order of the study."""
    masks_after: NDArray[np.bool_]
    """The same of the counterfactual."""
    draws: NDArray[np.uint8]
    """Counterfactuals from draws of the latents, and of attributes that are not known, (K, C, *size); K may be 0."""
    record: dict[str, Any]
    """What was asked, what is known, inferred and obtained: the content of ``counterfactual.json``."""
    spacing: tuple[float, ...] | None = None
    """Height and width of a pixel, or depth, height and width of a voxel, in mm, where the study says."""
    study: Study | None = None
    """By which the image was read."""
    source: ImageLike | None = None
    """The image as it was given, if it was a file."""
    band: NDArray[np.float32] | None = None
    """Half-width in grey levels, (C, *size), of the band around :attr:`image` in which 90 % of the pixels lie that
    truly change (:mod:`segcft.counterfactual.band`); None where nobody knows."""
    lie: Lie | None = None
    """How a volume lies in the patient, where its file says."""

    @property
    def is_volume(self) -> bool:
        """Whether it is about a volume and not an image."""
        return self.image.ndim == 4

    def shown(self, stack: NDArray[Any]) -> NDArray[Any]:
        """What is seen of a stack (K, *size) in pictures, (K, height, width): the image itself, or three planes through
        the middle of what the judge sees (:class:`segcft.evaluate.planes.Planes`)."""
        if not self.is_volume:
            return stack
        planes = self._planes(torch.from_numpy(np.ascontiguousarray(stack).astype(np.float32))).numpy()
        if stack.dtype == bool:
            return planes > 0.5
        return np.rint(planes).astype(stack.dtype) if stack.dtype.kind in "iu" else planes.astype(stack.dtype)

    @cached_property
    def _planes(self) -> Planes:
        pitch = self.spacing or (1.0,) * 3
        grid = Grid(tuple(self.image.shape[1:]), pitch=tuple(pitch))
        return Planes(grid, torch.from_numpy(self.masks_before | self.masks_after))

    @property
    def difference(self) -> NDArray[np.int16]:
        """Counterfactual less image, in grey levels (C, *size)."""
        return self.image.astype(np.int16) - self.original

    def full_resolution(self, image: ImageLike | None = None) -> NDArray[np.uint8]:
        """The counterfactual in the pixels of the user's own image, uint8 (C, *size); see :mod:`segcft.api.full`.

        The judge has not read it: it read :attr:`image`, which this is but for what the model's grid does not show.

        Args:
            image: of which this is the answer (default: the file that was given, which is read again).

        Raises:
            DataError: the image cannot be read, or is another one.
        """
        full, _ = self.full(image)
        return full

    def own(self, image: ImageLike | None) -> tuple[Study, ImageLike, NDArray[np.float64], Pixel]:
        """The image in its own pixels, as it was given.

        Raises:
            DataError: see :meth:`full_resolution`.
        """
        given = self.source if image is None else image
        if self.study is None or given is None:
            raise DataError(Code.MISSING, "image", "the answer does not know its image; give it")
        grey, pixel = own_pixels(self.study, given)
        if not np.array_equal(fit_image(grey, self.study.image, pixel), self.original):
            raise DataError(Code.CONFLICT, name_of(given), "is not the image of this answer, or has changed since")
        return self.study, given, grey, pixel

    def full(self, image: ImageLike | None) -> tuple[NDArray[np.uint8], tuple[float, ...] | None]:
        """:meth:`full_resolution`, and height and width of its pixels in mm."""
        study, _, grey, pixel = self.own(image)
        grid = study.image
        full = full_resolution(grey, pixel, grid, self.original, self.image)
        _, extent = frame_of(grey.shape[1:], grid, pixel)
        spacing = self.spacing
        if spacing is not None:
            spacing = tuple(mm * n / own for mm, n, own in zip(spacing, extent, grey.shape[1:], strict=True))
        return np.rint(full * 255).astype(np.uint8), spacing

    @cached_property
    def spread(self) -> NDArray[np.float32] | None:
        """Standard deviation over the draws in grey levels, (C, *size); None of fewer than two draws."""
        return self.draws.std(axis=0, ddof=1, dtype=np.float32) if len(self.draws) > 1 else None

    @property
    def areas(self) -> dict[str, float]:
        """Every structure's area as the judge reads it from the counterfactual."""
        return {name: row["obtained"] for name, row in self.record["variables"].items() if "obtained" in row}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Around :attr:`areas`: in 90 % of the answers about new people what was asked for lies within
        (:mod:`segcft.counterfactual.intervals`). Of measures for which that is not known there is none."""
        rows = self.record["variables"].items()
        return {name: (row["interval_low"], row["interval_high"]) for name, row in rows if "interval_low" in row}

    @property
    def attributes(self) -> dict[str, float | str]:
        """Every variable as it should be in the counterfactual, areas included."""
        return {name: row["after"] for name, row in self.record["variables"].items()}

    @property
    def warnings(self) -> list[str]:
        """Why the answer may be wrong."""
        return list(self.record["warnings"])

    @property
    def provenance(self) -> dict[str, Any]:
        """What pictures say of themselves: the record without names of files, which may be patients'.

        An intervention that took its value from another image is given by that value.
        """
        shown = {key: value for key, value in self.record.items() if key != "image"}
        return shown | {"do": [self._without_file(text) for text in self.record["do"]]}

    def _without_file(self, text: str) -> str:
        name, _, amount = text.partition("=")
        return str(Intervention(name, self.attributes[name])) if amount.startswith(MATCH) else text

    def __repr__(self) -> str:
        return f"Answer({', '.join(self.record['do'])})\n{self.summary()}"

    def _repr_html_(self) -> str:
        """The answer in a notebook."""
        before, after = self.picture(self.original), self.picture(self.image)
        enlarge = max(1, round(256 / min(before.shape[1:])))
        asked, change = f"do({', '.join(self.record['do'])})", difference_colours(self.shown(self.difference))
        panels = [
            ("image", png_bytes(outlined(before, self.shown(self.masks_before), enlarge))),
            (asked, png_bytes(outlined(after, self.shown(self.masks_after), enlarge), self.provenance)),
            ("difference: blue darker, red brighter", png_bytes(change, self.provenance)),
        ]
        if self.spread is not None:
            panels.append((f"standard deviation of {len(self.draws)} draws", self.png(picture_of(self.spread, WHITE))))
        if self.band is not None:
            panels.append(("band of 90 %: half-width", self.png(picture_of(self.band, WIDE))))
        rows = [("variable", *_COLUMNS, ""), *((plain(name), *cells) for name, cells in self._rows().items())]
        wide = is_wide(*before.shape[1:])
        return to_html(panels, wide, rows, [self._by(), *(f"Warning: {text}" for text in self.warnings)])

    def png(self, stack: NDArray[np.uint8]) -> bytes:
        """A PNG file of the :meth:`picture` of a stack (C, *size), which says that it is synthetic."""
        return png_bytes(self.picture(stack), self.provenance)

    def picture(self, stack: NDArray[Any]) -> NDArray[Any]:
        """What is :meth:`shown` of channels (C, *size); of a volume of the first one, as the others are no colours."""
        return self.shown(stack[:1] if self.is_volume else stack)

    def summary(self) -> str:
        """A line a variable: before, asked, and read from the counterfactual image."""
        lines = [f"{'variable':<20} " + " ".join(f"{name:>12}" for name in _COLUMNS)]
        for name, (*cells, note) in self._rows().items():
            line = f"{name:<20} " + " ".join(f"{cell:>12}" for cell in cells)
            lines.append(f"{line}  {note}" if note else line)
        return "\n".join([*lines, self._by(), *(f"warning: {text}" for text in self.warnings)])

    def _rows(self) -> dict[str, tuple[str, ...]]:
        rows = {}
        for name, row in self.record["variables"].items():
            cells = [_show(row.get(field)) for field in _COLUMNS]
            if "obtained_sd" in row:
                cells[-1] += f" ±{row['obtained_sd']:.1f}"
            sure = (
                f" ±{row['sd']:.1f}" if "sd" in row else f", {row['probability']:.0%}" if "probability" in row else ""
            )
            notes = ["<- do"] * row["intervened"] + [f"({row['source']}{sure})"] * (row["source"] != "given")
            if "interval_low" in row:
                notes.append(f"90 %: {_show(row['interval_low'])} to {_show(row['interval_high'])}")
            rows[name] = (*cells, " ".join(notes))
        return rows

    def _by(self) -> str:
        draws = f"; ± over {len(self.draws)} draws" if len(self.draws) > 1 else ""
        return f"{method_name(self.record['method'])}; areas as the judge reads them{draws}"

    def save(self, path: str | Path, full_resolution: bool | ImageLike = False) -> None:
        """Write the answer: to one file, or all of it to a folder.

        ``x.png`` and ``x.dcm`` are the counterfactual, ``x.json`` the numbers; a file that is there is replaced. Any
        other path is a folder, with ``counterfactual.json``, ``image.png`` (as the model sees it),
        ``counterfactual.png``, ``difference.png``, where it is known ``band.png`` (white:
        :data:`~segcft.api.saving.WIDE` grey levels), and, where there are draws, ``spread.png``
        (:data:`~segcft.api.saving.WHITE`) and ``draw-1.png`` and so on. All pictures but the image say that they are
        synthetic. In the folder of an earlier answer they take its place. With ``full_resolution`` the counterfactual
        is in the image's own pixels (:meth:`full_resolution`): as ``x.png`` or ``x.dcm``, or beside the others as
        ``counterfactual-full.png``. Where the image was no file, give it in place of True.

        Of a volume pictures have three planes, and the counterfactual is ``x.nii.gz`` in place of ``x.dcm``. The folder
        also has ``counterfactual.nii.gz``, ``difference.nii.gz`` and so on, and ``dicom/`` with a series. With
        ``full_resolution`` it is on the grid and in the units of the volume's own file, with its header, as
        ``x.nii.gz`` or ``counterfactual-full.nii.gz``.

        Raises:
            DataError: the file would be of a kind that is not written, it is the image's own, or the folder holds other
                things.
        """
        save_answer(self, arguments.place("path", path), full_resolution)


SMALL = 10.0
"""Numbers below this, as ratios are, are shown to three digits and not to one decimal."""

_COLUMNS: Sequence[str] = ("before", "after", "obtained")


def _show(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.1f}" if abs(value) >= SMALL or value == 0 else f"{value:.3g}"
