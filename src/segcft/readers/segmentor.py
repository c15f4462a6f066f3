"""The segmentor: it reads every structure's mask from an image, which is then measured."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segcft.config.segmentors import SegmentorSpec
from segcft.data.augment import Augmenter
from segcft.data.batches import Batch
from segcft.grey import to_unit
from segcft.measures.measurements import Measurements
from segcft.readers.reader import MaskReader
from segcft.training.loop import Objective
from segcft.utils.registry import Registry, subclass_of


class Segmentor(MaskReader):
    """A network with one sigmoid channel a structure: masks may overlap.

    A subclass is an architecture. It says how :meth:`logits` come about, and adds itself to :data:`SEGMENTORS`.

    Args:
        spec: how it is trained, and the sizes of the network.
        channels: of the images.
        measurements: what is read from the masks.
    """

    multiple: int = 1
    """What the sides of images are a multiple of for :meth:`logits`."""

    def __init__(self, spec: SegmentorSpec, channels: int, measurements: Measurements) -> None:
        super().__init__()
        self.measurements, self.grid, self.faint = measurements, measurements.grid, spec.faint

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Images (B, C, *size) in [-1, 1] to logits (B, S, *size), whose sides are multiples of :attr:`multiple`. What
        is read of one image must not depend on the others in its batch."""

    def forward(self, x: Tensor) -> Tensor:
        # Padded where the levels cannot halve the grid evenly.
        return self.grid.crop(self.logits(self.grid.pad(x, self.multiple)), x).float()


SEGMENTORS: Registry[Callable[[Any, int, Measurements], Segmentor]] = Registry(
    "segmentor", "segcft.readers", "architecture", subclass_of(Segmentor)
)
"""Architecture -> its network, made from its settings, the channels of images and what is measured."""


def dice(prediction: Tensor, target: Tensor) -> Tensor:
    """Dice overlap of binary masks (B, S, *size), (B, S); NaN where the target is empty, as MONAI has it.

    So the mean is over the samples that have the structure, whatever is predicted. What is predicted where there is
    nothing is an error of the area.
    """
    prediction, target = prediction.flatten(2), target.flatten(2)
    shared = (prediction * target).sum(dim=2)
    total = prediction.sum(dim=2) + target.sum(dim=2)
    return torch.where(target.any(dim=2), 2 * shared / total, torch.nan)


class SegmentorObjective(Objective):
    """Cross-entropy, the Dice loss (Milletari et al. 2016) or their sum, as ``spec.loss`` says.

    Cross-entropy alone is a proper scoring rule (Gneiting & Raftery 2007): a pixel's best answer is the probability
    that it is inside, so that the soft area is right on average. Weights that depend on the mask, as near its border,
    would spoil this. The Dice loss balances small structures.
    """

    def __init__(self, network: Segmentor, spec: SegmentorSpec) -> None:
        super().__init__()
        from monai.losses import DiceLoss

        self.network = network
        self.augment = Augmenter(spec.augment)
        self.entropy = "cross-entropy" in spec.loss
        overlap = "dice" in spec.loss
        self.dice = DiceLoss(sigmoid=True, soft_label=True) if overlap else None
        self.dice_of_each = DiceLoss(sigmoid=True, soft_label=True, reduction="none") if overlap else None

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, mask = self.augment(to_unit(batch["image"]), batch["mask"].float() / 255)
        logits = self.network(image)
        figures = {} if self.dice is None else {"dice_loss": self.dice(logits, mask)}
        if self.entropy:
            figures["cross_entropy"] = F.binary_cross_entropy_with_logits(logits, mask)
        return torch.stack([*figures.values()]).sum(), figures

    def validate(self, batch: Batch) -> Tensor:
        """The loss, without augmentation."""
        mask = batch["mask"].float() / 255
        logits = self.network(to_unit(batch["image"]))
        loss = mask.new_zeros(len(mask))
        if self.entropy:
            loss = loss + F.binary_cross_entropy_with_logits(logits, mask, reduction="none").flatten(1).mean(dim=1)
        if self.dice_of_each is not None:
            loss = loss + self.dice_of_each(logits, mask).flatten(1).mean(dim=1)
        return loss
