"""Pictures as text: PNGs in data URIs, outlines as SVG paths."""

from __future__ import annotations

import io
from base64 import b64encode

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from segcft.grey import GREY_LEVELS, largest_change, to_grey_levels
from segcft.io.outline import outlines
from segcft.io.provenance import SYNTHETIC

COLOURS = "RdBu_r"
"""Of differences: blue is darker than before, red is brighter."""


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + b64encode(png).decode("ascii")


def picture(image: Tensor, synthetic: bool) -> str:
    """An image (C, H, W) in [-1, 1] as a data URI: in colour if it has three channels, else the first one in grey."""
    pixels = to_grey_levels(image).cpu().numpy()
    return _png(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0], synthetic)


def difference(counterfactual: Tensor, image: Tensor) -> Tensor:
    """Counterfactual less image, both (C, H, W) in [-1, 1], in grey levels of the channel that changes most, (H, W)."""
    return largest_change(counterfactual - image, 0) * GREY_LEVELS


def difference_picture(change: Tensor, limit: float) -> str:
    """A difference (H, W) in grey levels as a data URI, in colours from ``-limit`` to ``limit``."""
    from matplotlib import colormaps  # late: slow to import

    shares = (change.cpu().numpy() / limit + 1) / 2
    return _png(colormaps[COLOURS](shares.clip(0, 1), bytes=True)[..., :3], synthetic=True)


def outline(mask: NDArray[np.float32]) -> str:
    """The outline of a soft mask (H, W) as the ``d`` of an SVG path, a pixel being 1 x 1."""
    return " ".join("M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in line) + "Z" for line in outlines(mask))


def _png(pixels: NDArray[np.uint8], synthetic: bool) -> str:
    info = PngInfo()
    if synthetic:
        info.add_text("Description", SYNTHETIC)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG", optimize=True, pnginfo=info)
    return data_uri(file.getvalue())
