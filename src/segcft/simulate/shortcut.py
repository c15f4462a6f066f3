r"""A shortcut: among some people, how the picture looks goes with an area, and tells it to who has learnt from them.

It may be that the ill were photographed elsewhere, with more current, or that large hearts are those of large bodies.
A reader that learns from such people may read the area off the quality, which among other people says nothing of it
(Geirhos et al., *Shortcut learning in deep neural networks*, Nature Machine Intelligence 2020).

What causes both is the person: :math:`d`, how far the area is from the mean in standard deviations. A quality whose own
noise is at the quantile u of its range is drawn at

.. math:: \Phi\bigl(\rho\, d + \sqrt{1 - \rho^2}\; \Phi^{-1}(u)\bigr).

It is the person's, and stays where the area is set: a true counterfactual of another area looks no brighter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scipy.special import ndtr, ndtri

Quality = Literal["exposure", "body"]
"""``exposure``: how bright the film is. ``body``: how thick the trunk is, and how wide."""

END = 1e-9
"""Quantiles are as far from 0 and 1, of which there is no normal score."""


def moved(value: float, ends: tuple[float, float], quantile: Callable[[float], float]) -> float:
    """A value between ``ends`` at another quantile of their range, a function of its own one."""
    low, high = ends
    return low + (high - low) * quantile((value - low) / (high - low))


@dataclass(frozen=True)
class Shortcut:
    """The ``quality`` goes with ``variable``, an area, by a correlation of about ``rho``, between -1 and 1."""

    variable: str
    quality: Quality
    rho: float

    def quantile(self, own: float, deviation: float) -> float:
        """Where in its range the quality is, 0 to 1, whose ``own`` noise is there; the area is ``deviation`` standard
        deviations from its mean."""
        score = ndtri(min(max(own, END), 1 - END))
        return float(ndtr(self.rho * deviation + math.sqrt(1 - self.rho**2) * score))
