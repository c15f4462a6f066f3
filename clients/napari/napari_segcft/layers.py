"""Between layers of napari and questions, without a window: a layer is looked at by its data and its metadata alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from segcft_client import Changed, Scan
from segcft_client.scan import straight

SYNTHETIC = "Synthetic image made by segcft. For research only, not for clinical use."
WIDEST = 40.0
"""Grey levels at which the colours of a difference are full, of the 255 that an image is shown in."""


class ImageLayer(Protocol):
    """What of a napari image layer is asked for."""

    name: str
    data: Any
    scale: Any
    contrast_limits: Any
    rgb: bool
    multiscale: bool


class LayerData(NamedTuple):
    """A layer as napari takes it from a plug-in."""

    data: Any
    meta: dict[str, Any]
    kind: str = "image"


def scan_of(layer: ImageLayer, in_millimetres: bool = False) -> Scan:
    """The scan that a layer shows. A volume is an array (D, H, W) to the head, the back and the left.

    Args:
        layer: an image, or a volume.
        in_millimetres: the layer's scale is mm. Of an image it is left out otherwise; of a volume it is believed.

    Raises:
        ValueError: the layer is none of these.
    """
    if layer.rgb or layer.multiscale:
        raise ValueError(f"{layer.name}: expected a layer of one channel and one scale")
    data, scale = np.asarray(layer.data), [float(one) for one in layer.scale]
    if data.ndim == 3:
        depth, height, width = scale[-3:]
        return Scan(data, straight((depth, height, width)))
    low, high = (float(one) for one in layer.contrast_limits)
    sizes = (scale[-2], scale[-1]) if in_millimetres else None
    return Scan(data, window=(low, high), millimetres=sizes)


def layers_of(layer: ImageLayer, changed: Changed, do: Mapping[str, float | str]) -> list[LayerData]:
    """The answer and its difference as layers that lie where the layer lies."""
    asked = ", ".join(f"{name} = {value}" for name, value in do.items())
    low, high = (float(one) for one in layer.contrast_limits)
    widest = (high - low) * WIDEST / 255
    meta = {"metadata": {"segcft": changed.record, "description": SYNTHETIC}, **_place(layer)}
    return [
        LayerData(
            changed.values,
            meta | {"name": f"{layer.name}, synthetic: {asked}", "contrast_limits": (low, high), "colormap": "gray"},
        ),
        LayerData(
            changed.difference,
            meta
            | {
                "name": f"{layer.name}, difference: {asked}",
                "contrast_limits": (-widest, widest),
                "colormap": "PiYG",
                "visible": False,
            },
        ),
    ]


def _place(layer: Any) -> dict[str, Any]:
    """Where a layer lies, as far as it says."""
    return {name: getattr(layer, name) for name in ("scale", "translate", "rotate", "shear") if hasattr(layer, name)}
