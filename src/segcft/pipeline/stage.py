"""What a stage of a pipeline is, and the table of all stages: a new one is one file."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import segcft
from segcft.config.study import Study
from segcft.data.batches import Batch, Batches, sequential
from segcft.data.store import Store
from segcft.errors import Code, SegcftError, StudyError
from segcft.training import artefact
from segcft.training.findings import Finding, astray, unfinished
from segcft.training.loop import Objective, Trained, freeze, train
from segcft.utils.atomic import read_json, write_text
from segcft.utils.digest import key_of
from segcft.utils.registry import Registry, instance_of

if TYPE_CHECKING:
    from segcft.pipeline.run import Run
    from segcft.pipeline.runner import Pipeline


Minimised = tuple[Objective, dict[str, float]]
"""What a stage minimises, and figures about it to record."""

JUDGES = ("judge", "predictor-judge")
"""The stages that train who judges: of measures, and of attributes."""

MOST_VALIDATED = 256
"""Samples that are validated during a training, at most: more would not say much more, and take the time of training
steps."""


class Stage(ABC):
    """A step on the way from images to the table.

    A stage says what it needs and what it makes; the pipeline runs it when what it needs has changed. Its outcome
    carries a key, a digest of all that it was made from: the stage's settings, the study's grid, variables and
    structures, segcft's version, and the keys of the stages that it needs.
    """

    name: str
    """By which commands, files and keys call it."""

    section: str = ""
    """Of the study, with the stage's settings; "" where it has none. Stages that need the same run in the order of
    their sections."""

    switch: str = ""
    """The study's field that says whether there is such a stage, for errors."""

    def is_in(self, study: Study) -> bool:
        """Whether the study has this stage."""
        return True

    def needs(self, study: Study) -> tuple[str, ...]:
        """The stages whose outcome this one uses."""
        return ("import",)

    def spec(self, study: Study) -> Any:
        """Its settings in the study; None if it has none."""
        return getattr(study, self.section) if self.section else None

    def settings(self, study: Study) -> dict[str, Any]:
        """What of :meth:`spec` decides the outcome, in JSON's types: not which stages there are, nor how often they
        save or recompute."""
        spec = self.spec(study)
        return spec.model_dump(mode="json", exclude={"guides", "checkpoint_steps", "recompute"}) if spec else {}

    def key(self, pipeline: Pipeline) -> str:
        """Of all that the outcome depends on; the keys of what the stage needs must be known to the pipeline."""
        study = pipeline.study.model_dump(mode="json")
        shared = [study[name] for name in ("image", "variables", "structures")]
        upstream = {before: pipeline.keys[before] for before in self.needs(pipeline.study)}
        return key_of(self.name, segcft.__version__, self.settings(pipeline.study), shared, upstream)

    def record(self, pipeline: Pipeline) -> Path:
        """The file that says of what the outcome was made. Without it the stage runs again."""
        return pipeline.run.folder / f"{self.name}.json"

    def recorded(self, pipeline: Pipeline) -> dict[str, Any]:
        """What :meth:`record` says; {} where there is none."""
        return read_json(self.record(pipeline))

    def current_key(self, pipeline: Pipeline) -> str | None:
        """The key of the outcome that is there, if it is up to date; None if it is not.

        Raises:
            RunError: the outcome is damaged, or is not the pipeline's to be made anew.
        """
        key = self.key(pipeline)
        return key if self.recorded(pipeline).get("key") == key else None

    def run(self, pipeline: Pipeline) -> bool:
        """Make the outcome if it is not up to date, and tell the pipeline its key; returns whether it was made."""
        if pipeline.is_current(self.name):
            return False
        key, record = self.key(pipeline), self.record(pipeline)
        if pipeline.fabric.is_global_zero:
            record.unlink(missing_ok=True)  # it is of what is now replaced, file by file
            self.make(pipeline)
            write_text(record, json.dumps({"key": key, "data": pipeline.store.fingerprint}))
        pipeline.fabric.barrier()
        pipeline.keys[self.name] = key
        return True

    @abstractmethod
    def make(self, pipeline: Pipeline) -> None:
        """Make the outcome; it may read the pipeline's store and the outcome of the stages that it needs."""

    def check_forget(self, pipeline: Pipeline) -> None:  # noqa: B027 - most stages can
        """Check that the stage can run again: before any is forgotten.

        Raises:
            SegcftError: it cannot.
        """

    def forget(self, pipeline: Pipeline) -> None:
        """Have the stage run again the next time, whatever its key."""
        self.record(pipeline).unlink(missing_ok=True)


class TrainingStage(Stage):
    """A stage that trains a network, the *part* of the run that is kept in ``RUN/NAME.safetensors``."""

    complete = False
    """Whether it learns from those samples only of which all values are known."""

    complete_validation = False
    """The same of the samples that it is validated on."""

    masked = False
    """Whether it learns, and is validated, from those samples only whose masks are known."""

    falls = "loss"
    """The figure of a step that falls as the training succeeds."""

    method: str = ""
    """The method of counterfactuals whose image mechanism it trains, as tables call it; "" if it trains none."""

    guide: str = ""
    """The part that its image mechanism is trained to please; "" if there is none."""

    answers_with: tuple[str, ...] = ()
    """Parts that must still be those of which this one was made, for ``method`` to answer."""

    def build(self, study: Study) -> nn.Module:
        """Its network with fresh weights, drawn from the seed of its section."""
        torch.manual_seed(self.spec(study).seed)
        return self.network(study)

    @abstractmethod
    def network(self, study: Study) -> nn.Module:
        """Its network; weights are drawn from torch's global generator."""

    @abstractmethod
    def objective(self, pipeline: Pipeline, network: Any, values: Tensor, batches: Batches) -> Minimised:
        """What is minimised on ``batches`` of training samples, whose values are ``values`` (N, V)."""

    def validation(self, study: Study, network: Any, batch: Batch) -> dict[str, Tensor]:
        """Figures (B,) or (B, ...) of a batch of validation samples, which no training step has seen; NaN does not
        count. {} if it has none."""
        return {}

    def measures(self, pipeline: Pipeline, network: Any) -> dict[str, float]:
        """Figures of the trained network on validation samples that are no means over them; {} if it has none."""
        return {}

    def findings(
        self, pipeline: Pipeline, trained: Trained, metrics: Mapping[str, float], facts: Mapping[str, Any]
    ) -> Iterator[Finding]:
        """What went wrong although the training came to its end, by its steps and by all figures and facts that are
        recorded."""
        patience = self.spec(pipeline.study).patience
        yield from astray(trained.history, self.section)
        yield from unfinished(trained.history, self.falls, trained.stopped, self.section, patience)

    def rows(self, study: Study, store: Store) -> NDArray[np.int64]:
        """The samples that it is trained on, as rows of the store."""
        return store.indices("train", self.complete, self.masked)

    def completions(self, pipeline: Pipeline, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Values of the samples ``rows`` (N,) of which not all are known, each completed K times, (N, K, V); None where
        it learns from those alone whose values are known, or needs none."""
        return None

    def others(self, pipeline: Pipeline, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Other images of the same things among ``rows`` (N,) of the store, (N, K), where it learns from them."""
        return None

    def fit_rest(self, pipeline: Pipeline, network: Any) -> None:
        """Learn what is left when all steps are made, and takes none."""

    def check(self, run: Run) -> None:
        """Check that the part may be used for what it is.

        Raises:
            RunError: it may not.
        """

    def facts(self, pipeline: Pipeline, network: Any) -> dict[str, Any]:
        """More to record of the trained network, in JSON's types."""
        return {}

    def record(self, pipeline: Pipeline) -> Path:
        return pipeline.run.path(self.name)

    def recorded(self, pipeline: Pipeline) -> dict[str, Any]:
        path = self.record(pipeline)
        return artefact.read_meta(path) if path.is_file() else {}

    def run(self, pipeline: Pipeline) -> bool:
        made = not pipeline.is_current(self.name)
        if made:
            self.make(pipeline)
        self._drop_checkpoint(pipeline)  # a killed process may have left it beside the part, or half of it
        return made

    def make(self, pipeline: Pipeline) -> None:
        if self.record(pipeline).is_file():
            pipeline.progress.note(
                f"{self.name}: made anew, since its settings, the samples or an earlier part changed"
            )
        start, spec, fabric = time.monotonic(), self.spec(pipeline.study), pipeline.fabric
        key, rows = self.key(pipeline), self.rows(pipeline.study, pipeline.store)
        network, completions = self.build(pipeline.study), self.completions(pipeline, rows)
        batches = Batches(
            pipeline.store,
            rows,
            spec.batch_size,
            spec.seed,
            rank=fabric.global_rank,
            world=fabric.world_size,
            others=self.others(pipeline, rows),
            completions=completions,
        )
        values = torch.from_numpy(pipeline.store.values()[rows] if completions is None else completions[:, 0])
        objective, facts = self.objective(pipeline, network, values, batches)
        folder, progress = pipeline.run.training, pipeline.progress
        trained = train(
            objective,
            batches,
            spec,
            fabric,
            folder=folder,
            name=self.name,
            key=key,
            validation=self._validated(pipeline) if spec.patience else (),
            progress=progress,
        )
        self.fit_rest(pipeline, network)
        self.keep(pipeline, network, key, trained.figures | facts, start, trained=trained)

    def validation_batches(self, pipeline: Pipeline, most: int | None = None) -> Iterator[Batch]:
        """The validation samples, in order; the same ones every time where there are more than ``most``."""
        rows = pipeline.store.indices("validation", self.complete_validation, self.masked)
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:most])
        return sequential(pipeline.store, rows, pipeline.study.evaluation.batch_size)

    def _validated(self, pipeline: Pipeline) -> list[Batch]:
        """The samples by which it is known when to end.

        Raises:
            StudyError: there are none. The training samples cannot stand in for them: their loss goes on falling where
                a network only learns them by heart.
        """
        batches = list(self.validation_batches(pipeline, MOST_VALIDATED))
        if not batches:
            why = "no validation sample says when to end (splits.validation); without this key all steps are made"
            raise StudyError(Code.EMPTY, f"{self.section}.patience", why)
        return batches

    def keep(
        self,
        pipeline: Pipeline,
        network: nn.Module,
        key: str,
        figures: Mapping[str, float],
        start: float,
        source: Mapping[str, Any] | None = None,
        trained: Trained | None = None,
    ) -> None:
        """Validate and save the part that was made since the time ``start``, and say what went wrong.

        ``source`` is recorded of one that comes from elsewhere, and ``trained`` is known of one that was trained here.
        """
        freeze(network)
        if pipeline.fabric.is_global_zero:
            metrics = {**figures, **self._validate(pipeline, network), **self.measures(pipeline, network)}
            facts = self.facts(pipeline, network)
            findings = list(self.findings(pipeline, trained, metrics, facts)) if trained else []
            meta = {
                "part": self.name,
                "key": key,
                "made_from": {before: pipeline.keys[before] for before in self.needs(pipeline.study)},
                "version": segcft.__version__,
                "torch": torch.__version__,
                "device": str(pipeline.fabric.device),
                "compile": False,
                "data": pipeline.store.fingerprint,
                "seconds": round(time.monotonic() - start, 1),
                "metrics": metrics,
                "study": pipeline.study.model_dump(mode="json"),
                **({"stopped": trained.stopped._asdict()} if trained else {}),
                "findings": [finding.record() for finding in findings],
                **(source or {}),
                **facts,
            }
            artefact.save(self.record(pipeline), network, meta)
            text = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            pipeline.progress.note(f"  {self.name}: {text}")
            for finding in findings:
                pipeline.progress.note(f"warning: {self.name}: {finding}")
        pipeline.fabric.barrier()
        pipeline.keys[self.name] = key

    @torch.no_grad()
    def _validate(self, pipeline: Pipeline, network: nn.Module) -> dict[str, float]:
        """The means of :meth:`validation`; {} where there are no validation samples."""
        torch.manual_seed(0)
        found: list[dict[str, Tensor]] = []
        for batch in self.validation_batches(pipeline):
            found.append(self.validation(pipeline.study, network, pipeline.on_device(batch)))
            if not found[0]:
                break
        # A sample that lacks a structure has no overlap with it, which is NaN.
        return {name: float(torch.cat([one[name] for one in found]).nanmean()) for name in (found or [{}])[0]}

    def _drop_checkpoint(self, pipeline: Pipeline) -> None:
        """Remove what the training needed to go on."""
        if pipeline.fabric.is_global_zero:
            for left in ("", ".partial"):
                (pipeline.run.training / f"{self.name}.checkpoint{left}").unlink(missing_ok=True)

    def forget(self, pipeline: Pipeline) -> None:
        super().forget(pipeline)
        self._drop_checkpoint(pipeline)  # it is of a training that is not to go on


STAGES: Registry[Stage] = Registry("stage", "segcft.pipeline.stages", check=instance_of(Stage))
"""All stages by name. One that a script adds at its top level, and not under ``if __name__ == "__main__"``, is known to
the processes that trainings side by side have."""


def stages_of(study: Study) -> list[Stage]:
    """The stages of a study, each after those that it needs.

    Raises:
        SegcftError: one needs a stage that the study has not, or they need each other.
    """
    sections = list(Study.model_fields)
    found = [stage for stage in STAGES.values() if stage.is_in(study)]
    found.sort(key=lambda stage: sections.index(stage.section) if stage.section else len(sections))
    needs = {stage.name: stage.needs(study) for stage in found}
    for name, before in needs.items():
        if missing := set(before) - needs.keys():
            raise SegcftError(
                Code.MISSING, name, f"it needs {', '.join(sorted(missing))}, which the study does not have"
            )
    try:
        return [STAGES[name] for name in TopologicalSorter(needs).static_order()]
    except CycleError as error:
        raise SegcftError(Code.CONFLICT, " -> ".join(error.args[1]), "these stages need each other") from None


def training_stages(study: Study) -> Iterator[TrainingStage]:
    """The stages of a study that train a network, in order."""
    return (stage for stage in stages_of(study) if isinstance(stage, TrainingStage))


def training_stage(name: str) -> TrainingStage:
    """The stage that trains the part ``name``.

    Raises:
        SegcftError: there is none.
    """
    stage = STAGES.find(name)
    if not isinstance(stage, TrainingStage):
        raise SegcftError(Code.INVALID, name, "this stage trains no network")
    return stage
