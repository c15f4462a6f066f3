"""Hours into steps: how the stages share the time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from segcft.planning.planned import Machine, Planned

HOURS = 1.5
"""For all stages together, unless the user says otherwise."""
SPENT = 0.75
"""Share of the hours for trainings. The rest: import, evaluation, validation, and waiting of one stage for another."""


class Need(NamedTuple):
    """Of a section: its share of the time, and the steps that it needs to become good."""

    share: float
    steps: int


NEEDS: Mapping[str, Need] = {
    "segmentor": Need(0.11, 2500),
    "judge": Need(0.17, 3000),
    "regressor": Need(0.08, 4500),
    "predictor": Need(0.07, 2500),
    "predictor_judge": Need(0.07, 2500),
    "scm": Need(0.01, 400),
    "hvae": Need(0.21, 4000),
    "finetune": Need(0.42, 2500),
}
"""A judgement: steps of studies that were tuned by hand, of 16 samples, made more of half the samples. Fine-tuning has
the largest share, as hearts were short of its steps. It is done once for each guide, at the same number of steps."""
LEAST = 0.5
"""Share of the steps that are needed, below which no plan goes, whatever the hours."""
MOST = 3.0
"""Times the steps that are needed, above which more is of no use to a small set ..."""
PASSES = 60
"""... or passes over the training images, whichever is more. Trainings that stop by themselves stop earlier."""


def seconds_for(section: str, sections: Mapping[str, float], hours: float, jobs: int) -> float:
    """What a section has of the hours, in seconds of its own training, among ``sections``."""
    share = NEEDS[section].share / sum(NEEDS[name].share for name in sections)
    return share * SPENT * hours * 3600 * jobs


def suffices(seconds: Mapping[str, float], hours: float, jobs: int) -> bool:
    """Whether every section gets the steps that it needs, where a step takes these ``seconds``."""
    return all(
        seconds_for(section, seconds, hours, jobs) >= NEEDS[section].steps * step for section, step in seconds.items()
    )


def steps(
    seconds: Mapping[str, float], hours: float, machine: Machine, batches: Mapping[str, int], images: Mapping[str, int]
) -> dict[str, Planned]:
    """The steps of each section, as a most.

    Args:
        seconds: section -> what a step takes.
        hours: for all of them.
        machine: what trains.
        batches: section -> samples in a step.
        images: section -> how many train it.
    """
    found = {}
    for section, step in seconds.items():
        need, own = NEEDS[section], seconds_for(section, seconds, hours, machine.jobs)
        most = max(MOST * need.steps, PASSES * images[section] / batches[section])
        count, why = own / step, f"{own / 60:.0f} minutes, {step:.2g} s a step on this machine"
        if count > most:
            count, why = most, f"more is of no use ({step:.2g} s a step)"
        elif count < LEAST * need.steps:
            count = LEAST * need.steps
            why = f"the fewest that make sense, though {step:.2g} s a step are more than {hours:g} hours allow"
        found[section] = Planned(_round(count), why)
    return found


def _round(count: float) -> int:
    """To two digits: the machine's speed is not known better."""
    unit = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return max(1, math.floor(count / unit) * unit)


def hours_of(steps: Mapping[str, Planned], seconds: Mapping[str, float], jobs: int) -> float:
    """What so many steps take, with all that is no training."""
    return sum(steps[section].value * seconds[section] for section in seconds) / (SPENT * 3600 * jobs)
