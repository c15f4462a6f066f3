"""The mechanism of the image: trained by likelihood, fine-tuned on its counterfactuals, or taken from elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segcft.config.graph import Graph
from segcft.config.study import Study
from segcft.counterfactual.average import AverageEffects
from segcft.counterfactual.finetune import CounterfactualObjective, constraint_level
from segcft.counterfactual.model import CounterfactualModel
from segcft.counterfactual.response import response_slopes
from segcft.data.batches import Batch, Batches, sequential
from segcft.data.pairs import Pairs
from segcft.data.store import Store
from segcft.errors import Code, RunError
from segcft.grey import to_unit
from segcft.image_models.mechanism import MECHANISMS
from segcft.image_models.objective import LikelihoodObjective
from segcft.image_models.typicality import typical_ranges
from segcft.pipeline.completion import completed, shown_by
from segcft.pipeline.judging import UNKNOWN_TRAINING
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stage import MOST_VALIDATED, STAGES, Minimised, TrainingStage
from segcft.readers.reader import Reader
from segcft.training import artefact
from segcft.training.findings import Finding, binding, slopes_of
from segcft.training.loop import Trained
from segcft.utils.digest import key_of

UNNAMED = ("two-stream", "causal-gen")
"""Architectures whose names are left out of keys, as in version 0.1.0: their settings tell them apart. Others may share
settings, so their names are in the keys."""

SLOPE, SLOPE_BEFORE = "validation_slope_", "no_cft_validation_slope_"
"""Before a variable: the slope of the obtained on the asked change, as the guide reads it, after fine-tuning and
before."""


class _ImageStage(TrainingStage):
    """Trains an image mechanism."""

    complete = complete_validation = True

    def build(self, study: Study) -> nn.Module:
        torch.manual_seed(study.hvae.seed)  # of a fine-tuned one, too: one network, one draw
        return self.network(study)

    def network(self, study: Study) -> nn.Module:
        return MECHANISMS.find(study.hvae.architecture)(study.hvae, study.image, study.variables)

    def rows(self, study: Study, store: Store) -> NDArray[np.int64]:
        if study.hvae.missing == "leave out":
            return super().rows(study, store)
        rows = store.indices("train", masked=True)
        return rows[~np.isnan(store.values()[rows][:, study.measured_columns]).any(axis=1)]

    def completions(self, pipeline: Pipeline, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        if pipeline.study.hvae.missing == "leave out":
            return None
        device, store, shown = pipeline.fabric.device, pipeline.store, None
        if pipeline.study.predictor is not None:
            shown = shown_by(pipeline.run.load("predictor", device), store, rows, device)
        scm, seed = pipeline.run.load("scm", device), pipeline.study.hvae.seed
        return completed(scm, store.values()[rows], seed, progress=pipeline.progress, shown=shown)

    def others(self, pipeline: Pipeline, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        study = pipeline.study
        return Pairs(study, pipeline.store).all_others(rows) if study.hvae.pairs else None

    def facts(self, pipeline: Pipeline, network: Any) -> dict[str, Any]:
        typical = typical_ranges(network, pipeline.store, pipeline.study.evaluation.batch_size)
        return {"compile": pipeline.compile} | ({"usual": typical.model_dump()} if typical else {})


class LikelihoodStage(_ImageStage):
    """Trains the image mechanism by likelihood ("No CFT")."""

    name = section = switch = "hvae"
    method = "none"

    def needs(self, study: Study) -> tuple[str, ...]:
        if study.hvae.missing == "leave out":
            return ("import",)
        return ("import", "scm", *(["predictor"] if study.predictor is not None else []))

    def settings(self, study: Study) -> dict[str, Any]:
        settings = super().settings(study)
        if study.hvae.architecture in UNNAMED:
            del settings["architecture"]
        if study.hvae.pairs and study.evaluation.pairs is not None:
            settings["pairs_of"] = study.evaluation.pairs.model_dump(mode="json")
        return settings

    def objective(self, pipeline: Pipeline, network: Any, values: Tensor, batches: Batches) -> Minimised:
        if pipeline.compile:
            network.compile_passes()
        network.parents.set_statistics(values)
        return LikelihoodObjective(network, pipeline.study), {}

    def validation(self, study: Study, network: Any, batch: Batch) -> dict[str, Tensor]:
        density = network.log_density(to_unit(batch["image"]), batch["values"])
        return {} if density is None else {"validation_bits_per_pixel": -density / math.log(2)}

    def current_key(self, pipeline: Pipeline) -> str | None:
        meta = self.recorded(pipeline)
        if "source" not in meta:
            return super().current_key(pipeline)
        if meta.get("settings_key") != self.key(pipeline):
            raise self._adopted(pipeline, Code.OTHER, " before the settings, the samples or segcft's version changed")
        return str(meta["key"])

    def check_forget(self, pipeline: Pipeline) -> None:
        if "source" in self.recorded(pipeline):
            raise self._adopted(pipeline, Code.UNSUPPORTED)

    def _adopted(self, pipeline: Pipeline, code: Code, when: str = "") -> RunError:
        """The error about a mechanism that came from elsewhere and cannot be made here."""
        source = self.recorded(pipeline)["source"].get("checkpoint")
        text = f"imported from {source}{when}; import it again, or remove this file to train the image mechanism"
        return RunError(code, self.record(pipeline), text)

    def adopt(self, pipeline: Pipeline, load: Callable[[Any], dict[str, Any]]) -> None:
        """Take the mechanism from elsewhere instead of training it; the stage is then up to date.

        A mechanism from elsewhere is never replaced by one that is trained here.

        Args:
            pipeline: of a run whose samples are imported.
            load: gives the network its weights and returns what to record of where they come from: the path
                "checkpoint", its "sha256", the "parents" as they were given, and more.
        """
        start = time.monotonic()
        network: Any = self.build(pipeline.study)
        rows = pipeline.store.indices("train", complete=True)
        network.parents.set_statistics(torch.from_numpy(pipeline.store.values()[rows]))
        source = load(network)
        settings_key = self.key(pipeline)
        network.to(pipeline.fabric.device)
        # Other weights with the same settings are another part. The path is left out: a checkpoint may be moved.
        key = key_of(settings_key, source["sha256"], source["parents"])
        self.keep(pipeline, network, key, {}, start, {"source": source, "settings_key": settings_key})
        self._drop_checkpoint(pipeline)
        pipeline.progress.note(f"warning: {UNKNOWN_TRAINING}")


class FinetuningStage(_ImageStage):
    """Fine-tunes the image mechanism on its own counterfactuals, which the ``guide`` reads."""

    section, switch, falls = "finetune", "finetune.guides", "guide"
    answers_with = ("hvae", "scm")

    def __init__(self, guide: str) -> None:
        self.guide = self.method = guide
        self.name = f"cft-{guide}"

    def is_in(self, study: Study) -> bool:
        return self.guide in study.finetune.guides

    def settings(self, study: Study) -> dict[str, Any]:
        # What a predictor guided at first had no average effects beside it.
        return super().settings(study) | ({"average_effects": True} if study.predictor is not None else {})

    def needs(self, study: Study) -> tuple[str, ...]:
        beside = ["predictor"] if study.predictor is not None and self.guide != "predictor" else []
        return ("import", "scm", "hvae", self.guide, *beside)

    def objective(self, pipeline: Pipeline, network: Any, values: Tensor, batches: Batches) -> Minimised:
        study, run, device = pipeline.study, pipeline.run, pipeline.fabric.device
        if pipeline.compile:
            network.compile_passes()
        artefact.load(run.path("hvae"), network)
        network.to(device)
        bound = constraint_level(network, study, batches, pipeline.fabric) + study.finetune.slack
        scm, guide = run.load("scm", device), self._reader(pipeline)
        predictor = run.load("predictor", device) if study.predictor is not None else None
        average = self.average_effects(pipeline)
        objective = CounterfactualObjective(
            network, scm, guide, study.finetune, study, values.to(device), bound, predictor, average
        )
        return objective, {"bound": bound}

    def average_effects(self, pipeline: Pipeline) -> AverageEffects | None:
        """What people show on average of the attributes that interventions move; None where these move none."""
        study, device = pipeline.study, pipeline.fabric.device
        if study.predictor is None:
            return None
        targets = study.finetune.intervene or tuple(study.variables)
        graph = Graph.of(study.variables)
        moved = {*targets, *graph.descendants(targets)}
        attributes = [name for name in study.attributes if name in moved]
        if not attributes:
            return None
        average = AverageEffects(study.variables, attributes, study.image.channels, study.image.size).to(device)
        rows = pipeline.store.indices("train", complete=True)
        subjects = pipeline.store.table["patient"].iloc[rows]
        images = subjects.map(subjects.value_counts()).to_numpy(dtype=np.int64, copy=True)
        people = sequential(pipeline.store, rows, study.evaluation.batch_size)
        values = torch.from_numpy(pipeline.store.values()[rows])
        average.fit(map(pipeline.on_device, people), values.to(device), torch.from_numpy(images))
        return average

    def measures(self, pipeline: Pipeline, network: Any) -> dict[str, float]:
        study, run, device = pipeline.study, pipeline.run, pipeline.fabric.device
        batches = [pipeline.on_device(batch) for batch in self.validation_batches(pipeline, MOST_VALIDATED)]
        if not batches:
            return {}
        variables = [name for name in study.measured if name in (study.finetune.intervene or study.variables)]
        scm, guide = run.load("scm", device), self._reader(pipeline)
        if guide is None:
            return {}
        found: dict[str, float] = {}
        for prefix, mechanism in ((SLOPE, network), (SLOPE_BEFORE, run.load("hvae", device))):
            slopes = response_slopes(CounterfactualModel(scm, mechanism), guide, study, batches, variables)
            found |= {f"{prefix}{name}": slope for name, slope in slopes.items()}
        return found

    def _reader(self, pipeline: Pipeline) -> Reader | None:
        """The guide that reads measures; None where there are none, and the predictor alone guides."""
        if self.guide == "predictor":
            return None
        reader: Reader = pipeline.run.load(self.guide, pipeline.fabric.device)
        return reader

    def findings(
        self, pipeline: Pipeline, trained: Trained, metrics: Mapping[str, float], facts: Mapping[str, Any]
    ) -> Iterator[Finding]:
        for finding in super().findings(pipeline, trained, metrics, facts):
            # A price that rises raises the guide's error, which then falls with the rate: that says nothing.
            if finding.code != "unfinished" or pipeline.study.finetune.price == "fixed":
                yield finding
        yield from binding(trained.history)
        before, after = (
            {name: metrics[f"{prefix}{name}"] for name in pipeline.study.measured if f"{prefix}{name}" in metrics}
            for prefix in (SLOPE_BEFORE, SLOPE)
        )
        yield from slopes_of(before, after, pipeline.study.finetune.least_change)


STAGES.add("hvae", LikelihoodStage())
for _guide in ("regressor", "segmentor", "predictor"):
    STAGES.add(f"cft-{_guide}", FinetuningStage(_guide))
