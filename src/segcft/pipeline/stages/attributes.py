"""The causal mechanisms of the attributes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from segcft.causal.objective import SCMObjective
from segcft.causal.scm import StructuralCausalModel
from segcft.config.study import Study
from segcft.data.batches import Batch, Batches
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stage import STAGES, Minimised, TrainingStage


class AttributesStage(TrainingStage):
    """Fits the mechanisms. Each learns from the samples whose values it needs are known."""

    name = section = switch = "scm"
    complete_validation = True

    def network(self, study: Study) -> nn.Module:
        return StructuralCausalModel(study.variables, study.scm)

    def objective(self, pipeline: Pipeline, network: Any, values: Tensor, batches: Batches) -> Minimised:
        network.set_statistics(values)
        return SCMObjective(network), {}

    def validation(self, study: Study, network: Any, batch: Batch) -> dict[str, Tensor]:
        return {"validation_nats_per_person": -network.log_prob(batch["values"]).sum(dim=1)}


STAGES.add("scm", AttributesStage())
