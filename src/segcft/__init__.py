"""segcft: segmentor-guided counterfactual fine-tuning of deep structural causal models for medical images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segcft.model import Model

__all__ = ["load"]
__version__ = "0.1.0"


def load(folder: str | Path, device: str = "cpu") -> Model:
    """Open a run or a published model, to ask it about images; see :class:`segcft.model.Model`.

    Raises:
        RunError: the folder is neither, or a part is missing or damaged.
    """
    from segcft.model import Model  # late: it takes seconds to import what it needs

    return Model(folder, device)
