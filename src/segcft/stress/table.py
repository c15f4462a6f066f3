"""What a stress test found as text: Markdown that also reads well on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from segcft.evaluate.names import counted, plain
from segcft.evaluate.table import few_subjects, grid
from segcft.stress.doses import EXPOSURE
from segcft.stress.effects import LEAST, LEVEL, SPECIFIC, Effect, enough, fewest
from segcft.stress.gaps import MOST_GAPS, Gap
from segcft.stress.sham import LEAST_ENERGY

if TYPE_CHECKING:
    from segcft.stress.audit import Audit

NONE = "–"
NEAR = 0.5
"""From this overlap of shams with answers on, the control says little."""
FAITHFUL = (0.7, 1.3)
"""Changes that the judge reads, for one that is asked for, within which an answer did what it was asked."""


def render_audit(audit: Audit) -> str:
    """The whole table with what it means."""
    found = audit.responses
    people = len(set(found.patients.tolist()))
    lines = [f"# Stress test of {audit.origin.get('classifier', 'a classifier')} by {audit.study.name}", ""]
    lines.append(f"{counted(len(found.ids), people, 'images')}. {' '.join(few_subjects(people))}".rstrip())
    if found.left_out:
        lines.append(f"{len(found.left_out)} more were not asked about: {_reasons(audit)}.")
    lines += ["", headline(audit), "", _effects(audit), "", *_notes(audit)]
    if audit.gaps:
        lines += ["", "## Differences between groups", "", _gaps(audit)]
    lines += ["", "## What this can say, and what it cannot", "", *(f"- {line}" for line in limits_of(audit))]
    return "\n".join(lines) + "\n"


def headline(audit: Audit) -> str:
    """What is found, in a sentence or two."""
    parts = []
    for output in audit.responses.outputs:
        own = [one for one in audit.effects if one.output == output]
        hits = [f"{subject(one)} ({one.verdict})" for one in own if one.found]
        said = f"answers to {', '.join(hits)}" if hits else "answers to nothing that was set, as far as this can tell"
        parts.append(f"**{output}** {said}.")
    return " ".join(parts)


def subject(effect: Effect) -> str:
    """The variable of an effect in words, and which category it becomes."""
    name = plain(effect.variable)
    return name if effect.contrast.startswith("per ") else f"{name}: {effect.contrast}"


def number(value: float, sign: bool = False) -> str:
    """Three digits, or a dash where there is no number."""
    if not math.isfinite(value):
        return NONE
    return f"{value:+.3g}" if sign else f"{value:.3g}"


def share(value: float) -> str:
    """In per cent."""
    return f"{100 * value:.0f} %" if math.isfinite(value) else NONE


def p_value(value: float) -> str:
    """With three decimals."""
    return NONE if not math.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _effects(audit: Audit) -> str:
    head = ["variable", "output", "found", "effect", "95 %", "of its sd", "to shams", "flips", "of shams"]
    several = any(one.models > 1 for one in audit.effects)
    head += ["obtained", "left out", *(["by models"] if several else []), "p"]
    body = []
    for one in audit.effects:
        interval = f"{number(one.low, True)} to {number(one.high, True)}" if math.isfinite(one.low) else NONE
        cells = [one.verdict, number(one.slope, True), interval, number(one.size / one.sd if one.sd else 0.0)]
        cells += [number(one.sham / one.sd if one.sd else 0.0), share(one.flips), share(one.sham_flips)]
        cells += [number(one.obtained), share(one.left_out)]
        cells += [f"{number(one.least, True)} to {number(one.most, True)}"] if several else []
        cells.append(p_value(one.adjusted))
        body.append([subject(one), one.output, *cells])
    return grid(head, body, labels=3)


def _notes(audit: Audit) -> Iterator[str]:
    yield (
        "- effect: change of the output for one standard deviation more of the variable (of the training subjects), "
        "or for the other category; mean over subjects, its interval over patients."
    )
    yield (
        "- of its sd, to shams: the size of the effect, without its sign, in standard deviations of the output over "
        "the images; and that to the same change elsewhere in the image, with at least "
        f"{LEAST_ENERGY:.0%} of its energy (sum of squares). *Found* is what is shown to be more than {LEAST:g} and "
        f"more than {SPECIFIC:g} times that to shams (p: of both, by Holm's method for the effects that were tested; "
        f"at most {LEVEL:g}). Rises and falls are read from the interval, which is not adjusted."
    )
    yield (
        f"- not told from shams: the output changes, but it is not shown that it changes more than {SPECIFIC:g} times "
        "as much as where the same change is elsewhere. That it changes as much is not shown either. no control: too "
        "few people have shams of nearly the same energy. too few people: no effect could be found, however clear."
    )
    if audit.responses.decides:
        yield "- flips: of whom the decision at 0.5 is another one at some dose; of shams, on average."
    yield (
        "- obtained: change of the variable that the judge reads for one that was asked for; 1 is right. left out: "
        "answers that would be out of the training support."
    )


def _gaps(audit: Audit) -> str:
    shown = [one for one in audit.gaps if one.found]
    if not shown:
        return f"None is shown ({len(audit.gaps)} were looked at; p by Holm's method, at most {LEVEL:g})."
    said = (
        f"Those that are shown to differ at all, and of which the estimate is more than {LEAST:g} standard deviations "
        f"of the output; p is adjusted for all {len(audit.gaps)} gaps, which are tested apart from effects."
    )
    head = ["variable", "output", "group", "effect", "of the others", "95 % of the difference", "p"]
    return f"{said}\n\n{grid(head, [gap_cells(one) for one in shown], labels=3)}"


def gap_cells(gap: Gap) -> list[str]:
    """A row of the table of gaps."""
    variable = plain(gap.variable) + ("" if gap.contrast.startswith("per ") else f": {gap.contrast}")
    interval = f"{number(gap.low, True)} to {number(gap.high, True)}"
    cells = [number(gap.slope, True), number(gap.rest, True), interval, p_value(gap.adjusted)]
    return [variable, gap.output, f"{plain(gap.group)}: {gap.label}", *cells]


def limits_of(audit: Audit) -> Iterator[str]:
    """What can be concluded, and what cannot."""
    if audit.settings.held:
        yield "An effect is that of the variable on the image alone: what it causes was held as it is (direct)."
    else:
        several = [f"{plain(name)} ({', '.join(map(plain, moved))})" for name, moved in audit.moved.items() if moved]
        told = f" Here these move others: {'; '.join(several)}." if several else ""
        yield f"An effect is of do(variable) and of all that it causes in the study's graph (total).{told}"
    yield (
        "It is an effect in the model's answers. Where the model is wrong, be it its graph or its images, so is this. "
        "What it changes besides, by mistake, is taken for the variable."
    )
    low, high = FAITHFUL
    read = [one for one in audit.effects if math.isfinite(one.obtained)]
    weak = sorted({plain(one.variable) for one in read if not low <= one.obtained <= high})
    if weak:
        yield f"The judge reads changes of {', '.join(weak)} that are not those that were asked for: see *obtained*."
    unread = sorted({one.variable for one in audit.effects} - {one.variable for one in read} - {EXPOSURE})
    if unread:
        yield f"Nobody reads {', '.join(map(plain, unread))} from answers: that they changed is the model's word."
    if max((one.models for one in audit.effects), default=1) > 1:
        opposed = sorted({plain(one.variable) for one in audit.effects if one.found and one.least < 0 < one.most})
        told = f" Of {', '.join(opposed)} models do not agree on the direction." if opposed else ""
        models = audit.effects[0].models
        of = f"over the {audit.common} images that all answered about"
        yield f"{models} models answered: *by models* has the range of what each finds, {of}.{told}"
    near = sorted({plain(e.variable) for e in audit.effects if e.overlap >= NEAR})
    if near:
        yield f"Shams of {', '.join(near)} overlap with the answers themselves: there is little to compare with."
    yield from _controls(audit)
    tests = len(audit.effects)
    if few := sorted({plain(one.variable) for one in audit.effects if not enough(one.patients, tests)}):
        yield (
            f"{tests} effects were asked about, and of fewer than {fewest(tests)} people none of so many can be found: "
            f"flips of so few signs do not make p small enough. So {', '.join(few)} had too few."
        )
    if len(audit.gaps) > MOST_GAPS:
        yield f"Of more than {MOST_GAPS} gaps between groups none can be found: ask for fewer variables or groups."
    yield _taught(audit.responses.taught)
    most = max(audit.reconstruction.values(), default=0.0)
    yield (
        f"The answer to no question at all moves outputs by {most:.2g} of their standard deviations at most: "
        "that much is the model's reconstruction, and every effect is measured from there."
    )
    yield (
        "That nothing is found is no proof that nothing is there: the effect may be smaller than "
        f"{LEAST:g} standard deviations of the output, in people who are not here, in combinations of variables, or in "
        "what no variable of the graph is."
    )
    yield "That an output answers to a variable does not say that it is wrong to: that is for you to know."


def _taught(count: int | None) -> str:
    """Whether the model has met these images before."""
    if count is None:
        return (
            "Whether the model has learnt from these images cannot be told: those that it has learnt from are not "
            "here. About them its answers may be better than about others."
        )
    if count:
        return (
            f"{count} of the images are, pixel by pixel, among those that taught the model or chose its settings: "
            "answers about others may be worse."
        )
    return "None of the images is, pixel by pixel, among those that taught the model or chose its settings."


def _controls(audit: Audit) -> Iterator[str]:
    """Who has no control."""
    lost = dict.fromkeys(
        f"{subject(e)} ({e.patients - e.controlled} of {e.patients} people)"
        for e in audit.effects
        if e.controlled < e.patients
    )
    told = f" Without a control are: {', '.join(lost)}." if lost else ""
    yield (
        "Shams are changes as large as black and white allow. One with less than "
        f"{LEAST_ENERGY:.0%} of the energy of its answer counts as none, and whoever has none has no control and is "
        f"not in that comparison.{told}"
    )


def _reasons(audit: Audit) -> str:
    reasons = [one.reason for one in audit.responses.left_out]
    counts = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    shown = sorted(counts.items(), key=lambda one: -one[1])[:3]
    more = len(counts) - len(shown)
    return "; ".join(f"{reason} ({n})" for reason, n in shown) + (f"; and {more} more reasons" if more else "")
