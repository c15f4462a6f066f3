"""Bringing arrays of any size to the study's grid without inventing or losing area.

A mask on the grid is *coverage*: the share of each pixel that lies inside the structure. Averaging a
full-resolution mask over the exact footprint of each grid pixel keeps its area, for any ratio of sizes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.config.image import Image
from segcft.data.crop import Crop
from segcft.io.imagefile import ImageFile
from segcft.io.reject import Rejected
from segcft.io.source import MOST_PIXELS

Array = NDArray[np.float64]

ASPECT_TOLERANCE = 0.02

UNKNOWN_SIZE = (
    "the size of its pixels in mm is not known, and images are shown as large as they are (image.fit: physical). For a "
    "data set say it in data.spacing, for one image by --pixel-mm, segcft.Sized or below the file on the page"
)

MOST_CANVAS = 2 * MOST_PIXELS
"""Pixels of an image and of what it is filled up with."""


def average(array: NDArray[np.generic], size: tuple[int, ...]) -> Array:
    """Mean of ``array`` (..., *any), piecewise constant, over each pixel or voxel of a grid of ``size``, its last axes.

    The mean over the whole array does not change. Enlarging repeats elements.
    """
    result = np.asarray(array, dtype=np.float64)
    for axis, length in _in_order(result, size):
        if result.shape[axis] != length:
            result = np.moveaxis(_average_last(np.moveaxis(result, axis, -1), length), -1, axis)
    return result


def smooth(array: NDArray[np.generic], size: tuple[int, ...]) -> Array:
    """Like :func:`average` where an axis shrinks; linear between centres where it grows."""
    result = np.asarray(array, dtype=np.float64)
    for axis, length in _in_order(result, size):
        if result.shape[axis] != length:
            step = _interpolate_last if length > result.shape[axis] else _average_last
            result = np.moveaxis(step(np.moveaxis(result, axis, -1), length), -1, axis)
    return result


def _in_order(array: Array, size: tuple[int, ...]) -> list[tuple[int, int]]:
    """The last axes and their new lengths, those that shrink first: another order takes more memory."""
    axes = zip(range(-len(size), 0), size, strict=True)
    return sorted(axes, key=lambda step: step[1] > array.shape[step[0]])


def pad_to_aspect(array: NDArray[np.generic], aspect: float, fill: NDArray[np.generic] | float) -> NDArray:
    """``array`` (C, H, W) centred on a canvas of width / height = ``aspect``; ``fill`` is a value or (C,).

    An aspect ratio within 2 % of the wanted one is left as it is: the resize absorbs it.

    Raises:
        Rejected: the array is so long and narrow that the canvas would have more than :data:`MOST_CANVAS` pixels.
    """
    channels, height, width = array.shape
    canvas, (top, left) = canvas_of((height, width), aspect)
    if canvas == (height, width):
        return array
    if math.prod(canvas) > MOST_CANVAS:
        raise Rejected(
            f"{height} x {width} pixels (height x width) are too long and narrow: filled up to the aspect "
            f"ratio {aspect:.3g} they have more than the {MOST_CANVAS // 10**6} million that are read"
        )
    padded = np.empty((channels, *canvas), dtype=array.dtype)
    padded[:] = np.reshape(fill, (-1, 1, 1))
    padded[:, top : top + height, left : left + width] = array
    return padded


def canvas_of(shape: tuple[int, int], aspect: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the canvas of width / height = ``aspect`` on which an array (H, W) of this ``shape`` is
    centred, and the array's first row and column on it; see :func:`pad_to_aspect`."""
    height, width = shape
    if abs(width / height / aspect - 1) <= ASPECT_TOLERANCE:
        return shape, (0, 0)
    canvas = (max(height, round(width / aspect)), max(width, round(height * aspect)))
    return canvas, ((canvas[0] - height) // 2, (canvas[1] - width) // 2)


class Pixel(NamedTuple):
    """What is known of the pixels of an image, or of the voxels of a volume."""

    aspect: float = 1.0
    """Height divided by width; of a volume 1."""
    millimetres: tuple[float, ...] | None = None
    """Height and width; of a volume, which always says it, depth, height and width."""


SQUARE = Pixel()


def pixel_of(seen: ImageFile, stated: tuple[float, ...] | None = None) -> Pixel:
    """The pixels of an image: ``stated`` in mm, or else as its header says."""
    if stated is not None:
        return Pixel(stated[0] / stated[1] if len(stated) == 2 else 1.0, stated)
    return Pixel(seen.aspect, seen.millimetres)


Box = tuple[tuple[float, ...], tuple[float, ...]]
"""First row and column, and height and width; of a volume those of depth come first."""


def window_of(shape: tuple[int, ...], grid: Image, pixel: Pixel = SQUARE) -> Box:
    """Which part of an image (H, W) or volume (D, H, W) of this ``shape`` the study's grid shows: its first row and
    column, and its height and width, in pixels of the image, beyond which it may go.

    Raises:
        Rejected: the grid shows images as large as they are, and the size of this one is not known.
    """
    if len(shape) == 3:
        return _window_of_volume(shape, grid, pixel)
    height, width = shape
    down, across = grid.field_of_view or grid.size
    if grid.fit == "physical":
        if pixel.millimetres is None:
            raise Rejected(UNKNOWN_SIZE)
        extent = (down / pixel.millimetres[0], across / pixel.millimetres[1])
    elif grid.fit == "stretch" or (shape == grid.size and pixel.aspect == 1):
        extent = (float(height), float(width))
    elif grid.fit == "crop":
        aspect = across / down * pixel.aspect
        extent = (min(height, width / aspect), min(width, height * aspect))
    else:
        canvas, (top, left) = canvas_of((height, width), across / down * pixel.aspect)
        return (-top, -left), canvas  # in whole pixels
    return ((height - extent[0]) / 2, (width - extent[1]) / 2), extent


def _window_of_volume(shape: tuple[int, ...], grid: Image, pixel: Pixel) -> Box:
    """:func:`window_of` of a volume, whose middle is that of the grid. Without a field of view voxels of the grid are
    cubes."""
    if grid.fit == "stretch" or (pixel.millimetres is None and shape == grid.size):
        return (0.0,) * 3, tuple(float(length) for length in shape)
    if pixel.millimetres is None:
        raise Rejected(UNKNOWN_SIZE)
    field = grid.field_of_view or grid.size
    scale = 1.0
    if grid.fit != "physical":  # of the field of view, so that all of the volume is in it, or none of the grid empty
        shares = [n * mm / f for n, mm, f in zip(shape, pixel.millimetres, field, strict=True)]
        scale = max(shares) if grid.fit == "pad" else min(shares)
    extent = tuple(scale * f / mm for f, mm in zip(field, pixel.millimetres, strict=True))
    return tuple((n - length) / 2 for n, length in zip(shape, extent, strict=True)), extent


def frame_of(shape: tuple[int, ...], grid: Image, pixel: Pixel = SQUARE) -> Box:
    """Where on the study's grid :func:`fit_image` puts an image (H, W) or volume (D, H, W) of this ``shape``: its first
    row and column, and its height and width, in pixels of the grid.

    Raises:
        Rejected: see :func:`window_of`.
    """
    starts, extents = window_of(shape, grid, pixel)
    scales = [count / extent for count, extent in zip(grid.size, extents, strict=True)]
    first = tuple(-start * scale for start, scale in zip(starts, scales, strict=True))
    return first, tuple(length * scale for length, scale in zip(shape, scales, strict=True))


def fit_image(grey: NDArray[np.float64], grid: Image, pixel: Pixel = SQUARE) -> NDArray[np.uint8]:
    """Grey values (C, H, W) in [0, 1] of any size, on the study's grid: uint8 (C, H, W). Of a volume (C, D, H, W).

    What the image does not have of the grid is the median of its border.

    Raises:
        Rejected: it is too long and narrow, see :func:`pad_to_aspect`, or see :func:`window_of`.
    """
    fill = border_median(grey)
    if grid.fit == "pad" and not grid.is_volume:
        return _to_uint8(smooth(_on_canvas(grey, grid, fill, pixel.aspect), grid.size))
    shown = _shown(grey.shape[1:], grid, pixel)
    return _to_uint8(np.stack([shown.smooth(one, float(edge)) for one, edge in zip(grey, fill, strict=True)]))


def fit_masks(coverage: NDArray[np.float64], grid: Image, pixel: Pixel = SQUARE) -> NDArray[np.uint8]:
    """Masks (S, *size) in [0, 1] that belong to an image treated by :func:`fit_image`: uint8, on the study's grid."""
    if grid.fit == "pad" and not grid.is_volume:
        return _to_uint8(average(_on_canvas(coverage, grid, 0.0, pixel.aspect), grid.size))
    return _to_uint8(_shown(coverage.shape[1:], grid, pixel).average(coverage))


def _shown(shape: tuple[int, ...], grid: Image, pixel: Pixel) -> Crop:
    """What the grid shows of an image (H, W) or volume (D, H, W)."""
    return Crop(*window_of(shape, grid, pixel), grid.size)


def _on_canvas(
    array: NDArray[np.float64], grid: Image, fill: NDArray[np.generic] | float, pixel_aspect: float
) -> NDArray[np.float64]:
    if array.shape[-2:] == grid.size and pixel_aspect == 1:  # on the study's grid already, whatever its pixels' aspect
        return array
    height, width = grid.field_of_view or grid.size
    return pad_to_aspect(array, width / height * pixel_aspect, fill)


def _to_uint8(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Numbers in [0, 1] as the nearest of 0..255."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def border_median(array: NDArray[np.generic]) -> NDArray:
    """Median of the outermost pixels of each channel of ``array`` (C, *size): (C,). What to pad it with."""
    edges = [array.take(end, axis).reshape(len(array), -1) for axis in range(1, array.ndim) for end in (0, -1)]
    return np.median(np.concatenate(edges, axis=1), axis=1)


def _average_last(array: Array, length: int) -> Array:
    """Differences of the running integral, which is linear within a pixel, at the edges of the new pixels."""
    old = array.shape[-1]
    edges = np.arange(length + 1) * (old / length)
    whole = np.minimum(edges.astype(np.int64), old - 1)
    integral = np.concatenate([np.zeros_like(array[..., :1]), np.cumsum(array, axis=-1)], axis=-1)
    at_edges = integral[..., whole] + (edges - whole) * array[..., whole]
    return np.diff(at_edges, axis=-1) * (length / old)


def _interpolate_last(array: Array, length: int) -> Array:
    old = array.shape[-1]
    centres = np.clip((np.arange(length) + 0.5) * (old / length) - 0.5, 0, old - 1)
    left = np.minimum(centres.astype(np.int64), max(old - 2, 0))
    right = np.minimum(left + 1, old - 1)
    weight = centres - left
    return array[..., left] * (1 - weight) + array[..., right] * weight
