"""Metrics from outside of the package: that of docs/how-to-add/metric.md, and one that judges the judge.

tests/test_how_to_add.py follows the page.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
import torch

from refused import refused
from segcft.config.study import Study
from segcft.errors import Code, SegcftError
from segcft.evaluate import names
from segcft.evaluate.answered import AnsweredBatch, FactualBatch
from segcft.evaluate.metrics.metric import METRICS, Metric, Result, Words, results_of
from segcft.evaluate.scores import Scores
from segcft.pipeline.judging import evaluate_samples
from segcft.pipeline.run import Run
from segcft.report.page import render_report
from segcft.report.results import render_results
from segcft.utils.progress import Progress
from tests import howto

CPU = torch.device("cpu")


class Bias(Metric):
    """How much too large the judge reads structures."""

    name = "judge's bias"
    better = "near 1"

    def words(self, study: Study) -> Words:
        return Words("read on known size", explanation="What is read on what is known.")

    def of_judge(self, batch: FactualBatch) -> Iterator[Result]:
        for s, structure in enumerate(batch.study.structures):
            yield Result(batch.read[:, s] / batch.known[:, s], structure)

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        for s, structure in enumerate(answer.asked.factual.study.structures):
            yield Result(answer.read[:, s] / answer.asked.wanted[:, s], structure)


@pytest.fixture(scope="module")
def run(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The small run, judged by both as well."""
    folder = tmp_path_factory.mktemp("metric") / "run"
    shutil.copytree(small_run.folder, folder)
    run, known = Run(folder), dict(METRICS)
    howto.write_files("metric", folder.parent)
    howto.load(folder.parent / "saturation.py")
    METRICS.add(Bias.name, Bias())
    evaluate_samples(run, run.store(), run.evaluation, CPU, Progress())
    yield run
    METRICS._things = known


def test_its_rows_are_in_the_table(run: Run) -> None:
    rows = json.loads((run.evaluation / "table.json").read_text(encoding="utf-8"))
    own = [row for row in rows if row["metric"] == "saturation"]
    methods = {names.NO_CHANGE, "none", "regressor", "segmentor", names.TRUTH, names.SEG_LESS_REG}
    assert {row["method"] for row in own} == methods
    value = {(row["method"], row["intervention"]): row["value"] for row in own}
    for variable in run.study.measured:
        expected = value["segmentor", variable] - value["regressor", variable]
        assert value[names.SEG_LESS_REG, variable] == pytest.approx(expected)
    judge = [row for row in rows if row["metric"] == Bias.name and row["method"] == names.JUDGE]
    assert [row["structure"] for row in judge] == list(run.study.structures)


@pytest.mark.parametrize("kind", ["table", "report", "results"])
def test_its_words_are_read_beside_its_numbers(run: Run, kind: str) -> None:
    text = {
        "table": lambda: (run.evaluation / "table.md").read_text(encoding="utf-8"),
        "report": lambda: render_report(run, CPU),
        "results": lambda: render_results([run.folder]),
    }[kind]()
    rows = json.loads((run.evaluation / "table.json").read_text(encoding="utf-8"))
    for metric in (METRICS["saturation"], Bias()):
        assert metric.words(run.study).title in text
        for row in rows:
            if (
                row["metric"] == metric.name
                and row["method"] == "segmentor"
                and (row["intervened"] or kind != "results")
            ):
                assert f"{metric.factor * row['value']:.{metric.digits}f}" in text
    assert "saturated pixels: share of the pixels that are black or white." in text
    assert "Read on known size; 1 is right" in text


class Finds(Metric):
    """What it is told to find, of a batch of two samples."""

    name = "finds"

    def __init__(self, *results: object) -> None:
        self.results = results

    def words(self, study: Study) -> Words:
        return Words(self.name)

    def of_judge(self, batch: FactualBatch) -> Iterator[Result]:
        yield from self.results


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([Result(torch.zeros(3))], Code.INVALID),
        ([Result(torch.tensor(0.0))], Code.INVALID),
        ([Result(torch.zeros(2, 1))], Code.INVALID),
        ([Result([0.0, 0.0])], Code.INVALID),
        ([Result(torch.zeros(2), weights=torch.ones(1))], Code.INVALID),
        ([torch.zeros(2)], Code.INVALID),
        ([Result(torch.zeros(2), "haert")], Code.UNKNOWN),
        ([Result(torch.zeros(2), "heart"), Result(torch.ones(2), "heart")], Code.DUPLICATE),
        ([Result(torch.zeros(2)), Result(torch.ones(2))], Code.DUPLICATE),
    ],
)
def test_a_wrong_result_is_told_with_the_metric_that_gave_it(
    small_study: Study, results: list[object], code: Code
) -> None:
    metric = Finds(*results)
    with refused(SegcftError, code, "'finds'"):
        results_of(metric, metric.of_judge(None), small_study, samples=2)


@pytest.mark.parametrize("found", [None, torch.zeros(2), Result(torch.zeros(2))])
def test_results_are_given_by_yield(small_study: Study, found: object) -> None:
    with refused(SegcftError, Code.INVALID, "'finds'"):
        results_of(Finds(), found, small_study, samples=2)


def test_a_right_result_is_kept(small_study: Study) -> None:
    right = [Result(torch.zeros(2), name, torch.ones(2)) for name in (*small_study.structures, "")]
    assert results_of(Finds(), iter(right), small_study, samples=2) == right


def test_a_metric_without_results_of_some_samples_is_named() -> None:
    scores = Scores()
    for batch in range(2):
        scores.add("none", "mape", torch.zeros(2))
        if batch:
            scores.add("none", "slope", torch.zeros(2))
    for collect in (lambda people: scores.rows(people, 10, 0), lambda people: scores.by_sample(people, people)):
        with refused(SegcftError, Code.INVALID, "'slope'"):
            collect(["a", "b", "c", "d"])


def test_a_metric_that_cannot_be_right_is_refused_when_it_is_added() -> None:
    class Sideways(Bias):
        name = "sideways"
        better = "sideways"

    class Silent(Metric):
        name = "silent"

        def words(self, study: Study) -> Words:
            return Words("silent")

    for metric in (Sideways(), Silent()):
        with refused(SegcftError, Code.INVALID, repr(metric.name)):
            METRICS.add(metric.name, metric)
        assert metric.name not in METRICS


def test_a_name_is_given_once() -> None:
    assert "slope" in METRICS

    class Other(Bias):
        name = "slope"

    with refused(SegcftError, Code.DUPLICATE, "'slope'"):
        METRICS.add(Other.name, Other())
