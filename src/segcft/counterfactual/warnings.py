"""Why an answer may be wrong: image or question are outside of what was learnt, or it was not obtained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from segcft.causal.intervention import CHANGE
from segcft.causal.scm import StructuralCausalModel
from segcft.config.study import Study
from segcft.counterfactual.joint_support import JointSupport
from segcft.counterfactual.support import limits
from segcft.image_models.typicality import TypicalRanges

NOTABLE = 0.25
"""A measured variable that misses its change by more than this share of its standard deviation is worth a warning."""

LARGEST_SHOWN = 100
"""Bits a pixel above which a warning gives no number: a grey level has 8, and of noise it may have dozens of digits."""

SHARE, FAR = 2.0, 0.1
"""A number of at most this, and of less than this share of the smallest in training, was perhaps meant as a change."""


def out_of_support(
    study: Study, source: Mapping[str, str], before: Tensor, asked: Tensor, after: Tensor, training: Tensor
) -> list[str]:
    """A warning for each value, known, asked for or implied (V,), that is not in the range of the ``training`` values
    (N, V).

    The range is that of :func:`segcft.counterfactual.support.limits`. A category is outside if no training sample has
    it.
    """
    warnings = []
    for k, (name, variable) in enumerate(study.variables.items()):
        found = {source[name]: float(before[k]), "asked for": float(asked[k])}
        if asked[k].isnan() and after[k] != before[k]:
            found["what follows"] = float(after[k])
        found = {origin: value for origin, value in found.items() if not math.isnan(value)}
        if variable.categories:
            seen = set(training[:, k].tolist())
            for origin, value in found.items():
                if value not in seen:
                    warnings.append(
                        f"{name}: {variable.categories[int(value)]} ({origin}) is not in the training samples"
                    )
            continue
        low, high = limits(variable, training[:, k].cpu().numpy())
        for origin, value in found.items():
            if value < low or value > high:
                share = origin == "asked for" and name in study.measured and value <= SHARE and value < FAR * low
                hint = f"; this sets the area to {value:g} {variable.unit}, and {CHANGE}" if share else ""
                warnings.append(f"{name}: {value:g} ({origin}) is not in the training range, {low:g} to {high:g}{hint}")
    return warnings


def unlikely_together(study: Study, scm: StructuralCausalModel, after: Tensor, joint: JointSupport | None) -> list[str]:
    """A warning if values (V,) are unlikely together; none where it is not recorded which values go together."""
    found = joint and joint.surprise(scm, after)
    if not joint or not found:
        return []
    values = ", ".join(
        f"{name} {float(after[scm.variables.index(name)]):g} {study.variables[name].unit}".rstrip()
        for name in (found.first, found.second)
    )
    return [
        f"{found.first} and {found.second}: unlikely together ({values}): each is {found.distance:.1f} standard "
        f"deviations or more from what is usual beside the other; of {joint.subjects} subjects about one in a hundred "
        f"is further than {joint.limit:.1f}"
    ]


def atypical_image(
    lengths: Mapping[str, Tensor], typical: TypicalRanges | None, happened: Callable[[], str] = str
) -> list[str]:
    """A warning if a length of an image () is out of its typical range; none where no range is recorded. Each range is
    of one of the ``lengths``. ``happened`` is asked how an image that is not typical looks, "" where nobody knows
    (:mod:`segcft.counterfactual.repairs`)."""
    found = []
    for name, (low, high) in (typical.ranges if typical else {}).items():
        bits = float(lengths[name])
        if not low <= bits <= high:  # nor is NaN
            shown = f"{bits:.3g}" if bits < LARGEST_SHOWN else f"over {LARGEST_SHOWN}"
            place = "" if name == "image" else f" in the {name}"
            found.append(f"{shown} bits a pixel{place}, usually {low:.3g} to {high:.3g}")
    if not found:
        return []
    looks = happened()
    hint = f"; it looks {looks}, and put right it would be like them" if looks else ""
    return [f"image: unlike the training images ({', and '.join(found)}); a counterfactual of it means little{hint}"]


def turned_image(gains: Mapping[str, Tensor], most: Mapping[str, float]) -> list[str]:
    """A warning where an image would be more like the training images if it were turned: of what it ``gains`` () by
    that in bits a pixel, ``most`` is what images as they should be gain (:mod:`segcft.counterfactual.repairs`)."""
    over = {name: float(gain) for name, gain in gains.items() if float(gain) > most.get(name, math.inf)}
    if not over:
        return []
    name = max(over, key=lambda one: over[one])
    return [
        f"image: it looks {name}: as it is it needs {over[name]:.2g} bits a pixel more than if that were put right; "
        "then left and right are taken for each other" + (", and top and bottom" if name != "mirrored" else "")
    ]


def missed_changes(study: Study, gained: Tensor, wanted: Tensor, spread: Tensor) -> list[str]:
    """A warning for each measured variable that did not change as it should have; all (S,), each in its unit.

    Changes are compared, not values, so that what the judge misreads in both images does not count.
    """
    warnings = []
    for s, name in enumerate(study.measured):
        if abs(float(gained[s] - wanted[s])) > NOTABLE * float(spread[s]):
            warnings.append(
                f"{name}: should have changed by {float(wanted[s]):+.1f}; the judge reads a change of "
                f"{float(gained[s]):+.1f}"
            )
    return warnings
