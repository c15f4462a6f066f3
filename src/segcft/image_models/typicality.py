"""Whether an image is like those that the mechanism has learnt: typicality of the terms of its bound.

The bound of log p(image | parents) is a length: bits of the latents, and bits of the pixels given the latents. An
image of another kind needs more bits than typical ones or, where it is simpler, fewer: both sides count (Nalisnick et
al. 2019). The latents have a range of their own: they hold so few bits that they would be lost in the sum, and they
show what is simple and yet strange, such as a black border. The mechanism names its terms, see
:meth:`segcft.image_models.mechanism.ImageMechanism.lengths`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import stdtrit
from torch import Tensor

from segcft.data.batches import sequential
from segcft.data.store import Store
from segcft.grey import to_unit
from segcft.image_models.mechanism import ImageMechanism

MOST_IMAGES = 500
"""The most images that ranges are estimated from."""

FEWEST_IMAGES = 4
"""The fewest images that ranges are estimated from."""

FALSE_ALARMS = 1e-3
"""The share of images like those of the training that may be called atypical."""

Range = tuple[float, float]


class TypicalRanges(BaseModel):
    """The range of every length of typical images, ``image=(low, high)`` and so on, and how many ``images`` it was
    learnt from."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="allow")
    __pydantic_extra__: dict[str, Range]

    images: Annotated[int, Field(ge=FEWEST_IMAGES)]

    @model_validator(mode="after")
    def _has_ranges(self) -> Self:
        if not self.__pydantic_extra__:
            raise ValueError("no range is given")
        return self

    @property
    def ranges(self) -> Mapping[str, Range]:
        """By the names of the lengths."""
        return self.__pydantic_extra__


@torch.no_grad()
def typical_ranges(network: ImageMechanism, store: Store, batch_size: int) -> TypicalRanges | None:
    """What is typical to a trained mechanism: the lengths of validation samples, which no training step has seen.

    They are those with all attributes, at most :data:`MOST_IMAGES` of them, always the same ones; None of fewer than
    :data:`FEWEST_IMAGES`, and of a mechanism without lengths. Noise is its posterior's mean, as in answers, so nothing
    is drawn from torch's generators.
    """
    rows = store.indices("validation", complete=True)
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_IMAGES])
    device = next(network.parameters()).device
    found: dict[str, list[Tensor]] = {}
    for batch in sequential(store, rows, batch_size):
        noise = network.abduct(to_unit(batch["image"].to(device)), batch["values"].to(device), sample=False)
        for name, length in network.lengths(noise).items():
            found.setdefault(name, []).append(length)
    lengths = {name: torch.cat(parts) for name, parts in found.items()}
    if not lengths:
        return None
    finite = torch.stack(list(lengths.values())).isfinite().all(dim=0)  # those of an absurd image may overflow
    if finite.sum() < FEWEST_IMAGES:
        return None
    outside = FALSE_ALARMS / len(lengths)
    ranges = {name: prediction_interval(length[finite], outside) for name, length in lengths.items()}
    return TypicalRanges.model_validate({"images": int(finite.sum())} | ranges)


def prediction_interval(seen: Tensor, outside: float = FALSE_ALARMS) -> Range:
    """The prediction interval of a further length, which is outside of it with probability ``outside``.

    It is that of a two-piece normal distribution (Wallis 2014), since lengths are skewed: each half has a spread of its
    own around the median. It is the wider the fewer lengths (N,), at least four, are ``seen``.
    """
    seen = seen.double()
    middle = seen.quantile(0.5)
    below, above = ((side - middle).square().mean().sqrt() for side in (seen[seen <= middle], seen[seen >= middle]))
    # By Student's t, as if each half were a sample by itself.
    half = len(seen) / 2
    reach = float(stdtrit(half - 1, 1 - outside / 2)) * math.sqrt(1 + 1 / half)
    return max(0.0, float(middle - reach * below)), float(middle + reach * above)
