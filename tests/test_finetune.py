"""Counterfactual fine-tuning: who is trained, on which interventions, and under which constraint."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segcft.config.study import Study
from segcft.counterfactual.finetune import CounterfactualObjective, constraint_level
from segcft.counterfactual.scale import scales
from segcft.data.batches import Batches
from segcft.grey import to_unit
from segcft.pipeline.run import Run
from segcft.training.loop import make_fabric
from tests.descent import assert_gradient_leads_down

GUIDES = ("segmentor", "regressor")


@pytest.fixture
def objective(small_run: Run) -> Any:
    """``objective(guide, slack, **spec)``: that of the small run's pre-trained image model."""

    def make(guide: str = "segmentor", slack: float = 0.0, **changes: Any) -> CounterfactualObjective:
        study = small_run.study
        spec = study.finetune.model_copy(update=changes)
        hvae, scm = small_run.load("hvae").requires_grad_(True), small_run.load("scm")
        store = small_run.store()
        marginal = torch.from_numpy(store.values()[store.indices("train", complete=True)])
        bound = constraint_level(hvae, study, batches_of(small_run), make_fabric("cpu")) + slack
        return CounterfactualObjective(hvae, scm, small_run.load(guide), spec, study, marginal, bound).train()

    return make


def batches_of(run: Run) -> Batches:
    store = run.store()
    return Batches(store, store.indices("train", complete=True), run.study.finetune.batch_size, seed=0)


def values_of(run: Run, rows: int) -> Tensor:
    return torch.from_numpy(run.store().values()[:rows])


def few_steps(objective: CounterfactualObjective, run: Run, steps: int, rate: float = 3e-3) -> list[dict[str, float]]:
    groups = objective.parameter_groups(run.study.finetune.model_copy(update={"learning_rate": rate}))
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    batches, history = batches_of(run), []
    for step in range(steps):
        torch.manual_seed(step)
        loss, figures = objective(batches.batch(step), step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.network.parameters(), 5.0)
        optimiser.step()
        objective.after_step()
        optimiser.zero_grad()
        history.append({key: float(value.detach()) for key, value in figures.items()})
    return history


@pytest.mark.parametrize("guide", GUIDES)
def test_gradients_reach_the_image_mechanism_whole_and_nothing_frozen(
    small_run: Run, objective: Any, guide: str
) -> None:
    made = objective(guide)
    torch.manual_seed(0)
    made(batches_of(small_run).batch(0), 0)[0].backward()
    # The way to the exogenous stream beyond the last latent is read by nothing.
    unread = {"decoder.3.place_e", "decoder.3.up_e.weight", "decoder.3.up_e.bias"}
    dead = {k for k, p in made.network.named_parameters() if p.grad is None or not p.grad.any()}
    assert dead == unread
    for frozen in (made.scm, made.guide):
        assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
    assert made.multiplier.grad is not None
    trained = {id(p) for group in made.parameter_groups(small_run.study.finetune) for p in group["params"]}
    assert trained == {id(p) for p in made.network.parameters()} | {id(made.multiplier)}


@pytest.mark.parametrize("guide", GUIDES)
def test_the_guide_loss_alone_trains_what_draws_the_image(small_run: Run, objective: Any, guide: str) -> None:
    """The counterfactual term: through guide, pixels and both streams back to the posterior."""
    made = objective(guide)
    torch.manual_seed(0)
    loss, figures = made(batches_of(small_run).batch(0), 0)
    del loss
    figures["guide"].backward()
    reached = {k.split(".")[0] for k, p in made.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"embed", "encoder", "decoder", "head", "warp"}
    assert made.multiplier.grad is None


def test_the_guide_stays_as_it_is_while_the_network_trains(small_run: Run, objective: Any) -> None:
    made = objective()
    made.train()
    assert made.network.training
    assert not any(module.training for frozen in (made.guide, made.scm) for module in frozen.modules())
    before = {k: v.clone() for k, v in {**made.guide.state_dict(), **made.scm.state_dict()}.items()}
    few_steps(made, small_run, 2)
    after = {**made.guide.state_dict(), **made.scm.state_dict()}
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_each_sample_gets_one_intervention_from_the_training_marginal(small_run: Run, objective: Any) -> None:
    made, values = objective(), values_of(small_run, 60)
    torch.manual_seed(0)
    do = torch.cat([made.draw_intervention(values) for _ in range(20)])
    known = ~do.isnan()
    assert (known.sum(dim=1) == 1).all()
    share = known.float().mean(dim=0)
    assert share.tolist() == pytest.approx([0.2] * 5, abs=0.05)  # every variable as often
    for column in range(5):
        asked, marginal = do[known[:, column], column], made.marginal[:, column]
        assert np.isin(asked.numpy(), marginal.numpy()).all()
        assert len(asked.unique()) > min(20, len(marginal.unique()) - 1)


def test_only_the_variables_of_the_study_are_intervened_on(small_run: Run, objective: Any) -> None:
    made = objective(intervene=("age", "heart_area"))
    do = torch.cat([made.draw_intervention(values_of(small_run, 60)) for _ in range(5)])
    assert (~do.isnan()).any(dim=0).tolist() == [False, True, False, False, True]


def test_also_sets_further_variables_each_from_another_person(small_run: Run, objective: Any) -> None:
    made = objective(also=0.5, intervene=("age", "left_lung_area", "right_lung_area", "heart_area"))
    torch.manual_seed(0)
    do = torch.cat([made.draw_intervention(values_of(small_run, 60)) for _ in range(20)])
    known = ~do.isnan()
    assert known.any(dim=1).all()
    # One of four is chosen, each of the other three with probability 1/2.
    assert known.float().mean(dim=0).tolist() == pytest.approx([0, *[1 / 4 + 3 / 4 / 2] * 4], abs=0.05)
    both = do[known[:, 2:4].all(dim=1)][:, 2:4]
    people = {tuple(row) for row in made.marginal[:, 2:4].tolist()}
    assert np.mean([tuple(row) in people for row in both.tolist()]) < 0.5  # not one person's pair of areas


def test_areas_follow_an_intervention_on_their_cause(small_run: Run, objective: Any) -> None:
    """pa~ comes from the SCM: the guide is told what the areas become, not what they were."""
    made, values = objective(), values_of(small_run, 12)
    do = made.scm.intervention(12, age=20.0)
    after = made.scm.counterfactual(values, do)
    assert not torch.allclose(after[:, 2:], values[:, 2:])


def test_the_guide_loss_weighs_structures_alike(small_run: Run, objective: Any) -> None:
    for scale in ("std", "mean"):
        made = objective(area_scale=scale)
        observed = made.marginal[:, 2:]
        expected = observed.std(0) if scale == "std" else observed.mean(0)
        torch.testing.assert_close(made.area_scale, expected)
    x = to_unit(torch.from_numpy(small_run.store().images[:5].copy()))
    read = made.guide.read(x)
    values = torch.zeros(5, 5)
    values[:, 2:] = read + made.area_scale * torch.tensor([1.0, 2.0, 3.0])
    assert float(made.guide_loss(x, values)) == pytest.approx((1 + 4 + 9) / 3, rel=1e-4)


def test_a_measure_that_follows_from_others_counts_by_what_is_left_of_it(small_study: Study) -> None:
    """One follows from another and a category but for a known rest, one from the rest altogether, one from nothing."""
    generator = torch.Generator().manual_seed(0)
    sex = torch.randint(2, (4000,), generator=generator).double()
    age, free, rest = (torch.randn(4000, generator=generator, dtype=torch.float64) for _ in range(3))
    follows = 3 * free + 5 * sex + 0.5 * rest
    values = torch.stack([sex, age, free, follows, free + follows], dim=1)
    assert list(small_study.variables) == ["sex", "age", *small_study.measured]
    found = scales(small_study, values, "given others")
    # All three measures follow from the other two, so all are at the least that counts.
    torch.testing.assert_close(found, 0.1 * values[:, 2:].std(dim=0))
    alone = values.clone()
    alone[:, 4] = torch.randn(4000, generator=generator, dtype=torch.float64)
    alone[::7, 1] = torch.nan  # whose age is missing does not count
    known = ~alone[:, 1].isnan()
    found = scales(small_study, alone, "given others")
    assert float(found[1]) == pytest.approx(0.5 * float(rest[known].std()), rel=0.02)
    assert float(found[2]) == pytest.approx(float(alone[known, 4].std()), rel=0.02)


def test_an_absolute_guide_loss_is_as_steep_near_the_goal_as_far_from_it(small_run: Run, objective: Any) -> None:
    made = objective(guide_loss="absolute", rounding=0.01)
    x = to_unit(torch.from_numpy(small_run.store().images[:4].copy()))
    read = made.guide.read(x)
    values = values_of(small_run, 4).clone()
    losses = []
    for miss in (0.0, 0.5, 1.0):
        values[:, made.measured] = read + miss * made.area_scale
        losses.append(float(made.guide_loss(x, values)))
    assert losses == pytest.approx([0.0, 0.5, 1.0], abs=0.01)


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("changes", [{"area_scale": "mean"}, {"guide_loss": "absolute"}, {}])
def test_an_absent_structure_can_be_asked_for(plaque_run: Run, guide: str, changes: dict[str, Any]) -> None:
    """Gone or where there was none, the guide's error pulls at the image, and by a finite amount."""
    study = plaque_run.study
    spec = study.finetune.model_copy(update=changes)
    store = plaque_run.store()
    marginal = torch.from_numpy(store.values()[store.indices("train", complete=True)])
    hvae, scm, reader = (plaque_run.load(part) for part in ("hvae", "scm", guide))
    made = CounterfactualObjective(hvae.requires_grad_(True), scm, reader, spec, study, marginal, 10.0).train()
    values = values_of(plaque_run, 60)
    torch.manual_seed(0)
    do = torch.cat([made.draw_intervention(values) for _ in range(5)])[:, study.measured_columns[1]]
    assert (do == 0).sum() > 10  # of about 100
    x = to_unit(torch.from_numpy(store.images[:60].copy())).requires_grad_()
    gone = values.clone()
    gone[:, study.measured_columns[1]] = 0
    made.guide_loss(x, gone).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.flatten(1).any(dim=1).all()
    loss, figures = made(batches_of(plaque_run).batch(0), 0)
    loss.backward()
    assert all(figure.isfinite() for figure in figures.values())
    assert all(p.grad.isfinite().all() for p in hvae.parameters() if p.grad is not None)


def test_change_is_the_share_of_pixels_that_visibly_change(objective: Any) -> None:
    made = objective(change_scale=0.01)
    difference = torch.zeros(2, 1, 10, 10)
    assert made.changed_share(difference).tolist() == [0, 0]
    difference[1, :, :2] = 1.0
    assert made.changed_share(difference).tolist() == [0, pytest.approx(0.2, rel=0.02)]
    assert made.changed_share(0.5 * difference)[1] == pytest.approx(0.2, rel=0.05)  # the contrast hardly matters


@pytest.mark.parametrize("changes", [{}, {"guide_loss": "absolute", "least_change": 0.0}])
@pytest.mark.parametrize("guide", GUIDES)
def test_what_is_followed_is_the_sum_of_all_that_is_asked(
    small_run: Run, objective: Any, guide: str, changes: dict[str, Any]
) -> None:
    """The gradient: the guide's, that of the changed pixels by their price, the bound's by the damped multiplier."""
    made = objective(guide, **{"slack": -1.0, "multiplier": 10.0, "least_change": 20.0} | changes)
    torch.manual_seed(0)
    loss, figures = made(batches_of(small_run).batch(0), 0)
    parameters = [p for p in made.network.parameters() if p.requires_grad]

    def gradient(of: Tensor) -> Tensor:
        found = torch.autograd.grad(of, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([one.flatten() for one in found])

    weight = 10 + made.spec.damping * float(figures["violation"].detach())
    parts = [(1.0, "guide"), (made.spec.least_change, "change"), (weight, "violation")]
    expected = sum(share * gradient(figures[name]) for share, name in parts)
    torch.testing.assert_close(gradient(loss), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    (ascent,) = torch.autograd.grad(loss, [made.multiplier])
    assert float(ascent) == pytest.approx(float(figures["violation"].detach()))


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("figure", ["guide", "change", "violation"])
def test_the_gradient_leads_to_what_is_asked(small_run: Run, objective: Any, guide: str, figure: str) -> None:
    """Images that the guide reads as asked, fewer changed pixels, a better bound."""
    made, batch = objective(guide, slack=-1.0), batches_of(small_run).batch(0)

    def loss() -> Tensor:
        torch.manual_seed(0)
        return made(batch, 0)[1][figure]

    assert_gradient_leads_down(loss, made.network.parameters())


@pytest.mark.parametrize(("slack", "rises"), [(-5.0, True), (5.0, False)])
def test_the_multiplier_follows_the_constraint(small_run: Run, objective: Any, slack: float, rises: bool) -> None:
    made = objective(slack=slack, multiplier_learning_rate=0.1)
    history = few_steps(made, small_run, 6, rate=1e-5)
    path = [row["multiplier"] for row in history]
    assert all((row["violation"] > 0) == rises for row in history)
    assert path == sorted(path, reverse=not rises)
    assert (path[0], path[-1]) == (1, pytest.approx(1.5 if rises else 0.5, abs=0.05))


def test_abduction_by_the_mean_draws_nothing_in_the_bound_and_in_the_steps(small_run: Run, objective: Any) -> None:
    made, batch = objective(abduction="mean"), batches_of(small_run).batch(0)
    violations = []
    for seed in range(2):
        torch.manual_seed(seed)  # the interventions differ, and nothing else
        violations.append(float(made(batch, 0)[1]["violation"].detach()))
    assert violations[0] == violations[1]
    spec = small_run.study.finetune.model_copy(update={"abduction": "mean"})
    study = small_run.study.model_copy(update={"finetune": spec})
    by_mean, by_sample = (
        constraint_level(small_run.load("hvae"), s, batches_of(small_run), make_fabric("cpu"))
        for s in (study, small_run.study)
    )
    assert by_mean < by_sample


def test_the_multiplier_never_becomes_negative(small_run: Run, objective: Any) -> None:
    made = objective(slack=5.0, multiplier_learning_rate=0.5)
    path = [row["multiplier"] for row in few_steps(made, small_run, 5)]
    assert path[-1] == made.multiplier.item() == 0
    assert min(path) >= 0


def test_the_bound_is_the_pretrained_models_own(small_run: Run) -> None:
    study: Study = small_run.study
    hvae = small_run.load("hvae")
    levels = [constraint_level(hvae, study, batches_of(small_run), make_fabric("cpu")) for _ in range(2)]
    assert levels[0] == levels[1]
    with torch.no_grad():
        x = to_unit(torch.from_numpy(small_run.store().images[:60].copy()))
        bound = hvae.constraint(x, values_of(small_run, 60)).mean()
    assert levels[0] == pytest.approx(float(bound), abs=0.1)
