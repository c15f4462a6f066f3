"""A trained run's judge as the source of masks for images that come without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segcft.errors import Code, DataError
from segcft.grey import to_unit
from segcft.importers.masks import BITS, Coverage, largest_parts
from segcft.io.reject import Rejected
from segcft.pipeline.run import Run
from segcft.utils.digest import digest_of


class RunSegmenter:
    """The judge of a trained run, whose study has the structures of :data:`BITS` by name.

    Args:
        folder: of the run.
        device: where it computes.

    Raises:
        RunError: the folder is no run, or has no judge yet.
        DataError: its study has other structures, colour images, or volumes.
    """

    parallel = False

    def __init__(self, folder: Path, device: torch.device) -> None:
        run = Run(folder)
        names = list(run.study.masked)
        missing = [name for name in BITS if name not in names]
        if missing:
            raise DataError(
                Code.MISSING, folder, f"its study has no structure {', '.join(missing)}, only {', '.join(names)}"
            )
        if run.study.image.channels != 1 or run.study.image.is_volume:
            what = "volumes, and these are images" if run.study.image.is_volume else "colour images"
            raise DataError(Code.UNSUPPORTED, folder, f"its study has {what}")
        self.size = run.study.image.size
        self.device = device
        self.network = run.load("judge", device)
        self.order = [names.index(name) for name in BITS]
        self.settings = {"segmentor": digest_of(run.path("judge"))}

    def __call__(self, ids: Sequence[str], images: NDArray[np.uint8]) -> list[Coverage | Rejected]:
        with torch.inference_mode():
            probabilities = self.network.masks(to_unit(torch.from_numpy(images)[:, None].to(self.device)))
        return [largest_parts(one) for one in probabilities[:, self.order].cpu().numpy()]

    def stamp(self, id: str) -> None:
        return None
