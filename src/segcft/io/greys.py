"""Grey values: what becomes black and white, and colour as grey."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segcft.io.picture import Pixels
from segcft.io.reject import Rejected, Remark

PERCENTILES = (0.5, 99.5)
"""What becomes black and white where nobody says otherwise."""

EIGHT_BITS = 255

DIM = 0.25
"""Of white: what has nothing brighter uses two bits less than it has."""

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601: red, green, blue


def shades(
    pixels: Pixels,
    channels: int,
    grey_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
) -> NDArray[np.float64]:
    """Pixels as grey values (channels, H, W) in [0, 1], 1 being white; see :func:`segcft.io.imagefile.read_image`."""
    values = np.moveaxis(np.atleast_3d(pixels.values).astype(np.float64), -1, 0)
    check_varied(values)
    if channels == 1 and len(values) == 3:
        values = np.tensordot(LUMA, values, axes=1)[None]
    elif channels == 3 and len(values) == 1:
        values = np.repeat(values, 3, axis=0)
    full = None if pixels.full is None else float(pixels.full)
    if full is None and window is None and grey_range is None:
        kind = pixels.values.dtype
        raise Rejected(f"{kind} values have no range of their own; set data.grey_range or data.window")
    shown = scaled(values, full, grey_range, window)
    return 1 - shown if pixels.inverted else shown


def narrow_range(
    pixels: Pixels, grey_range: tuple[float, float] | None = None, window: tuple[float, float] | None = None
) -> tuple[Remark, ...]:
    """A remark on pixels of more than 8 bits whose largest is below :data:`DIM` of what their type holds, where
    nothing else says what is black and white: 12 bits in a file of 16, as a rule."""
    if pixels.full is None or pixels.full <= EIGHT_BITS or grey_range is not None or window is not None:
        return ()
    brightest = float(pixels.values.max())
    if brightest >= DIM * pixels.full:
        return ()
    said = f"its largest value is {brightest:.0f} of {pixels.full:.0f}, so hardly anything is seen"
    return (Remark("narrow range of values", f"{said}; stretch it, or set data.window in a study"),)


def check_varied(values: NDArray[np.float64]) -> None:
    """Check that values are numbers, and not all the same.

    Raises:
        Rejected: they are not.
    """
    if not np.isfinite(values).all():
        raise Rejected("holds values that are not finite numbers")
    if values.min() == values.max():
        raise Rejected(f"constant image (every pixel is {values.flat[0]:g})")


def scaled(
    values: NDArray[np.float64],
    full: float | None,
    grey_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
) -> NDArray[np.float64]:
    """Values (C, *size) as grey values in [0, 1]: between percentiles (``window``), or in ``grey_range``, or up to
    ``full``.

    Raises:
        Rejected: one single value is left.
    """
    low, high = limits(values, full, grey_range, window)
    shown = np.clip((values - low) / (high - low), 0, 1) if low < high else np.zeros_like(values)
    if shown.min() == shown.max():
        raise Rejected(f"constant image between the grey values {low:g} and {high:g} that are shown")
    return shown


def limits(
    values: NDArray[np.float64],
    full: float | None,
    grey_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """The values that become 0 and 1, see :func:`scaled`."""
    if window is not None:
        low, high = (float(limit) for limit in np.percentile(values, window))
        return low, high
    if grey_range is not None:
        return grey_range
    assert full is not None
    return 0.0, full
