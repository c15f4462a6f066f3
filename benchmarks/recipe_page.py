"""The page of ``benchmarks.recipe``: what one recipe does on every set, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.recipe_set import FACTOR, MARGIN, OTHERS, SLOPE, Judged, Line, lines, size_of
from segcft.evaluate.metrics.kinship import KIN
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.table import grid

PATTERN = 1.1
"""Energy at the periods of patches in answers, at most so many times that of the images."""

Sets = Mapping[str, Judged]


def page(sets: Sets, published: Path, planned: Sequence[str] = ()) -> str:
    """All of it; ``published`` is a folder of models that were tuned by hand, by the names of the sets, and ``planned``
    are the names of all sets."""
    parts = ["# One recipe, any data", INTRODUCTION, plans(sets)]
    if missing := [name for name in planned if name not in sets]:
        parts += [f"**Not run yet: {', '.join(missing)}.**"]
    parts += ["## Every method on every set", REACHED, reached(sets)]
    if tuned := beside(sets, published):
        parts += ["## Beside models that were tuned by hand", BESIDE, tuned]
    for name, one in sets.items():
        parts += [f"## {name}: beside the truth", PAIRS, pairs(one)] if one.pairs else []
    parts += ["## Patterns, and who judges", JUDGES, patterns(sets)]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
Written by `python -m benchmarks.recipe --data DIR --page docs/recipe.md`, which plans, trains and judges every study of
`configs/planned`; not edited by hand. A study file there names variables, structures and data; all else is planned, the
same way for all ([Settings that plan themselves](planning.md)). Where fewer than 100 subjects would be tested, each is
judged once, in five folds, by networks that have not seen it; the hours are then those of a fold."""

REACHED = f"""\
Of the structure intervened on. *Slope*: obtained on asked change, as the judge reads it; 1 is right. *Right*: what it
reads of a right answer: of the simulator's truth, else of images in which the structure was deformed by a known amount.
*Error*: of its area, in % or the area's unit. *Others*: the largest error of another structure, less the judge's own of
that one. *Judge*: its own error on the images as they are. *Missed* are the targets: a slope of {SLOPE[0]} to
{SLOPE[1]}; an error of at most the judge's plus {MARGIN:g} or {FACTOR:g} times it, whichever is more; others at most
{OTHERS:g}."""

BESIDE = """\
Models of version 0.1.0, each with settings found by hand for its set, beside the same set planned. Each is judged by
its own judge, on its own test subjects and pixels: the planned one's judge is another network than its guide, the
other's is not. A model of volumes stands beside no set of slices."""

PAIRS = """\
Every subject's own image under the other condition is the truth ([Truth from real pairs](pairs.md)). *Dice* is of the
judge's masks of the answer with the true masks; *slope*, of the change that the judge reads on the true one; Truth is
the judge on the true image, and so the most that an answer can have. *Near* and *away* from the structures are errors
of grey levels, as a share of those of No change."""

JUDGES = f"""\
*Pattern*: energy of answers at periods of 2 and 4 pixels on that of the images, the most of all interventions; at most
{PATTERN:g} is aimed at. *Kin*: the correlation of each guide's errors with the judge's, the most of all structures;
above {KIN:g} an answer that is wrong and pleases the guide may please the judge."""


def plans(sets: Sets) -> str:
    body = [[name, " x ".join(map(str, one.size)), str(one.samples), one.planned_for] for name, one in sets.items()]
    return grid(["set", "pixels", "samples judged", "planned for"], body, labels=1)


def reached(sets: Sets) -> str:
    body = [
        [name, *_named(line), *map(_number, (line.slope, line.right, line.error, line.judge, line.others)), line.missed]
        for name, one in sets.items()
        for line in one.lines
    ]
    return grid(["set", "structure", "method", "slope", "right", "error", "judge", "others", "missed"], body, labels=3)


def beside(sets: Sets, published: Path) -> str:
    body = []
    for name, one in sets.items():
        table, study = published / name / "evaluation" / "table.json", published / name / "study.yaml"
        if not table.is_file():
            continue
        if len(size_of(study.read_text(encoding="utf-8"))) != len(one.size):
            continue  # volumes beside slices of them would say nothing of the settings
        tuned = lines(json.loads(table.read_text(encoding="utf-8")))
        for line, who in [(line, "tuned by hand") for line in tuned] + [(line, "planned") for line in one.lines]:
            if line.method != "segmentor":
                continue
            locality = None if line.locality is None else 100 * line.locality
            numbers = [*map(_number, (line.slope, line.error, line.judge)), _number(locality, 1)]
            body.append([name, plain(line.structure), who, *numbers, _number(line.true_error)])
    body.sort(key=lambda cells: (cells[0], cells[1], cells[2] == "planned"))
    head = ["set", "structure", "Seg-CFT", "slope", "error", "judge", "locality, %", "true error"]
    return grid(head, body, labels=3) if body else ""


def pairs(one: Judged) -> str:
    """The table of a set whose subjects have images of their own as the truth."""
    body = []
    for pair in one.pairs:
        each = [" / ".join(map(_number, values.values())) for values in (pair.dice, pair.slope)]
        whole = map(_number, (pair.near, pair.away, pair.effectiveness, pair.amplification))
        body.append([pair.do, method_name(pair.method), *each, *whole])
    named = " / ".join(map(plain, one.pairs[0].dice))
    head = ["do", "method", f"Dice of {named}", "slope", "near", "away", "effectiveness", "amplification"]
    return grid(head, body, labels=2)


def patterns(sets: Sets) -> str:
    body = [
        [name, method_name(pattern.method), _number(pattern.energy), _number(pattern.kin)]
        for name, one in sets.items()
        for pattern in one.patterns
    ]
    return grid(["set", "method", "pattern", "kin"], body, labels=2)


def _named(line: Line) -> list[str]:
    return [plain(line.structure), method_name(line.method)]


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
