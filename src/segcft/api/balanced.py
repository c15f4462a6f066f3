"""Counterfactual data augmentation: a balanced set of images, in which a variable tells nothing about a label.

Where men have large hearts and women small ones, a model of sex learns the heart. Here training subjects get the
hearts of others, do(variable := value), such that every label gets every training subject's value
(:mod:`segcft.api.balance`); all else that an image shows stays with its label.

The folder::

    images/ID.png       originals and counterfactuals (volumes: ID.nii.gz); the latter say that they are synthetic
    metadata.csv        a row an image: id, patient, source (the sample's id), kind (original, counterfactual), do,
                        every variable as it is in the image, and read_NAME of each measure, what was read from it
    rejected.csv        what was asked and is not there: patient, source, do, reason
    augmentation.json   settings, model, counts and the association before and after

Subjects who are not in the training part are never asked about, and no value outside the training range is asked for.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

import segcft
from segcft.api.balance import Request, SubjectSampler, correlation_ratio, requests
from segcft.api.record import value_of
from segcft.causal.intervention import Intervention
from segcft.config.graph import Graph
from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.counterfactual.support import all_limits
from segcft.counterfactual.warnings import NOTABLE
from segcft.data.store import Store
from segcft.errors import Code, DataError, InterventionError, RunError
from segcft.evaluate.names import METHODS
from segcft.grey import to_grey_levels, to_unit
from segcft.io.volumeout import grid_file
from segcft.pipeline.importing import import_data
from segcft.pipeline.run import Run
from segcft.training import artefact
from segcft.utils.atomic import whole_folder, write_text
from segcft.utils.progress import Progress

STORE = ".store"
"""Where samples that are given as a folder are while they are augmented."""


@dataclass(frozen=True)
class Recipe:
    """What is to be independent of what, and how."""

    variable: str
    """Continuous; what is set, e.g. ``heart_area``."""
    label: str
    """Categorical; what a model is to learn without the help of ``variable``, e.g. ``sex``."""
    method: str = ""
    """none, regressor or segmentor, or as tables call them (default: the last of these that is trained)."""
    draws: int = 1
    """How often every label gets every training subject's value."""
    originals: bool = True
    """Whether the original images are in the set, too."""
    threshold: float = NOTABLE
    """Answers are rejected if an area's change misses by more than this share of its standard deviation over subjects;
    infinity keeps all."""
    tries: int = 5
    """How many subjects are tried for one value before it is given up."""
    seed: int = 0


def augment(
    run: Run,
    out: Path,
    recipe: Recipe,
    *,
    data: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the balanced set of a run's training subjects to ``out``: whole, or not at all.

    Areas are read by the guide segmentor, so that the judge may still judge. A published model has the judge alone.

    Args:
        run: a run, or a published model.
        out: folder to write, which is not there yet, or empty; it is there once it is complete.
        recipe: what to balance.
        data: for a published model, whose samples are not there: a folder like its study's data, or a store, of
            whose subjects those in the training part are taken.
        device: where to compute.
        progress: shows how many counterfactuals are done.

    Returns:
        the content of ``augmentation.json``.

    Raises:
        InterventionError: the variable or label is not of the study, of the wrong kind, or the label is caused by the
            variable.
        RunError: a part is not trained, or was trained on other samples.
        DataError: ``out`` holds something, the data are missing, there is only one label, or no answer was good enough.
    """
    progress = progress or Progress()
    check(run.study, recipe)
    with whole_folder(out) as partial:
        (partial / "images").mkdir()
        report = _Augmentation(run, partial, recipe, data, torch.device(device), progress).write()
        shutil.rmtree(partial / STORE, ignore_errors=True)
    return report


def check(study: Study, recipe: Recipe) -> None:
    """Raise the :class:`InterventionError` that :func:`augment` would, if there is reason to."""
    for key, name, kind in (("variable", recipe.variable, "continuous"), ("label", recipe.label, "categorical")):
        if name not in study.variables:
            raise InterventionError(
                Code.UNKNOWN, key, f"{name!r} is not a variable of the study ({', '.join(study.variables)})"
            )
        if study.variables[name].kind != kind:
            raise InterventionError(
                Code.INVALID, key, f"{name} is {study.variables[name].kind}; expected a {kind} variable"
            )
    graph = Graph.of(study.variables)
    moved = study.variables[recipe.variable].solve_for or recipe.variable  # of what is derived, the part that moves
    if recipe.label in graph.descendants([moved]):
        raise InterventionError(
            Code.CONFLICT,
            "label",
            f"{recipe.variable} causes {recipe.label} in this study, so do({recipe.variable}) would change it",
        )


class _Augmentation:
    """One call of :func:`augment`, which writes to the folder ``out``."""

    def __init__(
        self, run: Run, out: Path, recipe: Recipe, data: Path | None, device: torch.device, progress: Progress
    ) -> None:
        self.run, self.study, self.out, self.recipe = run, run.study, out, recipe
        if not run.study.structures:
            raise RunError(Code.UNSUPPORTED, run.folder, "without structures nobody checks what images of a set show")
        self.device, self.progress = device, progress
        methods = run.methods()
        shown = {title: name for name, title in METHODS.items()}
        self.method = shown.get(recipe.method, recipe.method) or next(reversed(methods), "segmentor")
        self.model = run.model(self.method, device)
        self.reader_name = "judge" if run.published else "segmentor"
        self.reader = run.load(self.reader_name, device)
        parts = [self.reader_name, "scm", methods[self.method]]
        self.store = self._samples(parts, data)
        self.made_by = {
            "segcft": segcft.__version__,
            "study": self.study.name,
            "method": self.method,
            "model": artefact.read_meta(run.path(methods[self.method]))["key"],
        }
        names = list(self.study.variables)
        self.column, self.label_column = names.index(recipe.variable), names.index(recipe.label)

        known = run.training_values(parts)
        low, high = all_limits(self.study.variables, known)
        self.low, self.high = (torch.from_numpy(limit).to(device) for limit in (low, high))
        self.spread = torch.from_numpy(known[:, self.study.measured_columns].std(axis=0)).to(device)
        rows, values = self.store.indices("train", complete=True), self.store.values()
        inside = (values >= low) & (values <= high)
        self.outside = rows[~inside[rows].all(axis=1)]
        self.rows = rows[inside[rows].all(axis=1)]
        self.values = values[self.rows]
        self.labels = self.values[:, self.label_column].astype(np.int64)
        if len(np.unique(self.labels)) < 2:
            field = f"{self.store.folder}: {recipe.label}"
            raise DataError(Code.EMPTY, field, "training subjects have fewer than two categories")
        self.table: list[dict[str, Any]] = []
        self.rejected: list[dict[str, str]] = []

    def write(self) -> dict[str, Any]:
        recipe = self.recipe
        for row in self.outside:
            self._reject(int(row), "", "a value is not in the training range")
        if recipe.originals:
            self._originals()
        asked = requests(self.labels, recipe.draws, recipe.originals)
        given_up = self._counterfactuals(asked)
        if not self.table:
            raise DataError(
                Code.EMPTY, self.run.folder, f"no answer was good enough; the first: {self.rejected[0]['reason']}"
            )
        table = pd.DataFrame(self.table)
        table.to_csv(self.out / "metadata.csv", index=False, float_format="%.6g")
        columns = ["patient", "source", "do", "reason"]
        pd.DataFrame(self.rejected, columns=columns).to_csv(self.out / "rejected.csv", index=False)
        report = {
            **asdict(recipe),
            "threshold": recipe.threshold if math.isfinite(recipe.threshold) else None,  # JSON has no infinity
            **self.made_by,
            "read by": self.reader_name,
            "people": len(self.rows),
            "images": table["kind"].value_counts().to_dict(),
            "answers rejected": len(self.rejected),
            "values asked for": len(asked),
            "values given up": given_up,
            "correlation ratio before": correlation_ratio(self.labels, self.values[:, self.column]),
            "correlation ratio after": correlation_ratio(table[recipe.label], table[recipe.variable]),
        }
        write_text(self.out / "augmentation.json", json.dumps(report, indent=1) + "\n")
        return report

    def _samples(self, parts: list[str], data: Path | None) -> Store:
        """The samples among which the training subjects are."""
        if not self.run.published:
            if data is not None:
                raise DataError(Code.CONFLICT, "--data", "a run augments its own training subjects; leave it out")
            return self.run.samples_of(parts)
        if data is None:
            raise DataError(Code.MISSING, "--data", "a published model has no samples; say where yours are")
        if (data / "store.json").is_file():
            store = Store(data)
            store.require(self.study)
            return store
        if isinstance(self.study.data, SimulatedData):
            raise DataError(Code.MISSING, data, f"no store (store.json), and study {self.study.name!r} reads no folder")
        return import_data(self.study, data, self.out / STORE, self.progress)

    def _originals(self) -> None:
        for first in range(0, len(self.rows), self._batch):
            places = np.arange(first, min(first + self._batch, len(self.rows)))
            pixels = self._pixels(places)
            read = self._read(to_unit(pixels))
            values = torch.from_numpy(self.values[places])
            for place, image, after, areas in zip(places, pixels, values, read, strict=True):
                self._keep(int(place), image, after, areas, "")

    def _counterfactuals(self, asked: list[Request]) -> int:
        """Ask until every request is answered or was tried often enough; returns how many were not."""
        generator = torch.Generator(self.device).manual_seed(self.recipe.seed)
        subjects, waiting, given_up = SubjectSampler(self.labels, self.recipe.seed), deque(asked), 0
        with self.progress.task("Counterfactuals", len(asked)) as task:
            while waiting:
                batch = [waiting.popleft() for _ in range(min(self._batch, len(waiting)))]
                places = np.array([subjects.next(request.label) for request in batch])
                donors = np.array([request.donor for request in batch])
                pixels, values = self._pixels(places), torch.from_numpy(self.values[places]).to(self.device)
                wanted = torch.from_numpy(self.values[donors, self.column]).to(self.device)
                do = self.model.scm.intervention(len(batch), **{self.recipe.variable: wanted})
                x = to_unit(pixels)
                answer = self.model.counterfactual(x, values, do, generator)
                grey = to_grey_levels(answer.image)
                before, read = self._read(x), self._read(to_unit(grey))
                reasons = self._reasons(values, answer.values, read - before)
                for k, (request, place, reason) in enumerate(zip(batch, places, reasons, strict=True)):
                    text = str(Intervention(self.recipe.variable, round(float(wanted[k]), 3)))
                    if not reason:
                        self._keep(int(place), grey[k], answer.values[k], read[k], text)
                        task.advance()
                        continue
                    self._reject(int(self.rows[place]), text, reason)
                    if request.tries + 1 < self.recipe.tries:
                        waiting.append(request._replace(tries=request.tries + 1))
                    else:
                        given_up += 1
                        task.advance()
        return given_up

    def _reasons(self, before: Tensor, after: Tensor, gained: Tensor) -> list[str]:
        """Why each answer is not good enough, "" if it is; values (B, V) before and after, areas' changes (B, S)."""
        areas = self.study.measured_columns
        wanted = (after - before)[:, areas]
        missed = (gained - wanted).abs() > self.recipe.threshold * self.spread
        outside = (after < self.low) | (after > self.high)
        reasons: list[list[str]] = [[] for _ in after]
        for i, k in outside.nonzero().tolist():
            reasons[i].append(f"{list(self.study.variables)[k]}: {float(after[i, k]):g} is not in the training range")
        for i, s in missed.nonzero().tolist():
            reasons[i].append(
                f"{self.study.measured[s]}: should have changed by {float(wanted[i, s]):+.1f}; "
                f"the {self.reader_name} reads a change of {float(gained[i, s]):+.1f}"
            )
        return ["; ".join(found) for found in reasons]

    def _keep(self, place: int, image: Tensor, after: Tensor, read: Tensor, do: str) -> None:
        source = self.store.table.iloc[self.rows[place]]
        kind = "counterfactual" if do else "original"
        row = {"id": f"{len(self.table):06d}", "patient": source["patient"], "source": source["id"]}
        row |= {"kind": kind, "do": do}
        row |= {name: value_of(one, after[k]) for k, (name, one) in enumerate(self.study.variables.items())}
        row |= {f"read_{name}": float(area) for name, area in zip(self.study.measured, read, strict=True)}
        about = {key: value for key, value in row.items() if key not in ("id", "patient", "source", "do")}
        record = self.made_by | {"do": [do]} | about  # not who it is of
        suffix, content = grid_file(image.cpu().numpy(), self.study.image.spacing, record if do else None)
        (self.out / "images" / f"{row['id']}{suffix}").write_bytes(content)
        self.table.append(row)

    def _reject(self, row: int, do: str, reason: str) -> None:
        source = self.store.table.iloc[row]
        self.rejected.append({"patient": source["patient"], "source": source["id"], "do": do, "reason": reason})

    @property
    def _batch(self) -> int:
        return self.study.evaluation.batch_size

    def _pixels(self, places: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.asarray(self.store.images[self.rows[places]])).to(self.device)

    @torch.no_grad()
    def _read(self, x: Tensor) -> Tensor:
        return self.reader.read(x)
