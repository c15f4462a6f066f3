"""What is inferred of attributes that nobody gives: against the exact posterior, by integration over a grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from refused import refused
from segcft.causal.missing import MissingValues
from segcft.causal.scm import StructuralCausalModel
from segcft.config.stages import RegressorSpec, SCMSpec
from segcft.config.variable import Variable
from segcft.errors import Code, InterventionError
from segcft.readers.evidence import ImageEvidence
from segcft.readers.predictor import Predictor


def chain() -> StructuralCausalModel:
    """age -> weight -> area, sex -> area, with flows that bend: their weights are random and not small."""
    torch.manual_seed(3)
    variables = {
        "age": Variable(kind="continuous"),
        "sex": Variable(kind="categorical", categories=("F", "M")),
        "weight": Variable(kind="continuous", parents=("age",)),
        "area": Variable(kind="continuous", parents=("weight", "sex")),
    }
    scm = StructuralCausalModel(variables, SCMSpec(steps=1))
    with torch.no_grad():
        for parameter in scm.mechanisms.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    scm.set_statistics(torch.randn(500, 4).mul(torch.tensor([10, 0, 5, 50])) + torch.tensor([60, 0, 70, 500]))
    return scm.eval()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    "known", [{"age": 72.0, "area": 540.0}, {"age": 50.0}, {"area": 430.0, "sex": 1.0, "age": 65.0}]
)
@torch.no_grad()
def test_a_missing_cause_is_inferred_from_its_own_causes_and_its_effects(known: dict[str, float]) -> None:
    scm = chain()
    values = torch.full((1, 4), math.nan)
    for name, value in known.items():
        values[0, scm.variables.index(name)] = value
    # The posterior of weight (and of sex) on a grid; an unknown area adds no evidence.
    grid = torch.linspace(0, 140, 4001)
    posterior, joint = {}, []
    for sex in (0.0, 1.0):
        people = values.expand(len(grid), -1).clone()
        people[:, 2] = grid
        people[:, 1] = known.get("sex", sex)
        joint.append(scm.log_prob(people)[:, [k for k in range(4) if not people[0, k].isnan()]].sum(dim=1))
    weights = torch.softmax(torch.stack(joint).flatten(), dim=0).unflatten(0, (2, -1))
    exact = float((weights * grid).sum())
    spread = float((weights * (grid - exact).square()).sum().sqrt())
    posterior["weight"] = (exact, spread)
    filled, certainty = MissingValues(scm, values, generator()).likely()
    assert float(filled[0, 2]) == pytest.approx(exact, abs=0.15 * spread + 0.05)
    assert certainty["weight"] == pytest.approx(spread, rel=0.2, abs=0.05)
    if "sex" not in known:
        assert certainty["sex"] == pytest.approx(float(weights.sum(dim=1).max()), abs=0.05)
    for name, value in known.items():
        assert float(filled[0, scm.variables.index(name)]) == value


@torch.no_grad()
def test_draws_are_of_the_posterior() -> None:
    scm = chain()
    values = torch.tensor([[72.0, math.nan, math.nan, 540.0]])
    missing = MissingValues(scm, values, generator())
    filled, certainty = missing.likely()
    drawn = missing.draw(3000, generator())
    assert float(drawn[:, 2].mean()) == pytest.approx(float(filled[0, 2]), abs=0.1 * certainty["weight"])
    assert (drawn[:, [0, 3]] == values[:, [0, 3]]).all()
    whole = torch.tensor([[72.0, 1.0, 70.0, 540.0]])
    nothing = MissingValues(scm, whole, generator())
    assert torch.equal(nothing.likely()[0], whole)
    assert torch.equal(nothing.draw(2, generator()), whole.expand(2, -1))


def test_somebody_impossible_is_refused() -> None:
    with refused(InterventionError, Code.OUT_OF_RANGE):
        MissingValues(chain(), torch.tensor([[1e30, math.nan, math.nan, 1e30]]), generator())


# --- what an image says of what is missing ---


def evidence(
    people: int = 400, tells: float = 1.0
) -> tuple[StructuralCausalModel, ImageEvidence, Callable[..., Tensor]]:
    """Of a predictor that says of images the weight of their subjects, with noise, in standard deviations of it."""
    scm = chain()
    predictor = Predictor(RegressorSpec(steps=1), 1, 2, scm.definitions, ["weight"])
    values = scm.sample(people, generator()).detach()
    predictor.set_statistics(values)
    noise = torch.Generator().manual_seed(1)

    def says(values: Tensor) -> Tensor:
        seen = predictor.encoder(values)[:, predictor.encoder.columns(["weight"])]
        return tells * seen + 0.2 * torch.randn(seen.shape, generator=noise)

    said = says(values)
    predictor.fit_response(said, values, judges=False)
    return scm, ImageEvidence(predictor, said, values), says


@torch.no_grad()
def test_what_an_image_shows_is_evidence_of_what_is_missing() -> None:
    scm, seen, says = evidence()
    people = scm.sample(60, torch.Generator().manual_seed(2))
    said = says(people)
    errors: dict[str, list[float]] = {"told": [], "untold": []}
    for values, one in zip(people[:, None], said, strict=True):
        lacking = values.clone()
        lacking[:, 2] = math.nan
        for name, what in (("told", partial(seen, one)), ("untold", None)):
            filled, _ = MissingValues(scm, lacking, generator(), 1000, what).likely()
            errors[name].append(float((filled - values)[0, 2].square()))
    assert sum(errors["told"]) < 0.5 * sum(errors["untold"])


@torch.no_grad()
def test_an_image_that_shows_nothing_changes_nothing() -> None:
    scm, seen, says = evidence(tells=0.0)
    values = torch.tensor([[72.0, 1.0, math.nan, 540.0]])
    (plain, certain), (told, less) = (
        MissingValues(scm, values, generator(), 4000, what).likely() for what in (None, partial(seen, says(values)[0]))
    )
    assert float(told[0, 2]) == pytest.approx(float(plain[0, 2]), abs=0.25 * certain["weight"])
    assert less["weight"] == pytest.approx(certain["weight"], rel=0.25)
