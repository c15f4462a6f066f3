"""Likelihood training of the image mechanism."""

from __future__ import annotations

import torch
from torch import Tensor

from segcft.config.section import Augment, LocalDeformation
from segcft.config.study import Study
from segcft.data.augment import Augmenter
from segcft.data.batches import OTHER, Batch
from segcft.data.deform import LocalDeformer
from segcft.data.pairs import elsewhere_equal
from segcft.grey import to_unit
from segcft.grid import Grid
from segcft.image_models.mechanism import ImageMechanism, Known
from segcft.measures.measurements import Measurements
from segcft.training.loop import Objective


class AugmentedSamples:
    """From a batch of the store to images in [-1, 1] and values, deformed together.

    What that changes is measured again, so that image and values always agree.
    """

    def __init__(self, study: Study, spec: Augment) -> None:
        self.augment, self.columns = Augmenter(spec), study.measured_columns
        self.measurements = Measurements.of(study)
        self.changes = spec.deforms or (self.measurements.of_image and spec.changes_greys)
        """Whether measures are others once an image is augmented."""

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``batch`` to images (B, C, *size) and values (B, V)."""
        image, _, values = self.with_masks(batch)
        return image, values

    def with_masks(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """``batch`` to images (B, C, *size), masks (B, S, *size) in 0..1 and values (B, V)."""
        image, mask, (values,) = self._augmented(batch["image"], batch["mask"], batch["values"])
        return image, mask, values

    def _augmented(self, image: Tensor, mask: Tensor, *values: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Images (B, K * C, *size) and masks (B, K * S, *size) of K images of each sample, and the K ``values`` (B, V),
        deformed together. A sample that loses a measure so, being moved out of the frame, stays as it is."""
        plain, drawn = to_unit(image), mask.float() / 255
        image, mask = self.augment(plain, drawn, images=len(values))
        if not self.changes:
            return image, mask, list(values)
        parts = zip(values, mask.chunk(len(values), dim=1), image.chunk(len(values), dim=1), strict=True)
        found = [self.measured(*part) for part in parts]
        lost = (torch.cat(found, dim=1).isnan() & ~torch.cat(values, dim=1).isnan()).any(dim=1)[:, None]
        over = Grid.like(image).over_space(lost)
        image, mask = torch.where(over, plain, image), torch.where(over, drawn, mask)
        return image, mask, [torch.where(lost, one, new) for one, new in zip(values, found, strict=True)]

    def measured(self, values: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """``values`` (B, V) with the measures of masks (B, S, *size) in 0..1 of images (B, C, *size)."""
        values = values.clone()
        values[:, self.columns] = self.measurements.estimate(mask, image)
        return values


class PairedSamples(AugmentedSamples):
    """The same, with counterfactuals of images that are known: other images of the same thing, where the batch has any,
    or local deformations.

    Args:
        spec: how all of an image, and of what is known of it, is augmented before.
        deform: local deformations of it.
    """

    def __init__(self, study: Study, spec: Augment, deform: LocalDeformation) -> None:
        super().__init__(study, spec)
        self.deform = LocalDeformer(deform) if deform.share else None
        self.share = study.hvae.pairs

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor, Known | None]:
        """``batch`` to images (B, C, *size), values (B, V) and what is known of them: the image itself where it is not
        deformed and has no other. None where the study knows nothing."""
        if not self.share or "has_other" not in batch:
            image, mask, values = self.with_masks(batch)
            return image, values, self._deformed(image, mask, values)
        # What is done to an image is done to its other, so that nothing differs but what truly does.
        images, masks = (torch.cat([batch[field], batch[f"{OTHER}{field}"]], dim=1) for field in ("image", "mask"))
        images, masks, (values, theirs) = self._augmented(images, masks, batch["values"], batch[f"{OTHER}values"])
        (image, other), mask = images.chunk(2, dim=1), masks.chunk(2, dim=1)[0]
        other = elsewhere_equal(image, other, masks)
        known = self._deformed(image, mask, values) or Known(image, values)
        seen = (batch["has_other"] & (torch.rand(len(image), device=image.device) < self.share))[:, None]
        return (
            image,
            values,
            Known(
                torch.where(Grid.like(image).over_space(seen), other, known.image),
                torch.where(seen, theirs, known.values),
            ),
        )

    def _deformed(self, image: Tensor, mask: Tensor, values: Tensor) -> Known | None:
        """Local deformations of images; None where the study deforms none."""
        if self.deform is None:
            return None
        changed, mask, deformed = self.deform(image, mask)
        return Known(changed, torch.where(deformed[:, None], self.measured(values, mask, changed), values))


class LikelihoodObjective(Objective):
    """The mechanism's own loss, of augmented samples, or of pairs of them and their local deformations."""

    network: ImageMechanism

    def __init__(self, network: ImageMechanism, study: Study) -> None:
        super().__init__()
        self.network = network
        self.samples = PairedSamples(study, study.hvae.augment, study.hvae.deform)
        self.settles = network.spec.settles

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, values, known = self.samples.pairs(batch)
        if known is None:
            return self.network.loss(image, values, step)
        return self.network.loss_of_pairs(image, values, known, step)

    def validate(self, batch: Batch) -> Tensor:
        """What fine-tuning must not let rise, without augmentation: the negative bound with the KL's last weight."""
        return self.network.constraint(to_unit(batch["image"]), batch["values"])
