"""SegResNet, as a segmentor: no kin of the U-Net."""

from __future__ import annotations

from torch import Tensor

from segcft.config.segmentors import SegResNetSpec
from segcft.measures.measurements import Measurements
from segcft.readers.segmentor import SEGMENTORS, Segmentor


class SegResNet(Segmentor):
    """Residual encoder and a light decoder, as in Myronenko 2018 (https://arxiv.org/abs/1810.11654) and in MONAI.

    Unlike in the U-Net here, the finest level has the whole resolution, the levels are normalised by group and image,
    masks are enlarged by interpolation and not by learnt strides, and what the encoder saw is added, not appended.
    """

    def __init__(self, spec: SegResNetSpec, channels: int, measurements: Measurements) -> None:
        super().__init__(spec, channels, measurements)
        from monai.networks.nets import SegResNet as Network

        self.multiple = 2 ** (len(spec.blocks) - 1)
        self.segresnet = Network(
            spatial_dims=self.grid.dimensions,
            init_filters=spec.width,
            in_channels=channels,
            out_channels=len(measurements.masks),
            blocks_down=spec.blocks,
            blocks_up=(1,) * (len(spec.blocks) - 1),
        )

    def logits(self, x: Tensor) -> Tensor:
        return self.segresnet(x)


SEGMENTORS.add("segresnet", SegResNet)
