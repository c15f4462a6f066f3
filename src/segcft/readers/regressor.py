"""The regressor: a ResNet that reads the measured variables straight from an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segcft.config.stages import RegressorSpec
from segcft.data.augment import Augmenter
from segcft.data.batches import Batch
from segcft.grey import to_unit
from segcft.measures.measurements import Measurements
from segcft.readers.reader import Reader
from segcft.training.loop import Objective


def resnet(widths: Sequence[int], blocks: Sequence[int], channels: int, dimensions: int, numbers: int) -> nn.Module:
    """A ResNet (He et al. 2016, as in MONAI) from images (B, C, *size) of so many ``dimensions`` to ``numbers``; its
    four levels have ``widths`` and so many residual ``blocks``."""
    from monai.networks.nets.resnet import ResNet

    return ResNet(
        block="basic",
        layers=list(blocks),
        block_inplanes=list(widths),
        spatial_dims=dimensions,
        n_input_channels=channels,
        conv1_t_size=7,
        conv1_t_stride=2,
        no_max_pool=True,
        num_classes=numbers,
    )


class Regressor(Reader):
    """ResNet from an image to all measured variables.

    Args:
        spec: sizes of the network.
        channels: of the images.
        measurements: what is read.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: RegressorSpec, channels: int, measurements: Measurements) -> None:
        super().__init__()
        self.resnet = resnet(spec.widths, spec.blocks, channels, measurements.grid.dimensions, len(measurements))
        self.register_buffer("mean", torch.zeros(len(measurements)))
        self.register_buffer("std", torch.ones(len(measurements)))

    def set_statistics(self, known: Tensor) -> None:
        """Standardise the output by training values (N, M)."""
        columns = [column[~column.isnan()] for column in known.unbind(1)]  # what is not there has no place
        self.mean.copy_(torch.stack([column.mean() for column in columns]))
        self.std.copy_(torch.stack([column.std() for column in columns]).clamp(min=1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, *size) in [-1, 1] to standardised values (B, M)."""
        return self.resnet(x).float()

    def estimate(self, x: Tensor) -> Tensor:
        return self(x) * self.std + self.mean


class RegressorObjective(Objective):
    """Squared error of the standardised values, which weighs them alike."""

    network: Regressor

    def __init__(self, network: Regressor, spec: RegressorSpec, measurements: Measurements) -> None:
        super().__init__()
        self.network = network
        self.augment = Augmenter(spec.augment)
        self.measurements = measurements

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, mask = self.augment(to_unit(batch["image"]), batch["mask"].float() / 255)
        return _squared_error(self.network(image), self._standardised(mask, image)).nanmean(), {}

    def validate(self, batch: Batch) -> Tensor:
        """The loss, without augmentation."""
        image = to_unit(batch["image"])
        true = self._standardised(batch["mask"].float() / 255, image)
        return _squared_error(self.network(image), true).nanmean(dim=1)

    def _standardised(self, mask: Tensor, image: Tensor) -> Tensor:
        """The measured values of masks (B, S, *size) of images, as the network gives them, (B, M)."""
        return (self.measurements.estimate(mask, image) - self.network.mean) / self.network.std


def _squared_error(read: Tensor, true: Tensor) -> Tensor:
    """NaN where there is nothing to read, and no gradient from there."""
    missing = true.isnan()
    error = (read - torch.where(missing, 0, true)).square()
    return torch.where(missing, torch.nan, error)
