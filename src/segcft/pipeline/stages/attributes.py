"""The causal mechanisms of the attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segcft.causal.dependence import Dependence, dependences, dependent_noises
from segcft.causal.objective import SCMObjective
from segcft.causal.scm import StructuralCausalModel
from segcft.config.study import Study
from segcft.counterfactual.joint_support import JointSupport
from segcft.counterfactual.scale import unexplained
from segcft.data.batches import Batch, Batches
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stage import STAGES, Minimised, TrainingStage
from segcft.training.findings import Finding, tied
from segcft.training.loop import Trained

ENOUGH = 10
"""Samples a variable from which it is told whether one follows from the others."""


class AttributesStage(TrainingStage):
    """Fits the mechanisms. Each learns from the samples whose values it needs are known."""

    name = section = switch = "scm"
    complete_validation = True

    def network(self, study: Study) -> nn.Module:
        return StructuralCausalModel(study.variables, study.scm, study.confounded)

    def settings(self, study: Study) -> dict[str, Any]:
        confounded = [list(pair) for pair in study.confounded]
        return super().settings(study) | ({"confounded": confounded} if confounded else {})

    def objective(self, pipeline: Pipeline, network: Any, values: Tensor, batches: Batches) -> Minimised:
        network.set_statistics(values)
        return SCMObjective(network), {}

    def fit_rest(self, pipeline: Pipeline, network: Any) -> None:
        network.fit_confounding(self._values(pipeline, network, "train"))

    def validation(self, study: Study, network: Any, batch: Batch) -> dict[str, Tensor]:
        return {"validation_nats_per_person": -network.log_prob(batch["values"]).sum(dim=1)}

    def findings(
        self, pipeline: Pipeline, trained: Trained, metrics: Mapping[str, float], facts: Mapping[str, Any]
    ) -> Iterator[Finding]:
        yield from super().findings(pipeline, trained, metrics, facts)
        yield from dependent_noises([Dependence(**one) for one in facts["noises"]], pipeline.study)
        study, values = pipeline.study, torch.from_numpy(pipeline.store.values()[pipeline.store.indices("train")])
        columns = zip(study.measured, study.measured_columns, strict=True)
        known = values[~values.isnan().any(dim=1)]
        if len(known) >= ENOUGH * len(study.variables):  # of few any number is the sum of others
            varying = [(name, column) for name, column in columns if float(known[:, column].std()) > 0]
            yield from tied({name: float(unexplained(study, known, column)) for name, column in varying})

    def facts(self, pipeline: Pipeline, network: Any) -> dict[str, Any]:
        values, store = self._values(pipeline, network, "train"), pipeline.store
        joint = JointSupport.learn(network, values, self._values(pipeline, network, "validation"))
        generator = torch.Generator(values.device).manual_seed(pipeline.study.scm.seed)
        scores = network.normal_scores(values, generator).cpu().double().numpy()
        subjects = store.table["patient"].iloc[store.indices("train")].nunique()
        tested = [one._asdict() for one in dependences(scores, list(pipeline.study.variables), subjects)]
        return {"noises": tested} | ({"joint": joint.model_dump(mode="json")} if joint else {})

    def _values(self, pipeline: Pipeline, network: Any, split: str) -> Tensor:
        """The values (N, V) of a part's samples, on the network's device."""
        values = pipeline.store.values()[pipeline.store.indices(split)]
        return torch.from_numpy(values).to(network.encoder.mean.device)


STAGES.add("scm", AttributesStage())
