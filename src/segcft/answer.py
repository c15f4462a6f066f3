"""One question about one image of a user, answered by a trained run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import segcft
from segcft import artefact
from segcft.causal.intervention import Intervention, parse_intervention, resolve
from segcft.causal.scm import StructuralCausalModel
from segcft.data.imagefile import is_dicom, pixel_aspect, read_image
from segcft.data.reject import Rejected
from segcft.data.resize import fit_image
from segcft.errors import DataError, InterventionError, RunError
from segcft.evaluate.names import METHODS, method_name
from segcft.images.likelihood import to_grey_levels, to_unit
from segcft.run import Run
from segcft.study import FolderData, Study

NOTABLE = 0.25
"""An area that misses its change by more than this share of a standard deviation over people is worth a warning."""


_YEARS = ("", "years", "year", "y", "a")  # units of an age that a header can tell


@dataclass(frozen=True)
class Answer:
    """A counterfactual of one image. Images are uint8 (C, H, W); values are in each variable's unit."""

    image: NDArray[np.uint8]
    counterfactual: NDArray[np.uint8]
    record: dict[str, Any]
    """What was asked, what is known, inferred and obtained: the content of ``counterfactual.json``."""

    def summary(self) -> str:
        """A line a variable: before, asked, and read from the counterfactual image."""
        lines = [f"{'variable':<20} {'before':>12} {'after':>12} {'obtained':>12}"]
        for name, row in self.record["variables"].items():
            cells = [_show(row.get(field)) for field in ("before", "after", "obtained")]
            notes = ["  <- do"] * row["intervened"] + [f"  ({row['source']})"] * (row["source"] != "given")
            lines.append(f"{name:<20} " + " ".join(f"{cell:>12}" for cell in cells) + "".join(notes))
        lines.append(f"{method_name(self.record['method'])}; areas as the judge reads them")
        return "\n".join([*lines, *(f"warning: {text}" for text in self.record["warnings"])])

    def save(self, folder: Path) -> None:
        """Write ``image.png`` (as the model sees it), ``counterfactual.png``, ``difference.png`` and
        ``counterfactual.json``; the counterfactual says in its PNG text that it is synthetic."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        folder.mkdir(parents=True, exist_ok=True)
        text = PngInfo()
        text.add_text("Description", "Synthetic image: a counterfactual made by segcft. Not for clinical use.")
        text.add_text("segcft", json.dumps(self.record, allow_nan=False))
        difference = self.counterfactual.astype(np.int16) - self.image
        shown = np.clip(difference // 2 + 128, 0, 255).astype(np.uint8)  # grey: unchanged
        for name, pixels, info in (
            ("image", self.image, None),
            ("counterfactual", self.counterfactual, text),
            ("difference", shown, text),
        ):
            picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
            picture.save(folder / f"{name}.png", pnginfo=info)
        artefact.write_text(folder / "counterfactual.json", json.dumps(self.record, indent=1, allow_nan=False))


def answer(
    run: Run, path: Path, do: Sequence[str], known: Sequence[str], method: str | None, device: torch.device
) -> Answer:
    """What the image at ``path`` would have looked like under ``do``.

    Areas, before and after, are read by the run's judge, which no fine-tuning has learnt to please. What ``known``
    does not give of the other attributes is read from the header, if ``path`` is a DICOM file that says age or sex,
    and else inferred from the areas by the SCM. ``method`` may also be given by the name that tables use, e.g.
    "Seg-CFT".

    Raises:
        InterventionError: ``do`` or ``known`` is not understood.
        DataError: the image cannot be read.
        RunError: the run lacks a part.
    """
    study = run.study
    names = list(study.variables)
    interventions = [parse_intervention(text, study.variables) for text in do]
    methods = run.methods()
    if not methods:
        raise RunError(f"{run.folder}: no image mechanism is trained here yet; see `segcft run --help`")
    method = {shown: name for name, shown in METHODS.items()}.get(method or "", method) or list(methods)[-1]
    model, judge = run.model(method, device), run.load("judge", device)
    store = run.samples_of(["scm", "judge", methods[method]])

    pixels = read_for(study, path)
    x = to_unit(torch.from_numpy(pixels)[None].to(device))
    values = torch.full((1, len(names)), torch.nan, device=device)
    source = dict.fromkeys(names, "inferred")
    with torch.no_grad():
        read = judge.areas(x)
    values[:, study.area_columns] = read
    source |= dict.fromkeys(study.areas, "read from the image")
    given = [parse_intervention(text, study.variables) for text in known]
    for fact in given:
        if fact.kind != "set":
            raise InterventionError(f"--set {fact}: what is known is a value, not a change")
        source[fact.variable] = "given"
    from_header = [fact for fact in header_facts(study, path) if source[fact.variable] == "inferred"]
    source |= {fact.variable: "read from the header" for fact in from_header}
    facts = resolve([*given, *from_header], values, model.scm)
    values = torch.where(facts.isnan(), values, facts)
    people = torch.from_numpy(store.values()[store.indices("train", complete=True)]).to(device)
    values = infer_missing(model.scm, values, people)

    asked = resolve(interventions, values, model.scm)
    for name, k in zip(study.areas, study.area_columns, strict=True):
        if asked[0, k] < 0:
            raise InterventionError(f"{name}: an area cannot be {float(asked[0, k]):g}, below 0")
    generator = torch.Generator(device).manual_seed(study.evaluation.seed)
    changed, after = model.counterfactual(x, values, asked, generator)
    grey = to_grey_levels(changed)
    with torch.no_grad():
        obtained = judge.areas(to_unit(grey))[0]
    areas = study.area_columns
    gained, wanted = obtained - read[0], (after - values)[0, areas]
    record: dict[str, Any] = {
        "segcft": segcft.__version__,
        "study": study.name,
        "method": method,
        "model": artefact.read_meta(run.path(methods[method]))["key"],
        "image": path.name,
        "do": [str(intervention) for intervention in interventions],
        "variables": {},
        "warnings": [
            *_out_of_support(study, source, values[0], asked[0], people),
            *_misses(study, gained, wanted, people[:, areas].std(dim=0)),
        ],
    }
    for k, name in enumerate(names):
        row = {
            "before": _value(study, name, values[0, k]),
            "after": _value(study, name, after[0, k]),
            "intervened": not bool(asked[0, k].isnan()),
            "source": source[name],
            "unit": study.variables[name].unit,
        }
        if name in study.areas:
            row["obtained"] = float(obtained[study.areas.index(name)])
        record["variables"][name] = row
    return Answer(pixels, grey[0].cpu().numpy(), record)


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
            facts += [Intervention(name, value)] if variable.scale == "linear" or value > 0 else []
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


def _out_of_support(
    study: Study, source: Mapping[str, str], values: Tensor, asked: Tensor, people: Tensor
) -> list[str]:
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


def _misses(study: Study, gained: Tensor, wanted: Tensor, spread: Tensor) -> list[str]:
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


def _value(study: Study, name: str, value: Tensor) -> float | str | None:
    if value.isnan():
        return None
    categories = study.variables[name].categories
    return categories[int(value)] if categories else float(value)


def _show(value: float | str | None) -> str:
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else value
