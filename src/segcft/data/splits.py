"""Which part of the data a patient is in: decided by the seed and the patient's id alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from segcft.config.sources import Splits

JUDGE = "judge"
"""The part that trains the judge and nothing else. A study has it only if it asks for it."""

PARTS = ("train", JUDGE, "validation", "test")
"""The parts of the data in order: what trains, what may be looked at meanwhile, and what judges."""


def uniform(seed: int, patient: str) -> float:
    """A number in [0, 1) that is uniform over patients and the same on every machine."""
    digest = hashlib.sha256(f"{seed}\0{patient}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: a float64 holds them exactly


def assign(patient: str, splits: Splits) -> str:
    """The part of ``patient``, one of :data:`PARTS`.

    It depends on nothing but ``splits`` and the id: adding or removing patients moves nobody, and all images
    of one patient are in one part. Shares are met on average, as in any random draw.
    """
    u = uniform(splits.seed, patient)
    end = 0.0
    for part in PARTS[:-1]:
        end += getattr(splits, part)
        if u < end:
            return part
    return PARTS[-1]


def expected_parts(splits: Splits) -> tuple[str, ...]:
    """The parts that a data set split by ``splits`` must have."""
    return tuple(part for part in PARTS if getattr(splits, part) > 0)


def listed(samples: Mapping[str, int]) -> dict[str, int]:
    """How many ``samples`` each part has, in the order of the parts; that of the judge only where it has some."""
    return {part: samples.get(part, 0) for part in PARTS if part != JUDGE or samples.get(part)}
