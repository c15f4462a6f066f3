"""Whether masks lie on what their images show: a check of a whole data set that needs no model.

Borders of structures are edges of the image. So along the borders of its own mask an image has steeper grey levels than
along those of the same mask turned or mirrored, and steeper ones than the images of others have there. Of one image
that may not be so; of many it is, unless masks are stored another way round than images, or belong to other images.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from segcft.data.store import Store
from segcft.io.reject import Remark
from segcft.io.turn import Flip, Turn
from segcft.measures.measure import FULL

MOST = 100
"""Samples that are checked, spread over the store, one a patient."""

FEWEST = 10
"""Samples below which nothing is said."""

OTHERS = 5
"""Images of others with which a mask is compared."""

CHANCE = 1e-4
"""How unlikely it may be, by a sign test, that a turned mask fits more images than not by chance."""

BETTER = 0.05
"""How unlikely it has to be that masks fit their own images better than those of others by chance."""

WHOLE_FRAME = 0.995
"""Share of the frame, in every sample, above which a remark says that a mask covers all of it."""

TURNS: dict[int, list[Turn] | list[Flip]] = {
    2: [Turn(*flags) for flags in itertools.product((False, True), repeat=3) if any(flags)],
    3: [Flip(*flags) for flags in itertools.product((False, True), repeat=3) if any(flags)],
}
"""The other ways to lay a mask of so many axes down."""


def check_masks(store: Store) -> list[Remark]:
    """What is odd about the masks of a store as a whole: they cover the frame, are turned, or fit no image."""
    remarks = [*_whole_frame(store)]
    rows = _spread(store)
    if len(rows) < FEWEST:
        return remarks
    axes = store.images.ndim - 2
    edges = np.stack([_steepness(store.images[row].mean(axis=0), axes) for row in rows])
    borders = np.stack([_steepness(store.masks[row], axes).sum(axis=0) for row in rows])
    own = _along(_flat(edges), _flat(borders))
    some = np.isfinite(own)  # a sample without structures has no border
    edges, borders, own = edges[some], borders[some], own[some]
    if len(own) < FEWEST:
        return remarks
    edges = _flat(edges)
    turns = [turn for turn in TURNS[axes] if turn(borders).shape == borders.shape]
    turned = {turn: _along(edges, _flat(turn(borders))) for turn in turns}
    best = max(turned, key=lambda turn: float(turned[turn].mean()))
    improved = int((turned[best] > own).sum())
    if (
        _by_chance(improved, len(own)) < CHANCE
        and _by_chance(_fitting(edges, _flat(best(borders))), len(own)) <= BETTER
    ):
        text = (
            f"{store.folder}: of {len(own)} masks {improved} fit their images better when they are {best}. Look at "
            "some; are masks and images stored the same way round? (data.nifti_axes; EXIF; DICOM's Patient Orientation)"
        )
        return [*remarks, Remark("masks lie another way round", text)]
    better = _fitting(edges, _flat(borders))
    if _by_chance(better, len(own)) > BETTER:
        text = (
            f"{store.folder}: only {better} of {len(own)} masks fit their own images better than those of others, as "
            "chance would have it. Look at some; do masks belong to their images? (data.id, names of files)"
        )
        remarks.append(Remark("masks do not fit their images", text))
    return remarks


def _fitting(edges: NDArray[np.float32], borders: NDArray[np.float32]) -> int:
    """How many of the ``borders`` (N, P) lie on steeper ``edges`` in their own image than in those of others, or in
    their own image than those of others do: whichever are more.

    Neither is enough. At another's place there may be steeper edges in every image, like the skull beside a faint
    lesion; and where masks are much alike, so are the edges at their place.
    """
    own, count = _along(edges, borders), len(borders)
    in_others = (_along(edges[list(_others(i, count))], borders[i]).mean() for i in range(count))
    of_others = (_along(edges[i], borders[list(_others(i, count))]).mean() for i in range(count))
    return max(int(sum(own > list(others))) for others in (in_others, of_others))


def _by_chance(successes: int, count: int) -> float:
    """How likely there are so many ``successes`` of ``count``, or more, where either outcome is as likely."""
    return float(binomtest(successes, count, 0.5, "greater").pvalue)


def _whole_frame(store: Store) -> Iterator[Remark]:
    rows = store.indices(masked=True)
    rows = rows[:: max(1, len(rows) // MOST)]
    if len(rows) == 0:
        return
    least = np.min([store.masks[row].mean(axis=tuple(range(1, store.masks.ndim - 1))) for row in rows], axis=0) / FULL
    for name, share in zip(store.structures, least, strict=True):
        if share > WHOLE_FRAME:
            text = (
                f"{store.folder}: the mask of {name} covers the whole frame in every sample; is its shape in another "
                "channel or value of the files? (structures: bit, label or file)"
            )
            yield Remark("masks cover the whole frame", text)


def _spread(store: Store) -> NDArray[np.int64]:
    rows = store.indices(masked=True)
    rows = rows[~store.table["patient"].iloc[rows].duplicated()]
    return rows[:: max(1, len(rows) // MOST)][:MOST]


def _steepness(array: NDArray[Any], axes: int) -> NDArray[np.float32]:
    """Length of the gradient of ``array`` (..., *size) along so many axes, the last ones; in single precision, since
    those of all samples are kept."""
    slopes = np.gradient(array.astype(np.float32), axis=tuple(range(-axes, 0)))
    return np.asarray(reduce(np.hypot, slopes))


def _along(edges: NDArray[np.float32], borders: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean steepness of images (N, P), pixel after pixel, along borders (N, P), divided by that of the whole image:
    (N,)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        along = np.einsum("...p,...p->...", edges, borders, dtype=np.float64)  # without an array of all products
        mean = along / borders.sum(axis=-1, dtype=np.float64)
        return np.asarray(mean / edges.mean(axis=-1, dtype=np.float64))


def _flat(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps (N, *size) as (N, P)."""
    return maps.reshape(len(maps), -1)


def _others(i: int, count: int) -> Iterator[int]:
    step = max(1, count // (OTHERS + 1))
    return ((i + k * step) % count for k in range(1, min(OTHERS, count - 1) + 1))
