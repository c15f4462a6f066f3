"""A trained model in three lines: open it, ask, look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

import segcft
from segcft import artefact
from segcft.answer import Answer, header_facts, infer_missing, misses, out_of_support, read_areas, read_for, value_of
from segcft.causal.intervention import Intervention, parse_intervention, resolve
from segcft.counterfactual import CounterfactualModel
from segcft.data.imagefile import grey_values
from segcft.data.reject import Rejected
from segcft.data.resize import fit_image
from segcft.errors import DataError, InterventionError, RunError
from segcft.evaluate.names import METHODS, method_name
from segcft.images.likelihood import to_grey_levels, to_unit
from segcft.run import Run

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Values = Mapping[str, float | str] | Sequence[str]
"""``{"age": 63, "heart_area": "+20%"}``, or ``["age=63", "heart_area=+20%"]``."""


class Model:
    """What a run or a published model knows, to be asked about images.

    Args:
        folder: of the run or published model, or an open :class:`Run`.
        device: where to compute.

    Raises:
        RunError: the folder is neither, or a part is missing or damaged.
    """

    def __init__(self, folder: str | Path | Run, device: str | torch.device = "cpu") -> None:
        self.run = folder if isinstance(folder, Run) else Run(folder)
        self.study = self.run.study
        self.device = torch.device(device)
        self.methods = self.run.methods()
        """Method -> the part that is its image mechanism."""
        if not self.methods:
            raise RunError(f"{self.run.folder}: no image mechanism is trained here yet; see `segcft run --help`")
        self.judge = self.run.load("judge", self.device)
        self._models: dict[str, CounterfactualModel] = {}
        people = self.run.people(["scm", "judge", *self.methods.values()])
        self.people = torch.from_numpy(people).to(self.device)

    def __repr__(self) -> str:
        lines = [f"Model {self.study.name!r}: {', '.join(map(method_name, self.methods))}"]
        for k, (name, variable) in enumerate(self.study.variables.items()):
            low, high = float(self.people[:, k].min()), float(self.people[:, k].max())
            known = ", ".join(variable.categories) or f"{low:.4g} to {high:.4g} {variable.unit}".rstrip()
            lines.append(f"  {name}: {known}")
        return "\n".join(lines)

    def counterfactual(
        self,
        image: str | Path | NDArray[Any] | Picture,
        attributes: Values = (),
        do: Values = (),
        method: str | None = None,
    ) -> Answer:
        """What ``image`` would have looked like under ``do``.

        Areas, before and after, are read by the judge, which no fine-tuning has learnt to please. What ``attributes``
        do not give is read from the header, if ``image`` is a DICOM file that says age or sex, and else inferred from
        the areas by the SCM.

        Args:
            image: a file, or pixels (H, W) or (H, W, 3): of 8 or 16 bits, or floating point in [0, 1].
            attributes: what is known of the person; values alone, no changes.
            do: interventions: numbers set, and texts are as :func:`parse_intervention` reads them.
            method: none, regressor or segmentor, or as tables call them (default: the last of these that is there).

        Raises:
            InterventionError: ``do`` or ``attributes`` are not understood.
            DataError: the image cannot be read.
            RunError: the model lacks a part.
        """
        study = self.study
        names, areas = list(study.variables), study.area_columns
        interventions = self._parse(do)
        if not interventions:
            raise InterventionError("do: nothing is asked for, e.g. {'heart_area': '+20%'}")
        method = {shown: name for name, shown in METHODS.items()}.get(method or "", method) or list(self.methods)[-1]
        model = self._model(method)

        pixels = self._pixels(image)
        x = to_unit(torch.from_numpy(pixels)[None].to(self.device))
        values = torch.full((1, len(names)), torch.nan, device=self.device)
        source = dict.fromkeys(names, "inferred")
        with torch.no_grad():
            read = read_areas(study, self.judge, x)
        values[:, areas] = read
        source |= dict.fromkeys(study.areas, "read from the image")
        given = self._parse(attributes)
        for fact in given:
            if fact.kind != "set":
                raise InterventionError(f"{fact}: what is known is a value, not a change")
            source[fact.variable] = "given"
        header = header_facts(study, Path(image)) if isinstance(image, str | Path) else []
        from_header = [fact for fact in header if source[fact.variable] == "inferred"]
        source |= {fact.variable: "read from the header" for fact in from_header}
        facts = resolve([*given, *from_header], values, model.scm)
        values = infer_missing(model.scm, torch.where(facts.isnan(), values, facts), self.people)

        asked = resolve(interventions, values, model.scm)
        for name, k in zip(study.areas, areas, strict=True):
            if asked[0, k] < 0:
                raise InterventionError(f"{name}: an area cannot be {float(asked[0, k]):g}, below 0")
        generator = torch.Generator(self.device).manual_seed(study.evaluation.seed)
        changed, after = model.counterfactual(x, values, asked, generator)
        grey = to_grey_levels(changed)
        with torch.no_grad():
            obtained = read_areas(study, self.judge, to_unit(grey))[0]
        gained, wanted = obtained - read[0], (after - values)[0, areas]
        record: dict[str, Any] = {
            "segcft": segcft.__version__,
            "study": study.name,
            "method": method,
            "model": artefact.read_meta(self.run.path(self.methods[method]))["key"],
            "image": Path(image).name if isinstance(image, str | Path) else type(image).__name__,
            "do": [str(intervention) for intervention in interventions],
            "variables": {},
            "warnings": [
                *out_of_support(study, source, values[0], asked[0], self.people),
                *misses(study, gained, wanted, self.people[:, areas].std(dim=0)),
            ],
        }
        for k, name in enumerate(names):
            row = {
                "before": value_of(study, name, values[0, k]),
                "after": value_of(study, name, after[0, k]),
                "intervened": not bool(asked[0, k].isnan()),
                "source": source[name],
                "unit": study.variables[name].unit,
            }
            if name in study.areas:
                row["obtained"] = float(obtained[study.areas.index(name)])
            record["variables"][name] = row
        return Answer(grey[0].cpu().numpy(), pixels, record)

    def _model(self, method: str) -> CounterfactualModel:
        if method not in self._models:
            self._models[method] = self.run.model(method, self.device)
        return self._models[method]

    def _parse(self, values: Values) -> list[Intervention]:
        if isinstance(values, Mapping):
            texts = [
                f"{name}={value}" if isinstance(value, str) else str(Intervention(name, float(value)))
                for name, value in values.items()
            ]
        else:
            texts = list(values)
        return [parse_intervention(text, self.study.variables) for text in texts]

    def _pixels(self, image: str | Path | NDArray[Any] | Picture) -> NDArray[np.uint8]:
        """On the study's grid: uint8 (C, H, W)."""
        if isinstance(image, str | Path):
            return read_for(self.study, Path(image))
        array = np.asarray(image)
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3)):
            raise DataError(f"image: expected (H, W) or (H, W, 3), not an array of shape {array.shape}")
        unit = np.issubdtype(array.dtype, np.floating)
        if unit and not (array.min() >= 0 and array.max() <= 1):
            raise DataError("image: floating-point pixels must be in [0, 1]")
        try:
            grey = grey_values(array, "image", self.study.image.channels, (0.0, 1.0) if unit else None)
        except Rejected as error:
            raise DataError(str(error)) from None
        return fit_image(grey, self.study.image)
