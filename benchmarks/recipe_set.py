"""What ``benchmarks.recipe`` keeps of a set that was run and judged: figures for its page, from the evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

from segcft.evaluate.names import KNOWN, MEAN_CHANGE, METHODS, NO_CHANGE, SEG_LESS_REG, TRUTH, guide
from segcft.evaluate.table import judged_samples
from segcft.planning.record import RECORD

SLOPE = (0.9, 1.1)
MARGIN, FACTOR, OTHERS = 3.0, 1.5, 1.0
"""The error of the structure intervened on is at most the judge's own plus the first, or times the second, whichever is
more; that of the others at most the judge's own plus the third. Percentage points, or the unit of the measure."""
TRAINED = ("none", "regressor", "segmentor")
"""Image mechanisms, by their guides."""

NO_METHODS = (KNOWN, SEG_LESS_REG)
"""What the rows of a table have beside methods and the truth."""

Row = dict[str, Any]
Cells = dict[tuple[str, str, str, str], float | None]


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Line(_Kept):
    """What a method does to a structure when it is intervened on."""

    method: str
    structure: str
    slope: float | None
    """Obtained on asked change."""
    right: float | None = None
    """The slope that the judge reads of a right answer."""
    error: float | None
    judge: float | None
    """The judge's own error."""
    others: float | None = None
    """The largest error of another structure less the judge's own of that one."""
    locality: float | None = None
    """Share of the change that is near the structure."""
    true_error: float | None = None
    """Grey levels between the answer and the simulator's truth, near the change."""

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


class Pair(_Kept):
    """What a method's answers are beside the subjects' own images under the other condition."""

    do: str
    method: str
    dice: dict[str, float | None]
    slope: dict[str, float | None]
    near: float | None
    """Error of grey levels near the structures, as a share of that of no change."""
    away: float | None
    effectiveness: float | None
    amplification: float | None


class Pattern(_Kept):
    """Whether a method's answers have patterns, and whether who judges them is kin to who guided."""

    method: str
    energy: float | None
    """At the periods of patches, on that of the images; the most of all interventions."""
    kin: float | None
    """Correlation of the guide's errors with the judge's; the most of all structures."""


class Judged(_Kept):
    """A set that was run and judged."""

    planned_for: str
    """Hours and machine."""
    size: tuple[int, ...]
    """Pixels."""
    samples: int
    lines: tuple[Line, ...]
    """By structure, then by method."""
    pairs: tuple[Pair, ...] = ()
    patterns: tuple[Pattern, ...] = ()

    @classmethod
    def read(cls, run: Path) -> Judged:
        """From the folder of a run, of folds or not."""
        rows = json.loads((run / "evaluation" / "table.json").read_text(encoding="utf-8"))
        text = (run / RECORD).read_text(encoding="utf-8")
        return cls(
            planned_for=text.partition("\n")[0].partition("planned for ")[2],
            size=size_of(text),
            samples=judged_samples(rows),
            lines=lines(rows),
            pairs=tuple(_pairs(cells_of(rows))),
            patterns=tuple(_patterns(cells_of(rows))),
        )


def size_of(study: str) -> tuple[int, ...]:
    """Pixels or voxels along each axis of a study's images; ``study`` is its file's text."""
    return tuple(yaml.safe_load(study)["image"]["size"])


_SETS = TypeAdapter(dict[str, Judged])


def read_sets(path: Path) -> dict[str, Judged]:
    """The sets that a file keeps, by name; none where there is no file."""
    return _SETS.validate_json(path.read_bytes()) if path.is_file() else {}


def write_sets(path: Path, sets: Mapping[str, Judged]) -> None:
    """Keep sets in a file."""
    path.write_bytes(_SETS.dump_json(dict(sorted(sets.items())), indent=1) + b"\n")


def cells_of(rows: Sequence[Row]) -> Cells:
    """The values of an evaluation's rows by method, metric, intervention and structure."""
    return {(row["method"], row["metric"], row["intervention"], row["structure"]): row["value"] for row in rows}


def lines(rows: Sequence[Row]) -> tuple[Line, ...]:
    """What is in an evaluation's rows, for every structure and method intervened on."""
    cells = cells_of(rows)
    own = {
        s: value for (method, metric, _, s), value in cells.items() if method == "judge" and metric in ("mape", "mae")
    }
    found = [
        _line(cells, own, row)
        for row in rows
        if row["metric"] == "slope" and row["intervened"] and row["method"] not in NO_METHODS
    ]
    structures, methods = list(dict.fromkeys(row["structure"] for row in rows)), list(METHODS)
    return tuple(sorted(found, key=lambda line: (structures.index(line.structure), methods.index(line.method))))


def _line(cells: Cells, own: Mapping[str, float | None], row: Row) -> Line:
    """Of a slope's row; ``own`` are the judge's own errors."""
    method, variable, structure = row["method"], row["intervention"], row["structure"]
    metric = "mape" if (method, "mape", variable, structure) in cells else "mae"
    beyond = [
        error - judge
        for other, judge in own.items()
        if other != structure
        and judge is not None
        and (error := cells.get((method, metric, variable, other))) is not None
    ]
    right = (cells.get((who, "slope", variable, structure)) for who in (TRUTH, KNOWN))
    return Line(
        method=method,
        structure=structure,
        slope=row["value"],
        right=next((value for value in right if value is not None), None),
        error=cells.get((method, metric, variable, structure)),
        judge=own.get(structure),
        others=max(beyond, default=None),
        locality=cells.get((method, "locality", variable, "")),
        true_error=cells.get((method, "true counterfactual error", variable, "")),
    )


def _pairs(cells: Cells) -> Iterator[Pair]:
    structures = list(dict.fromkeys(s for _, metric, _, s in cells if metric == "pair dice"))
    for do in dict.fromkeys(variable for _, metric, variable, _ in cells if metric == "pair error"):
        for method in (NO_CHANGE, MEAN_CHANGE, *TRAINED, TRUTH):

            def share(metric: str, who: str = method, asked: str = do) -> float | None:
                mine, none = (cells.get((one, metric, asked, "")) for one in (who, NO_CHANGE))
                return mine / none if mine is not None and none else None

            yield Pair(
                do=do,
                method=method,
                dice={s: cells.get((method, "pair dice", do, s)) for s in structures},
                slope={s: cells.get((method, "pair slope", do, s)) for s in structures},
                near=share("pair error"),
                away=share("pair error, away"),
                effectiveness=cells.get((method, "pair effectiveness", do, "")),
                amplification=cells.get((method, "pair amplification", do, "")),
            )


def _patterns(cells: Cells) -> Iterator[Pattern]:
    for method in TRAINED:
        energy, kin = (
            [value for (who, metric, _, _), value in cells.items() if (who, metric) == asked and value is not None]
            for asked in ((method, "pattern energy"), (guide(method), "error correlation"))
        )
        yield Pattern(method=method, energy=max(energy, default=None), kin=max(kin, default=None))
