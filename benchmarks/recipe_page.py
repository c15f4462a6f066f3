"""The page of ``benchmarks.recipe``: what one recipe does on every set, in Markdown, from their evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from segcft.evaluate.metrics.kinship import KIN
from segcft.evaluate.names import KNOWN, MEAN_CHANGE, METHODS, NO_CHANGE, TRUTH, method_name, plain
from segcft.evaluate.table import grid, judged_samples
from segcft.planning.record import RECORD

SLOPE = (0.9, 1.1)
MARGIN, FACTOR, OTHERS = 3.0, 1.5, 1.0
"""The error of the structure intervened on is at most the judge's own plus the first, or times the second, whichever is
more; that of the others at most the judge's own plus the third. Percentage points, or the unit of the measure."""
PATTERN = 1.1
"""Energy at the periods of patches in answers, at most so many times that of the images."""

Row = dict[str, Any]
Cells = dict[tuple[str, str, str, str], float | None]


class Line(NamedTuple):
    """What a method does to a structure when it is intervened on: its slope, that which the judge reads of a right
    answer, its error, the judge's own error, and the largest error of another structure less the judge's own of that
    one."""

    method: str
    structure: str
    slope: float | None
    right: float | None
    error: float | None
    judge: float | None
    others: float | None

    @property
    def missed(self) -> str:
        """Which targets are missed."""
        found = []
        if self.slope is None or not SLOPE[0] <= self.slope <= SLOPE[1]:
            found.append("slope")
        if self.error is None or self.judge is None or self.error > max(self.judge + MARGIN, FACTOR * self.judge):
            found.append("error")
        if self.others is not None and self.others > OTHERS:
            found.append("others")
        return ", ".join(found)


class Judged(NamedTuple):
    """A set that was run and judged: the rows of its evaluation, its plan, and its pixels."""

    name: str
    rows: Sequence[Row]
    planned_for: str
    size: tuple[int, ...]

    @classmethod
    def read(cls, run: Path) -> Judged:
        """From the folder of a run, of folds or not."""
        rows = json.loads((run / "evaluation" / "table.json").read_text(encoding="utf-8"))
        text = (run / RECORD).read_text(encoding="utf-8")
        planned_for = text.partition("\n")[0].partition("planned for ")[2]
        return cls(run.name, rows, planned_for, tuple(yaml.safe_load(text)["image"]["size"]))

    @property
    def cells(self) -> Cells:
        return cells_of(self.rows)


def cells_of(rows: Sequence[Row]) -> Cells:
    """The values of an evaluation's rows by method, metric, intervention and structure."""
    return {(row["method"], row["metric"], row["intervention"], row["structure"]): row["value"] for row in rows}


def lines(rows: Sequence[Row]) -> Iterator[Line]:
    """What is in an evaluation's rows, for every method and structure intervened on."""
    found = cells_of(rows)
    own = {
        s: value for (method, metric, _, s), value in found.items() if method == "judge" and metric in ("mape", "mae")
    }
    for row in rows:
        if row["metric"] != "slope" or not row["intervened"]:
            continue
        method, variable, structure = row["method"], row["intervention"], row["structure"]
        if method == KNOWN:
            continue
        right = next(
            (v for m in (TRUTH, KNOWN) if (v := found.get((m, "slope", variable, structure))) is not None), None
        )
        metric = "mape" if (method, "mape", variable, structure) in found else "mae"
        beyond = [
            error - judge
            for other, judge in own.items()
            if other != structure
            and judge is not None
            and (error := found.get((method, metric, variable, other))) is not None
        ]
        error = found.get((method, metric, variable, structure))
        yield Line(method, structure, row["value"], right, error, own.get(structure), max(beyond, default=None))


def page(sets: Sequence[Judged], published: Path, planned: Sequence[str] = ()) -> str:
    """All of it; ``published`` is a folder of models that were tuned by hand, by the names of the sets, and ``planned``
    are the names of all sets."""
    parts = ["# One recipe, any data", INTRODUCTION, plans(sets)]
    if missing := [name for name in planned if name not in {one.name for one in sets}]:
        parts += [f"**Not run yet: {', '.join(missing)}.**"]
    parts += ["## Every method on every set", REACHED, reached(sets)]
    if tuned := beside(sets, published):
        parts += ["## Beside models that were tuned by hand", BESIDE, tuned]
    parts += [f"## {part}" for one in sets if (part := pairs(one))]
    parts += ["## Patterns, and who judges", JUDGES, patterns(sets)]
    return "\n\n".join(part for part in parts if part) + "\n"


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
other's is not."""

JUDGES = f"""\
*Pattern*: energy of answers at periods of 2 and 4 pixels on that of the images, the most of all interventions; at most
{PATTERN:g} is aimed at. *Kin*: the correlation of each guide's errors with the judge's, the most of all structures;
above {KIN:g} an answer that is wrong and pleases the guide may please the judge."""


def plans(sets: Iterable[Judged]) -> str:
    body = [
        [
            one.name,
            " x ".join(map(str, one.size)),
            str(judged_samples(one.rows)),
            one.planned_for,
        ]
        for one in sets
    ]
    return grid(["set", "pixels", "samples judged", "planned for"], body, labels=1)


def reached(sets: Iterable[Judged]) -> str:
    body = []
    for one in sets:
        found = list(lines(one.rows))
        order = list(METHODS)
        for line in sorted(found, key=lambda line: (_place(one, line.structure), order.index(line.method))):
            numbers = [_number(value) for value in (line.slope, line.right, line.error, line.judge, line.others)]
            body.append([one.name, plain(line.structure), method_name(line.method), *numbers, line.missed])
    return grid(["set", "structure", "method", "slope", "right", "error", "judge", "others", "missed"], body, labels=3)


def beside(sets: Iterable[Judged], published: Path) -> str:
    body = []
    for one in sets:
        path = published / one.name / "evaluation" / "table.json"
        if not path.is_file():
            continue
        tuned = Judged(one.name, json.loads(path.read_text(encoding="utf-8")), "", ())
        for who, rows in (("tuned by hand", tuned), ("planned", one)):
            cells = rows.cells
            for line in lines(rows.rows):
                if line.method != "segmentor":
                    continue
                variable = next(
                    row["intervention"]
                    for row in rows.rows
                    if row["metric"] == "slope" and row["intervened"] and row["structure"] == line.structure
                )
                locality = cells.get(("segmentor", "locality", variable, ""))
                true = cells.get(("segmentor", "true counterfactual error", variable, ""))
                whole = [_number(None if locality is None else 100 * locality, 1), _number(true)]
                numbers = [_number(line.slope), _number(line.error), _number(line.judge), *whole]
                body.append([one.name, plain(line.structure), who, *numbers])
    body.sort(key=lambda line: (line[0], line[1], line[2] == "planned"))
    head = ["set", "structure", "Seg-CFT", "slope", "error", "judge", "locality, %", "true error"]
    return grid(head, body, labels=3) if body else ""


def pairs(one: Judged) -> str:
    """The table of a set whose subjects have images of their own as the truth; "" of another."""
    cells = one.cells
    asked = dict.fromkeys(variable for _, metric, variable, _ in cells if metric == "pair error")
    if not asked:
        return ""
    structures = list(dict.fromkeys(s for _, metric, _, s in cells if metric == "pair dice"))
    body = []
    for question in asked:
        for method in (NO_CHANGE, MEAN_CHANGE, "none", "regressor", "segmentor", TRUTH):
            overlap = [_number(cells.get((method, "pair dice", question, s))) for s in structures]
            slopes = [_number(cells.get((method, "pair slope", question, s))) for s in structures]
            whole = []
            for metric in ("pair error", "pair error, away"):
                mine, none = (cells.get((who, metric, question, "")) for who in (method, NO_CHANGE))
                whole.append(_number(mine / none if mine is not None and none else None))
            for metric in ("pair effectiveness", "pair amplification"):
                whole.append(_number(cells.get((method, metric, question, ""))))
            body.append([question, method_name(method), " / ".join(overlap), " / ".join(slopes), *whole])
    named = " / ".join(map(plain, structures))
    head = ["do", "method", f"Dice of {named}", "slope", "near", "away", "effectiveness", "amplification"]
    return "\n\n".join([f"{one.name}: beside the truth", PAIRS, grid(head, body, labels=2)])


PAIRS = """\
Every subject's own image under the other condition is the truth ([Truth from real pairs](pairs.md)). *Dice* is of the
judge's masks of the answer with the true masks; *slope*, of the change that the judge reads on the true one; Truth is
the judge on the true image, and so the most that an answer can have. *Near* and *away* from the structures are errors
of grey levels, as a share of those of No change."""


def patterns(sets: Iterable[Judged]) -> str:
    body = []
    for one in sets:
        for guide in ("none", "regressor", "segmentor"):
            energy, kin = (
                [value for (method, metric, _, _), value in one.cells.items() if (method, metric) == asked]
                for asked in ((guide, "pattern energy"), (f"guide: {guide}", "error correlation"))
            )
            body.append([one.name, method_name(guide), _number(_most(energy)), _number(_most(kin))])
    return grid(["set", "method", "pattern", "kin"], body, labels=2)


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _place(one: Judged, structure: str) -> int:
    return next(place for place, row in enumerate(one.rows) if row["structure"] == structure)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
