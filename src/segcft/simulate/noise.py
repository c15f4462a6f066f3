"""Exogenous noise of simulated people: everything about a person follows from one number."""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
from scipy.special import ndtr, ndtri

from segcft.errors import Code, InterventionError


class UndrawableError(InterventionError, ValueError):
    """An attribute that a simulator cannot draw; the message names the variable."""


class Stream(IntEnum):
    """One random stream a purpose: to be given members. Append only, or people's noise changes."""

    def stream(self, person: int) -> np.random.Generator:
        """The person's generator: Philox, whose streams are independent for different keys."""
        if not 0 <= person < 2**64:
            raise ValueError(f"person: must be an integer of 64 bits, 0 or more, not {person}")
        return np.random.Generator(np.random.Philox(key=int(person) + (int(self) << 64)))


CUT = 1.1
_CUT_SPREAD = math.sqrt(1 - 2 * CUT * math.exp(-(CUT**2) / 2) / math.sqrt(2 * math.pi) / (2 * ndtr(CUT) - 1))


def cut_normal(uniform: float) -> float:
    """The quantile ``uniform``, 0 to 1, of a normal cut off at +-``CUT`` and scaled back to unit variance."""
    low = ndtr(-CUT)
    return float(ndtri(low + uniform * (1 - 2 * low))) / _CUT_SPREAD


def check_number(name: str, value: float | str) -> float:
    """``value`` as a finite number.

    Raises:
        UndrawableError: it is none.
    """
    if isinstance(value, str) or not math.isfinite(value):
        raise UndrawableError(Code.INVALID, name, f"must be a finite number, not {value!r}")
    return float(value)
