"""Exact answers: corrected until the guide reads what was asked for, unless the judge disagrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refused import refused
from segcft.api import answering
from segcft.api.model import Model
from segcft.counterfactual.exact import CLOSE, LARGEST, corrected
from segcft.errors import Code, RunError
from segcft.pipeline.run import Run
from segcft.readers.reader import Reader


class Sums(Reader):
    """Reads the sums of two halves of an image, each too large by a number of its own."""

    def estimate(self, x: Tensor) -> Tensor:
        return torch.stack([x[..., :4].sum(dim=(1, 2, 3)) + 3, x[..., 4:].sum(dim=(1, 2, 3)) - 1], dim=1)


class Answering:
    """Obtains a share of what is asked of the one, and what is asked of the one changes the other."""

    def __init__(self, share: float, leak: float) -> None:
        self.share, self.leak = share, leak

    def predict(self, values: Tensor) -> Tensor:
        image = torch.zeros(len(values), 1, 1, 8)
        image[..., :4] = (self.share * values[:, 0])[:, None, None, None] / 4
        image[..., 4:] = (values[:, 1] + self.leak * values[:, 0])[:, None, None, None] / 4
        return image


@pytest.mark.parametrize(("share", "leak"), [(0.8, 0.0), (0.5, 0.2), (1.4, -0.1)])
def test_what_is_asked_for_is_obtained_and_the_rest_is_left_alone(share: float, leak: float) -> None:
    abduction: Any = Answering(share, leak)
    before = torch.tensor([[10.0, 5.0], [12.0, 6.0]])
    after = before + torch.tensor([[2.0, 0.0], [0.0, -1.0]])
    spread = torch.tensor([4.0, 4.0])
    image = abduction.predict(before)
    found = corrected(abduction, Sums(), image, before, after, [0, 1], spread, torch.tensor([True, True]))
    gained = Sums().read(abduction.predict(found.values)) - Sums().read(image)
    assert torch.allclose(gained, after - before, atol=4 * CLOSE)
    assert (found.missed.abs() <= 4 * CLOSE).all()


def test_what_cannot_be_obtained_is_asked_for_within_bounds_and_never_gets_worse() -> None:
    abduction: Any = Answering(0.0, 1.0)  # nothing of it is obtained, and asking for it spoils the other
    before, after = torch.tensor([[10.0, 5.0]]), torch.tensor([[12.0, 5.0]])
    spread = torch.tensor([4.0, 4.0])
    found = corrected(
        abduction, Sums(), abduction.predict(before), before, after, [0, 1], spread, torch.tensor([True, True])
    )
    assert ((found.values - after).abs() <= LARGEST * spread + 1e-5).all()
    plain = (after - before) - (Sums().read(abduction.predict(after)) - Sums().read(abduction.predict(before)))
    assert float((found.missed / spread).abs().max()) <= float((plain / spread).abs().max()) + 1e-6


def test_a_sample_is_corrected_the_same_beside_any_other() -> None:
    abduction: Any = Answering(0.6, 0.2)
    before = torch.tensor([[10.0, 5.0], [12.0, 6.0]])
    after = before + torch.tensor([[0.05, 0.0], [6.0, -1.0]])
    spread, ratios = torch.tensor([4.0, 4.0]), torch.tensor([True, True])

    def found(rows: slice) -> Tensor:
        image = abduction.predict(before[rows])
        return corrected(abduction, Sums(), image, before[rows], after[rows], [0, 1], spread, ratios).values

    assert torch.equal(found(slice(0, 1)), found(slice(0, 2))[:1])


def test_the_guide_must_be_there(small_run: Run) -> None:
    model, image = Model(small_run), small_run.store().images[0][0]
    with refused(RunError, Code.MISSING):
        model.counterfactual(image, do={"heart_area": "+5%"}, method="none", draws=0, exact=True)


def test_an_exact_answer_says_that_it_is_one(small_run: Run) -> None:
    model, image = Model(small_run), small_run.store().images[0][0]
    assert "exact" not in model.counterfactual(image, do={"heart_area": "+5%"}, draws=0).record
    exact = model.counterfactual(image, do={"heart_area": "+5%"}, draws=0, exact=True)
    assert exact.record["exact"] is not any(warning.startswith("exact:") for warning in exact.warnings)


def test_the_judge_refuses_what_it_reads_as_worse(small_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = Model(small_run), small_run.store().images[0][0]
    plain = model.counterfactual(image, do={"heart_area": "+5%"}, draws=0)
    read, calls = answering._read, list[int]()

    def misread(*given: Any) -> Any:
        found = read(*given)
        calls.append(1)
        return found if len(calls) == 1 else found._replace(grey=255 - found.grey, measures=found.measures * 3)

    monkeypatch.setattr(answering, "_read", misread)
    answer = model.counterfactual(image, do={"heart_area": "+5%"}, draws=0, exact=True)
    assert not answer.record["exact"]
    assert any(warning.startswith("exact:") for warning in answer.warnings)
    assert np.array_equal(answer.image, plain.image)
    assert answer.areas["heart_area"] == plain.areas["heart_area"]
