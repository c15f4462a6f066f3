"""What may have happened to an image that is unlike the training images, where undoing it makes it like them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        own = values.clone()
        own[:, columns] = reader.read(before)
        lengths = model.mechanism.lengths(model.abduct(before, model.scm.derive(own)).noise)
        if all(low <= float(lengths[one]) <= high for one, (low, high) in typical.ranges.items()):
            found[name] = float(next(iter(lengths.values())))  # of the whole image; the others are shares of it
    # An image that is enlarged is smooth, which makes it likelier: so that is the last thing to be believed.
    exact = {name: length for name, length in found.items() if UNDONE[name] is not without_border} or found
    return min(exact, key=lambda name: exact[name]) if exact else ""
