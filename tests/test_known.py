"""What the judge reads of changes that are known: of images in which one structure was deformed."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from segcft.evaluate.answered import FactualBatch
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.known import known_change
from segcft.evaluate.metrics.metric import METRICS
from segcft.evaluate.names import KNOWN, TRUTH
from segcft.measures.measurements import Measurements
from segcft.pipeline.run import Run
from segcft.readers.reader import MaskReader
from tests.test_displacement import Seen, cohort  # noqa: F401


class Guesses(MaskReader):
    """Sees only the upper half of what is there."""

    def __init__(self, measurements: Measurements) -> None:
        super().__init__()
        self.measurements = measurements

    def forward(self, image: Tensor) -> Tensor:
        seen = 40 * image
        seen[..., 17:, :] = -40
        return seen


def slope(cohort: Cohort, judge: MaskReader) -> float:  # noqa: F811
    answer = known_change(FactualBatch(cohort, next(cohort.batches()), judge), "area")
    assert answer is not None
    assert answer.method == KNOWN
    (result,) = METRICS["slope"].of_answer(answer)
    assert result.structure == "block"
    assert result.weights is not None
    return float((result.values * result.weights).sum() / result.weights.sum())


def test_a_judge_that_sees_all_reads_all_of_a_known_change(cohort: Cohort) -> None:  # noqa: F811
    assert slope(cohort, Seen(Measurements.of(cohort.study))) == pytest.approx(1, abs=0.1)


def test_one_that_sees_a_part_reads_less(cohort: Cohort) -> None:  # noqa: F811
    assert slope(cohort, Guesses(Measurements.of(cohort.study))) < 0.9


def test_what_is_known_is_what_the_deformed_masks_measure(cohort: Cohort) -> None:  # noqa: F811
    samples, judge = next(cohort.batches()), Seen(Measurements.of(cohort.study))
    first, again = (known_change(FactualBatch(cohort, samples, judge), "area") for _ in range(2))
    assert first is not None
    assert again is not None
    assert torch.equal(first.image, again.image)
    wanted = first.asked.wanted[:, 0] - samples.values[:, 1]
    bright = ((first.image + 1) / 2).flatten(1).sum(dim=1) - ((samples.image + 1) / 2).flatten(1).sum(dim=1)
    assert wanted.abs().min() > 0
    torch.testing.assert_close(bright, wanted, atol=2.0, rtol=0)
    assert torch.equal(first.asked.after[:, 0], samples.values[:, 0])  # an age is what it is
    assert known_change(FactualBatch(cohort, samples, judge), "age") is None


@pytest.mark.slow
def test_where_there_is_the_truth_none_is_made(small_run: Run) -> None:
    methods = {row["method"] for row in json.loads((small_run.evaluation / "table.json").read_text())}
    assert TRUTH in methods
    assert KNOWN not in methods
