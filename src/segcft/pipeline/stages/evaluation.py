"""The evaluation of the counterfactuals."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from segcft.config.study import Study
from segcft.pipeline.calibration import calibrate
from segcft.pipeline.judging import evaluate_samples
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stage import JUDGES, STAGES, Stage, TrainingStage
from segcft.utils.lock import Lock

RECORD = "evaluation.json"
"""In the folder of a run's own evaluation: of what it was made."""


class Evaluation(Stage):
    """Judges all methods on the samples of the pipeline's part of the split."""

    name, section = "evaluate", "evaluation"

    def needs(self, study: Study) -> tuple[str, ...]:
        stages = (stage for stage in STAGES.values() if isinstance(stage, TrainingStage) and stage.is_in(study))
        judges = [name for name in JUDGES if STAGES.find(name).is_in(study)]
        return ("import", *judges, "scm", *(stage.name for stage in stages if stage.method))

    def record(self, pipeline: Pipeline) -> Path:
        return pipeline.run.evaluation_of(pipeline.split) / RECORD

    def run(self, pipeline: Pipeline) -> bool:
        alone = Lock(self.record(pipeline).parent) if pipeline.fabric.is_global_zero else nullcontext()
        with alone:  # until its record is there: `segcft evaluate` also writes to this folder
            return super().run(pipeline)

    def make(self, pipeline: Pipeline) -> None:
        folder, device, run = self.record(pipeline).parent, pipeline.fabric.device, pipeline.run
        if pipeline.split == "test":
            models = {method: run.model(method, device) for method in run.methods()}
            calibrate(run, models, run.judge(device), device, pipeline.progress)
        evaluate_samples(run, pipeline.store, folder, device, pipeline.progress, pipeline.split)


STAGES.add("evaluate", Evaluation())
