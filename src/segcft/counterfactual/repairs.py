"""What may have happened to an image, where undoing it makes it more like the training images.

An image that is not typical is put right in trial. A mirrored one may be typical, but it needs more bits than as it
was. So an image that gets shorter by being turned, by more than those of people who were not trained on, was turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segcft.counterfactual.model import CounterfactualModel
from segcft.image_models.typicality import TypicalRanges
from segcft.readers.reader import MaskReader

SLIM = 0.02
"""A border of less than this share of the image is none."""
FLAT = 2 * 4 / 255
"""Grey levels, in [-1, 1], by which rows and columns of a border differ at most: those of a lossy file."""


def without_border(image: Tensor) -> Tensor | None:
    """An image (1, C, H, W) without rows and columns of one grey level around it, enlarged to its size; None where
    there are none, or there is nothing else."""
    height, width = image.shape[2:]
    kept = []
    for axis, size in ((3, height), (2, width)):
        lines = image.amax(dim=axis) - image.amin(dim=axis)
        inside = (lines > FLAT).any(dim=1)[0].nonzero()[:, 0]
        if not len(inside):
            return None
        kept.append((int(inside[0]), int(inside[-1]) + 1, size))
    if all(end - begin > (1 - SLIM) * size for begin, end, size in kept):
        return None
    (top, bottom, _), (left, right, _) = kept
    inner = image[:, :, top:bottom, left:right]
    return F.interpolate(inner, (height, width), mode="bilinear", antialias=True, align_corners=False)


UNDONE: dict[str, Callable[[Tensor], Tensor | None]] = {
    "like a negative": lambda image: -image,
    "upside down": lambda image: image.flip(2, 3),
    "mirrored": lambda image: image.flip(3),
    "turned to the left": lambda image: image.rot90(-1, (2, 3)),
    "turned to the right": lambda image: image.rot90(1, (2, 3)),
    "framed": without_border,
}
"""How an image looks -> the image (1, C, H, W) as it was before, None where nothing can have happened."""

ORIENTATIONS = ("mirrored", "upside down")
"""Of :data:`UNDONE` what may leave an image typical."""
FALSE_ALARMS = 0.01
"""The share of images as they should be that may be taken for turned, in each of these ways."""
FEWEST = 50
"""Images from which it is learnt what others gain; of fewer than 99 the share is 1 / (n + 1)."""


@torch.no_grad()
def gained_by_turning(
    model: CounterfactualModel, reader: MaskReader, images: Tensor, values: Tensor, columns: Sequence[int]
) -> dict[str, Tensor]:
    """By how many bits a pixel images (B, C, H, W) get shorter where each of :data:`ORIENTATIONS` is undone, (B,); of
    volumes, and of a mechanism without lengths, nothing is known. Arguments are as of :func:`what_happened`."""
    own = _length(model, reader, images, values, columns) if images.dim() == 4 else None
    if own is None:
        return {}
    found = {}
    for name in ORIENTATIONS:
        undone = UNDONE[name](images)
        assert undone is not None
        other = _length(model, reader, undone, values, columns)
        assert other is not None
        found[name] = own - other
    return found


def limits(gains: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """What images as they should be gain at most by each of :data:`ORIENTATIONS`, from the ``gains`` of some: the
    conformal quantile of all but :data:`FALSE_ALARMS`, of fewer than 99 images the largest, and 0 at least. From fewer
    than :data:`FEWEST` nothing is learnt."""
    found = {}
    for name, seen in gains.items():
        ordered = sorted(filter(math.isfinite, seen))  # those of an absurd image may overflow
        place = min(math.ceil((1 - FALSE_ALARMS) * (len(ordered) + 1)), len(ordered))
        if len(ordered) >= FEWEST:
            found[name] = max(0.0, ordered[place - 1])
    return found


def _length(
    model: CounterfactualModel, reader: MaskReader, images: Tensor, values: Tensor, columns: Sequence[int]
) -> Tensor | None:
    """Bits a pixel that whole images need, (B,); measures are read from them."""
    found = _lengths(model, reader, images, values, columns)
    return next(iter(found.values())) if found else None


def _lengths(
    model: CounterfactualModel, reader: MaskReader, images: Tensor, values: Tensor, columns: Sequence[int]
) -> Mapping[str, Tensor]:
    own = values.clone()
    own[:, columns] = reader.read(images)
    return model.mechanism.lengths(model.abduct(images, model.scm.derive(own)).noise)


@torch.no_grad()
def what_happened(
    model: CounterfactualModel,
    reader: MaskReader,
    image: Tensor,
    values: Tensor,
    columns: Sequence[int],
    typical: TypicalRanges | None,
) -> str:
    """Of :data:`UNDONE` what makes an atypical image typical, the likeliest of them; "" where none does.

    Args:
        model: to whose image mechanism it is to be typical.
        reader: reads what is measured, (1, M), which is in the image that was brought back.
        image: (1, C, H, W) in [-1, 1]; of volumes nothing is tried.
        values: of its subject, (1, V). Measures are read anew; attributes stay, also where they were inferred.
        columns: where measures are among these.
        typical: ranges of typical images.
    """
    if typical is None or image.dim() != 4:
        return ""
    found: dict[str, float] = {}
    for name, undo in UNDONE.items():
        before = undo(image)
        if before is None or before.shape != image.shape:  # what is not square cannot have been turned
            continue
        lengths = _lengths(model, reader, before, values, columns)
        if all(low <= float(lengths[one]) <= high for one, (low, high) in typical.ranges.items()):
            found[name] = float(next(iter(lengths.values())))  # of the whole image; the others are shares of it
    # An image that is enlarged is smooth, which makes it likelier: so that is the last thing to be believed.
    exact = {name: length for name, length in found.items() if UNDONE[name] is not without_border} or found
    return min(exact, key=lambda name: exact[name]) if exact else ""
