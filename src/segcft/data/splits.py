"""Which part of the data a patient is in: decided by the seed and the patient's id alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from segcft.config.sources import Splits
from segcft.errors import Code, DataError

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
    of one patient are in one part. Shares are met on average, as in any random draw. With folds everybody is tested:
    :func:`parts_of` says who in which fold, which needs to know all.
    """
    if splits.folds is not None:
        return "test"
    u = uniform(splits.seed, patient)
    end = 0.0
    for part in PARTS[:-1]:
        end += getattr(splits, part)
        if u < end:
            return part
    return PARTS[-1]


def expected_parts(splits: Splits) -> tuple[str, ...]:
    """The parts that a data set split by :func:`assign` must have."""
    if splits.folds is not None:
        return ("test",)
    return tuple(part for part in PARTS if getattr(splits, part) > 0)


def listed(samples: Mapping[str, int]) -> dict[str, int]:
    """How many ``samples`` each part has, in the order of the parts; that of the judge only where it has some."""
    return {part: samples.get(part, 0) for part in PARTS if part != JUDGE or samples.get(part)}


def parts_of(patients: Iterable[str], splits: Splits) -> dict[str, str]:
    """The part of each of all ``patients``: see :func:`assign`, or, of a fold, the part that they have in it.

    Patients stand in a circle, in an order drawn from the seed and their ids alone. Each fold tests the next stretch of
    it; stretches differ by at most one patient. Behind it come those who validate, and so on backwards to training.

    Raises:
        DataError: there are fewer patients than folds, or than a fold has parts.
    """
    if splits.fold is None or splits.folds is None:
        return {patient: assign(patient, splits) for patient in patients}
    circle = sorted(set(patients), key=lambda patient: (uniform(splits.seed, patient), patient))
    first, last = (len(circle) * k // splits.folds for k in (splits.fold - 1, splits.fold))
    shares = {part: getattr(splits, part) for part in PARTS[:-1]}
    rest = len(circle) - (last - first)
    counts = {part: max(1, round(share / sum(shares.values()) * rest)) for part, share in shares.items() if share > 0}
    counts["train"] = rest - sum(count for part, count in counts.items() if part != "train")
    if len(circle) < splits.folds or counts["train"] < 1:
        why = f"{len(circle)} patients are too few for {splits.folds} folds with {', '.join(counts)} and test parts"
        raise DataError(Code.OUT_OF_RANGE, "splits.folds", why)
    found = ["test"] * (last - first) + [part for part in reversed(PARTS) for _ in range(counts.get(part, 0))]
    return {circle[(first + k) % len(circle)]: part for k, part in enumerate(found)}
