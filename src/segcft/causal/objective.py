"""Likelihood training of the attributes' mechanisms."""

from __future__ import annotations

from torch import Tensor

from segcft.causal.scm import StructuralCausalModel
from segcft.data.batches import Batch
from segcft.training.loop import Objective


class SCMObjective(Objective):
    """Negative log-likelihood of the attributes, nats a sample."""

    network: StructuralCausalModel

    def __init__(self, network: StructuralCausalModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.validate(batch).mean(), {}

    def validate(self, batch: Batch) -> Tensor:
        """The negative log-likelihood."""
        return -self.network.log_prob(batch["values"]).sum(dim=1)
