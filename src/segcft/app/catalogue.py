"""The models that the page offers, and what it needs to know of one: variables, ranges, graph, examples."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from segcft.api.model import Model
from segcft.api.question import read_pixels
from segcft.app.files import FORMATS
from segcft.app.payload import encode
from segcft.app.refused import RefusedError
from segcft.causal.layout import IMAGE, Style, lay_out, with_image
from segcft.config.study import Study
from segcft.counterfactual.support import limits
from segcft.errors import Code, RunError, SegcftError
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.planes import Planes
from segcft.grid import Grid
from segcft.io.rendering import is_wide, structure_colours
from segcft.measures.measurements import Measurements
from segcft.pipeline.run import Run

NODE, IMAGE_NODE = (124.0, 46.0), (80.0, 28.0)
GRAPH = Style(layers=46.0, boxes=12.0, passing=2.0, margin=1.0, head=7.0, spread=0.12, down=True)
"""How the page draws the graph, in px."""

CENTRAL = (0.05, 0.95)
"""The quantiles between which a value is an everyday one."""


class Catalogue:
    """Models by the names of their folders; each is loaded when it is first asked for, by one thread at a time.
    Folders of readers alone are passed over.

    Raises:
        RunError: a folder is neither a run nor a published model, or all are of readers alone.
        SegcftError: two folders have the same name.
    """

    def __init__(self, folders: Sequence[Path], device: Any = "cpu") -> None:
        self.device = device
        self.runs: dict[str, Run] = {}
        for folder in folders:
            name = folder.resolve().name
            if name in self.runs:
                raise SegcftError(
                    Code.DUPLICATE, folder, f"{self.runs[name].folder} has the same name; rename one of the folders"
                )
            run = Run(folder)
            if not run.only_reads:
                self.runs[name] = run
        if folders and not self.runs:
            why = "readers alone, which answer no question: `segcft segment` makes masks with them"
            raise RunError(Code.UNSUPPORTED, folders[0], why)
        self._models: dict[str, Model] = {}

    def __getitem__(self, name: str) -> Model:
        """The model, loaded.

        Raises:
            RefusedError: there is none of that name.
            RunError: a part of it is missing or damaged.
        """
        if name not in self.runs:
            raise RefusedError(404, name, f"no such model, only {', '.join(self.runs)}")
        if name not in self._models:
            self._models[name] = Model(self.runs[name], self.device)
        return self._models[name]

    @property
    def most_bytes(self) -> int:
        """Bytes of the largest model's image."""
        return max(study.image.channels * math.prod(study.image.size) for study in self._studies())

    def titles(self) -> list[dict[str, str]]:
        """Name and description of every model."""
        return [
            {"name": name, "description": study.description}
            for name, study in zip(self.runs, self._studies(), strict=True)
        ]

    def describe(self, name: str) -> dict[str, Any]:
        """What the page needs to know of a model before the first question."""
        model = self[name]
        study = model.study
        image, planes = study.image, Planes(Grid.of(study.image))
        volume = {"size": list(image.size), "shown": list(planes.shown)} if image.is_volume else None
        height, width = planes.size if volume else image.field_of_view or image.size
        colours = dict(zip(study.masked, structure_colours(len(study.masked)), strict=True))
        return {
            "name": name,
            "study": study.name,
            "description": study.description,
            "size": list(planes.size),
            "volume": volume,
            "formats": FORMATS[len(image.size)],
            "channels": image.channels,
            "sized": image.fit == "physical",
            "aspect": width / height,
            "wide": is_wide(height, width),
            "methods": [{"name": method, "label": method_name(method)} for method in model.methods],
            "variables": [_variable(model, k) for k in range(len(study.variables))],
            "structures": [
                {
                    "name": s,
                    "label": plain(s),
                    "variable": study.own[s].variable if s in study.own else "",
                    "colour": colours[s],
                }
                for s in study.masked
            ],
            "graph": _graph(study),
            "examples": _examples(model.run),
        }

    def _studies(self) -> list[Study]:
        return [run.study for run in self.runs.values()]


def _graph(study: Study) -> dict[str, Any]:
    """Where the graph's boxes and arrows are; ``image`` is the name of the image in it, ``labels`` what boxes say."""
    parents = with_image({name: variable.parents for name, variable in study.variables.items()}, study.derived)
    sizes = dict.fromkeys(parents, NODE) | {IMAGE: IMAGE_NODE}
    labels = {name: plain(name) for name in study.variables} | {IMAGE: "image"}
    labels |= {spec.variable: plain(structure) for structure, spec in study.structures.items()}
    return asdict(lay_out(parents, sizes, GRAPH, study.confounded)) | {"image": IMAGE, "labels": labels}


def _variable(model: Model, k: int) -> dict[str, Any]:
    name, variable = list(model.study.variables.items())[k]
    measurements = Measurements.of(model.study)
    measured = next((one for one in measurements.all if one.variable == name), None)
    described: dict[str, Any] = {
        "name": name,
        "label": plain(name),
        "parents": list(variable.parents),
        "categories": list(variable.categories),
        "unit": variable.unit,
        # What is derived is read from the image as its parts are.
        "isMeasured": measured is not None or variable.derived is not None,
        "isRatio": variable.derived is not None or (measured is not None and measured.measure.ratio),
        "isDerived": variable.derived is not None,
        "of": _main_variable(model.study, name),
    }
    if not variable.categories:
        values = model.people[:, k].cpu().numpy()
        low, high = limits(variable, values)
        logarithmic = 0.0 if variable.scale == "log" else None
        described |= {
            "low": low,
            "high": high,
            "central": [float(value) for value in np.quantile(values, CENTRAL)],
            # Below it the variable cannot be: measures and what is on a logarithmic scale.
            "least": measured.bounds(measurements.grid)[0] if measured else logarithmic,
            "mayBeZero": variable.zero_inflated or variable.scale == "linear",
        }
    return described


def _main_variable(study: Study, name: str) -> str:
    """The variable of the structure of which another one is a further measure, beside whose slider its own is; "" of
    all others."""
    for structure in study.structures.values():
        if structure.variable == name and len(structure.of) == 1 and structure.of[0] in study.own:
            return study.own[structure.of[0]].variable
    return ""


def _examples(run: Run) -> list[dict[str, Any]]:
    """The example images of a published model, with the attributes that no image shows.

    Raises:
        RunError: their table is damaged.
        DataError: an image is.
    """
    folder = run.folder / "examples"
    table = folder / "attributes.csv"
    if not table.is_file():
        return []
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return _read_examples(run.study, folder, list(csv.DictReader(file)))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(Code.DAMAGED, table, f"not the attributes of example images ({error!r})") from None


def _read_examples(study: Study, folder: Path, rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    examples = []
    for number, row in enumerate(rows, start=1):
        known: dict[str, float | str] = {
            name: row[name] if variable.categories else float(row[name])
            for name, variable in study.variables.items()
            if name not in study.measured and not variable.derived and row.get(name)
        }
        pixels = read_pixels(study, folder / Path(row["image"]).name)
        examples.append({"label": f"Example {number}", "pixels": encode(pixels), "known": known})
    return examples
