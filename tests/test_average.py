"""What attributes do to images on average: learnt from people, asked of counterfactuals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segcft.counterfactual.average import AverageEffects
from segcft.data.batches import Batch
from segcft.grey import to_unit
from tests.test_predictor import VARIABLES, people

SIDE = 24
TOP, LEFT = torch.zeros(1, SIDE, SIDE), torch.zeros(1, SIDE, SIDE)
TOP[:, :8], LEFT[:, :, :8] = 60.0, 25.0


def image(values: Tensor, seed: int = 3) -> Tensor:
    """Grey levels uint8 (N, 1, SIDE, SIDE): men are brighter above, a large area on the left; age does nothing."""
    noise = 5 * torch.randn(len(values), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    sex, area = values[:, 0].nan_to_num(0.5), (values[:, 2] - 160) / 60
    return (
        (100 + noise + sex[:, None, None, None] * TOP + area[:, None, None, None] * LEFT).round().clamp(0, 255).byte()
    )


def effects(values: Tensor, attributes: tuple[str, ...] = ("sex", "age")) -> AverageEffects:
    average = AverageEffects(VARIABLES, attributes, 1, (SIDE, SIDE))
    batches: list[Batch] = [{"image": image(part, k), "values": part} for k, part in enumerate(values.split(50))]
    average.fit(batches, values, torch.ones(len(values)))
    return average


def settled(average: AverageEffects, difference: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """What is missed once the same has been seen in many steps."""
    for step in range(100):
        average.train()(difference, before, after, step)
        average.accept()
    return average(difference, before, after, 100)


def asked(count: int = 400) -> tuple[Tensor, Tensor]:
    """Values before and after interventions on sex, which the area follows in part."""
    before = people(count, 5)
    after = before.clone()
    after[:, 0] = people(count, 6)[:, 0]
    after[:, 2] += 20 * (after[:, 0] - before[:, 0]) + people(count, 7)[:, 2] - people(count, 8)[:, 2]
    return before, after


def changes(before: Tensor, after: Tensor, sex: float, area: float) -> Tensor:
    """What counterfactuals change that have those shares of what people show, (N, 1, SIDE, SIDE)."""
    men, larger = after[:, 0] - before[:, 0], (after[:, 2] - before[:, 2]) / 60
    return (men[:, None, None, None] * TOP * sex + larger[:, None, None, None] * LEFT * area) / 127.5


def test_the_effect_of_an_attribute_is_what_people_show_with_all_else_held() -> None:
    average = effects(people(400))
    woman, man = torch.tensor([[0.0, 50.0, 150.0]]), torch.tensor([[1.0, 50.0, 150.0]])
    columns = [column for part in average.columns for column in part]
    found = torch.einsum("bj,j...->b...", average.change(woman, man)[:, columns], average.effect)[0]
    torch.testing.assert_close(found, TOP / 127.5, atol=0.02, rtol=0)  # and nothing on the left, where the area is


def test_what_hardly_shows_is_hardly_asked_for() -> None:
    average = effects(people(400))
    sex, age = average.effect.split([2, 1])
    assert float(sex.square().sum() / average.norm[0]) > 0.97
    assert float(age.square().sum() / average.norm[1]) < 0.5


@pytest.mark.parametrize(
    ("sex", "area", "missed"), [(1.0, 1.0, 0.0), (0.5, 1.0, 0.25), (0.0, 1.0, 1.0), (1.0, 0.0, 0.0)]
)
def test_missed_is_the_share_that_counterfactuals_lack(sex: float, area: float, missed: float) -> None:
    """However much of the area's own effect they have, which follows sex."""
    average = effects(people(400), ("sex",))
    before, after = asked()
    average.fit_draws(before, after)
    found = settled(average, changes(before, after, sex, area), before, after)
    assert found.shape == (1,)
    assert float(found) == pytest.approx(missed, abs=0.05)


def test_its_gradient_leads_to_what_people_show_and_not_far_beyond() -> None:
    average = effects(people(400), ("sex",)).train()
    before, after = asked()
    average.fit_draws(before, after)
    share, found, shares = torch.tensor(0.0, requires_grad=True), [], []
    for step in range(200):
        missed = average(changes(before, after, 1.0, 1.0) * share, before, after, step).sum()
        (slope,) = torch.autograd.grad(missed, share)
        found.append(float(missed.detach()))
        average.accept()
        share = (share - 0.01 * slope).detach().requires_grad_()
        shares.append(float(share.detach()))
    assert found[0] == pytest.approx(1, abs=0.05)
    assert found[-1] < 0.05
    assert shares[-1] == pytest.approx(1, abs=0.1)
    assert max(shares) < 1.2


def test_what_single_samples_change_costs_nothing_where_the_average_is_right() -> None:
    """A batch that were part of the average would be drawn to small changes: its own variance is then asked to fall."""
    average = effects(people(400), ("sex",)).train()
    before, after = asked(8)
    average.fit_draws(*asked())
    average.obtained.copy_(average.effect)
    uneven = changes(before, after, 1.0, 1.0) + torch.randn(
        8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(9)
    )
    uneven.requires_grad_()
    (slope,) = torch.autograd.grad(average(uneven, before, after, 0).sum(), uneven)
    assert not slope.any()


def test_a_step_that_is_refused_leaves_no_trace() -> None:
    average = effects(people(400), ("sex",)).train()
    before, after = asked()
    average.fit_draws(before, after)
    good = changes(before, after, 1.0, 1.0)
    average(torch.full_like(good, math.nan), before, after, 0)
    average(good, before, after, 1)
    average(good, before, after, 1)  # the same step, worked off in two parts
    average.accept()
    once = effects(people(400), ("sex",)).train()
    once.fit_draws(before, after)
    once(good, before, after, 0)
    once.accept()
    torch.testing.assert_close(average.obtained, once.obtained)
    assert once.obtained.any()


def test_it_is_computed_in_full_precision() -> None:
    average = effects(people(400), ("sex",)).train()
    before, after = asked()
    average.fit_draws(before, after)
    with torch.autocast("cpu", torch.bfloat16):
        missed = average(changes(before, after, 1.0, 1.0).bfloat16(), before, after, 0)
    average.accept()
    assert missed.dtype == torch.float32


def test_images_of_one_subject_count_as_one() -> None:
    """They are alike in more than their values, and what they have in common would pass for an effect."""
    values = people(75, 3)
    seen = image(values)
    g = torch.Generator().manual_seed(4)
    bodies = 40 * torch.randn(75, 1, 3, 3, generator=g)  # large patterns that belong to a person
    seen = (seen.float() + torch.nn.functional.interpolate(bodies, SIDE)).clamp(0, 255).byte()
    found = []
    for images in (torch.ones(450), torch.full((450,), 6)):
        average = AverageEffects(VARIABLES, ("age",), 1, (SIDE, SIDE))
        several = values.repeat(6, 1)
        average.fit([{"image": seen.repeat(6, 1, 1, 1), "values": several}], several, images)
        found.append(float(average.effect.square().sum() / average.norm[0]))
    once = AverageEffects(VARIABLES, ("age",), 1, (SIDE, SIDE))
    once.fit([{"image": seen, "values": values}], values, torch.ones(75))
    assert found[1] == pytest.approx(float(once.effect.square().sum() / once.norm[0]), abs=1e-4)
    assert found[1] < 0.5 * found[0]


def test_where_nothing_is_known_nothing_is_asked() -> None:
    """Of few people a weak effect is not seen, and showing it all the same costs no more than not to."""
    average = effects(people(60), ("age",)).train()
    before, after = asked()
    after[:, 1] += 10
    average.fit_draws(before, after)
    weak = (after[:, 1] - before[:, 1])[:, None, None, None] * TOP / 127.5 / 200
    found = [float(settled(average, difference, before, after)) for difference in (weak, torch.zeros_like(weak))]
    assert average.known.mean() < 0.5
    assert found[0] < 0.5
    assert found[1] < 0.5


def test_a_reading_changes_nothing() -> None:
    average = effects(people(400), ("sex",)).eval()
    before, after = asked()
    average.fit_draws(before, after)
    state = average.obtained.clone()
    average(changes(before, after, 1.0, 1.0), before, after)
    average.accept()
    assert torch.equal(average.obtained, state)


def test_values_that_are_missing_do_no_harm() -> None:
    values = people(400)
    values[::3, 0] = math.nan
    values[1::3, 1] = math.nan
    average = effects(values)
    assert average.effect.isfinite().all()
    assert average.norm.isfinite().all()


def test_coarse_images_are_means_of_cells() -> None:
    average = AverageEffects(VARIABLES, ("sex",), 1, (64, 96))
    seen = to_unit(torch.randint(256, (2, 1, 64, 96), dtype=torch.uint8))
    assert average.coarse(seen).shape == (2, 1, 32, 32)
    torch.testing.assert_close(average.coarse(seen)[0, 0, 0, 0], seen[0, 0, :2, :3].mean())
    volume = AverageEffects(VARIABLES, ("sex",), 1, (8, 40, 40))
    assert volume.coarse(torch.zeros(1, 1, 8, 40, 40)).shape == (1, 1, 8, 32, 32)
