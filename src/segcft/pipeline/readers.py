"""Readers of trained runs that look at the same images, or volumes, and what they see of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from segcft.config.image import Image
from segcft.config.study import Study
from segcft.data.crop import Crop
from segcft.data.resize import Box, Pixel, fit_image, frame_of
from segcft.errors import Code, RunError
from segcft.grey import to_unit
from segcft.importers.masks import BITS, largest_parts
from segcft.io.imagefile import ImageFile
from segcft.pipeline.publish_readers import in_order
from segcft.pipeline.run import READERS, Run
from segcft.readers.reader import MaskReader
from segcft.utils.digest import digest_of

MOST_STRUCTURES = 8
"""A mask file has a bit for each."""


class Read(NamedTuple):
    """One reader of a run."""

    study: Study
    network: MaskReader
    order: list[int]
    """Where the structures are among its own."""


class Views(NamedTuple):
    """An image or a volume as R readers get it."""

    fitted: tuple[NDArray[np.uint8], ...]
    """It on the grid of each, uint8 (C, *size)."""
    frames: tuple[Box, ...]
    """Where on the grid of each it is."""
    compared: tuple[int, ...]
    """The size at which they are compared, of its own frame."""


class Readers:
    """Readers of the same structures, all of which must agree.

    Args:
        readers: at least one.
        structures: the names of what they see; structure k is bit k of a mask.
        device: where they compute.
        settings: what their masks depend on, in JSON's types.

    Raises:
        RunError: there are more structures than a mask has bits, or some read images and others volumes.
    """

    def __init__(
        self, readers: Sequence[Read], structures: Sequence[str], device: torch.device, settings: Mapping[str, Any]
    ) -> None:
        if len(structures) > MOST_STRUCTURES:
            raise RunError(Code.UNSUPPORTED, "structures", f"a mask has bits for {MOST_STRUCTURES}")
        kinds = {(reader.study.image.is_volume, reader.study.image.channels) for reader in readers}
        if len(kinds) > 1:
            said = " and ".join(sorted({f"{one.study.image.channels} x {one.study.image.words}" for one in readers}))
            raise RunError(Code.CONFLICT, "image", f"one file is not for all readers, which read {said}")
        self.readers, self.structures, self.device, self.settings = readers, structures, device, settings

    @classmethod
    def of(cls, runs: Sequence[Path], device: torch.device) -> Readers:
        """All readers of some runs, or of published models. A run has two readers, the segmentor and the judge, and so
        have published readers; a published model has the judge, and the segmentor if that guided it. The structures are
        in the order of the first (:func:`~segcft.pipeline.publish_readers.in_order`).

        Raises:
            RunError: a folder is no run, has no reader, or sees other structures; or some read colours or volumes, and
                others do not.
        """
        readers, structures, digests = list[Read](), list[str](), list[str]()
        for folder in runs:
            run = Run(folder)
            names = list(run.study.masked)
            structures = structures or in_order(run.study)
            if set(names) != set(structures) or not names:
                why = f"it sees {', '.join(names) or 'nothing'}, and not {', '.join(structures) or 'a structure'}"
                raise RunError(Code.CONFLICT, folder, why)
            parts = [part for part in READERS if run.path(part).is_file()]
            if not parts:
                raise RunError(Code.MISSING, folder, "it has no segmentor and no judge yet")
            order = [names.index(name) for name in structures]
            readers += [Read(run.study, run.load(part, device), order) for part in parts]
            digests += [digest_of(run.path(part)) for part in parts]
        return cls(readers, structures, device, {"readers": digests, "structures": structures})

    @property
    def chest(self) -> bool:
        """Whether they see lungs and heart, whose flags are then :data:`~segcft.importers.masks.BITS`."""
        return list(self.structures) == list(BITS)

    @property
    def grid(self) -> Image:
        """That of the first reader; those of others have as many axes and channels."""
        return self.readers[0].study.image

    def views(self, opened: Sequence[tuple[ImageFile, Pixel]]) -> Views:
        """An image as the study of each reader reads it, on the grid of each.

        Raises:
            Rejected: it cannot be brought there, see :func:`~segcft.data.resize.fit_image`.
        """
        placed = [(*one, reader.study.image) for one, reader in zip(opened, self.readers, strict=True)]
        frames = tuple(frame_of(seen.size, grid, pixel) for seen, pixel, grid in placed)
        fitted = tuple(fit_image(seen.grey, grid, pixel) for seen, pixel, grid in placed)
        return Views(fitted, frames, self._compared(opened[0][0].size, frames))

    def _compared(self, shape: tuple[int, ...], frames: Sequence[Box]) -> tuple[int, ...]:
        """At which size readers are compared who see an image or volume of this ``shape`` in such frames: its own, if
        that is no finer than what they see."""
        if not self.grid.is_volume:
            shrunk = min(1.0, max(max(reader.study.image.size) for reader in self.readers) / max(shape))
            return tuple(max(1, round(length * shrunk)) for length in shape)
        # Voxels need not be cubes: along each axis by itself, so that of few thick slices every one stays.
        finest = np.max([extent for _, extent in frames], axis=0)
        return tuple(min(length, math.ceil(most)) for length, most in zip(shape, finest, strict=True))

    @torch.inference_mode()
    def __call__(self, images: Sequence[Views]) -> Iterator[NDArray[np.float64]]:
        """What each reader sees of each image: probabilities (R, S, *compared) in the image's own frame."""
        every = [self._seen(reader, [one.fitted[k] for one in images]) for k, reader in enumerate(self.readers)]
        for number, one in enumerate(images):
            frames = zip(every, one.frames, strict=True)
            yield np.stack([Crop(*frame, one.compared).smooth(seen[number]) for seen, frame in frames])

    def _seen(self, reader: Read, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Probabilities (B, S, *size) of images on the reader's grid, of lungs and heart their largest parts."""
        batch = torch.from_numpy(np.stack(images)).to(self.device)
        found = reader.network.masks(to_unit(batch))[:, reader.order].double().cpu().numpy()
        # Of lungs and heart there is one each; of others nobody knows how many parts they have.
        return np.stack([largest_parts(one) for one in found]) if self.chest else found


def agreement(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The smallest Dice between two of R readers' masks (R, S, *size), of each structure (S,).

    Two empty masks agree. One reader agrees with itself.
    """
    found = np.ones(masks.shape[1])
    space = tuple(range(1, masks.ndim - 1))
    for one, other in itertools.combinations(masks, 2):
        total = one.sum(axis=space) + other.sum(axis=space)
        shared = (one & other).sum(axis=space)
        found = np.minimum(found, np.where(total > 0, 2 * shared / np.maximum(total, 1), 1.0))
    return found
