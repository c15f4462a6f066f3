"""Which border moves: of answers, and of people who differ."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from segcft.config.loader import parse_study
from segcft.evaluate.answered import AnsweredBatch, AskedBatch, FactualBatch
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.metrics.displacement import PLACES, places_of_people, spread
from segcft.evaluate.metrics.metric import METRICS
from segcft.evaluate.metrics.true_overlap import TrueDice
from segcft.evaluate.names import NO_CHANGE, PEOPLE, TRUTH
from segcft.evaluate.truth import Drawn
from segcft.importers.folder import import_folder
from segcft.measures.measurements import Measurements
from segcft.pipeline.run import Run
from segcft.readers.reader import MaskReader
from tests.conftest import small_mapping

CPU = torch.device("cpu")
TOP, LEFT, WIDTH = 6, 5, 16


class Seen(MaskReader):
    """Sees the structures where an image is bright."""

    def __init__(self, measurements: Measurements) -> None:
        super().__init__()
        self.measurements = measurements

    def forward(self, image: Tensor) -> Tensor:
        return 40 * image


def block(height: int, top: int = TOP) -> np.ndarray:
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[top : top + height, LEFT : LEFT + WIDTH] = 1
    return mask


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """People with a block that grows downwards, of a height by age; one grey level shows it."""
    folder, rng = tmp_path_factory.mktemp("blocks"), np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    ages = rng.uniform(20, 80, 60)
    heights = (6 + ages / 10 + rng.uniform(0, 8, 60)).round().astype(int)
    for k, height in enumerate(heights):
        Image.fromarray(255 * block(height)).save(folder / "images" / f"p{k}.png")
        Image.fromarray(block(height)).save(folder / "masks" / f"p{k}.png")
    pd.DataFrame({"id": [f"p{k}" for k in range(60)], "age": ages}).to_csv(folder / "metadata.csv", index=False)
    raw: dict[str, Any] = small_mapping() | {"data": {"source": "folder"}}
    raw["variables"] = {
        "age": {"kind": "continuous"},
        "area": {"kind": "continuous", "parents": ["age"]},
    }
    raw["structures"] = {"block": {"variable": "area", "label": 1}}
    raw["evaluation"] |= {"interventions": [], "progression": []}
    study = parse_study(raw)
    store = import_folder(study, folder, folder / "store")
    return Cohort.choose(study, store, store.indices("test", complete=True), CPU)


def answers(cohort: Cohort, top: int) -> tuple[AnsweredBatch, ...]:
    """All are asked for four rows more, which come at the bottom (``top`` 0) or at the top (4); and the truth."""
    samples = next(cohort.batches())
    judge = Seen(Measurements.of(cohort.study))
    after = samples.values.clone()
    after[:, 1] += 4 * WIDTH
    heights = (samples.values[:, 1] / WIDTH).round().int().tolist()

    def drawn(shift: int) -> Tensor:
        return torch.stack([torch.from_numpy(block(height + 4, TOP - shift)) for height in heights])[:, None].float()

    truth = Drawn(2 * drawn(0) - 1, drawn(0))
    asked = AskedBatch(FactualBatch(cohort, samples, judge), "area", after, truth)
    made = 2 * drawn(top) - 1
    return AnsweredBatch(asked, "segmentor", made, None, made), AnsweredBatch(
        asked, TRUTH, truth.image, None, truth.image
    )


def moved(cohort: Cohort, answer: AnsweredBatch) -> dict[str, float]:
    """Pixels by which every place moves for one standard deviation more."""
    found = {}
    for place in PLACES:
        (result,) = METRICS[f"displacement of {place}"].of_answer(answer)
        assert result.structure == "block"
        assert result.weights is not None
        found[place] = float((result.values * result.weights).sum() / result.weights.sum())
    return found


def test_an_answer_that_moves_the_wrong_border_is_seen(cohort: Cohort) -> None:
    rows = spread(cohort, "area") / WIDTH  # of one standard deviation
    right = {"top": 0, "bottom": rows, "left": 0, "right": 0, "x": 0, "y": rows / 2}
    assert moved(cohort, answers(cohort, top=0)[0]) == pytest.approx(right, abs=0.1 * rows)
    wrong = right | {"top": -rows, "bottom": 0, "y": -rows / 2}
    assert moved(cohort, answers(cohort, top=4)[0]) == pytest.approx(wrong, abs=0.1 * rows)


def test_its_overlap_with_the_truth_is_that_of_the_masks(cohort: Cohort) -> None:
    for top, exact in ((0, True), (4, False)):
        answer, truth = answers(cohort, top)
        (found,), (best,) = TrueDice().of_answer(answer), TrueDice().of_answer(truth)
        assert (best.values == 1).all()
        heights = answer.asked.factual.known[:, 0] / WIDTH
        expected = torch.ones_like(heights) if exact else heights / (heights + 4)
        assert torch.allclose(found.values, expected, atol=1e-5)


def test_people_show_where_a_larger_structure_ends(cohort: Cohort) -> None:
    rows = {row["metric"].split()[-1]: row for row in places_of_people(cohort, cohort.store, ["age", "area"])}
    assert {row["method"] for row in rows.values()} == {PEOPLE}
    sd = spread(cohort, "area") / WIDTH
    for place, expected in {"top": 0, "bottom": sd, "left": 0, "right": 0, "x": 0, "y": sd / 2}.items():
        row = rows[place]
        assert row["value"] == pytest.approx(expected, abs=0.1 * sd)
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert row["n"] == len(cohort.store.indices("train"))


def test_nothing_is_said_of_no_change(cohort: Cohort) -> None:
    answer = answers(cohort, top=0)[0]
    idle = AnsweredBatch(answer.asked, NO_CHANGE, answer.image, None, answer.image)
    assert not [found for place in PLACES for found in METRICS[f"displacement of {place}"].of_answer(idle)]


@pytest.mark.slow
def test_a_run_has_a_table_of_places(small_run: Run) -> None:
    rows = json.loads((small_run.evaluation / "table.json").read_text())
    asked = set(small_run.study.evaluation.interventions or small_run.study.measured)
    for place in PLACES:
        found = [row for row in rows if row["metric"] == f"displacement of {place}"]
        assert {row["intervention"] for row in found} == asked
        assert {TRUTH, "none"} <= {row["method"] for row in found}
    assert "Which borders move?" in (small_run.evaluation / "table.md").read_text()
