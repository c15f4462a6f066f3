"""The segmentor: a U-Net that reads every structure's mask from an image, and so its area."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.config.study import Image, SegmentorSpec
from segcft.data.augment import Augmenter
from segcft.data.batches import Batch
from segcft.data.grey import to_unit
from segcft.training.loop import Objective


class Segmentor(nn.Module):
    """U-Net (Ronneberger et al. 2015, as in MONAI) with one sigmoid channel a structure: masks may overlap.

    Args:
        spec: sizes of the network.
        image: pixel grid of the study.
        structures: how many structures there are.
    """

    def __init__(self, spec: SegmentorSpec, image: Image, structures: int) -> None:
        super().__init__()
        from monai.networks.nets import UNet

        self.pixel_area = image.pixel_area
        self.multiple = 2 ** (len(spec.widths) - 1)
        self.unet = UNet(
            spatial_dims=2,
            in_channels=image.channels,
            out_channels=structures,
            channels=spec.widths,
            strides=(2,) * (len(spec.widths) - 1),
            num_res_units=spec.residual_units,
            # Batch statistics are frozen in use: one image's areas never depend on the others in its batch.
            norm="batch",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to logits (B, S, H, W)."""
        height, width = x.shape[-2:]
        pad = (-width % self.multiple, -height % self.multiple)
        if any(pad):  # grids that the levels cannot halve evenly
            x = F.pad(x, (0, pad[0], 0, pad[1]), mode="replicate")
        return self.unet(x)[..., :height, :width].float()

    def masks(self, x: Tensor) -> Tensor:
        """The soft masks of images (B, C, H, W): probabilities (B, S, H, W)."""
        return torch.sigmoid(self(x))

    def areas(self, x: Tensor) -> Tensor:
        """The soft areas of images (B, C, H, W): sums of probabilities, in the study's area unit, (B, S)."""
        return self.masks(x).sum(dim=(2, 3)) * self.pixel_area


def dice(prediction: Tensor, target: Tensor) -> Tensor:
    """Dice overlap of binary masks (B, S, H, W), (B, S); NaN where the target is empty, as MONAI has it.

    The mean over those who have the structure is then of the same people whatever is predicted; what is seen where
    there is nothing is an error of the area.
    """
    shared = (prediction * target).sum(dim=(2, 3))
    total = prediction.sum(dim=(2, 3)) + target.sum(dim=(2, 3))
    return torch.where(target.any(dim=3).any(dim=2), 2 * shared / total, torch.nan)


class SegmentorObjective(Objective):
    """Dice loss, which balances small structures, plus cross-entropy, which calibrates the soft area."""

    def __init__(self, network: Segmentor, spec: SegmentorSpec) -> None:
        super().__init__()
        from monai.losses import DiceLoss

        self.network = network
        self.augment = Augmenter(spec.augment)
        self.dice = DiceLoss(sigmoid=True, soft_label=True)

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, mask = self.augment(to_unit(batch["image"]), batch["mask"].float() / 255)
        logits = self.network(image)
        overlap = self.dice(logits, mask)
        entropy = F.binary_cross_entropy_with_logits(logits, mask)
        return overlap + entropy, {"dice_loss": overlap, "cross_entropy": entropy}
