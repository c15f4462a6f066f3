"""The U-Net, as a segmentor."""

from __future__ import annotations

from torch import Tensor

from segcft.config.segmentors import UNetSpec
from segcft.measures.measurements import Measurements
from segcft.readers.segmentor import SEGMENTORS, Segmentor


class UNet(Segmentor):
    """U-Net (Ronneberger et al. 2015, as in MONAI)."""

    def __init__(self, spec: UNetSpec, channels: int, measurements: Measurements) -> None:
        super().__init__(spec, channels, measurements)
        from monai.networks.nets import UNet as Network

        self.multiple = 2 ** (len(spec.widths) - 1)
        self.unet = Network(
            spatial_dims=self.grid.dimensions,
            in_channels=channels,
            out_channels=len(measurements.masks),
            channels=spec.widths,
            strides=(2,) * (len(spec.widths) - 1),
            num_res_units=spec.residual_units,
            # Batch statistics are frozen in use: what is read of one image never depends on the others in its batch.
            norm="batch",
        )

    def logits(self, x: Tensor) -> Tensor:
        return self.unet(x)


SEGMENTORS.add("unet", UNet)
