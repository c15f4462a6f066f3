"""How high the learning rate is at every step, and when a training ends: at its steps, or when validation has stopped
improving.

Without ``patience`` the rate falls along a cosine, which must know its end beforehand. With it the rate is warmed up,
constant, and falls at the end, so that the end may come at any time (warm-up, stable, decay; Hägele et al. 2024,
https://arxiv.org/abs/2405.18392).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any, Literal, NamedTuple

from segcft.config.section import Training

DECAY = 0.2
"""Share of a training in which the rate falls, after a constant one: of 0.1 to 0.2 the loss is that of a cosine of the
same length (Hägele et al. 2024, section 3)."""

IMPROVEMENT = 0.02
"""What must be gained within ``patience`` validations, see :func:`has_plateaued`. Steps that gain less are better spent
in the decay, which gains more than this."""

FROM_CHANGES = 0.954
"""The median absolute difference of two independent normal values, in standard deviations: sqrt(2) x 0.6745."""

OF_MEDIAN = 1.253
"""The standard error of a median of normal values, in those of their mean: sqrt(pi / 2)."""


class Stopped(NamedTuple):
    """At which step a training ended, and why: validation was at a ``plateau``, or its ``steps`` were done."""

    step: int
    why: Literal["plateau", "steps"]


class Schedule:
    """The learning rate and the end of one training, by its validations so far.

    Args:
        spec: budget of the training.
        settles: steps in which what is minimised still changes. Their validations are not compared with later ones.
    """

    def __init__(self, spec: Training, settles: int = 0) -> None:
        self.spec = spec
        self.settles = max(settles, spec.warmup_steps)
        self.figures: list[float] = []
        """Of every validation that counts."""
        self.decay_from: int | None = None
        """The step from which the rate falls, once validation has stopped improving."""

    def rate(self, step: int) -> float:
        """The share of the full learning rate at ``step``."""
        spec = self.spec
        if step < spec.warmup_steps:
            return (step + 1) / (spec.warmup_steps + 1)
        if spec.patience is None:
            done = (step - spec.warmup_steps) / max(1, spec.steps - spec.warmup_steps)
            left = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        else:
            start = self.decay_start
            # The shape of the paper that did best (1-sqrt).
            left = 1 - math.sqrt(max(0, step - start) / max(1, self.end - start))
        return spec.final_learning_rate + (1 - spec.final_learning_rate) * left

    @property
    def decay_start(self) -> int:
        """The step from which the rate falls, as far as is known: at the latest when just the decay is left."""
        latest = self.spec.steps - math.ceil(DECAY * self.spec.steps)
        return latest if self.decay_from is None else min(latest, self.decay_from)

    @property
    def end(self) -> int:
        """How many steps there are, as far as is known."""
        if self.decay_from is None:
            return self.spec.steps
        return min(self.spec.steps, math.ceil(self.decay_from / (1 - DECAY)))

    def due(self, step: int) -> bool:
        """Whether there is a validation after so many steps."""
        return self.spec.patience is not None and step % self.spec.validate_steps == 0

    def add(self, step: int, figure: float) -> None:
        """Take note of a validation after so many steps, lower being better."""
        if self.spec.patience is None or step <= self.settles:
            return
        self.figures.append(figure if math.isfinite(figure) else math.inf)
        if self.decay_from is None and step < self.decay_start and has_plateaued(self.figures, self.spec.patience):
            self.decay_from = step

    @property
    def stopped(self) -> Stopped:
        """Where and why the training ends, as far as is known."""
        return Stopped(self.end, "steps" if self.decay_from is None else "plateau")

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it: nothing without ``patience``."""
        return {} if self.spec.patience is None else {"validations": self.figures, "decay_from": self.decay_from}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from the :meth:`state` of a checkpoint."""
        self.figures, self.decay_from = list(state.get("validations", [])), state.get("decay_from")


def has_plateaued(figures: Sequence[float], patience: int) -> bool:
    """Whether the last validations are no better than as many before them, lower ``figures`` (N,) being better.

    The medians of both windows are compared, so no single validation decides. Better is lower by :data:`IMPROVEMENT`
    of the value, or of what it has fallen from the highest where that is less: of a log density only differences mean
    something. A window is ``patience`` validations long, or as long as it takes for the standard error
    of the difference to be less than what is looked for. So noise makes a training longer, and never ends it.
    """
    if len(figures) < 2 * patience:
        return False
    lately = figures[-2 * patience :]
    highest = max(filter(math.isfinite, figures), default=math.inf)
    wanted = _improvement(highest, median(lately[:patience]))
    noise = OF_MEDIAN * median(abs(later - earlier) for earlier, later in pairwise(lately)) / FROM_CHANGES
    needed = 2 * (noise / wanted) * (noise / wanted) if wanted else 0.0
    if not 2 * needed <= len(figures):
        return False
    window = max(patience, math.ceil(needed))
    before, recent = median(figures[-2 * window : -window]), median(figures[-window:])
    return before - recent <= _improvement(highest, before)


def _improvement(highest: float, value: float) -> float:
    """The least gain over ``value`` that counts."""
    return IMPROVEMENT * min(abs(value), max(0.0, highest - value))
