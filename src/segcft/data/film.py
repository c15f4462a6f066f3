"""What other hospitals do to radiographs: greys, borders and things on the film that are not of the patient.

A reader that has seen the films of one hospital alone goes by their greys. One that has seen them changed like this
goes by the anatomy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from segcft.config.section import Film
from segcft.data.draw import Draw
from segcft.errors import Code, StudyError

FIELD_NODES = 4
"""Nodes a side of the field of exposure: it is smooth, as scatter and grids are."""

GLYPH = (5, 3)
"""Rows and columns of the dots of a letter."""

LETTER = (0.015, 0.05)
"""Half the height of a letter, as a share of the image's height: the range that is drawn from."""

TUBE_WIDTH = (0.4, 1.0)
"""Standard deviation of a tube's profile in pixels, at 128 pixels a side."""

TUBE_WIDTH_SIDE = 128

TUBE_BRIGHTNESS = (0.2, 0.9)
"""What a tube adds to an image in [-1, 1]."""


class FilmChanger:
    """Changes images as other hospitals' films differ; see :class:`segcft.config.section.Film`.

    In the order in which they come about: exposure, its curve (gamma) and window, sharpness, tubes and marks, the
    collimator, and a negative.

    Args:
        spec: how much of what.
    """

    def __init__(self, spec: Film) -> None:
        self.spec = spec

    def __call__(self, image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [-1, 1] and masks (B, S, H, W); both keep their shapes, types and ranges.

        Raises:
            StudyError: they are volumes.
        """
        if image.dim() != 4:
            raise StudyError(Code.UNSUPPORTED, "augment.film", "is of radiographs; leave it out of volumes")
        spec = self.spec
        if spec.exposure:
            image = self._some(image, image + self._field(image, draw) * spec.exposure, draw)
        image = image.clamp(-1, 1)
        if spec.gamma:
            exponent = torch.exp(draw.uniform(spec.gamma, 1, 1, 1))
            image = self._some(image, ((image + 1) / 2).clamp(min=1e-6).pow(exponent) * 2 - 1, draw)
        if spec.window:
            image = self._some(image, self._windowed(image, draw), draw)
        if spec.blur:
            image = self._some(image, self._blurred(image, draw).clamp(-1, 1), draw)
        for _ in range(spec.tubes):
            image = self._some(image, (image + self._tube(image, draw)).clamp(max=1), draw)
        for _ in range(spec.marks):
            image = self._some(image, self._marked(image, draw), draw)
        if spec.border:
            open_ = self._open(image, draw) | ~self._chosen(draw)
            image, mask = torch.where(open_, image, -1), torch.where(open_, mask, 0)
        return (self._some(image, -image, draw) if spec.invert else image), mask

    def _chosen(self, draw: Draw) -> Tensor:
        """A share of the samples, (B, 1, 1, 1)."""
        return draw.unit(1, 1, 1) < self.spec.share

    def _some(self, image: Tensor, changed: Tensor, draw: Draw) -> Tensor:
        """A share of the samples ``changed``, the others as they are."""
        return torch.where(self._chosen(draw), changed, image)

    def _field(self, image: Tensor, draw: Draw) -> Tensor:
        nodes = draw.normal(1, FIELD_NODES, FIELD_NODES)
        return F.interpolate(nodes, size=image.shape[-2:], mode="bicubic", align_corners=True)

    def _windowed(self, image: Tensor, draw: Draw) -> Tensor:
        """Stretched from one quantile of its pixels to another."""
        pixels = image.flatten(1).sort(dim=1).values
        low, high = (draw.unit() * self.spec.window for _ in range(2))
        last = pixels.shape[1] - 1
        black, white = (pixels.gather(1, (share * last).long()[:, None])[..., None, None] for share in (low, 1 - high))
        return ((image - black) / (white - black).clamp(min=1e-3)).clamp(0, 1) * 2 - 1

    def _blurred(self, image: Tensor, draw: Draw) -> Tensor:
        """By a Gaussian, of another width in each sample."""
        return smoothed(image, draw.unit() * self.spec.blur, self.spec.blur)

    def _tube(self, image: Tensor, draw: Draw) -> Tensor:
        """A bright line of each sample, bent once, anywhere: (B, 1, H, W)."""
        height, width = image.shape[-2:]
        # A quadratic Bézier curve in the frame is no longer than two sides: so its points leave out no pixel.
        along = torch.linspace(0, 1, 4 * max(height, width), device=image.device, dtype=image.dtype)
        weights = torch.stack([(1 - along) ** 2, 2 * along * (1 - along), along**2])
        sides = torch.tensor([height, width], device=image.device, dtype=image.dtype)
        row, column = torch.einsum("kp,bka->abp", weights, draw.unit(3, 2) * sides).long()
        line = torch.zeros_like(image[:, :1])
        line.flatten(1).scatter_(1, row * width + column, 1.0)
        scale = max(height, width) / TUBE_WIDTH_SIDE
        half = _between(TUBE_WIDTH, draw.unit()) * scale
        soft = smoothed(line, half, TUBE_WIDTH[1] * scale) * _across(math.sqrt(2 * math.pi) * half)
        return _between(TUBE_BRIGHTNESS, draw.unit(1, 1, 1)) * soft.clamp(max=1)

    def _marked(self, image: Tensor, draw: Draw) -> Tensor:
        """With a letter: white dots, in a grid, anywhere."""
        height, width = image.shape[-2:]
        half = _between(LETTER, draw.unit(1, 1)) * height
        middle = draw.unit(2, 1, 1)
        rows, columns = (torch.arange(count, device=image.device, dtype=image.dtype) for count in (height, width))
        rows = (rows[:, None] - middle[:, 0] * height) / half
        columns = (columns - middle[:, 1] * width) / (half * GLYPH[1] / GLYPH[0])
        inside = (rows.abs() < 1) & (columns.abs() < 1)
        row, column = (
            ((at + 1) / 2 * count).long().clamp(0, count - 1) for at, count in ((rows, GLYPH[0]), (columns, GLYPH[1]))
        )
        dots = draw.unit(math.prod(GLYPH)) < 0.6
        shown = dots.gather(1, (row * GLYPH[1] + column).flatten(1)).reshape(-1, height, width) & inside
        return torch.where(shown[:, None], _between((0.5, 1.0), draw.unit(1, 1, 1)), image)

    def _open(self, image: Tensor, draw: Draw) -> Tensor:
        """What a collimator leaves open, bool (B, 1, H, W): all but a strip along each side."""
        open_ = torch.ones_like(image[:, :1], dtype=torch.bool)
        for axis in (2, 3):
            count = image.shape[axis]
            place = ((torch.arange(count, device=image.device) + 0.5) / count).reshape(-1, *(1,) * (3 - axis))
            begin, end = (draw.unit(1, 1, 1) * self.spec.border for _ in range(2))
            open_ = open_ & (place > begin) & (place < 1 - end)
        return open_


def _between(limits: tuple[float, float], share: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * share


def _across(values: Tensor) -> Tensor:
    """Numbers (B,) beside images (B, C, H, W)."""
    return values[:, None, None, None]


def smoothed(image: Tensor, width: Tensor, widest: float) -> Tensor:
    """Images (B, C, H, W) convolved with a Gaussian of the standard deviation ``width`` (B,) in pixels, of which
    ``widest`` is the most; as they are where they are smaller than the kernel."""
    samples, channels, height, across = image.shape
    reach = math.ceil(2 * widest)
    if reach >= min(height, across):
        return image
    places = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (places / width.clamp(min=0.1)[:, None]).square())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    padded = F.pad(image.reshape(1, samples * channels, height, across), (reach,) * 4, mode="replicate")
    down = F.conv2d(padded, kernel[:, None, :, None], groups=len(kernel))
    return F.conv2d(down, kernel[:, None, None, :], groups=len(kernel)).reshape(image.shape)
