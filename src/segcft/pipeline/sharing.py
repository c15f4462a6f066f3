"""What runs of one study, or of variants of it, make from the same is made once: the others share it."""

from __future__ import annotations

from collections.abc import Mapping

from segcft.pipeline.importing import take_samples
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training import artefact
from segcft.utils.atomic import link


def share(pipeline: Pipeline, others: Mapping[str, Run]) -> None:
    """Link what other runs have made from the same: samples, which are imported if none has them, and trained parts."""
    if take_samples(pipeline.run, pipeline.data, others.values()):
        pipeline.progress.note("  samples: shared")
    pipeline.run_stage("import")
    for stage in pipeline.run.parts:
        if pipeline.keys.keys() >= set(pipeline.needs(stage)) and not pipeline.is_current(stage):
            for name, other in others.items():
                path = other.path(stage)
                if path.is_file() and artefact.read_meta(path).get("key") == pipeline.key(stage):
                    link(path, pipeline.run.path(stage))
                    pipeline.progress.note(f"  {stage}: that of {name}")
                    pipeline.is_current(stage)
                    break
