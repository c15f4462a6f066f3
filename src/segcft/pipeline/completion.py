r"""Training samples whose attributes are not all known, completed so that the image mechanism learns from them.

What is missing is summed over as in answers: with a the missing attributes of a sample with the image x and the known
values v, training minimises

.. math:: E_{p(a \mid v)} [-\log p(x \mid a, v)] \ge -\log p(x \mid v),

where :math:`p(a \mid v)` is that of the attributes' mechanisms, which are trained before. Steps take turns among draws.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from segcft.causal.missing import MissingValues
from segcft.causal.scm import StructuralCausalModel

DRAWS = 16
"""Completions of each sample: of a category that is as likely as not, the share of draws is right within an eighth."""


def completed(
    scm: StructuralCausalModel, values: NDArray[np.float32], seed: int, draws: int = DRAWS
) -> NDArray[np.float32]:
    """Values (N, V) of which some are NaN, completed ``draws`` times each: (N, draws, V).

    Raises:
        InterventionError: what is known of a sample has no likelihood.
    """
    device = next(scm.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    found = np.repeat(values[:, None], draws, axis=1)
    missing = np.isnan(values) & ~np.array([bool(one.derived) for one in scm.definitions.values()])
    for row in np.flatnonzero(missing.any(axis=1)):
        one = torch.from_numpy(values[row : row + 1]).to(device)
        found[row] = MissingValues(scm, one, generator).draw(draws, generator).cpu().numpy()
    return found
