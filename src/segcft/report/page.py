"""The page: what is in the run's folder, put into the template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import segcft
from segcft.config.sources import SeveralFolders, SimulatedData
from segcft.config.study import Study
from segcft.errors import Code, RunError
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.metrics.effectiveness import error_of
from segcft.evaluate.metrics.kinship import kin
from segcft.evaluate.names import METHODS, NO_CHANGE, TRUTH, method_name, plain
from segcft.evaluate.page import levels, percent
from segcft.evaluate.planes import Planes
from segcft.evaluate.scores import Row
from segcft.evaluate.table import judged_samples
from segcft.grid import Grid
from segcft.io.rendering import is_wide
from segcft.measures.measurements import Measurements
from segcft.pipeline.completion import fill_likely
from segcft.pipeline.folds import is_evaluated, runs_of
from segcft.pipeline.run import Run
from segcft.report import charts, facts
from segcft.report.charts import Chart
from segcft.report.failures import SHOWN, WORST, Case, Failures, find_failures, read_scores
from segcft.report.graph import graph_svg
from segcft.report.pictures import data_uri, difference, difference_picture, outline, picture
from segcft.report.results import Result
from segcft.report.tables import tables
from segcft.utils.atomic import write_text


@dataclass(frozen=True)
class Figure:
    """A picture of the evaluation, as a data URI, and what is on it."""

    title: str
    uri: str
    text: str


@dataclass(frozen=True)
class Curves:
    """The training of one part."""

    part: str
    steps: int
    skipped: int
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Shown:
    """A failure with its pictures, as data URIs."""

    case: Case
    known: str
    image: str
    counterfactual: str
    difference: str
    truth: str
    before: str
    after: str


@dataclass(frozen=True)
class Section:
    """The failures of one structure. ``limit`` is the end of the scale of differences, in grey levels."""

    found: Failures
    cases: tuple[Shown, ...]
    limit: float


def write_report(run: Run, out: Path, device: torch.device) -> None:
    """Write the page about an evaluated run to ``out``, in place of an earlier one.

    Failures are computed anew, with the run's models on ``device``.

    Raises:
        RunError: ``out`` is a folder; or see :func:`render_report`.
    """
    if out.is_dir():
        raise RunError(Code.INVALID, out, f"expected a file, not a folder, e.g. {out / 'report.html'}")
    write_text(out, render_report(run, device))


def render_report(run: Run, device: torch.device) -> str:
    """The page about an evaluated run: one file of HTML, without scripts, that loads nothing.

    That of a run in folds has the evaluation of all; curves and failures are on the pages of its folds.

    Raises:
        RunError: it is a published model, which has no samples; it is not evaluated; a part is missing or damaged; or
            the evaluation is of other samples or models than the run's.
    """
    store = run.store()
    study, result = run.study, Result.read(run.folder)
    methods = [m for m in METHODS if any(row["method"] == m for row in result.rows)]
    runs = runs_of(run)
    folds = [one.folder.name for one in runs] if study.splits.in_folds else []
    trained = runs[0].methods()
    judged = [method for method in trained if method in methods]
    if not judged:
        why = "no method in it is trained in this run; `segcft evaluate`"
        raise RunError(Code.OTHER, run.evaluation / "table.json", why)
    method = judged[-1]  # the default of questions, too
    for one in runs:
        one.samples_of([*one.judges, "scm", one.mechanism(method)])
    if folds and not is_evaluated(run):
        raise RunError(Code.OTHER, run.evaluation, "not of the folds as they are now; see `segcft run`")
    cohort = _judged(run, device, whole=not folds)
    path = run.evaluation / "scores.parquet"
    failures = _failures(run, cohort, method, path) if path.is_file() and not folds else []

    made = {f"{one.folder.name}: " if folds else "": (one, facts.read_parts(one)) for one in runs}
    parts = [replace(part, name=f"{of}{part.name}") for of, (_, its) in made.items() for part in its]
    values = store.values()[store.indices(None if folds else "train")]
    table = run.evaluation / "table.md"
    return template("report.html").render(
        study=study,
        result=result,
        store=store,
        people=store.table["patient"].nunique(),
        simulated=isinstance(study.data, SimulatedData),
        source=_source(study),
        version=segcft.__version__,
        evaluated=_day((run.evaluation / "table.json").stat().st_mtime),
        written=_day(datetime.now().timestamp()),
        judged=judged_samples(result.rows) if folds else len(cohort),
        folds=folds,
        method=method,
        methods=methods,
        not_judged=[m for m in trained if m not in methods],
        headline=_headline(result, method),
        unit=error_of(study).unit(study),
        measures=Measurements.of(study),
        graph=graph_svg(study),
        marginals=[
            charts.marginal(name, variable, values[:, k]) for k, (name, variable) in enumerate(study.variables.items())
        ],
        complete={split: len(store.indices(split, complete=True)) for split in result.samples},
        curves=[] if folds else list(_curves(run, [part.name for part in parts])),
        tables=tables(_text(table), study.description),
        figures=list(_figures(run)),
        scored=path.is_file(),
        failures=failures,
        disagreement=max((section.found.largest_disagreement for section in failures), default=None),
        worst=WORST,
        wide=_is_wide(study),
        levels=levels(study.image.channels),
        size=_shown_size(study),
        kin=kin(result.rows, study),
        findings=facts.findings(parts),
        noises=[] if folds else facts.noises(parts),
        guards=[
            replace(guard, text=f"{of}{guard.text}")
            for of, (one, its) in made.items()
            for guard in facts.guards(one.store(), its)
        ],
        seeds=facts.seeds(study),
        left_out=facts.left_out(store.rejected),
        parts=parts,
        missing=[f"{of}{name}" for of, (one, its) in made.items() for name in facts.missing_parts(one, its)],
        environment=facts.environment(device),
        settings=yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    )


def template(name: str) -> Any:
    """A page's template, by the name of its file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # late: only this page needs them

    environment = Environment(
        loader=PackageLoader("segcft.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "number": charts.number,
        "signed": charts.signed,
        "plain": plain,
        "method": method_name,
        "percent": percent,
    }
    return environment.get_template(name)


def _judged(run: Run, device: torch.device, whole: bool) -> Cohort:
    """Who was judged; of a run in folds, those that all folds judge. In a store of their own: what is inferred of them
    is not what the samples have."""
    store = run.store()
    if whole:
        fill_likely(run, store, "test")
    return Cohort.choose(run.study, store, store.indices("test", complete=True), device)


def _failures(run: Run, cohort: Cohort, method: str, path: Path) -> list[Section]:
    """The failures of ``method``, by the per-sample results at ``path``."""
    study = run.study
    own = torch.from_numpy(cohort.store.values()[cohort.store.indices("train", complete=True)])
    model, judge = run.model(method, cohort.device), run.judge(cohort.device)
    sections = []
    for found in find_failures(cohort, model, judge, method, read_scores(path, cohort), own, SHOWN):
        changes = [difference(case.counterfactual, case.image) for case in found.cases]
        # The few extreme pixels would make everything else look pale.
        limit = max(1.0, float(np.quantile(np.abs([change.cpu().numpy() for change in changes]), 0.995)))
        shown = [
            Shown(
                case,
                _known(study, case),
                picture(case.image, synthetic=isinstance(study.data, SimulatedData)),
                picture(case.counterfactual, synthetic=True),
                difference_picture(change, limit),
                "" if case.truth is None else picture(case.truth, synthetic=True),
                outline(case.outline_before),
                outline(case.outline_after),
            )
            for case, change in zip(found.cases, changes, strict=True)
        ]
        sections.append(Section(found, tuple(shown), limit))
    return sections


def _known(study: Study, case: Case) -> str:
    """What is known of the sample beside its measures."""
    found = []
    for k, (name, variable) in enumerate(study.variables.items()):
        if name not in study.measured:
            value = float(case.values[k])
            text = variable.categories[int(value)] if variable.categories else charts.number(value)
            found.append(f"{plain(name)} {text} {variable.unit}".rstrip())
    return ", ".join(found)


def _headline(result: Result, method: str) -> dict[str, dict[str, Row | None]]:
    """Structure -> method -> row of its error when it was intervened on: of leaving the image alone, of the model
    before fine-tuning, of ``method`` and of the truth."""
    study, metric = result.study, result.study.evaluation.metric
    judged = {row["method"] for row in result.rows if row["metric"] == metric}
    shown = dict.fromkeys(m for m in (NO_CHANGE, "none", method, TRUTH) if m in judged)
    found = {
        structure: {m: result.row(m, metric, variable, structure) for m in shown}
        for structure, variable in zip(study.structures, study.measured, strict=True)
    }
    return {structure: rows for structure, rows in found.items() if rows.get(method) is not None}


def _curves(run: Run, parts: Sequence[str]) -> Iterator[Curves]:
    """The training of every part, as far as it is recorded."""
    for part in parts:
        history = charts.read_history(run.training / f"{part}.jsonl")
        steps = history.get("step", np.empty(0))
        names = [name for name in history if name not in ("step", "skipped")]
        names.sort(key=lambda name: name == "gradient_norm")  # last, being about the training alone
        drawn = [charts.curve(name, steps, history[name]) for name in names]
        skipped = int(np.nan_to_num(history.get("skipped", np.zeros(1))).max())
        yield Curves(part, len(steps), skipped, tuple(chart for chart in drawn if chart))


def _figures(run: Run) -> Iterator[Figure]:
    """The evaluation's pictures, as far as they are there: the curves first and then structure by structure."""
    study, folder = run.study, run.evaluation / "figures"
    grid = "a column a method, a row a change" if _is_wide(study) else "a row a method, a column a change"
    measures = Measurements.of(study)
    known = {
        "asked-obtained": (
            f"{measures.word.capitalize()}s asked for and obtained",
            f"The change of {measures.word} obtained against the one asked for, a line a method, structure by "
            "structure: mean and standard deviation over samples.",
        )
    }
    for structure, one, word in zip(study.structures, measures.all, measures.words, strict=True):
        name = plain(structure)
        share = f"a share of {'its' if one.measure.ratio else 'the range of its'} {word}"
        known[f"counterfactuals-{structure}"] = (
            f"Counterfactuals: {name}",
            f"A few test images and their counterfactuals when the {name} is changed by {share}, {grid}; "
            f"with the judge's outlines, and below each the {word} asked for and the one that the judge reads.",
        )
        known[f"differences-{structure}"] = (
            f"Differences: {name}",
            f"Counterfactual minus image for the same images and changes of the {name}, {grid}. Red is brighter, blue "
            "is darker; lines are the structure's outline before and after.",
        )
    if study.evaluation.progression:
        rising = " and ".join(map(plain, study.evaluation.progression))
        known["progression"] = (
            "Progression",
            f"A few test images when {rising} rise together through quantiles of the training samples, {grid}.",
        )
    if study.evaluation.pairs is not None:
        for path in sorted(folder.glob("pairs-*.png")):
            known[path.stem] = (
                f"Beside the truth: {path.stem.removeprefix('pairs-').replace('-', ' ')}",
                "A few test images, what every method makes of them, and the subject's own other image, which is the "
                "truth; below each answer how much brighter (red) or darker (blue) than the truth it is. Outlines are "
                "true ones on real images, and the judge's on answers.",
            )
    for stem, (title, text) in known.items():
        path = folder / f"{stem}.png"
        if path.is_file():
            yield Figure(title, data_uri(path.read_bytes()), text)


def _shown_size(study: Study) -> tuple[int, int]:
    """Height and width of a picture of an image, or of three planes of a volume."""
    return Planes(Grid.of(study.image)).size


def _is_wide(study: Study) -> bool:
    return is_wide(*_shown_size(study))


def _source(study: Study) -> str:
    data = study.data
    if isinstance(data, SimulatedData):
        return f"simulated: {data.source}, {data.people:,} people, seed {data.seed}"
    if isinstance(data, SeveralFolders):
        return f"files of {len(data.folders)} sources: {', '.join(data.folders)}"
    table = f"attributes in {data.table}" if data.table else "no table"
    return f"files: images in {data.images}, masks in {data.masks}, {table}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(Code.INVALID, path, f"not the table of an evaluation ({error}); see `segcft evaluate`") from None


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d, %H:%M")
