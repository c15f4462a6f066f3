"""Local deformations: one structure changes by what is said, the rest stays, and nothing folds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from segcft.config.image import Image
from segcft.config.mechanisms import HVAESpec
from segcft.config.section import LocalDeformation
from segcft.config.study import Study
from segcft.config.variable import Variable
from segcft.data.deform import SMALLEST, LocalDeformer
from segcft.data.draw import Draw
from segcft.data.pairs import elsewhere_equal
from segcft.grey import to_unit
from segcft.grid import Grid
from segcft.image_models.hvae import HVAE
from segcft.image_models.mechanism import ImageMechanism, Known, seeded
from segcft.image_models.objective import AugmentedSamples, LikelihoodObjective, PairedSamples
from segcft.measures.measurements import Measurements
from tests.conftest import MakeStudy


def balls(samples: int, size: tuple[int, ...], radius: float, middle: float = 0.0) -> Tensor:
    """A ball of a radius in halves of the frame, as coverage (B, 1, *size)."""
    places = Grid(size).places(torch.empty(1, 1, *size)) - middle
    distance = places.square().sum(dim=1, keepdim=True).sqrt()
    return ((radius - distance) * min(size) / 2 + 0.5).clamp(0, 1).expand(samples, 1, *size)


def known_factors(deformer: LocalDeformer, factor: float) -> LocalDeformer:
    """The same with this factor along every axis, where factors are random."""
    deformer._strain = lambda axes, draw: torch.full((len(draw()), axes, 1), 1 / factor - 1)  # type: ignore[method-assign]
    return deformer


@pytest.mark.parametrize("size", [(96, 96), (64, 128), (40, 40, 40)])
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_ball_is_scaled_by_the_factor_along_every_axis(size: tuple[int, ...], factor: float) -> None:
    mask = balls(4, size, 0.35)
    _, scaled, deformed = known_factors(LocalDeformer(LocalDeformation(share=1)), factor)(mask * 2 - 1, mask)
    assert deformed.all()
    ratio = scaled.flatten(1).sum(1) / mask.flatten(1).sum(1)
    assert ratio.numpy() == pytest.approx(factor ** len(size), rel=0.03)


def test_what_is_far_stays_and_values_keep_their_range() -> None:
    torch.manual_seed(0)
    image = torch.rand(8, 2, 64, 64) * 2 - 1
    mask = balls(8, (64, 64), 0.15, middle=-0.5)
    changed, scaled, _ = LocalDeformer(LocalDeformation(share=1))(image, mask)
    assert torch.allclose(changed[..., 32:, 32:], image[..., 32:, 32:], atol=1e-5)
    assert not torch.allclose(changed, image, atol=1e-2)
    assert changed.abs().max() <= 1
    assert scaled.min() >= 0
    assert scaled.max() <= 1


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([(32, 32), (24, 56), (16, 16, 16)]),
    spread=st.floats(0, 0.4),
    wide=st.floats(0.05, 0.8),
    long=st.floats(0.05, 0.8),
)
@example(seed=764006, size=(32, 32), spread=0.375, wide=0.5, long=0.5)
def test_nothing_folds(seed: int, size: tuple[int, ...], spread: float, wide: float, long: float) -> None:
    """The order of neighbours along every axis stays, whatever the structure's shape and place."""
    torch.manual_seed(seed)
    grid = Grid(size)
    places = grid.places(torch.empty(1, 1, *size))
    turn, _ = torch.linalg.qr(torch.randn(len(size), len(size)))
    radii = torch.tensor([wide, *(long,) * (len(size) - 1)]).reshape(1, -1, *(1,) * len(size))
    turned = torch.einsum("ab,zb...->za...", turn, places - torch.rand(1, len(size), *(1,) * len(size)) + 0.5)
    mask = ((turned / radii).square().sum(dim=1, keepdim=True) < 1).float()
    deformer = LocalDeformer(LocalDeformation(share=1, spread=spread))
    pixel = 2 / max(size)
    field = deformer._field(mask.flatten(1), places.flatten(2), pixel, Draw(mask, None).unit).reshape(places.shape)
    slopes = torch.stack(
        [torch.stack(torch.gradient(field[0, axis], spacing=[2 / n for n in size])) for axis in range(len(size))]
    )
    # A row an axis of the field, a column an axis of space: x, y (and z) against (z,) y, x.
    jacobian = torch.eye(len(size))[..., *(None,) * len(size)] + slopes.flip(1)
    assert torch.linalg.det(jacobian.flatten(2).permute(2, 0, 1)).min() > 0


def test_the_share_is_of_samples_and_others_are_the_same_to_the_bit() -> None:
    torch.manual_seed(0)
    image, mask = torch.rand(400, 1, 16, 16) * 2 - 1, balls(400, (16, 16), 0.5).clone()
    mask[::4] = 0
    changed, scaled, deformed = LocalDeformer(LocalDeformation(share=0.5))(image, mask)
    assert not deformed[::4].any(), f"less than {SMALLEST} elements have no shape"
    assert 90 < int(deformed.sum()) < 210, "binomial: 150 of 300, and 60 are seven standard deviations"
    assert torch.equal(changed[~deformed], image[~deformed])
    assert torch.equal(scaled[~deformed], mask[~deformed])


def test_one_structure_at_a_time_and_each_of_them() -> None:
    torch.manual_seed(0)
    here, there = balls(64, (48, 48), 0.2, -0.55), balls(64, (48, 48), 0.2, 0.55)
    mask = torch.cat([here, there], dim=1)
    _, scaled, _ = LocalDeformer(LocalDeformation(share=1))(mask[:, :1], mask)
    moved = (scaled - mask).abs().flatten(2).amax(dim=2) > 1e-3
    assert not moved.all(dim=1).any()
    assert moved.any(dim=0).all()


class Recording(ImageMechanism):
    """Keeps what it is trained on."""

    def loss_of_pairs(self, x: Tensor, values: Tensor, known: Known, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        self.pair = x, values, *known
        return super().loss_of_pairs(x, values, known, step)

    def loss(self, x: Tensor, values: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return x.mean() + values.mean(), {}

    def abduct(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor:
        return x

    def predict(self, noise: Tensor, values: Tensor) -> Tensor:
        return noise

    def sample(self, n: int, pixel_noise: bool = True) -> Tensor:
        return torch.zeros(n, self.channels, *self.grid.size)

    def constraint(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor:
        return torch.zeros(len(x))


def test_training_pairs_have_the_measures_that_the_deformed_masks_have(small_study: Study) -> None:
    """By default a mechanism learns from them as from any other sample."""
    torch.manual_seed(0)
    hvae = small_study.hvae.model_copy(update={"deform": LocalDeformation(share=0.5)})
    study = small_study.model_copy(update={"hvae": hvae})
    size, samples = study.image.size, 32
    mask = torch.cat([balls(samples, size, 0.3, middle) for middle in (-0.4, 0.0, 0.4)], dim=1)
    values = torch.full((samples, len(study.variables)), 7.0)
    values[:, study.measured_columns] = Measurements.of(study).estimate(mask)
    mechanism = Recording(hvae, study.image, study.variables)
    batch = {
        "image": torch.randint(256, (samples, 1, *size), dtype=torch.uint8),
        "mask": (mask * 255).round().to(torch.uint8),
    }
    batch["values"] = values
    loss, _ = LikelihoodObjective(mechanism, study)(batch, 0)
    image, before, changed, after = mechanism.pair
    assert torch.equal(loss, changed.mean() + after.mean())
    assert torch.equal(before, values)
    deformed = (changed != image).flatten(1).any(dim=1)
    assert 0 < deformed.sum() < samples
    assert torch.equal(after[~deformed], values[~deformed])
    others = [column for column in range(values.shape[1]) if column not in study.measured_columns]
    assert torch.equal(after[:, others], values[:, others])
    assert (after[deformed] != values[deformed]).any(dim=1).all()


def with_others(study: Study, samples: int) -> dict[str, Tensor]:
    """A batch of which every other sample has another image: darker where it is brighter, of larger values."""
    size = study.image.size
    image = torch.randint(256, (samples, 1, *size), dtype=torch.uint8)
    mask = (255 * torch.cat([balls(samples, size, 0.3, middle) for middle in (-0.4, 0.0, 0.4)], dim=1)).to(torch.uint8)
    values = torch.rand(samples, len(study.variables))
    batch = {"image": image, "mask": mask, "values": values, "has_other": torch.arange(samples) % 2 == 0}
    return batch | {"other_image": 255 - image, "other_mask": mask.flip(1), "other_values": values + 1}


def learning_from_others(make_small_study: MakeStudy, **hvae: Any) -> Study:
    study = make_small_study({f"hvae.{key}": value for key, value in hvae.items()})
    return study.model_copy(update={"hvae": study.hvae.model_copy(update={"pairs": 1.0})})


def test_a_sample_with_another_image_learns_from_it_and_others_from_deformations(make_small_study: MakeStudy) -> None:
    torch.manual_seed(0)
    study = learning_from_others(make_small_study, deform={"share": 1.0})
    batch = with_others(study, 16)
    image, values, known = PairedSamples(study, study.hvae.augment, study.hvae.deform).pairs(batch)
    has_other, masks = batch["has_other"], torch.cat([batch["mask"], batch["other_mask"]], dim=1)
    theirs = elsewhere_equal(image, to_unit(batch["other_image"]), masks.float() / 255)
    assert known is not None
    assert torch.equal(values, batch["values"])
    assert torch.equal(known.image, torch.where(has_other[:, None, None, None], theirs, known.image))
    assert torch.equal(known.values[has_other], batch["other_values"][has_other])
    assert (known.image != theirs).flatten(1).any(dim=1)[~has_other].all()
    assert (known.image != image).flatten(1).any(dim=1).all()


def test_what_is_done_to_an_image_is_done_to_its_other(make_small_study: MakeStudy) -> None:
    torch.manual_seed(0)
    study = learning_from_others(make_small_study, augment={"shift": 0.2, "scale": 0.2, "contrast": 0.3, "noise": 0.1})
    batch = with_others(study, 16)
    batch |= {"other_image": batch["image"], "other_mask": batch["mask"]}
    image, values, known = PairedSamples(study, study.hvae.augment, study.hvae.deform).pairs(batch)
    assert known is not None
    assert torch.equal(known.image, image)  # without an other it is the image, which nothing deforms here
    measured = study.measured_columns
    assert torch.equal(known.values[:, measured], values[:, measured])
    assert (values[:, measured] != batch["values"][:, measured]).all()


def test_what_leaves_the_frame_stays_as_it_is(make_small_study: MakeStudy) -> None:
    """A structure that is not there has no place, and training cannot do without."""
    torch.manual_seed(0)
    changes = {"structures.heart.measure": "bottom", "evaluation.metric": "mae", "hvae.augment": {"shift": 0.9}}
    study = make_small_study(changes)
    batch = with_others(study, 32)
    samples = AugmentedSamples(study, study.hvae.augment)
    batch["values"][:, study.measured_columns] = samples.measurements.estimate(batch["mask"].float() / 255)
    image, mask, values = samples.with_masks(batch)
    stayed = (image == to_unit(batch["image"])).flatten(1).all(dim=1)
    assert 0 < stayed.sum() < len(stayed)
    assert torch.equal(values[stayed], batch["values"][stayed])
    assert torch.equal(values[:, study.measured_columns], samples.measurements.estimate(mask))
    assert bool(values.isfinite().all())


def test_a_pair_of_an_image_with_itself_is_a_sample_like_any_other() -> None:
    levels = [{"width": 8, "z": 2}, {"width": 8, "z": 2}]
    spec = HVAESpec.model_validate({"steps": 1, "levels": levels, "beta": 2.0, "context": 4})
    network = HVAE(spec, Image(size=(8, 8)), {"area": Variable(kind="continuous")})
    torch.manual_seed(1)
    x, values = torch.rand(3, 1, 8, 8) * 2 - 1, torch.randn(3, 1)
    with seeded(5, torch.device("cpu")):
        one, _ = network.loss(x, values, 0)
    with seeded(5, torch.device("cpu")):
        other, _ = network.loss_of_pairs(x, values, Known(x, values), 0)
    assert torch.allclose(one, other)
