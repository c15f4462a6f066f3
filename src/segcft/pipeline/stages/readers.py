"""The readers of images: the guides of fine-tuning, and the judge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segcft.config.study import Study
from segcft.data.batches import Batch, Batches
from segcft.data.splits import JUDGE
from segcft.data.store import Store
from segcft.errors import Code, RunError, StudyError
from segcft.grey import to_unit
from segcft.measures.measurements import Measurements
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stage import STAGES, Minimised, TrainingStage
from segcft.readers.predictor import Predictor, PredictorObjective
from segcft.readers.regressor import Regressor, RegressorObjective
from segcft.readers.segmentor import SEGMENTORS, SegmentorObjective, dice
from segcft.training import artefact
from segcft.training.findings import Finding, blind_predictor, guessing, poor_reader, usual_size
from segcft.training.loop import Trained

READING_ERROR = "validation_reading_error_"
"""Before a structure: the usual error with which its variable is read."""
MEAN_ERROR = "validation_mean_error_"
"""Before an attribute: the mean error with which it is read."""


class _ReaderStage(TrainingStage):
    """Readers need no attributes, so samples that lack one are theirs, too. They learn from masks."""

    masked = True

    def __init__(self, name: str) -> None:
        self.name = self.section = self.switch = name

    def validation(self, study: Study, network: Any, batch: Batch) -> dict[str, Tensor]:
        error = (network.read(to_unit(batch["image"])) - batch["values"][:, study.measured_columns]).abs()
        return {f"validation_area_error_{name}": error[:, i] for i, name in enumerate(study.structures)}

    @torch.no_grad()
    def measures(self, pipeline: Pipeline, network: Any) -> dict[str, float]:
        study = pipeline.study
        errors = [
            (network.read(to_unit(batch["image"])) - batch["values"][:, study.measured_columns]).abs()
            for batch in map(pipeline.on_device, self.validation_batches(pipeline))
        ]
        if not errors:
            return {}
        usual = usual_size(torch.cat(errors).cpu().numpy()).tolist()
        return {f"{READING_ERROR}{name}": error for name, error in zip(study.structures, usual, strict=True)}

    def findings(
        self, pipeline: Pipeline, trained: Trained, metrics: Mapping[str, float], facts: Mapping[str, Any]
    ) -> Iterator[Finding]:
        yield from super().findings(pipeline, trained, metrics, facts)
        study, store = pipeline.study, pipeline.store
        measures = store.values()[store.indices("train")][:, study.measured_columns]
        spreads = dict(
            zip(study.structures, usual_size(measures - np.nanmedian(measures, axis=0)).tolist(), strict=True)
        )
        key = {name: f"{READING_ERROR}{name}" for name in study.structures}
        yield from poor_reader({name: metrics[key[name]] for name in key if key[name] in metrics}, spreads, self.name)


class SegmentorStage(_ReaderStage):
    """Trains a segmentor: the guide of Seg-CFT."""

    def is_in(self, study: Study) -> bool:
        return self.spec(study) is not None

    def network(self, study: Study) -> nn.Module:
        spec = self.spec(study)
        return SEGMENTORS.find(spec.architecture)(spec, study.image.channels, Measurements.of(study))

    def objective(self, pipeline: Pipeline, network: Any, values: Tensor, batches: Batches) -> Minimised:
        return SegmentorObjective(network, self.spec(pipeline.study)), {}

    def validation(self, study: Study, network: Any, batch: Batch) -> dict[str, Tensor]:
        overlap = dice((network(to_unit(batch["image"])) > 0).float(), (batch["mask"] >= 128).float())
        errors = super().validation(study, network, batch)
        return errors | {f"validation_dice_{name}": overlap[:, i] for i, name in enumerate(study.masked)}


class _Judging(TrainingStage):
    """Who judges: trained from a seed of its own, and on subjects of its own where the split has some
    (``splits.judge``)."""

    judged: str
    """The part that guides by the same, whose weights it must not have."""

    def rows(self, study: Study, store: Store) -> NDArray[np.int64]:
        own = store.indices(JUDGE, masked=self.masked)
        return own if len(own) else super().rows(study, store)

    def check(self, run: Run) -> None:
        judge, guide = run.path(self.name), run.path(self.judged)
        if guide.is_file() and artefact.same_weights(judge, guide):
            raise RunError(
                Code.LEAK,
                judge,
                f"it has the weights of {guide.name}, and a judge that is the guide proves nothing; remove this file "
                f"and train it from a seed of its own: `segcft {self.name}`",
            )


class JudgeStage(_Judging, SegmentorStage):
    """Trains the segmentor that judges the counterfactuals."""

    judged = "segmentor"


class RegressorStage(_ReaderStage):
    """Trains a regressor: the guide of Reg-CFT."""

    def is_in(self, study: Study) -> bool:
        return study.regressor is not None

    def network(self, study: Study) -> nn.Module:
        return Regressor(self.spec(study), study.image.channels, Measurements.of(study))

    def objective(self, pipeline: Pipeline, network: Any, values: Tensor, batches: Batches) -> Minimised:
        study = pipeline.study
        network.set_statistics(values[:, study.measured_columns])
        return RegressorObjective(network, self.spec(study), Measurements.of(study)), {}


class PredictorStage(TrainingStage):
    """Trains a predictor of the attributes: a guide beside those of measures."""

    judges = False

    def __init__(self, name: str, section: str) -> None:
        self.name, self.section, self.switch = name, section, section

    def is_in(self, study: Study) -> bool:
        return self.spec(study) is not None

    def network(self, study: Study) -> nn.Module:
        channels, dimensions = study.image.channels, len(study.image.size)
        return Predictor(self.spec(study), channels, dimensions, study.variables, study.attributes)

    def objective(self, pipeline: Pipeline, network: Any, values: Tensor, batches: Batches) -> Minimised:
        if not len(pipeline.store.indices("validation")):
            why = "no validation sample says how much of an attribute is to be seen (splits.validation)"
            raise StudyError(Code.EMPTY, self.section, why)
        network.set_statistics(values)
        return PredictorObjective(network, self.spec(pipeline.study)), {}

    @torch.no_grad()
    def fit_rest(self, pipeline: Pipeline, network: Any) -> None:
        network.eval()
        network.fit_response(*self._read(pipeline, network), judges=self.judges)

    @torch.no_grad()
    def measures(self, pipeline: Pipeline, network: Any) -> dict[str, float]:
        errors = network.misread(*self._read(pipeline, network))
        found = {f"{MEAN_ERROR}{one.name}": float(error.nanmean()) for one, error in errors}
        return {name: error for name, error in found.items() if not math.isnan(error)}  # nobody is known to have it

    def findings(
        self, pipeline: Pipeline, trained: Trained, metrics: Mapping[str, float], facts: Mapping[str, Any]
    ) -> Iterator[Finding]:
        yield from super().findings(pipeline, trained, metrics, facts)
        study = pipeline.study
        values = pipeline.store.values()[pipeline.store.indices("validation")]
        guesses = {
            name: guessing(values[:, list(study.variables).index(name)], bool(study.variables[name].categories))
            for name in study.attributes
            if f"{MEAN_ERROR}{name}" in metrics
        }
        yield from blind_predictor({n: metrics[f"{MEAN_ERROR}{n}"] for n in guesses}, guesses, self.section)

    def _read(self, pipeline: Pipeline, network: Any) -> tuple[Tensor, Tensor]:
        """What the network says of the validation samples (N, K), and their values (N, V)."""
        batches = map(pipeline.on_device, self.validation_batches(pipeline))
        said, values = zip(*((network(to_unit(one["image"])), one["values"]) for one in batches), strict=True)
        return torch.cat(said), torch.cat(values)


class PredictorJudgeStage(_Judging, PredictorStage):
    """Trains the predictor that judges what counterfactuals show of attributes."""

    judged, judges = "predictor", True


STAGES.add("segmentor", SegmentorStage("segmentor"))
STAGES.add("judge", JudgeStage("judge"))
STAGES.add("regressor", RegressorStage("regressor"))
STAGES.add("predictor", PredictorStage("predictor", "predictor"))
STAGES.add("predictor-judge", PredictorJudgeStage("predictor-judge", "predictor_judge"))
