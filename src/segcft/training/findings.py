"""Findings: what went wrong in a stage although it came to its end, and what to try.

A stage records them in its part (``findings``), says them at its end, and the table and the report repeat them.
Every threshold is a constant here, with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.training.schedule import DECAY, Stopped

RETURNS = "returns"
"""The figure that says how often a training has gone back to its average, in the rows of the steps after it did."""

FEWEST_STEPS = 100
"""Of a training whose curves say something: in fewer steps noise and trend look alike."""

FALLING = 0.7
"""How fast a figure may still fall in the last quarter of a training, as a share of its mean pace from the end of the
first quarter. A straight line, which has come nowhere near its end, has 1; a fall with the logarithm of the steps, as
more steps give it to any training, has 0.6."""

CERTAIN = 3.0
"""Standard errors by which such a fall must be over 0: of a thousand trainings that are done, one is over it by
chance."""

BINDING = 0.9
"""Share of the steps in which the constraint is violated that is too much. A fine-tuning that works violates it at
first, as it leaves the pre-trained model, and comes back to it as the learning rate falls."""

POOR_READING = 1 / 3
"""A reader's usual error in standard deviations of what it reads. At a third, a ninth of the variance is misread; and
the changes that are asked for, by about one standard deviation, are hardly larger than a guide's 95 % interval."""

BLIND = 0.9
"""Share of the error of a guess that is hardly better than guessing."""

MOST = 0.683
"""Share of a normal distribution within a standard deviation of its mean."""

GAP_CLOSED = 0.1
"""Share of the way from the slope before fine-tuning to 1 that counts as an effect. The slope of some twenty validation
subjects is uncertain by about a twentieth."""

NEAR_ONE = 0.1
"""A slope of 1 within this has nothing left to gain."""

TIED = 0.02
"""Share of its spread that a variable has of its own, given the others, that is none: masks are rounded, and a total is
only so nearly the sum of its parts. The borders and areas of real lungs have a fifth or more."""

LEAST_SLOPE = 0.5
"""A change of which less than half is obtained is closer to none than to the one that was asked for."""


class Finding(NamedTuple):
    """``code`` names its kind, ``text`` says what was found, in numbers, and ``attempt`` what to try."""

    code: str
    text: str
    attempt: str

    def __str__(self) -> str:
        return f"{self.text} Try: {self.attempt}."

    def record(self) -> dict[str, str]:
        """As it is in a part's header."""
        return {"code": self.code, "text": self.text, "try": self.attempt}


def recorded(meta: Mapping[str, Any]) -> list[Finding]:
    """The findings in a part's header; none of parts that were made before there were any."""
    return [Finding(one.get("code", ""), one.get("text", ""), one.get("try", "")) for one in meta.get("findings", [])]


def unfinished(
    history: Sequence[Mapping[str, float]], figure: str, stopped: Stopped, section: str, patience: int | None
) -> Iterator[Finding]:
    """A training that ended while its ``figure`` was still falling markedly.

    Of one that ends when validation stops improving (``patience``), the steps before the rate falls are looked at:
    what falls with the rate falls in any case. None at all if it did stop improving.
    """
    if stopped.why == "plateau":
        return
    if patience is not None:
        history = history[: math.floor((1 - DECAY) * stopped.step)]
    pace = pace_at_end(_column(history, figure))
    if pace > FALLING:
        yield Finding(
            "unfinished",
            f"Training is unfinished: in the last quarter of its steps {figure} still fell at {pace:.0%} of its mean "
            "pace since the first quarter.",
            f"more {section}.steps (it had {stopped.step})",
        )


def pace_at_end(values: NDArray[np.float64]) -> float:
    """How fast ``values`` (N,) fall in their last quarter, as a share of their mean pace; 0 where they do not fall.

    A line is fitted to the quarter, whose fall counts only if it is :data:`CERTAIN`. The mean pace is that from the end
    of the first quarter, as every training falls steeply at its start.
    """
    values = values[np.isfinite(values)]
    if len(values) < FEWEST_STEPS:
        return 0.0
    quarter, window = len(values) // 4, len(values) // 20
    last = values[-quarter:]
    x = np.arange(len(last)) - (len(last) - 1) / 2
    slope = (x * last).sum() / (x * x).sum()
    left = last - last.mean() - slope * x
    error = math.sqrt((left * left).sum() / (len(last) - 2) / (x * x).sum())
    end = last.mean() + slope * x[-1]
    fallen = np.median(values[quarter : quarter + window]) - end
    if fallen <= 0 or -slope <= CERTAIN * error:
        return 0.0
    return float(-slope * (len(values) - quarter - window / 2) / fallen)


def astray(history: Sequence[Mapping[str, float]], section: str) -> Iterator[Finding]:
    """A training that had to go back to its averaged weights: its steps were too large for what they led to."""
    times = int(history[-1].get(RETURNS, 0)) if history else 0
    if times:
        yield Finding(
            "training-went-astray",
            f"Training went astray: {times} times its gradients were lost for good, and it went back to its averaged "
            "weights, each time at half the learning rate.",
            f"a lower {section}.learning_rate, or {section}.gradient_clip",
        )


def binding(history: Sequence[Mapping[str, float]]) -> Iterator[Finding]:
    """A fine-tuning whose constraint was violated from the start, nearly all the time, with its multiplier at work."""
    violation, multiplier = _column(history, "violation"), _column(history, "multiplier")
    if len(violation) < FEWEST_STEPS:
        return
    share = float(((violation > 0) & (multiplier > 0)).mean())
    if share > BINDING:
        yield Finding(
            "constraint-binds",
            f"The constraint binds from the start: in {share:.0%} of the steps images were explained worse than "
            f"allowed (violation {violation[-1]:.2g} at the end), and the multiplier pulled back ({multiplier[-1]:.2g} "
            "at the end).",
            "a lower finetune.learning_rate, more finetune.steps, or finetune.slack above 0",
        )


def usual_size(deviations: NDArray[np.floating]) -> NDArray[np.float64]:
    """What :data:`MOST` of the ``deviations`` (N, M) do not exceed in size, (M,): of normal ones with mean 0 their
    standard deviation. Unlike a root mean square it does not follow the few images that no reader can read. NaN is
    left out."""
    return np.nanquantile(np.abs(deviations), MOST, axis=0)


def poor_reader(errors: Mapping[str, float], spreads: Mapping[str, float], reader: str) -> Iterator[Finding]:
    """A reader that misreads variables: variable -> its usual error and how much it usually differs from its middle, in
    the same unit: both are what 68 % of the samples do not exceed, of normal ones the standard deviation."""
    poor = {name: errors[name] / spreads[name] for name in errors if errors[name] > POOR_READING * spreads[name] > 0}
    if poor:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in poor.items())
        yield Finding(
            "poor-reader",
            f"The {reader} reads poorly: its usual error (validation samples) in standard deviations of what it reads "
            f"is {shares}; over {POOR_READING:.2f} it hardly knows large from small.",
            f"more {reader}.steps, {reader}.augment for few subjects, or better masks of these structures",
        )


def guessing(values: NDArray[np.floating], categorical: bool) -> float:
    """The mean error of always saying the same of ``values`` (N,), NaN left out: of numbers their median, of
    categories, which are indices, their shares, the error being the probability of the wrong ones."""
    known = values[np.isfinite(values)]
    if not len(known):
        return math.nan
    if categorical:
        shares = np.unique(known, return_counts=True)[1] / len(known)
        return float(1 - (shares**2).sum())
    return float(np.abs(known - np.median(known)).mean())


def blind_predictor(errors: Mapping[str, float], guesses: Mapping[str, float], section: str) -> Iterator[Finding]:
    """A predictor that does no better than one who has not seen the image: attribute -> its mean error, and that of
    :func:`guessing`."""
    blind = {name: errors[name] / guesses[name] for name in errors if errors[name] > BLIND * guesses[name] > 0}
    if blind:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in blind.items())
        yield Finding(
            "blind-predictor",
            f"The {section} hardly sees what it predicts: its error (validation samples), in errors of who has not "
            f"seen the image, is {shares}. What it asks of counterfactuals is then little.",
            f"more {section}.steps, {section}.augment for few subjects; or the image does not show it",
        )


def tied(own: Mapping[str, float]) -> Iterator[Finding]:
    """Measured variables that follow from the others: variable -> the share of its spread that is left given them."""
    found = {name: share for name, share in own.items() if share < TIED}
    if found:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in found.items())
        yield Finding(
            "tied-measures",
            f"Measures follow from others altogether; their own part of the spread is {shares}. An intervention on one "
            "alone asks for what no image can show, and fine-tuning gives up others for it.",
            "a 'formula' for one of them, and 'masks' in place of its structure (docs/study.md)",
        )


def slopes_of(before: Mapping[str, float], after: Mapping[str, float], least_change: float = 0.0) -> Iterator[Finding]:
    """A fine-tuning that did nothing, or little: variable -> slope of the obtained on the asked change as the guide
    reads it, before and after. ``least_change`` is the price on changed pixels."""
    price = f"a lower finetune.least_change (it is {least_change:g}), " if least_change else ""
    attempt = (
        f"{price}more finetune.steps, a higher finetune.learning_rate, or an image mechanism that already follows a "
        "little (a higher hvae.beta_start)"
    )
    nothing = [name for name in after if _did_nothing(before[name], after[name])]
    little = [name for name in after if name not in nothing and abs(1 - after[name]) > 1 - LEAST_SLOPE]
    for code, what, names in (
        ("finetuning-did-nothing", "did nothing", nothing),
        ("finetuning-did-little", "did little", little),
    ):
        if names:
            shown = ", ".join(f"{name} {after[name]:.2f} ({before[name]:.2f} before)" for name in names)
            text = f"Fine-tuning {what}: of a change asked for, validation samples obtain, as the guide reads it: "
            yield Finding(code, f"{text}{shown}; 1 is right.", attempt)


def _did_nothing(before: float, after: float) -> bool:
    gap, left = abs(1 - before), abs(1 - after)
    return left > NEAR_ONE and gap - left < GAP_CLOSED * gap


def _column(history: Sequence[Mapping[str, float]], figure: str) -> NDArray[np.float64]:
    return np.array([row.get(figure, math.nan) for row in history])
