"""Pattern: does an answer have chequers, dots or stripes that the image does not have?

Networks that write patches of pixels, or double their maps, leave traces that repeat every so many pixels (Odena et al.
2016, "Deconvolution and checkerboard artifacts"). In a spectrum they are near the multiples of 1 / period.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words
from segcft.evaluate.names import NO_CHANGE

PERIODS = (2, 4)
"""Pixels after which a pattern repeats: networks double their maps, or write patches of four."""

WIDTH = 1 / 32
"""How near to a multiple of 1 / period a frequency counts, in cycles a pixel: patterns may fill a part of the frame."""


def pattern_energy(images: Tensor) -> Tensor:
    """The energy of images (B, C, *size) at the frequencies of patterns, (B,), in the square of their unit.

    Each axis is at a multiple of 1 / period, for a period in :data:`PERIODS`, and not all of them at 0. The frame is
    faded out towards its edges (Hann), as a border that does not go on around has all frequencies.
    """
    axes = tuple(range(2, images.dim()))
    faded = images - images.mean(dim=axes, keepdim=True)
    for axis in axes:
        window = torch.hann_window(images.shape[axis], periodic=False, device=images.device, dtype=images.dtype)
        faded = faded * window.reshape(-1, *(1,) * (images.dim() - 1 - axis))
    power = torch.fft.fftn(faded, dim=axes, norm="forward").abs().square()
    return (power * _at_patterns(images)).flatten(1).sum(dim=1)


def _at_patterns(images: Tensor) -> Tensor:
    """Which frequencies count, (*size): 1 where they do, else 0."""
    counted = torch.zeros(images.shape[2:], device=images.device)
    for period in PERIODS:
        near, still = torch.ones_like(counted), torch.ones_like(counted)
        for axis, pixels in enumerate(images.shape[2:]):
            frequency = torch.fft.fftfreq(pixels, device=images.device).abs()
            shape = (-1, *(1,) * (counted.dim() - 1 - axis))
            off = (frequency * period - (frequency * period).round()).abs() / period
            near = near * (off <= WIDTH).reshape(shape)
            still = still * (frequency <= WIDTH).reshape(shape)
        counted = torch.maximum(counted, near * (1 - still))
    return counted


class Pattern(Metric):
    """Energy of the answer at the frequencies of patterns, on that of the image."""

    name = "pattern energy"
    better = "near 1"

    def words(self, study: Study) -> Words:
        text = f"""\
energy at periods of {" and ".join(map(str, PERIODS))} pixels, on that of the image. Chequers, dots and stripes raise
  it above 1."""
        return Words("pattern energy", "", text)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        if answer.method == NO_CHANGE:
            return
        image = pattern_energy(answer.asked.factual.samples.image)
        # Weighed by the image's energy, the mean is the quotient of the sums: images that are smooth do not rule it.
        yield Result(torch.where(image > 0, pattern_energy(answer.image) / image, torch.nan), weights=image)


METRICS.add(Pattern.name, Pattern())
