"""The regressor: a ResNet that reads every structure's area straight from an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.config.study import Image, RegressorSpec
from segcft.data.augment import Augmenter
from segcft.data.batches import Batch
from segcft.data.grey import to_unit
from segcft.training.loop import Objective


class Regressor(nn.Module):
    """ResNet (He et al. 2016, as in MONAI) from an image to all areas.

    Args:
        spec: sizes of the network.
        image: pixel grid of the study.
        structures: how many structures there are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: RegressorSpec, image: Image, structures: int) -> None:
        super().__init__()
        from monai.networks.nets.resnet import ResNet

        self.resnet = ResNet(
            block="basic",
            layers=list(spec.blocks),
            block_inplanes=list(spec.widths),
            spatial_dims=2,
            n_input_channels=image.channels,
            conv1_t_size=7,
            conv1_t_stride=2,
            no_max_pool=True,
            num_classes=structures,
        )
        self.register_buffer("mean", torch.zeros(structures))
        self.register_buffer("std", torch.ones(structures))

    def set_statistics(self, areas: Tensor) -> None:
        """Standardise the output by training areas (N, S)."""
        self.mean.copy_(areas.mean(dim=0))
        self.std.copy_(areas.std(dim=0).clamp(min=1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to standardised areas (B, S)."""
        return self.resnet(x).float()

    def areas(self, x: Tensor) -> Tensor:
        """The areas of images (B, C, H, W) in the study's area unit, (B, S)."""
        return self(x) * self.std + self.mean


class RegressorObjective(Objective):
    """Squared error of the standardised areas, which weighs structures alike."""

    network: Regressor

    def __init__(self, network: Regressor, spec: RegressorSpec, pixel_area: float) -> None:
        super().__init__()
        self.network = network
        self.augment = Augmenter(spec.augment)
        self.pixel_area = pixel_area

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, mask = self.augment(to_unit(batch["image"]), batch["mask"].float() / 255)
        areas = mask.sum(dim=(2, 3)) * self.pixel_area
        loss = F.mse_loss(self.network(image), (areas - self.network.mean) / self.network.std)
        return loss, {}
