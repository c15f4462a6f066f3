"""Likelihood training of the image mechanism."""

from __future__ import annotations

from torch import Tensor

from segcft.config.mechanisms import MechanismSpec
from segcft.config.study import Study
from segcft.data.augment import Augmenter
from segcft.data.batches import Batch
from segcft.data.grey import to_unit
from segcft.image_models.mechanism import ImageMechanism
from segcft.measures.measurements import Measurements
from segcft.training.loop import Objective


class Samples:
    """From a batch of the store to images in [-1, 1] and values, deformed together.

    What a deformation changes is measured again, so that image and values always agree.
    """

    def __init__(self, study: Study, augment: Augmenter) -> None:
        self.augment = augment
        self.deforms = augment.spec.deforms
        self.columns = study.measured_columns
        self.measurements = Measurements.of(study)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``batch`` to images (B, C, H, W) and values (B, V)."""
        image, mask = self.augment(to_unit(batch["image"]), batch["mask"].float() / 255)
        values = batch["values"]
        if self.deforms:
            values = values.clone()
            values[:, self.columns] = self.measurements.estimate(mask)
        return image, values


class LikelihoodObjective(Objective):
    """The negative evidence lower bound, with a warm-up of beta."""

    network: ImageMechanism

    def __init__(self, network: ImageMechanism, spec: MechanismSpec, study: Study) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.samples = Samples(study, Augmenter(spec.augment))

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        spec = self.spec
        share = min(1.0, (step + 1) / spec.beta_warmup_steps) if spec.beta_warmup_steps else 1.0
        image, values = self.samples(batch)
        bound = self.network(image, values, beta=spec.beta_start + share * (spec.beta - spec.beta_start))
        figures = {"distortion": bound.distortion.mean(), "rate": bound.rate.mean()}
        return bound.objective.mean(), figures
