"""Who the simulated people are: their numbers and what they are called."""

from __future__ import annotations

import numpy as np


def person_number(seed: int, index: int) -> int:
    """The number of person ``index`` in the population ``seed``: below 2 ** 63, the same everywhere."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def person_id(seed: int, index: int) -> str:
    """What person ``index`` in the population ``seed`` is called in a store."""
    return f"{seed}-{index:06d}"
