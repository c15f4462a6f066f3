"""Likelihood training of the image mechanism."""

from __future__ import annotations

from torch import Tensor

from segcft.config.section import Augment
from segcft.config.study import Study
from segcft.data.augment import Augmenter
from segcft.data.batches import Batch
from segcft.data.grey import to_unit
from segcft.image_models.mechanism import ImageMechanism
from segcft.measures.measurements import Measurements
from segcft.training.loop import Objective


class AugmentedSamples:
    """From a batch of the store to images in [-1, 1] and values, deformed together.

    What a deformation changes is measured again, so that image and values always agree.
    """

    def __init__(self, study: Study, spec: Augment) -> None:
        self.augment, self.deforms = Augmenter(spec), spec.deforms
        self.columns = study.measured_columns
        self.measurements = Measurements.of(study)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``batch`` to images (B, C, *size) and values (B, V)."""
        image, mask = self.augment(to_unit(batch["image"]), batch["mask"].float() / 255)
        values = batch["values"]
        if self.deforms:
            values = values.clone()
            values[:, self.columns] = self.measurements.estimate(mask)
        return image, values


class LikelihoodObjective(Objective):
    """The mechanism's own loss, of augmented samples."""

    network: ImageMechanism

    def __init__(self, network: ImageMechanism, study: Study) -> None:
        super().__init__()
        self.network = network
        self.samples = AugmentedSamples(study, study.hvae.augment)
        self.settles = network.spec.settles

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.network.loss(*self.samples(batch), step)

    def validate(self, batch: Batch) -> Tensor:
        """What fine-tuning must not let rise, without augmentation: the negative bound with the KL's last weight."""
        return self.network.constraint(to_unit(batch["image"]), batch["values"])
