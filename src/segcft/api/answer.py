"""The answer to a question about one image: pictures, numbers, and why it may be wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcft.api import arguments
from segcft.api.full import full_resolution
from segcft.api.question import MATCH, ImageLike, name_of, own_pixels
from segcft.causal.intervention import Intervention
from segcft.config.study import Study
from segcft.data.resize import fit_image, frame_of
from segcft.errors import Code, DataError
from segcft.evaluate.names import method_name, plain
from segcft.io.provenance import dicom_bytes, png_bytes
from segcft.io.rendering import difference_colours, is_wide, outlined, to_html
from segcft.utils.atomic import write_bytes, write_text
from segcft.utils.output import RECORD, check_answer

FULL = "counterfactual-full"
"""The file of the counterfactual in the image's own pixels."""
WHITE = 16.0
"""Standard deviation in grey levels that is white in a picture of the spread."""
WIDE = 128.0
"""Half-width in grey levels that is white in a picture of the band."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A counterfactual of one image. Images are uint8 (C, H, W); values are in each variable's unit."""

    image: NDArray[np.uint8]
    """The counterfactual, from the mean of the posterior of the image's latents."""
    original: NDArray[np.uint8]
    """The image as the model sees it."""
    masks_before: NDArray[np.bool_]
    """Where the judge sees each structure in the image, (S, H, W), in the order of the study."""
    masks_after: NDArray[np.bool_]
    """The same of the counterfactual."""
    draws: NDArray[np.uint8]
    """Counterfactuals from draws of the latents, and of attributes that are not known, (K, C, H, W); K may be 0."""
    record: dict[str, Any]
    """What was asked, what is known, inferred and obtained: the content of ``counterfactual.json``."""
    spacing: tuple[float, ...] | None = None
    """Height and width of a pixel in mm, where the study says."""
    study: Study | None = None
    """By which the image was read."""
    source: ImageLike | None = None
    """The image as it was given, if it was a file."""
    band: NDArray[np.float32] | None = None
    """Half-width in grey levels, (C, H, W), of the band around :attr:`image` in which 90 % of the pixels lie that truly
    change (:mod:`segcft.counterfactual.band`); None where nobody knows."""

    @property
    def difference(self) -> NDArray[np.int16]:
        """Counterfactual less image, in grey levels (C, H, W)."""
        return self.image.astype(np.int16) - self.original

    def full_resolution(self, image: ImageLike | None = None) -> NDArray[np.uint8]:
        """The counterfactual in the pixels of the user's own image, uint8 (C, H, W); see :mod:`segcft.api.full`.

        The judge has not read it: it read :attr:`image`, which this is but for what the model's grid does not show.

        Args:
            image: of which this is the answer (default: the file that was given, which is read again).

        Raises:
            DataError: the image cannot be read, or is another one.
        """
        full, _ = self._full(image)
        return full

    def _full(self, image: ImageLike | None) -> tuple[NDArray[np.uint8], tuple[float, ...] | None]:
        """:meth:`full_resolution`, and height and width of its pixels in mm."""
        given = self.source if image is None else image
        if self.study is None or given is None:
            raise DataError(Code.MISSING, "image", "the answer does not know its image; give it")
        grey, pixel = own_pixels(self.study, given)
        if not np.array_equal(fit_image(grey, self.study.image, pixel), self.original):
            raise DataError(Code.CONFLICT, name_of(given), "is not the image of this answer, or has changed since")
        grid = self.study.image
        full = full_resolution(grey, pixel, grid, self.original, self.image)
        _, extent = frame_of((grey.shape[1], grey.shape[2]), grid, pixel)
        spacing = self.spacing
        if spacing is not None:
            spacing = tuple(mm * n / own for mm, n, own in zip(spacing, extent, grey.shape[1:], strict=True))
        return np.rint(full * 255).astype(np.uint8), spacing

    @cached_property
    def spread(self) -> NDArray[np.float32] | None:
        """Standard deviation over the draws in grey levels, (C, H, W); None of fewer than two draws."""
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
        enlarge = max(1, round(256 / min(self.image.shape[1:])))
        panels = [
            ("image", png_bytes(outlined(self.original, self.masks_before, enlarge))),
            (f"do({', '.join(self.record['do'])})", self._png(outlined(self.image, self.masks_after, enlarge))),
            ("difference: blue darker, red brighter", self._png(difference_colours(self.difference))),
        ]
        if self.spread is not None:
            panels.append((f"standard deviation of {len(self.draws)} draws", self._png(_picture(self.spread, WHITE))))
        if self.band is not None:
            panels.append(("band of 90 %: half-width", self._png(_picture(self.band, WIDE))))
        rows = [("variable", *_COLUMNS, ""), *((plain(name), *cells) for name, cells in self._rows().items())]
        wide = is_wide(*self.image.shape[1:])
        return to_html(panels, wide, rows, [self._by(), *(f"Warning: {text}" for text in self.warnings)])

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
        ``counterfactual.png``, ``difference.png``, where it is known ``band.png`` (white: :data:`WIDE` grey levels),
        and, where there are draws, ``spread.png`` (:data:`WHITE`) and ``draw-1.png`` and so on. All pictures but the
        image say that they are synthetic. In the folder of an earlier answer they take its place. With
        ``full_resolution`` the counterfactual is in the image's own pixels (:meth:`full_resolution`): as ``x.png`` or
        ``x.dcm``, or beside the others as ``counterfactual-full.png``. Where the image was no file, give it in place of
        True.

        Raises:
            DataError: the file would be of a kind that is not written, or the folder holds other things.
        """
        path = arguments.place("path", path)
        check_answer(path)
        full = full_resolution is not False
        if full and path.suffix.lower() == ".json":
            raise DataError(Code.CONFLICT, path, "numbers have no resolution; leave out full_resolution")
        image = None if isinstance(full_resolution, bool) else full_resolution
        pixels, spacing = self._full(image) if full else (self.image, self.spacing)  # before anything changes
        text = json.dumps(self.record, indent=1, allow_nan=False, ensure_ascii=False)
        match path.suffix.lower():
            case ".png":
                write_bytes(path, self._png(pixels))
            case ".dcm" | ".dicom":
                write_bytes(path, dicom_bytes(pixels, self.provenance, spacing))
            case ".json":
                write_text(path, text)
            case _:
                write_text(path / RECORD, text)  # first: by it the folder is known again
                # Of an earlier answer, with more draws or in full resolution.
                for name in ("band.png", "spread.png", "uncertainty.png", "draw-[0-9]*.png", f"{FULL}.png"):
                    for old in path.glob(name):
                        old.unlink()
                for name, content in (self._files() | ({FULL: self._png(pixels)} if full else {})).items():
                    write_bytes(path / f"{name}.png", content)

    def _files(self) -> dict[str, bytes]:
        shown = np.clip(self.difference // 2 + 128, 0, 255).astype(np.uint8)  # grey: unchanged
        files = {
            "image": png_bytes(self.original),
            "counterfactual": self._png(self.image),
            "difference": self._png(shown),
        }
        if self.band is not None:
            files["band"] = self._png(_picture(self.band, WIDE))
        if self.spread is not None:
            files["spread"] = self._png(_picture(self.spread, WHITE))
        return files | {f"draw-{k}": self._png(draw) for k, draw in enumerate(self.draws, start=1)}

    def _png(self, pixels: NDArray[np.uint8]) -> bytes:
        return png_bytes(pixels, self.provenance)


def _picture(levels: NDArray[np.float32], white: float) -> NDArray[np.uint8]:
    """Numbers in grey levels as a picture, in which 0 is black and ``white`` white."""
    return np.clip(levels * (255 / white), 0, 255).astype(np.uint8)


SMALL = 10.0
"""Numbers below this, as ratios are, are shown to three digits and not to one decimal."""

_COLUMNS: Sequence[str] = ("before", "after", "obtained")


def _show(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.1f}" if abs(value) >= SMALL or value == 0 else f"{value:.3g}"
