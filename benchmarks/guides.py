"""Is it the guide's kind or its quality? ``python -m benchmarks.guides --page docs/guides.md``.

Segmentors and regressors of several budgets and sizes guide the fine-tuning of one image mechanism, three times each
(``configs/quickstart.yaml``, 64 x 64 pixels; about an hour on 2 CPU cores). How far answers miss what was asked, how
local they are and how far from the simulator's truth is held against how far the guide misreads images as they are. A
regression over all trainings,

    log(error of answers) = a_structure + b log(error of the guide) + c [it is a segmentor],

says what the kind is worth where the quality is the same: answers err exp(c) times as much. Its intervals are over
trainings (bootstrap), not over people. Effects of kind and quality can be told apart only where the two kinds overlap.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.trainings import figure_of, train_all, varied
from segcft.config.loader import load_study
from segcft.config.study import Study
from segcft.evaluate import names
from segcft.evaluate.metrics.effectiveness import error_of
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.table import grid
from segcft.pipeline.folds import read_outcome
from segcft.pipeline.replicates import replicate
from segcft.pipeline.run import Run
from segcft.utils.atomic import write_text, written

BASE = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
GRADES: dict[str, dict[str, dict[str, Any]]] = {
    "poor": {"segmentor": {"steps": 60, "widths": [8, 16, 32, 64]}, "regressor": {"steps": 300}},
    "fair": {"segmentor": {"steps": 120}, "regressor": {"steps": 600}},
    "good": {"segmentor": {"steps": 250}, "regressor": {"steps": 1500}},
    "best": {"segmentor": {"steps": 600}, "regressor": {"steps": 3000, "widths": [24, 48, 96, 192]}},
}
"""Grade -> what its guides change in the study. Regressors get more steps, which cost them as much, and read worse."""
SEEDS = 3
DRAWS = 2000
METRICS = ("locality", "true counterfactual error")


class Point(NamedTuple):
    """One guide of one training and one structure: its error and what came of it."""

    run: str
    grade: str
    method: str
    structure: str
    guide: float
    answers: float
    others: tuple[float, ...]
    """Of :data:`METRICS`."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guides", description=__doc__)
    parser.add_argument("--base", type=Path, default=BASE, help="another study with both guides")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"trainings of each grade (default: {SEEDS})")
    parser.add_argument("--out", type=Path, default=Path("runs/guides"))
    parser.add_argument("--page", type=Path, help="Markdown page to write, with a figure beside it")
    options = parser.parse_args(arguments)
    base = load_study(options.base)
    studies = dict(graded(base, options.seeds))
    runs = train_all(studies, options.out)
    points = [point for name, run in runs.items() for point in points_of(run, name)]
    if unknown := [f"{p.run}: {p.structure}" for p in points if not np.isfinite(p.guide * p.answers)]:
        raise SystemExit(f"there is no error of the guide or of answers of {', '.join(unknown)}")
    text = render(points, base, options.seeds)
    print(text)
    if options.page is not None:
        figure = options.page.with_suffix(".svg")
        draw(points, figure)
        write_text(options.page, text + f"\n![Answers' error against the guide's]({figure.name})\n")


def graded(base: Study, seeds: int) -> Iterator[tuple[str, Study]]:
    """Name -> study, of every grade and seed; trainings of one seed share the image mechanism."""
    for seed in range(1, seeds + 1):
        own = replicate(base, seed)
        for grade, changes in GRADES.items():
            name = f"{grade}-{seed}"
            yield name, varied(own, name, changes)


def points_of(run: Run, name: str) -> Iterator[Point]:
    """What is found of a run's two guides, structure by structure."""
    study, rows = run.study, read_outcome(run).rows
    error = error_of(study).name
    for guide in ("segmentor", "regressor"):
        for structure, spec in study.structures.items():
            yield Point(
                run=name,
                grade=name.rpartition("-")[0],
                method=guide,
                structure=structure,
                guide=figure_of(rows, names.guide(guide), error, structure),
                answers=figure_of(rows, guide, error, structure, spec.variable),
                others=tuple(figure_of(rows, guide, metric, "", spec.variable) for metric in METRICS),
            )


class Fit(NamedTuple):
    """Of the regression: the power of the guide's error, and what a segmentor's answers err by, a factor; each with its
    95 % interval (3,)."""

    power: NDArray[np.float64]
    factor: NDArray[np.float64]


def fit(points: Sequence[Point], seed: int = 0) -> Fit:
    """The regression above; resamples are of trainings, each with both of its guides and all structures."""
    structures = sorted({point.structure for point in points})
    design = np.array(
        [
            [*(point.structure == one for one in structures), np.log(point.guide), point.method == "segmentor"]
            for point in points
        ],
        dtype=float,
    )
    outcome = np.log([point.answers for point in points])
    _, owner = np.unique([point.run for point in points], return_inverse=True)
    random, trainings = np.random.default_rng(seed), int(owner.max()) + 1
    found = [_slopes(design, outcome)]
    for _ in range(DRAWS):
        chosen = np.concatenate([np.flatnonzero(owner == one) for one in random.integers(trainings, size=trainings)])
        found.append(_slopes(design[chosen], outcome[chosen]))
    drawn = np.array(found)
    ends = np.percentile(drawn[1:], [2.5, 97.5], axis=0)
    power, kind = (np.array([drawn[0, k], *ends[:, k]]) for k in (0, 1))
    return Fit(power, np.exp(kind))


def _slopes(design: NDArray[np.float64], outcome: NDArray[np.float64]) -> NDArray[np.float64]:
    found, *_ = np.linalg.lstsq(design, outcome, rcond=None)
    return np.asarray(found[-2:], dtype=np.float64)


def overlap(points: Sequence[Point]) -> dict[str, tuple[float, float] | None]:
    """Structure -> the range of guides' errors that both kinds have; None where they have none in common."""
    found: dict[str, tuple[float, float] | None] = {}
    for structure in dict.fromkeys(point.structure for point in points):
        kinds = [
            [p.guide for p in points if (p.structure, p.method) == (structure, m)] for m in ("segmentor", "regressor")
        ]
        low, high = max(map(min, kinds)), min(map(max, kinds))
        found[structure] = (low, high) if low <= high else None
    return found


def render(points: Sequence[Point], study: Study, seeds: int) -> str:
    """The page, in Markdown."""
    found, common = fit(points), overlap(points)
    structures = list(study.structures)
    locality = METRICS.index("locality")
    body = []
    for grade in GRADES:
        for method in ("segmentor", "regressor"):
            own = [p for p in points if (p.grade, p.method) == (grade, method)]
            cells = [[p for p in own if p.structure == structure] for structure in structures]
            body.append(
                [
                    grade,
                    method_name(method),
                    " ".join(f"{np.mean([p.guide for p in cell]):.1f}" for cell in cells),
                    " ".join(f"{np.mean([p.answers for p in cell]):.1f}" for cell in cells),
                    " ".join(f"{100 * np.mean([p.others[locality] for p in cell]):.0f}" for cell in cells),
                    " ".join(f"{np.mean([p.others[1 - locality] for p in cell]):.2f}" for cell in cells),
                ]
            )
    head = ["grade", "method", "the guide misreads, %", "answers err by, %", "locality, %", "true error, grey levels"]
    ranges = "; ".join(
        f"{plain(name)} {ends[0]:.1f} to {ends[1]:.1f} %" if ends else f"{plain(name)} none"
        for name, ends in common.items()
    )
    kind = f"""\
**Of two guides that misread alike, the segmentor's answers err {found.factor[0]:.2f} times as much as the
  regressor's** ({found.factor[1]:.2f} to {found.factor[2]:.2f})."""
    if not any(common.values()):
        kind = "No segmentor misreads as much as any regressor, so kind and quality cannot be told apart."
    where = " / ".join(map(plain, structures))
    return f"""\
# Is it the guide's kind or its quality?

`python -m benchmarks.guides` trains segmentors and regressors of four grades, {seeds} times each, and fine-tunes one
image mechanism by each of them ({study.name}, {study.image.size[0]} x {study.image.size[1]} pixels). Each cell has the
means over trainings, of {where}, of test people.

{grid(head, body, labels=2)}

- Where one guide misreads twice as much as another of its kind, answers err {2 ** found.power[0]:.2f} times as much
  (95 % over trainings: {2 ** found.power[1]:.2f} to {2 ** found.power[2]:.2f}).
- {kind}
- Errors that guides of both kinds have: {ranges}.
"""


def draw(points: Sequence[Point], path: Path) -> None:
    """The figure: a panel a structure, each guide's answers' error against its own, on logarithmic axes."""
    from matplotlib.figure import Figure

    structures = list(dict.fromkeys(point.structure for point in points))
    figure = Figure(figsize=(3.4 * len(structures), 3.2), layout="constrained")
    panels = figure.subplots(1, len(structures), squeeze=False)[0]
    for axes, structure in zip(panels, structures, strict=True):
        for method, colour in (("segmentor", "#1f6fb4"), ("regressor", "#c2571a")):
            own = [p for p in points if (p.structure, p.method) == (structure, method)]
            axes.scatter(
                [p.guide for p in own],
                [p.answers for p in own],
                s=22,
                color=colour,
                label=method_name(method),
            )
        axes.set(xscale="log", yscale="log", title=plain(structure), xlabel="the guide misreads, %")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("answers err by, %")
    panels[0].legend(frameon=False)
    with written(path) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
