"""Whether an image is like those that the mechanism has learnt: typicality of both terms of its bound.

The bound of log p(image | parents) is a length: bits that the latents hold, and bits that the pixels need given them.
An image of another kind needs more than is usual or, where it is simpler, fewer, so both sides count (Nalisnick et al.
2019). The latents are looked at by themselves, too: they hold so few bits that a figure which is far out would be
lost in the sum, and they see what is simple and yet strange, such as a black border.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import stdtrit
from torch import Tensor

from segcft.data.batches import sequential
from segcft.data.grey import to_unit
from segcft.data.store import Store
from segcft.image_models.mechanism import ELBO, ImageMechanism

SEEN = 500
"""Images that the usual range is of, at most."""

FEWEST = 4
"""Images that it takes at least."""

FALSE_ALARMS = 1e-3
"""The share of people like those of the training whose image is meant to be called unusual."""


class Length(NamedTuple):
    """Bits per pixel and channel, (B,) each."""

    image: Tensor
    """All of the bound."""
    latents: Tensor
    """What of it the latents hold, KL(q || p)."""


Range = tuple[float, float]


class Usual(BaseModel):
    """Which lengths are usual, from the lowest to the highest, and how many images that was learnt from."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    images: Annotated[int, Field(ge=FEWEST)]
    image: Range
    latents: Range


def length_of(bound: ELBO) -> Length:
    """The length of images whose bound is known."""
    return Length((bound.distortion + bound.rate) / math.log(2), bound.rate / math.log(2))


@torch.no_grad()
def usual_images(network: ImageMechanism, store: Store, batch_size: int) -> Usual | None:
    """What is usual to a trained mechanism: the lengths of validation people, whom no training step has seen.

    They are those with all attributes, at most :data:`SEEN` of them, always the same ones; None of fewer than
    :data:`FEWEST`. Latents are their posterior's mean, as in answers, so nothing is drawn from torch's generators.
    """
    rows = store.indices("validation", complete=True)
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:SEEN])
    if not len(rows):
        return None
    device = next(network.parameters()).device
    lengths = [
        length_of(network(to_unit(batch["image"].to(device)), batch["values"].to(device), beta=1.0, sample=False))
        for batch in sequential(store, rows, batch_size)
    ]
    image, latents = map(torch.cat, zip(*lengths, strict=True))
    finite = image.isfinite()  # that of an absurd image may overflow
    if finite.sum() < FEWEST:
        return None
    return Usual(images=int(finite.sum()), image=usual_range(image[finite]), latents=usual_range(latents[finite]))


def usual_range(seen: Tensor) -> Range:
    """Where one more length is to be expected, of which some were ``seen`` (N,), at least four.

    The prediction interval of a two-piece normal distribution (Wallis 2014), since lengths are skewed: each half has a
    spread of its own around the median. The fewer were seen, the wider it is.
    """
    seen = seen.double()
    middle = seen.quantile(0.5)
    below, above = ((side - middle).square().mean().sqrt() for side in (seen[seen <= middle], seen[seen >= middle]))
    # By Student's t, as if each half were a sample by itself. Two terms have two ends each.
    half = len(seen) / 2
    reach = float(stdtrit(half - 1, 1 - FALSE_ALARMS / 4)) * math.sqrt(1 + 1 / half)
    return max(0.0, float(middle - reach * below)), float(middle + reach * above)
