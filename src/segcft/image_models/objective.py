"""Likelihood training of the image mechanism."""

from __future__ import annotations

import torch
from torch import Tensor

from segcft.config.section import Augment
from segcft.config.study import Study
from segcft.data.augment import Augmenter
from segcft.data.batches import Batch
from segcft.data.deform import LocalDeformer
from segcft.data.grey import to_unit
from segcft.image_models.mechanism import ImageMechanism, Known
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
        image, _, values = self.with_masks(batch)
        return image, values

    def with_masks(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """``batch`` to images (B, C, *size), masks (B, S, *size) in 0..1 and values (B, V)."""
        image, mask = self.augment(to_unit(batch["image"]), batch["mask"].float() / 255)
        values = batch["values"]
        if self.deforms:
            values = self.measured(values, mask)
        return image, mask, values

    def measured(self, values: Tensor, mask: Tensor) -> Tensor:
        """``values`` (B, V) with the measures of masks (B, S, *size) in 0..1."""
        values = values.clone()
        values[:, self.columns] = self.measurements.estimate(mask)
        return values


class PairedSamples(AugmentedSamples):
    """The same, with the local deformations of images, which are counterfactuals that are known.

    Args:
        spec: how all of an image is augmented before.
    """

    def __init__(self, study: Study, spec: Augment) -> None:
        super().__init__(study, spec)
        deform = study.hvae.deform
        self.deform = LocalDeformer(deform) if deform.share else None

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor, Known | None]:
        """``batch`` to images (B, C, *size), values (B, V) and what is known of them: the image itself where it is not
        deformed. None where the study deforms none."""
        image, mask, values = self.with_masks(batch)
        if self.deform is None:
            return image, values, None
        changed, mask, deformed = self.deform(image, mask)
        return image, values, Known(changed, torch.where(deformed[:, None], self.measured(values, mask), values))


class LikelihoodObjective(Objective):
    """The mechanism's own loss, of augmented samples, or of pairs of them and their local deformations."""

    network: ImageMechanism

    def __init__(self, network: ImageMechanism, study: Study) -> None:
        super().__init__()
        self.network = network
        self.samples = PairedSamples(study, study.hvae.augment)
        self.settles = network.spec.settles

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, values, known = self.samples.pairs(batch)
        if known is None:
            return self.network.loss(image, values, step)
        return self.network.loss_of_pairs(image, values, known, step)

    def validate(self, batch: Batch) -> Tensor:
        """What fine-tuning must not let rise, without augmentation: the negative bound with the KL's last weight."""
        return self.network.constraint(to_unit(batch["image"]), batch["values"])
