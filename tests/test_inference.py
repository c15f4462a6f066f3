"""What is inferred of attributes that nobody gives: against the exact posterior, by integration over a grid."""

from __future__ import annotations

import math

import pytest
import torch

from refused import refused
from segcft.causal.missing import MissingValues
from segcft.causal.scm import StructuralCausalModel
from segcft.config.stages import SCMSpec
from segcft.config.variable import Variable
from segcft.errors import Code, InterventionError


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
