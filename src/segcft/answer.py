"""The answer to a question about one image, and what is inferred and warned of on the way to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft import artefact
from segcft.causal.intervention import Intervention
from segcft.causal.scm import StructuralCausalModel
from segcft.data.imagefile import is_dicom, pixel_aspect, read_image
from segcft.data.reject import Rejected
from segcft.data.resize import fit_image
from segcft.errors import DataError
from segcft.evaluate.effectiveness import Judge
from segcft.evaluate.names import method_name
from segcft.study import FolderData, Study

NOTABLE = 0.25
"""An area that misses its change by more than this share of a standard deviation over people is worth a warning."""


_YEARS = ("", "years", "year", "y", "a")  # units of an age that a header can tell


@dataclass(frozen=True)
class Answer:
    """A counterfactual of one image. Images are uint8 (C, H, W); values are in each variable's unit."""

    image: NDArray[np.uint8]
    """The counterfactual."""
    original: NDArray[np.uint8]
    """The image as the model sees it."""
    record: dict[str, Any]
    """What was asked, what is known, inferred and obtained: the content of ``counterfactual.json``."""

    @property
    def difference(self) -> NDArray[np.int16]:
        """Counterfactual less image, in grey levels (C, H, W)."""
        return self.image.astype(np.int16) - self.original

    @property
    def areas(self) -> dict[str, float]:
        """Every structure's area as the judge reads it from the counterfactual."""
        return {name: row["obtained"] for name, row in self.record["variables"].items() if "obtained" in row}

    @property
    def attributes(self) -> dict[str, float | str]:
        """Every variable as it should be in the counterfactual, areas included."""
        return {name: row["after"] for name, row in self.record["variables"].items()}

    @property
    def warnings(self) -> list[str]:
        """Why the answer may be wrong."""
        return list(self.record["warnings"])

    def __repr__(self) -> str:
        return f"Answer({', '.join(self.record['do'])})\n{self.summary()}"

    def summary(self) -> str:
        """A line a variable: before, asked, and read from the counterfactual image."""
        lines = [f"{'variable':<20} {'before':>12} {'after':>12} {'obtained':>12}"]
        for name, row in self.record["variables"].items():
            cells = [_show(row.get(field)) for field in ("before", "after", "obtained")]
            notes = ["  <- do"] * row["intervened"] + [f"  ({row['source']})"] * (row["source"] != "given")
            lines.append(f"{name:<20} " + " ".join(f"{cell:>12}" for cell in cells) + "".join(notes))
        lines.append(f"{method_name(self.record['method'])}; areas as the judge reads them")
        return "\n".join([*lines, *(f"warning: {text}" for text in self.record["warnings"])])

    def save(self, folder: str | Path) -> None:
        """Write ``image.png`` (as the model sees it), ``counterfactual.png``, ``difference.png`` and
        ``counterfactual.json``; the counterfactual says in its PNG text that it is synthetic."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = PngInfo()
        text.add_text("Description", "Synthetic image: a counterfactual made by segcft. Not for clinical use.")
        text.add_text("segcft", json.dumps(self.record, allow_nan=False))
        shown = np.clip(self.difference // 2 + 128, 0, 255).astype(np.uint8)  # grey: unchanged
        for name, pixels, info in (
            ("image", self.original, None),
            ("counterfactual", self.image, text),
            ("difference", shown, text),
        ):
            picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
            picture.save(folder / f"{name}.png", pnginfo=info)
        artefact.write_text(folder / "counterfactual.json", json.dumps(self.record, indent=1, allow_nan=False))


def read_areas(study: Study, judge: Judge, x: Tensor) -> Tensor:
    """The areas that ``judge`` reads from images (B, C, H, W), (B, S).

    The area of a structure that may be absent is 0 where no pixel is likelier inside than not: a sum of probabilities
    never is, and nobody in training had a structure of which there is nothing to see.
    """
    masks = judge.masks(x)
    may_be_absent = torch.tensor([study.variables[name].zero_inflated for name in study.areas], device=x.device)
    absent = may_be_absent & ~(masks > 0.5).any(dim=3).any(dim=2)
    return torch.where(absent, 0.0, masks.sum(dim=(2, 3)) * study.image.pixel_area)


def infer_missing(scm: StructuralCausalModel, values: Tensor, people: Tensor) -> Tensor:
    """Fill the missing values (NaN) of one person (1, V) by what is likely given the others.

    Each of the training ``people`` (N, V) lends their values for the missing ones and is weighed by the SCM's
    likelihood of the person so completed: self-normalised importance sampling with the training marginal as
    the proposal. A continuous variable becomes the weighted mean, a categorical one the likeliest category.
    """
    missing = values[0].isnan()
    if not missing.any():
        return values
    candidates = torch.where(missing, people, values)
    with torch.no_grad():
        # The missing variables' own terms are the proposal's job; only their children are evidence.
        weights = torch.softmax(scm.log_prob(candidates)[:, ~missing].sum(dim=1), dim=0)
    filled = values.clone()
    for k in missing.nonzero()[:, 0].tolist():
        if scm.definitions[scm.variables[k]].kind == "continuous":
            filled[0, k] = (weights * candidates[:, k]).sum()
        else:
            filled[0, k] = torch.bincount(candidates[:, k].long(), weights).argmax()
    return filled


def header_facts(study: Study, path: Path) -> list[Intervention]:
    """What the header of a DICOM file says of the study's ``age`` (in years) and ``sex``; of other files nothing.

    Categories of ``sex`` may be F and M or Female and Male, in any case.

    Raises:
        DataError: the header cannot be read.
    """
    if not is_dicom(path):
        return []
    from segcft.data.dicom import open_dicom, person

    try:
        said = person(open_dicom(path, pixels=False))
    except Rejected as error:
        raise DataError(str(error)) from None
    facts = []
    for name, variable in study.variables.items():
        value = said.get(name)
        if isinstance(value, str):
            spelt = {"F": ("f", "female"), "M": ("m", "male")}[value]
            facts += [Intervention(name, one) for one in variable.categories if one.lower() in spelt]
        elif value is not None and variable.kind == "continuous" and variable.unit.lower() in _YEARS:
            facts += [Intervention(name, value)] if variable.allows(value) else []
    return facts


def read_for(study: Study, path: Path) -> NDArray[np.uint8]:
    """An image file on the study's grid, treated like the study's own: uint8 (C, H, W).

    Raises:
        DataError: it cannot be read, or shows nothing.
    """
    source = study.data if isinstance(study.data, FolderData) else None
    try:
        grey = read_image(
            path,
            study.image.channels,
            source.grey_range if source else None,
            source.window if source else None,
        )
        aspect = pixel_aspect(path)
    except (Rejected, OSError) as error:
        raise DataError(str(error)) from None
    return fit_image(grey, study.image, aspect)


def out_of_support(study: Study, source: Mapping[str, str], values: Tensor, asked: Tensor, people: Tensor) -> list[str]:
    """A warning for each value, known or asked for, outside the training people's range."""
    warnings = []
    for k, (name, variable) in enumerate(study.variables.items()):
        if variable.kind != "continuous":
            continue
        low, high = float(people[:, k].min()), float(people[:, k].max())
        for value, origin in ((values[k], source[name]), (asked[k], "asked for")):
            if not value.isnan() and not low <= value <= high:
                warnings.append(
                    f"{name}: {float(value):g} ({origin}) is outside the training range, {low:g} to {high:g}"
                )
    return warnings


def misses(study: Study, gained: Tensor, wanted: Tensor, spread: Tensor) -> list[str]:
    """A warning for each area that did not change as it should have; all (S,), in the study's unit.

    Changes are compared, not areas, so that what the judge misreads in both images does not count.
    """
    warnings = []
    for s, name in enumerate(study.areas):
        if abs(float(gained[s] - wanted[s])) > NOTABLE * float(spread[s]):
            warnings.append(
                f"{name}: should have changed by {float(wanted[s]):+.1f}; the judge reads a change of "
                f"{float(gained[s]):+.1f}"
            )
    return warnings


def value_of(study: Study, name: str, value: Tensor) -> float | str | None:
    if value.isnan():
        return None
    categories = study.variables[name].categories
    return categories[int(value)] if categories else float(value)


def _show(value: float | str | None) -> str:
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else value
