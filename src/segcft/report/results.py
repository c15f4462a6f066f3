"""The page of results: evaluated runs and published models beside the table of the paper."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.errors import Code, RunError
from segcft.evaluate import names
from segcft.evaluate.metrics.attributes import AttributeMetric, AttributeReading
from segcft.evaluate.metrics.displacement import PLACES, Displacement
from segcft.evaluate.metrics.effectiveness import error_of
from segcft.evaluate.metrics.metric import Metric, metrics_of
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.scores import Row
from segcft.evaluate.table import cell, grid, judged_samples
from segcft.measures.measurements import Measurements
from segcft.pipeline.folds import runs_of
from segcft.pipeline.run import Run
from segcft.training import artefact

LARGEST = 1e300
"""Of a figure, either way; the difference of two that are larger is none."""

SHOWN = (names.NO_CHANGE, "none", "regressor", "segmentor", "predictor", names.SEG_LESS_REG, names.TRUTH)


@dataclass(frozen=True)
class Result:
    """An evaluated run or published model."""

    study: Study
    rows: Sequence[Row]
    samples: Mapping[str, int]
    """How many of each split."""
    version: str
    """Of segcft, when the judge was trained."""

    @classmethod
    def read(cls, folder: Path) -> Result:
        """Read what is in ``folder``.

        Raises:
            RunError: it is not a run or published model, or not evaluated by the metric that its study names.
        """
        run = Run(folder)
        path = run.evaluation / "table.json"
        try:
            rows = _checked(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                Code.INVALID, path, f"not the table of an evaluation ({error}); see `segcft evaluate`"
            ) from None
        if not run.study.structures and run.study.predictor_judge is None:
            why = "it has neither structures nor a predictor_judge, so there is nothing that results compare"
            raise RunError(Code.UNSUPPORTED, run.folder, why)
        metric = run.study.evaluation.metric if run.study.structures else AttributeReading.name
        if not any(row["metric"] == metric for row in rows):
            raise RunError(
                Code.MISSING,
                path,
                f"it has no {metric!r}, the metric of the study (evaluation.metric); evaluate again: `segcft evaluate`",
            )
        return cls(
            run.study, rows, run.samples(), artefact.read_meta(runs_of(run)[0].path("scm")).get("version", "unknown")
        )

    def row(self, method: str, metric: str, intervention: str = "", structure: str = "") -> Row | None:
        """The one row of this, if there is one."""
        wanted = (method, metric, intervention, structure)
        found = (r for r in self.rows if (r["method"], r["metric"], r["intervention"], r["structure"]) == wanted)
        return next(found, None)

    def elsewhere(self, method: str) -> Row | None:
        """The largest mean error of a structure under an intervention on the measure of another one."""
        metric, measured = self.study.evaluation.metric, self.study.measured
        rows = [r for r in self.rows if r["method"] == method and r["metric"] == metric and not r["intervened"]]
        rows = [r for r in rows if r["intervention"] in measured and r["value"] is not None]
        return max(rows, key=lambda r: float(r["value"]), default=None)


def _checked(rows: Any) -> list[Row]:
    """``rows``, if they are those of an evaluation; ValueError if not."""
    texts, numbers = ("method", "intervention", "structure", "metric"), ("value", "ci_low", "ci_high")
    if not isinstance(rows, list):
        raise ValueError("expected a list")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not {*texts, *numbers, "intervened", "n"} <= row.keys():
            raise ValueError(f"row {number} lacks a field")
        right = [isinstance(row[name], str) for name in texts]
        right += [row[name] is None or _is_figure(row[name]) for name in numbers]
        right.append((row["ci_low"] is None) == (row["ci_high"] is None))
        if not all(right) or not isinstance(row["n"], int) or not isinstance(row["intervened"], bool):
            raise ValueError(f"row {number} has a field of another type")
    return rows


def _is_figure(value: object) -> bool:
    return isinstance(value, float | int) and abs(value) <= LARGEST


def render_results(folders: Sequence[Path]) -> str:
    """The page, in Markdown, of evaluated runs and published models.

    Those of the same structures share their tables, so that one study under several settings stands side by side.

    Raises:
        RunError: a folder is not an evaluated run or published model.
    """
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for folder in folders:
        result = Result.read(folder)
        about = tuple(result.study.structures or result.study.attributes)
        groups.setdefault((about, result.study.evaluation.metric), []).append(result)
    papers = yaml.safe_load((files("segcft.evaluate") / "paper.yaml").read_text(encoding="utf-8"))
    command = f"segcft results {' '.join(folder.as_posix() for folder in folders)}"
    parts = [
        "# Results",
        f"Written by `{command}` from the evaluation of each; not edited by hand. ± is half the width of the 95 % "
        "bootstrap interval over people.",
    ]
    for (structures, metric), results in groups.items():
        paper = next((p for p in papers if (tuple(p["structures"]), p["metric"]) == (structures, metric)), None)
        parts += _group(results, paper) if results[0].study.structures else _of_attributes(results)
    return "\n\n".join(parts) + "\n"


def _group(results: Sequence[Result], paper: Mapping[str, Any] | None) -> Iterator[str]:
    study = results[0].study
    structures, error = list(map(plain, study.structures)), error_of(study)
    word, unit = Measurements.of(study).word, error.unit(study)
    yield f"## {', '.join(structures)}"
    yield "\n".join(_data(results, paper))
    yield (
        f"### Error of the {word} of the structure intervened on ({error.name.upper()}, {unit}), and at worst of the "
        "others\n\n"
        f"{grid(['data', 'method', *structures, 'elsewhere, worst'], list(_effectiveness(results, paper)), labels=2)}"
    )
    yield (
        "The methods are compared within a study. Data, pixels and judges differ between studies, and so does what "
        "leaving the image alone would score (No change)."
        + ("" if paper is None else " The paper prints no interval and no such reference.")
    )
    yield (
        "### How well the judges read the images as they are\n\n"
        f"{grid(['data', 'measure', *structures], list(_judges(results)), labels=2)}"
    )
    metrics = [metric for metric in metrics_of(study) if metric is not error and metric.brief]
    for metric in metrics:
        lines = list(_by_structure(results, metric))
        if lines:
            yield f"### {metric.heading(study)}\n\n{grid(['data', 'do', 'method', *structures], lines, labels=3)}"
    if lines := list(_borders(results)):
        head = ["data", "do", "method", *PLACES]
        yield (
            "### Which borders move? for one standard deviation more, in the unit of lengths; what the truth or people "
            f"have is right\n\n{grid(head, lines, labels=3)}"
        )
    lines = list(_of_images(results, metrics))
    used = [metric for metric in metrics if any(line[1] == metric.words(study).title for line in lines)]
    yield (
        "### Whole images, by the structure intervened on\n\n"
        f"{grid(['data', 'measure', 'method', *structures], lines, labels=3)}"
    )
    yield "In grey levels (0 to 255) where not in %.\n\n" + "\n".join(filter(None, (m.line(study) for m in used)))


def _of_attributes(results: Sequence[Result]) -> Iterator[str]:
    """Studies without structures: what an independent predictor reads."""
    study = results[0].study
    yield f"## {', '.join(map(plain, study.attributes))}"
    yield "\n".join(_data(results, None))
    for metric in (metric for metric in metrics_of(study) if isinstance(metric, AttributeMetric)):
        lines = []
        for result, method in itertools.product(results, (names.JUDGE, *SHOWN)):
            for asked in dict.fromkeys(row["intervention"] for row in result.rows):
                found = [result.row(method, metric.name, asked, name) for name in study.attributes]
                if any(found):
                    cells = (cell(row, metric) for row in found)
                    lines.append([result.study.name, plain(asked), method_name(method), *cells])
        table = grid(["data", "do", "method", *map(plain, study.attributes)], lines, labels=3)
        yield f"### {metric.heading(study)}\n\n{table}\n\n{metric.words(study).explanation}"


def _data(results: Sequence[Result], paper: Mapping[str, Any] | None) -> Iterator[str]:
    if paper is not None:
        yield f"- {paper['data']} (paper): {paper['description']}."
    for result in results:
        study = result.study
        source = f"Simulated ({study.data.source})" if isinstance(study.data, SimulatedData) else "Real"
        counts = " / ".join(f"{count:,}" for count in result.samples.values())
        *parts, last = ({"train": "training"}.get(part, part) for part in result.samples)
        judged = judged_samples(result.rows)
        folds = f" (each of them in one of {study.splits.folds} folds)" if study.splits.in_folds else ""
        yield (
            f"- {study.name}: {study.description.rstrip('.')}. {source}, {counts} {', '.join(parts)} and {last} "
            f"samples{folds}, {study.image.words}; {judged} test samples judged; segcft {result.version}."
        )


def _effectiveness(results: Sequence[Result], paper: Mapping[str, Any] | None) -> Iterator[list[str]]:
    if paper is not None:
        for method, errors in paper["intervened"].items():
            low_high = paper["elsewhere"].get(method)
            elsewhere = f"{low_high[1]}" if low_high else ""
            yield [f"{paper['data']} (paper)", method_name(method), *map(str, errors), elsewhere]
    for result in results:
        study, error = result.study, error_of(result.study)
        for method in SHOWN:
            found = [
                result.row(method, error.name, *asked) for asked in zip(study.measured, study.structures, strict=True)
            ]
            if any(found):
                worst = None if method == names.SEG_LESS_REG else result.elsewhere(method)
                yield [study.name, method_name(method), *(cell(row, error) for row in [*found, worst])]


def _judges(results: Sequence[Result]) -> Iterator[list[str]]:
    for result in results:
        study = result.study
        guides = dict.fromkeys(row["method"] for row in result.rows if names.guided_by(row["method"]))
        for reader, metric in itertools.product((names.JUDGE, *guides), metrics_of(study)):
            found = [result.row(reader, metric.name, "", structure) for structure in study.structures]
            if any(found):
                label, part = metric.words(study).label, names.guided_by(reader)
                yield [study.name, f"{part}: {label}" if part else label, *(cell(row, metric) for row in found)]


def _by_structure(results: Sequence[Result], metric: Metric) -> Iterator[list[str]]:
    """A metric of single structures: of those intervened on, and of all under interventions on what causes them."""
    for result in results:
        study = result.study
        asked_of = dict.fromkeys(r["intervention"] for r in result.rows if r["metric"] == metric.name)
        asked = {f"its own {Measurements.of(study).word}": study.measured} | {
            plain(cause): (cause,) * len(study.measured) for cause in asked_of if cause not in study.measured
        }
        for label, variables in asked.items():
            for method in (*SHOWN, names.KNOWN):
                found = [result.row(method, metric.name, *one) for one in zip(variables, study.structures, strict=True)]
                if any(found):
                    yield [study.name, label, method_name(method), *(cell(row, metric) for row in found)]


def _borders(results: Sequence[Result]) -> Iterator[list[str]]:
    """How far the borders and the centre of the structure intervened on move."""
    for result in results:
        metrics = [metric for metric in metrics_of(result.study) if isinstance(metric, Displacement)]
        for variable, structure in zip(result.study.measured, result.study.structures, strict=True):
            for method in (*SHOWN, names.PEOPLE):
                found = [result.row(method, metric.name, variable, structure) for metric in metrics]
                if any(found):
                    # Bold would be all of them.
                    plainly = [row and row | {"intervened": False} for row in found]
                    cells = (cell(row, metric) for row, metric in zip(plainly, metrics, strict=True))
                    yield [result.study.name, plain(variable), method_name(method), *cells]


def _of_images(results: Sequence[Result], metrics: Sequence[Metric]) -> Iterator[list[str]]:
    """Metrics of whole images, by the structure intervened on; what needs no intervention is the same for all."""
    for result, metric, method in itertools.product(results, metrics, SHOWN):
        alone = result.row(method, metric.name)
        found = [result.row(method, metric.name, variable) or alone for variable in result.study.measured]
        if any(found):
            label = metric.words(result.study).title
            yield [result.study.name, label, method_name(method), *(cell(row, metric) for row in found)]
