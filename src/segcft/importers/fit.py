"""An image of another data set at the sizes that are wanted, in little memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcft.data.resize import border_median, pad_to_aspect, smooth
from segcft.io.greys import LUMA
from segcft.io.reject import Rejected


def fit_window(
    pixels: NDArray[Any],
    window: tuple[float, float],
    *sizes: tuple[int, ...],
    strip: int = 256,
) -> list[NDArray[np.uint8]]:
    """An image at each of ``sizes``, treated as the import of a folder does but in little memory; see :func:`fit`.

    Args:
        pixels: grey values (H, W), or colour (H, W, 3) of which the luma is taken.
        window: percentiles of the image that become 0 and 255.
        sizes: of one aspect ratio.
        strip: columns that are worked off at once.

    Raises:
        Rejected: the image has one single value between the percentiles.
    """
    grey = np.tensordot(pixels, LUMA, axes=1) if pixels.ndim == 3 else pixels
    if grey.dtype == bool:  # of which there are no percentiles
        grey = grey.astype(np.uint8)
    low, high = (float(limit) for limit in np.percentile(grey, window))
    if not low < high:  # values that are no numbers come here too
        raise Rejected(f"constant image: percentiles {window[0]:g} and {window[1]:g} are both {low:g}")
    return fit(grey, *sizes, shown=lambda part: np.clip((part - low) / (high - low), 0, 1), strip=strip)


def fit(
    grey: NDArray[Any],
    *sizes: tuple[int, ...],
    aspect: float = 1.0,
    shown: Callable[[NDArray[Any]], NDArray[Any]] = lambda part: part,
    strip: int = 256,
) -> list[NDArray[np.uint8]]:
    """An image (H, W) at each of ``sizes``: uint8 (h, w).

    Args:
        grey: its values.
        sizes: of one aspect ratio; an image of another one is padded with the median of its border.
        aspect: height of a pixel divided by its width.
        shown: makes values in [0, 1] of those of a part of it.
        strip: columns that are worked off at once.
    """
    height, width = sizes[0]
    canvas = pad_to_aspect(grey[None], width / height * aspect, border_median(grey[None]))[0]
    fitted = {size: np.rint(fit_values(canvas, size, shown, strip) * 255).astype(np.uint8) for size in {*sizes}}
    return [fitted[size] for size in sizes]


def fit_values(
    array: NDArray[Any],
    size: tuple[int, ...],
    values: Callable[[NDArray[Any]], NDArray[Any]],
    strip: int = 256,
) -> NDArray[np.float64]:
    """``values(array)`` resized to ``size`` as :func:`segcft.data.resize.smooth` does, without ever holding them
    for more than ``strip`` columns of ``array`` (H, W): a radiograph of 15 megapixels takes 120 MB as floats.
    """
    parts = (values(array[:, left : left + strip]) for left in range(0, array.shape[1], strip))
    return smooth(np.concatenate([smooth(part, (size[0], part.shape[-1])) for part in parts], axis=-1), size)
