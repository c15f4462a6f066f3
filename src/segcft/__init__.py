"""segcft: segmentor-guided counterfactual fine-tuning of deep structural causal models for medical images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segcft.api.model import Model
    from segcft.api.question import Match, Sized

__all__ = ["Match", "Sized", "inspect", "load"]
__version__ = "0.1.0"


def load(folder: str | Path, device: str = "cpu") -> Model:
    """Open a run or a published model, to ask it about images; see :class:`segcft.api.model.Model`.

    Args:
        folder: of it, or its name on the Hugging Face Hub, ``hf://user/model`` (:func:`segcft.utils.hub.fetch`).
        device: where it computes.

    Raises:
        RunError: the folder is neither, or a part is missing or damaged.
        DataError: it is to come from the hub, and cannot.
    """
    from segcft.api.model import Model  # late: it takes seconds to import what it needs
    from segcft.utils.hub import located

    return Model(located(folder), device)


def inspect(path: str | Path) -> dict[str, Any] | None:
    """What a synthetic image (PNG, GIF, DICOM) says of its origin; None if segcft did not make it.

    Raises:
        DataError: the file cannot be read, or its record is damaged.
    """
    from segcft.io.provenance import inspect

    if not (isinstance(path, str | Path) and os.path.isfile(path)):
        from segcft.api.arguments import place  # late: it takes seconds to import what it needs

        path = place("path", path)
    return inspect(path)


def __getattr__(name: str) -> Any:
    if name in ("Match", "Sized"):
        from segcft.api import question

        return getattr(question, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
