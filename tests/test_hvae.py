"""The hierarchical VAE: shapes, what each stream sees, the bound, and that its gradient leads to a better one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from segcft.config.image import Image
from segcft.config.mechanisms import HVAESpec
from segcft.config.variable import Variable
from segcft.grey import to_unit
from segcft.grid import Grid
from segcft.image_models.hvae import HVAE, Overlap, ResidualBlock, level_grids
from segcft.image_models.mechanism import ImageMechanism, Known
from tests.descent import assert_gradient_leads_down

VARIABLES = {
    "sex": Variable(kind="categorical", categories=("F", "M")),
    "area": Variable(kind="continuous", scale="log"),
}
# Image size, patch and levels: squares and oblongs, odd factors, levels without latents, down to one pixel.
GRIDS: dict[str, tuple[tuple[int, int], int, list[dict[str, Any]]]] = {
    "square": (
        (16, 16),
        1,
        [{"width": 4, "z": 2, "down": 4}, {"width": 6, "z": 2, "down": 4}, {"width": 4, "z": 3}],
    ),
    "oblong": (
        (12, 32),
        2,
        [{"width": 4, "z": 2}, {"width": 6, "z": 2, "down": (3, 8)}, {"width": 4, "z": 3}],
    ),
    "odd factors": (
        (36, 30),
        2,
        [
            {"width": 4, "z": 0, "down": 3},
            {"width": 4, "z": 2, "down": (3, 5)},
            {"width": 4, "z": 2, "down": (2, 1)},
            {"width": 6, "encoder": 0, "decoder": 2, "z": 2},
        ],
    ),
    "latents between": (
        (16, 16),
        1,
        [
            {"width": 4, "z": 0, "down": 4},
            {"width": 4, "z": 2, "decoder": 2},
            {"width": 4, "z": 0},
            {"width": 4, "z": 2},
        ],
    ),
    "one level": ((8, 8), 1, [{"width": 4, "z": 2}]),
    "no block in the encoder": ((8, 8), 1, [{"width": 4, "encoder": 0, "z": 2}, {"width": 4, "encoder": 0, "z": 2}]),
}


def build(name: str = "square", channels: int = 1, **changes: Any) -> HVAE:
    size, patch, levels = GRIDS[name]
    spec = HVAESpec(steps=1, levels=levels, patch=patch, context=6, **changes)
    torch.manual_seed(0)
    network = HVAE(spec, Image(size=size, channels=channels), VARIABLES)
    network.parents.set_statistics(some_values(64))
    # The head starts near zero; let everything before it be seen.
    for parameter in network.head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def some_values(batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    sex = torch.randint(2, (batch,), generator=generator).float()
    return torch.stack([sex, 100 * torch.exp(0.3 * torch.randn(batch, generator=generator))], dim=1)


def some_images(network: HVAE, name: str = "square", batch: int = 3, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return to_unit(torch.randint(256, (batch, channels, *GRIDS[name][0]), generator=generator).to(torch.uint8))


def one_step(
    network: ImageMechanism, x: Tensor, values: Tensor, finetuning: bool, precision: torch.dtype
) -> tuple[Tensor, dict[str, Tensor | None], int]:
    """Loss and gradients of a step of training, and how many bytes were kept for its backward pass."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held, so that no other gets its address
        return tensor

    torch.manual_seed(3)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16),
    ):
        if finetuning:
            changed, constraint = network.counterfactual_and_constraint(x, values, values.flip(0))
            loss = constraint.mean() + changed.square().mean()
        else:
            loss = network.loss(x, values, 0)[0]
    loss.backward()
    for parameter in network.parameters():  # in memory with or without a backward pass
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return loss.detach(), {key: p.grad for key, p in network.named_parameters()}, sum(map(len, kept.values()))


@pytest.fixture
def network() -> HVAE:
    return build().eval()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", GRIDS)
def test_shapes(name: str, channels: int) -> None:
    network = build(name, channels)
    x, values = some_images(network, name, channels=channels), some_values(3)
    latents = network.encode(x, values)
    likelihood = network.decode(latents, values)
    assert likelihood.loc.shape == likelihood.log_scale.shape == x.shape
    spec, grids = network.spec, level_grids(network.spec, network.grid)
    blocks = [
        (level, here.size)
        for level, here in zip(reversed(spec.levels), reversed(grids), strict=True)
        for _ in range(level.decoder if level.z else 0)
    ]
    assert [f.shape for f in latents.features] == [(3, level.width, *here) for level, here in blocks]
    assert [kl.shape for kl in latents.kl] == [(3, level.z) for level, _ in blocks]
    sampled = network.draw(5)
    assert [f.shape[1:] for f in sampled.features] == [f.shape[1:] for f in latents.features]
    assert sampled.kl == []
    assert network.decode(sampled, some_values(5)).loc.shape == (5, *x.shape[1:])


def test_the_smallest_level_may_be_one_pixel() -> None:
    grids = level_grids(build("odd factors").spec, Grid((36, 30)))
    assert [grid.size for grid in grids] == [(18, 15), (6, 5), (2, 1), (1, 1)]


@pytest.mark.parametrize("name", GRIDS)
def test_every_trained_parameter_matters(name: str) -> None:
    """A dead parameter hides a mistake in the wiring, and stops a training on several devices."""
    network = build(name)
    x, values = some_images(network, name), some_values(3)
    network(x, values).objective.mean().backward()
    dead = [
        key
        for key, parameter in network.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert dead == []


@pytest.mark.parametrize("name", ["odd factors", "latents between"])
def test_only_what_nothing_reads_is_untrained(name: str) -> None:
    fixed = {key for key, p in build(name).named_parameters() if not p.requires_grad}
    last = len(GRIDS[name][2]) - 1
    assert fixed == {f"decoder.{last}.{part}" for part in ("place_e", "up_e.weight", "up_e.bias")}


def test_the_prior_does_not_see_the_parents(network: HVAE) -> None:
    latents = network.draw(2)
    total = torch.stack([feature.sum() for feature in latents.features]).sum()
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    used = {key for key, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    assert any("prior" in key for key in used)
    assert not any(key.startswith(("embed", "encoder")) or "posterior" in key for key in used)


def test_the_posterior_sees_image_and_parents(network: HVAE) -> None:
    x, values = some_images(network), some_values(3)
    other = values.clone()
    other[:, 1] *= 2
    first = network.encode(x, values, sample=False)
    for changed in (network.encode(x, other, sample=False), network.encode(-x, values, sample=False)):
        for a, b in zip(first.features, changed.features, strict=True):
            assert not torch.allclose(a, b, atol=1e-4)


def test_the_image_sees_the_parents_with_the_same_noise(network: HVAE) -> None:
    latents = network.draw(2)
    loc = [network.decode(latents, torch.tensor([[sex, 100.0]] * 2)).loc for sex in (0.0, 1.0)]
    assert not torch.allclose(loc[0], loc[1], atol=1e-3)


def test_the_posterior_mean_is_deterministic_and_a_sample_is_not(network: HVAE) -> None:
    x, values = some_images(network), some_values(3)
    means = [network.encode(x, values, sample=False).features[-1] for _ in range(2)]
    samples = [network.encode(x, values, sample=True).features[-1] for _ in range(2)]
    assert torch.equal(*means)
    assert not torch.allclose(*samples)


def test_a_network_can_learn_from_counterfactuals(network: HVAE) -> None:
    x, values = some_images(network), some_values(3)
    with torch.no_grad():
        image = network.predict(network.abduct(x, values), values.flip(0))
    classifier = torch.nn.Conv2d(1, 1, 3)
    classifier(image.clamp_(-1, 1)).sum().backward()
    assert classifier.weight.grad is not None


def test_pixel_noise_is_drawn_after_the_latents_and_may_be_left_out(network: HVAE) -> None:
    drawn = []
    for pixel_noise in (False, True):
        torch.manual_seed(0)
        drawn.append(network.sample(2, pixel_noise))
    plain, noisy = drawn
    assert plain.pixels is None
    assert torch.equal(plain.latents.features[-1], noisy.latents.features[-1])
    likelihood = network.decode(plain.latents, some_values(2))
    assert torch.equal(network.predict(plain, some_values(2)), likelihood.location)
    assert torch.equal(network.predict(noisy, some_values(2)), likelihood.with_residual(noisy.pixels))


def test_one_pass_draws_the_noise_under_several_sets_of_parents(network: HVAE) -> None:
    x, values = some_images(network), some_values(3)
    latents = network.encode(x, values, sample=False)
    others = values.flip(0)
    both = network.decode(latents, torch.cat([values, others]))
    torch.testing.assert_close(both.loc[:3], network.decode(latents, values).loc)
    torch.testing.assert_close(both.loc[3:], network.decode(latents, others).loc)


@pytest.mark.parametrize("growth", [0.5, 1.0])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("of_answers", [{}, {"grain": 1}, {"noise_moves": "where it changes"}])
def test_a_step_of_fine_tuning_is_abduction_prediction_and_constraint(
    of_answers: dict[str, Any], pairs: bool, growth: float
) -> None:
    """One pass for all three gives what they give one by one."""
    network = build(warp=4, noise_growth=growth, diffeomorphic=bool(of_answers), **of_answers)
    assert network.warp is not None
    torch.nn.init.normal_(network.warp.displace.weight, std=0.2)
    x, values = some_images(network), some_values(3)
    known = Known(x.flip(3), values.roll(1, 0)) if pairs else None
    with torch.no_grad():
        fast = network.counterfactual_and_constraint(x, values, values.flip(0), False, known)
        slow = ImageMechanism.counterfactual_and_constraint(network, x, values, values.flip(0), False, known)
    for ours, plain in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_what_is_told_of_an_abducted_image(network: HVAE) -> None:
    x, values = some_images(network), some_values(3)
    with torch.no_grad():
        noise = network.abduct(x, values, sample=False)
        bound = network(x, values, beta=1.0, sample=False)
        lengths, density = network.lengths(noise), network.log_density(x, values, sample=False)
    torch.testing.assert_close(density, -(bound.distortion + bound.rate))
    torch.testing.assert_close(lengths["image"], -density / math.log(2))
    torch.testing.assert_close(lengths["latents"], bound.rate / math.log(2))
    reconstruction, sampled = network.reconstruction(noise), network.sample(2)
    assert reconstruction is not None
    assert torch.equal(reconstruction, network.decode(noise.latents, values).location)
    assert (network.reconstruction(sampled), network.lengths(sampled)) == (None, {})


@pytest.mark.parametrize("growth", [0.0, 1.0])
@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("name", GRIDS)
def test_the_null_intervention_returns_the_image(name: str, sample: bool, growth: float) -> None:
    network = build(name, noise_growth=growth)
    x, values = some_images(network, name), some_values(3)
    with torch.no_grad():
        assert (network.predict(network.abduct(x, values, sample), values) - x).abs().max() < 1 / 255


def test_the_null_intervention_returns_the_image_after_training(small_run: Any) -> None:
    store = small_run.store()
    x, values = to_unit(torch.from_numpy(store.images[:30].copy())), torch.from_numpy(store.values()[:30])
    for method in ("none", "regressor", "segmentor"):
        model = small_run.model(method)
        found = model.counterfactual(x, values, torch.full_like(values, torch.nan))
        assert (found.image - x).abs().max() < 1 / 255
        assert torch.equal(found.values, values)


def test_the_bound_is_distortion_plus_weighted_rate(network: HVAE) -> None:
    x, values = some_images(network), some_values(3)
    latents = network.encode(x, values)
    likelihood = network.decode(latents, values)
    assert all((kl >= 0).all() for kl in latents.kl)
    bound = network.elbo(x, latents, likelihood, beta=0.25)
    torch.testing.assert_close(bound.distortion, -likelihood.log_prob(x).mean(dim=(1, 2, 3)))
    torch.testing.assert_close(bound.rate, sum(kl.sum(1) for kl in latents.kl) / network.pixels)
    torch.testing.assert_close(bound.objective, bound.distortion + 0.25 * bound.rate)
    assert bound.objective.shape == (3,)


def test_kl_is_that_of_the_sampled_gaussians(network: HVAE) -> None:
    """Monte Carlo: E_q[log q - log p] of the smallest level, whose latent enters nothing before it."""
    x, values = some_images(network, batch=1), some_values(1)
    block, level = network.decoder[0].blocks[0], network.decoder[0]
    seen = network.encoder(x)[-1]
    e = level.enter_exogenous(None, 1)
    with torch.no_grad():
        loc, log_scale = block.posterior(torch.cat([e, seen], 1), network._context(values)).chunk(2, dim=1)
        q, p = torch.distributions.Normal(loc, log_scale.exp()), torch.distributions.Normal(0, 1)
        u = q.sample((100_000,))
        estimate = (q.log_prob(u) - p.log_prob(u)).mean(0).sum(dim=(2, 3))
        torch.testing.assert_close(network.encode(x, values).kl[0], estimate, rtol=0.05, atol=0.02)


def test_free_bits_are_a_floor_on_what_a_channel_pays() -> None:
    network = build(free_bits=1000.0)
    x, values = some_images(network), some_values(3)
    bound = network(x, values, beta=1.0)
    channels = sum(level.z * level.decoder for level in network.spec.levels)
    torch.testing.assert_close(bound.objective, bound.distortion + torch.full((3,), 1000.0 * channels / network.pixels))
    assert (bound.rate < bound.objective - bound.distortion).all()  # what is reported is the true rate
    tiny = build(free_bits=1e-9)
    paid = tiny(x, values, beta=1.0)
    torch.testing.assert_close((paid.objective - paid.distortion).mean(), paid.rate.mean())


def test_beta_comes_from_the_spec_unless_given() -> None:
    network = build(beta=3.0)
    x, values = some_images(network), some_values(3)
    for beta, given in ((3.0, None), (0.5, 0.5)):
        bound = network(x, values, given)
        torch.testing.assert_close(bound.objective, bound.distortion + beta * bound.rate)


def test_the_scale_has_its_lower_bound() -> None:
    network = build(lowest_log_scale=-2.0)
    torch.nn.init.constant_(network.head[1].bias, -50.0)
    log_scale = network.decode(network.draw(2), some_values(2)).log_scale
    assert log_scale.min() >= -2.0


def test_a_block_grows_with_its_input_and_not_with_its_square() -> None:
    torch.manual_seed(0)
    block, context = ResidualBlock(Grid((8, 8)), 6, 6, 6, context=3).double(), torch.zeros(2, 3).double()
    x = 1 + torch.rand(2, 6, 8, 8).double()
    norms = [block(size * x, context).norm() / size for size in (1e4, 1e5, 1e6)]
    assert max(norms) < 2 * min(norms)


def test_an_image_does_not_depend_on_the_rest_of_its_batch(network: HVAE) -> None:
    x, values = some_images(network), some_values(3)
    with torch.no_grad():
        whole = network.decode(network.encode(x, values, sample=False), values).loc
        alone = network.decode(network.encode(x[1:2], values[1:2], sample=False), values[1:2]).loc
    torch.testing.assert_close(whole[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("finetuning", [False, True])
def test_recomputing_saves_memory_and_changes_no_bit(finetuning: bool, precision: torch.dtype) -> None:
    networks = [build(recompute=recompute).train() for recompute in (False, True)]
    x, values = some_images(networks[0]), some_values(3)
    whole, lean = (one_step(network, x, values, finetuning, precision) for network in networks)
    assert torch.equal(lean[0], whole[0])
    for key, gradient in whole[1].items():
        found = lean[1][key]
        assert found is gradient is None or torch.equal(found, gradient), key
    assert lean[2] < whole[2] / 2
    assert one_step(networks[1].eval(), x, values, finetuning, precision)[2] == whole[2]


@pytest.mark.slow
def test_compiled_passes_are_the_same_function() -> None:
    levels = [{"width": 4, "encoder": 1, "z": 2}, {"width": 4, "encoder": 0, "z": 2, "down": 8}]
    spec = HVAESpec.model_validate({"steps": 1, "context": 4, "patch": 2, "levels": levels})
    torch.manual_seed(0)
    network = HVAE(spec, Image(size=(16, 16)), VARIABLES).train()
    x, values = torch.rand(2, 1, 16, 16) * 2 - 1, some_values(2)

    def gradients() -> list[Tensor]:
        network.zero_grad()
        latents = network.encode(x, values, sample=False)
        likelihood = network.factual(latents, values)
        network.elbo(x, latents, likelihood, 1.0).objective.sum().backward()
        return [likelihood.loc, *(p.grad for p in network.parameters() if p.grad is not None)]

    eager = gradients()
    network.compile_passes("aot_eager")  # as the default, but for the generated code, which takes minutes
    compiled = gradients()
    assert len(compiled) == len(eager)
    for ours, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs >= 2  # it was really compiled,
    with torch.no_grad():
        network.encode(x, values)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # and what is done once is not


@pytest.mark.parametrize("name", GRIDS)
def test_the_gradient_leads_to_a_better_bound(name: str) -> None:
    network = build(name).train()
    x, values = some_images(network, name), some_values(3)

    def loss() -> Tensor:
        torch.manual_seed(3)
        return network(x, values).objective.mean()

    assert_gradient_leads_down(loss, network.parameters())


@pytest.mark.parametrize("finetuning", [False, True])
def test_bfloat16_leads_the_same_way(finetuning: bool) -> None:
    network = build("oblong").train()
    x, values = some_images(network, "oblong"), some_values(3)
    losses, gradients = [], []
    for precision in (torch.float32, torch.bfloat16):
        network.zero_grad()
        loss, found, _ = one_step(network, x, values, finetuning, precision)
        losses.append(float(loss))
        gradients.append(torch.cat([gradient.flatten() for gradient in found.values() if gradient is not None]))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.95


def test_a_displacement_moves_the_image_under_other_parents_and_not_under_its_own() -> None:
    network = build(warp=4).eval()
    assert network.warp is not None
    torch.nn.init.normal_(network.warp.displace.weight, std=1.0)
    x, values = some_images(network), some_values(3)
    noise = network.abduct(x, values)
    torch.testing.assert_close(network.predict(noise, values), x, rtol=0, atol=1e-4)
    before, after = (network.decode(noise.latents, v).displacement for v in (values, values.flip(0)))
    assert before is not None
    assert after is not None
    assert (before - after).abs().max() > 1e-3
    assert (network.predict(noise, values.flip(0)) - x).abs().mean() > 1e-3


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (16, 16, 24)])
@pytest.mark.parametrize("patch", [2, 4])
def test_overlapping_patches_make_what_repeats_with_them_even(size: tuple[int, ...], patch: int) -> None:
    """Away from the border, where there are no neighbours; and what does not repeat keeps its place and sum."""
    grid = Grid(size)
    overlap = Overlap(grid, patch)
    torch.manual_seed(0)
    pattern = torch.randn(2, 3, *(patch,) * len(size)).repeat(1, 1, *(n // patch for n in size))
    inside = (..., *(slice(patch, -patch) for _ in size))
    even = overlap(pattern)[inside].flatten(2)
    assert torch.allclose(even, even.mean(dim=2, keepdim=True).expand_as(even), atol=1e-5)
    point = torch.zeros(1, 1, *size)
    point[(..., *(n // 2 for n in size))] = 1
    spread = overlap(point)
    assert spread.sum() == pytest.approx(1)
    assert spread.flatten().argmax() == point.flatten().argmax()


def test_a_network_with_overlapping_patches_has_the_weights_of_one_without() -> None:
    """So it can be tried on one that is trained."""
    levels = [{"width": 8, "z": 2}, {"width": 8, "z": 2}]
    specs = [HVAESpec.model_validate({"steps": 1, "patch": 2, "levels": levels, "overlap": o}) for o in (False, True)]
    one, other = (HVAE(spec, Image(size=(16, 16)), VARIABLES) for spec in specs)
    assert {name: value.shape for name, value in one.state_dict().items()} == {
        name: value.shape for name, value in other.state_dict().items()
    }


# --- a displacement that cannot fold -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["square", "oblong"])
def test_answers_by_a_diffeomorphism_do_not_fold_and_nothing_asked_is_nothing_changed(name: str) -> None:
    network = build(name, warp=4, diffeomorphic=True).eval()
    assert network.warp is not None
    torch.nn.init.normal_(network.warp.displace.weight, std=3.0)
    image, values = some_images(network, name), some_values(3)
    with torch.no_grad():
        noise = network.abduct(image, values, sample=False)
        torch.testing.assert_close(network.predict(noise, values), image, atol=1e-3, rtol=0)
        after = values.flip(0)
        least = network.least_stretch(noise, after)
        assert least is not None
        assert least.shape == (3,)
        assert (least > 0).all()
        same = network.least_stretch(noise, values)
        assert same is not None
        torch.testing.assert_close(same, torch.ones(3), atol=1e-3, rtol=0)


def test_it_has_the_weights_of_the_other_kind_and_a_mechanism_without_one_does_not_stretch() -> None:
    free, bound = build(warp=4), build(warp=4, diffeomorphic=True)
    assert free.state_dict().keys() == bound.state_dict().keys()
    still = build().eval()
    with torch.no_grad():
        assert still.least_stretch(still.abduct(some_images(still), some_values(3)), some_values(3)) is None
    assert "diffeomorphic" not in free.spec.model_dump()


@pytest.mark.parametrize("changes", [{}, {"warp": 4}, {"diffeomorphic": True}, {"warp": 4, "diffeomorphic": True}])
@pytest.mark.parametrize(("field", "value"), [("grain", 0.5), ("noise_moves", "where it changes")])
def test_noise_that_moves_in_part_needs_a_displacement_that_keeps_it(
    field: str, value: Any, changes: dict[str, Any]
) -> None:
    settings = {"steps": 1, "levels": [{"width": 8}], field: value, **changes}
    if len(changes) == 2:
        assert getattr(HVAESpec.model_validate(settings), field) == value
        return
    with pytest.raises(ValidationError, match=field):
        HVAESpec.model_validate(settings)


@pytest.mark.parametrize("of_answers", [{"grain": 0.5}, {"grain": 2}, {"noise_moves": "where it changes"}])
def test_some_settings_take_part_in_answers_alone(of_answers: dict[str, Any]) -> None:
    """Not in the likelihood, so weights that were trained without them are those of a study that has them."""
    plain, partly = (build(warp=4, diffeomorphic=True, **more) for more in ({}, of_answers))
    for network in (plain, partly):
        assert network.warp is not None
        torch.manual_seed(0)
        torch.nn.init.normal_(network.warp.displace.weight, std=0.2)
    x, values = some_images(plain), some_values(3)
    with torch.no_grad():
        bounds = [network(x, values, 1.0, False).objective for network in (plain, partly)]
        found = [network.predict(network.abduct(x, values, False), values.flip(0)) for network in (plain, partly)]
        same = partly.predict(partly.abduct(x, values, False), values)
    assert torch.equal(*bounds)
    assert not torch.equal(*found)
    torch.testing.assert_close(same, x, atol=1e-4, rtol=0)  # where nothing is asked for nothing moves
