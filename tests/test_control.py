"""The control: guides read the answers in the judge's place."""

import json

import pytest
import torch

from segcft.config.study import Study
from segcft.evaluate.answered import AnsweredBatch, AskedBatch, FactualBatch
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.metrics.control import ReadByGuide
from segcft.evaluate.metrics.effectiveness import error_of
from segcft.evaluate.metrics.metric import METRICS
from segcft.pipeline.run import Run
from tests.conftest import MakeStudy


def answered(run: Run, guides: tuple[str, ...], variable: str = "heart_area") -> AnsweredBatch:
    """The images of a few test people as the answer to another area of the heart."""
    study, store = run.study, run.store()
    cohort = Cohort(study, store, store.indices("test", complete=True)[:5], torch.device("cpu"))
    samples = next(cohort.batches())
    factual = FactualBatch(cohort, samples, run.judge(), guides={name: run.load(name) for name in guides})
    after = samples.values.clone()
    after[:, cohort.column(variable)] *= 1.1
    return AnsweredBatch(AskedBatch(factual, variable, after, None), "segmentor", samples.image, None, samples.image)


@pytest.mark.parametrize("guide", ["regressor", "segmentor"])
def test_a_guide_reads_the_structure_that_was_changed(small_run: Run, guide: str) -> None:
    answer = answered(small_run, ("regressor", "segmentor"))
    (result,) = ReadByGuide(guide).of_answer(answer)
    read = small_run.load(guide).read(answer.image)
    column = list(small_run.study.structures).index("heart")
    expected = error_of(small_run.study).error(read, answer.asked.wanted)[:, column]
    assert result.structure == "heart"
    assert torch.allclose(result.values, expected)


def test_who_is_not_at_hand_says_nothing(small_run: Run) -> None:
    assert list(ReadByGuide("regressor").of_answer(answered(small_run, ("segmentor",)))) == []


def test_a_cause_has_no_structure(small_run: Run) -> None:
    assert list(ReadByGuide("segmentor").of_answer(answered(small_run, ("segmentor",), "age"))) == []


def test_it_applies_to_the_guides_of_the_study(small_study: Study, make_small_study: MakeStudy) -> None:
    assert ReadByGuide("regressor").applies(small_study)
    assert not ReadByGuide("regressor").applies(make_small_study({"finetune.guides": ["segmentor"]}))


def test_a_table_has_both(small_run: Run) -> None:
    rows = json.loads((small_run.evaluation / "table.json").read_text(encoding="utf-8"))
    for guide in ("regressor", "segmentor"):
        name = f"error read by the {guide}"
        assert name in METRICS
        found = {(row["method"], row["structure"]) for row in rows if row["metric"] == name}
        assert {
            (method, structure) for method in small_run.methods() for structure in small_run.study.structures
        } <= found
        assert f"Read by the {guide}" in (small_run.evaluation / "table.md").read_text(encoding="utf-8")
