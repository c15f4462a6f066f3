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
from segcft.data.store import Store
from segcft.images.likelihood import to_unit
from segcft.images.mechanism import ELBO, ImageMechanism

SEEN = 500
"""Images that the usual range is of, at most."""

FALSE_ALARMS = 1e-4
"""The share of normally distributed people whom a range leaves out."""


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

    images: Annotated[int, Field(ge=2)]
    image: Range
    latents: Range


def length_of(bound: ELBO) -> Length:
    """The length of images whose bound is known."""
    return Length((bound.distortion + bound.rate) / math.log(2), bound.rate / math.log(2))


@torch.no_grad()
def usual_images(network: ImageMechanism, store: Store, batch_size: int) -> Usual | None:
    """What is usual to a trained mechanism: the lengths of validation people, whom no training step has seen.

    They are those with all attributes, at most :data:`SEEN` of them, always the same ones; None of fewer than two.
    Latents are their posterior's mean, as in answers, so nothing is drawn from torch's generators.
    """
    rows = store.indices("validation", complete=True)
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:SEEN])
    if len(rows) < 2:
        return None
    device = next(network.parameters()).device
    lengths = [
        length_of(network(to_unit(batch["image"].to(device)), batch["values"].to(device), beta=1.0, sample=False))
        for batch in sequential(store, rows, batch_size)
    ]
    image, latents = map(torch.cat, zip(*lengths, strict=True))
    return Usual(images=len(rows), image=prediction_interval(image), latents=prediction_interval(latents))


def prediction_interval(seen: Tensor) -> Range:
    """Where one more of a normal distribution is, of which some were ``seen`` (N,): the wider, the fewer they were.

    It leaves out :data:`FALSE_ALARMS`.
    """
    seen = seen.double()
    reach = float(stdtrit(len(seen) - 1, 1 - FALSE_ALARMS / 2)) * float(seen.std()) * math.sqrt(1 + 1 / len(seen))
    return float(seen.mean()) - reach, float(seen.mean()) + reach
