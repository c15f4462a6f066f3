"""The price of changed pixels: it never makes doing nothing the cheapest."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from refused import refused
from segcft.config.loader import validate
from segcft.config.stages import FinetuneSpec
from segcft.counterfactual.price import READINGS, FixedPrice, FloorPrice, price_of
from segcft.errors import Code, StudyError


def spec(**changes: Any) -> FinetuneSpec:
    return FinetuneSpec(steps=400, **changes)


def follow(price: nn.Module, start: float = 0.3) -> float:
    """How much of what is asked for is obtained at the end, of a mechanism with one parameter: that share a.

    The guide pays 1 for all of it, and little of that at first: its error is 1 - a ** 2. Pixels cost a.
    """
    share = torch.tensor(start, requires_grad=True)
    for step in range(400):
        error = 1 - share**2
        loss = error + price(error, step) * share
        (slope,) = torch.autograd.grad(loss, share)
        with torch.no_grad():
            share.sub_(0.02 * slope).clamp_(0.0, 1.0)
    return float(share.detach())


def test_a_fixed_price_that_is_more_than_the_guide_pays_at_first_ends_in_doing_nothing() -> None:
    """Though doing all that is asked, for 1, would be worth it: nothing costs 1, and all of it 0.99."""
    assert follow(FixedPrice(spec(least_change=0.99))) == 0
    assert follow(FixedPrice(spec(least_change=0.0))) == 1


@pytest.mark.parametrize("slack", [0.05, 0.1, 0.3])
def test_the_floor_keeps_what_the_guide_has_obtained(slack: float) -> None:
    share = follow(FloorPrice(spec(price="floor", price_slack=slack)))
    assert share > 0.9


@given(errors=st.lists(st.floats(0.01, 2), min_size=2, max_size=50), unit=st.sampled_from([2.0**-8, 1.0, 2.0**6]))
def test_the_unit_of_the_error_does_not_matter_and_no_price_is_negative(errors: list[float], unit: float) -> None:
    """There is no exchange rate: the guide's error counts against itself alone. Powers of 2 do not round."""
    one, other = FloorPrice(spec(price="floor", price_from=0.0)), FloorPrice(spec(price="floor", price_from=0.0))
    for step, error in enumerate(errors):
        price = one(torch.tensor(error), step)
        assert torch.equal(price, other(torch.tensor(error) * unit, step))
        assert price >= 0


def test_pixels_are_free_at_first_then_dearer_while_the_error_is_at_its_floor_and_cheaper_beyond() -> None:
    price = FloorPrice(spec(price="floor", price_from=0.5))
    free = [float(price(torch.tensor(1.0), step)) for step in range(200)]
    dear = [float(price(torch.tensor(1.0), step)) for step in range(200, 250)]
    cheap = [float(price(torch.tensor(9.0), step)) for step in range(250, 300)]
    assert set(free) == {0.0}
    assert dear[0] > 0
    assert dear == sorted(dear)
    assert cheap[5:] == sorted(cheap[5:], reverse=True)
    assert cheap[-1] == 0


def test_how_fast_pixels_become_dearer_does_not_depend_on_the_slack() -> None:
    """A small slack must not keep the price at nothing for all of a training."""
    little, much = (FloorPrice(spec(price="floor", price_from=0.5, price_slack=slack)) for slack in (0.02, 0.5))
    for step in range(400):
        prices = [float(price(torch.tensor(1.0), step)) for price in (little, much)]
    assert prices[0] == pytest.approx(prices[1], rel=1e-3)
    assert prices[0] > 2  # more than any study that was tuned by hand has


def test_a_checkpoint_goes_on_with_the_price_where_it_was() -> None:
    def errors(first: int, last: int) -> list[Tensor]:
        return [torch.tensor(1 / (1 + step)) for step in range(first, last)]

    price = FloorPrice(spec(price="floor", price_from=0.01))
    for step, error in enumerate(errors(0, 30)):
        price(error, step)
    restored = FloorPrice(spec(price="floor", price_from=0.01))
    restored.load_state_dict(copy.deepcopy(price.state_dict()))
    for step, error in enumerate(errors(30, 60), start=30):
        assert torch.equal(price(error, step), restored(error, step))


def test_the_study_chooses() -> None:
    assert isinstance(price_of(spec(), 3), FixedPrice)
    assert isinstance(price_of(spec(price="floor"), 3), FloorPrice)


@pytest.mark.parametrize(("readings", "share"), [(1, 1.0), (READINGS, 1.0), (3 * READINGS, 1 / 3)])
def test_pixels_cost_less_where_each_of_many_readings_counts_less(readings: int, share: float) -> None:
    usual, price = (price_of(spec(price="floor", price_from=0.0), n) for n in (3, readings))
    for step in range(50):
        error = torch.tensor(0.3)
        assert float(price(error, step)) == pytest.approx(share * float(usual(error, step)))
    assert float(price(torch.tensor(0.3), 50)) > 0
    assert not FixedPrice(spec()).state_dict(), "checkpoints of version 0.1.0 have no such state"


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ({"price": "floor", "least_change": 1}, "least_change"),
        ({"view": {"scale": 0.1}}, "view"),
        ({"view": {"elastic": 0.1}}, "view"),
        ({"price": "dear"}, "price"),
    ],
)
def test_what_contradicts_itself_is_refused(section: dict[str, Any], field: str) -> None:
    with refused(StudyError, Code.INVALID, field):
        validate(FinetuneSpec, {"steps": 10, **section}, "finetune")
