"""The samples: imported from files, or simulated."""

from __future__ import annotations

from pathlib import Path

from segcft.config.study import Study
from segcft.pipeline.importing import check_data, import_record, import_samples
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stage import STAGES, Stage


class Import(Stage):
    """Fills the run's store. Its key is the fingerprint of the samples, wherever they are from."""

    name, section = "import", "data"

    def needs(self, study: Study) -> tuple[str, ...]:
        return ()

    def record(self, pipeline: Pipeline) -> Path:
        return import_record(pipeline.run)

    def current_key(self, pipeline: Pipeline) -> str | None:
        return pipeline.keys.get(self.name)  # unknown before :meth:`run` has read the files

    def run(self, pipeline: Pipeline) -> bool:
        made = False
        if pipeline.fabric.is_global_zero:
            made = import_samples(pipeline.run, pipeline.data, pipeline.progress)
            if not made:
                pipeline.run.store(verify=True)  # once a run: the trainings read it by parts, and see no damage
        pipeline.fabric.barrier()
        pipeline.keys[self.name] = pipeline.store.fingerprint
        return made

    def make(self, pipeline: Pipeline) -> None:
        self.run(pipeline)

    def check_forget(self, pipeline: Pipeline) -> None:
        check_data(pipeline.study, pipeline.data)


STAGES.add("import", Import())
