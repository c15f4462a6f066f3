"""The segmentor: a U-Net that reads every structure's mask from an image, which is then measured."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segcft.config.stages import SegmentorSpec
from segcft.data.augment import Augmenter
from segcft.data.batches import Batch
from segcft.data.grey import to_unit
from segcft.measures.measurements import Measurements
from segcft.readers.reader import MaskReader
from segcft.training.loop import Objective


class Segmentor(MaskReader):
    """U-Net (Ronneberger et al. 2015, as in MONAI) with one sigmoid channel a structure: masks may overlap.

    Args:
        spec: sizes of the network.
        channels: of the images.
        measurements: what is read from the masks.
    """

    def __init__(self, spec: SegmentorSpec, channels: int, measurements: Measurements) -> None:
        super().__init__()
        from monai.networks.nets import UNet

        self.measurements, self.grid = measurements, measurements.grid
        self.multiple = 2 ** (len(spec.widths) - 1)
        self.unet = UNet(
            spatial_dims=self.grid.dimensions,
            in_channels=channels,
            out_channels=len(measurements),
            channels=spec.widths,
            strides=(2,) * (len(spec.widths) - 1),
            num_res_units=spec.residual_units,
            # Batch statistics are frozen in use: what is read of one image never depends on the others in its batch.
            norm="batch",
        )

    def forward(self, x: Tensor) -> Tensor:
        # Padded where the levels cannot halve the grid evenly.
        return self.grid.crop(self.unet(self.grid.pad(x, self.multiple)), x).float()


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
    """Dice loss, which balances small structures, plus cross-entropy, which calibrates the soft area."""

    def __init__(self, network: Segmentor, spec: SegmentorSpec) -> None:
        super().__init__()
        from monai.losses import DiceLoss

        self.network = network
        self.augment = Augmenter(spec.augment)
        self.dice = DiceLoss(sigmoid=True, soft_label=True)
        self.dice_of_each = DiceLoss(sigmoid=True, soft_label=True, reduction="none")

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, mask = self.augment(to_unit(batch["image"]), batch["mask"].float() / 255)
        logits = self.network(image)
        overlap = self.dice(logits, mask)
        entropy = F.binary_cross_entropy_with_logits(logits, mask)
        return overlap + entropy, {"dice_loss": overlap, "cross_entropy": entropy}

    def validate(self, batch: Batch) -> Tensor:
        """The loss, without augmentation."""
        mask = batch["mask"].float() / 255
        logits = self.network(to_unit(batch["image"]))
        entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
        return self.dice_of_each(logits, mask).flatten(1).mean(dim=1) + entropy.flatten(1).mean(dim=1)
