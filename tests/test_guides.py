"""Segmentor and regressor: what they read, and that training can follow them once they are frozen."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segcft.config.image import Image
from segcft.config.section import Augment
from segcft.config.segmentors import SegResNetSpec, UNetSpec
from segcft.config.stages import RegressorSpec
from segcft.grey import to_unit
from segcft.grid import Grid
from segcft.measures.area import Area
from segcft.measures.measure import MEASURES
from segcft.measures.measurements import Measurement, Measurements
from segcft.pipeline.run import Run
from segcft.readers.regressor import Regressor, RegressorObjective
from segcft.readers.segmentor import Segmentor, SegmentorObjective, dice
from segcft.readers.segresnet import SegResNet
from segcft.readers.unet import UNet
from segcft.training import artefact
from segcft.training.loop import freeze
from tests.descent import assert_gradient_leads_down

Batch = dict[str, Tensor]


def two_areas(size: tuple[int, int] = (16, 16), **image: Any) -> Measurements:
    area = Area()
    areas = tuple(Measurement(f"{name}_area", name, area, False, (k,)) for k, name in enumerate(("large", "small")))
    return Measurements(Grid.of(Image(size=size, **image)), areas, ("large", "small"))


def segmentor(size: tuple[int, int] = (16, 16), **image: Any) -> Segmentor:
    torch.manual_seed(0)
    return UNet(UNetSpec(steps=1, widths=(4, 8, 8)), 1, two_areas(size, **image))


def segresnet(size: tuple[int, int] = (16, 16), **image: Any) -> Segmentor:
    torch.manual_seed(0)
    return SegResNet(SegResNetSpec(steps=1, width=8, blocks=(1, 1, 1)), 1, two_areas(size, **image))


def regressor(size: tuple[int, int] = (16, 16), **image: Any) -> Regressor:
    torch.manual_seed(0)
    return Regressor(RegressorSpec(steps=1, widths=(4, 4, 8, 8)), 1, two_areas(size, **image))


def images(batch: int, size: tuple[int, int] = (16, 16)) -> Tensor:
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_segmentors_area_is_the_sum_of_its_probabilities() -> None:
    network = segmentor(field_of_view=(32, 48), length_unit="mm").eval()
    assert network.grid.cell_size == pytest.approx(2 * 3)
    x = images(3)
    probabilities = torch.sigmoid(network(x))
    torch.testing.assert_close(network.masks(x), probabilities)
    torch.testing.assert_close(network.read(x), 6 * probabilities.sum(dim=(2, 3)))
    assert network.read(x).shape == (3, 2)


@pytest.mark.parametrize("make", [segmentor, segresnet])
@pytest.mark.parametrize("size", [(16, 16), (13, 18), (5, 3), (1, 1)])
def test_a_segmentor_takes_grids_that_its_levels_cannot_halve(make: Any, size: tuple[int, int]) -> None:
    network = make(size).eval()
    assert network(images(2, size)).shape == (2, 2, *size)
    network.train()
    assert network(images(2, size)).isfinite().all()


def test_padding_repeats_the_edge_at_the_far_sides() -> None:
    network = segmentor().eval()
    x = images(1, (14, 15))
    whole = torch.cat([x, x[..., -1:]], dim=-1)
    whole = torch.cat([whole, whole[:, :, -1:], whole[:, :, -1:]], dim=2)
    torch.testing.assert_close(network(x), network(whole)[..., :14, :15])


@pytest.mark.parametrize("make", [segmentor, segresnet, regressor])
def test_areas_do_not_depend_on_the_rest_of_the_batch(make: Any) -> None:
    network = make()
    network(images(8))  # moves the statistics of the batch normalisation
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network.read(images(8))[3:4], network.read(images(8)[3:4]))


@pytest.mark.parametrize("make", [segmentor, segresnet, regressor])
def test_gradients_flow_through_a_frozen_guide_to_the_image_only(make: Any) -> None:
    network = freeze(make())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = images(2).requires_grad_()
    network.read(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten(1).any(dim=1).all()
    assert x.grad.isfinite().all()
    assert not network.training
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_dice() -> None:
    full, half, none = torch.ones(4, 4), torch.zeros(4, 4), torch.zeros(4, 4)
    half[:2] = 1
    prediction = torch.stack([full, full, none, full, half])[None]
    target = torch.stack([full, half, none, none, half])[None]
    assert dice(prediction, target).tolist() == [
        [1, pytest.approx(2 / 3), pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True), 1]
    ]


class Drawn(nn.Module):
    """In place of a network: what it answers."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


def test_the_segmentors_loss_falls_as_masks_agree() -> None:
    mask = torch.zeros(2, 2, 16, 16, dtype=torch.uint8)
    mask[:, 0, 4:12, 4:12], mask[:, 1, 2:5] = 255, 255
    right = 2.0 * mask / 255 - 1
    losses = []
    for trust in (-10.0, -1.0, 0.0, 1.0, 3.0, 10.0):  # from the opposite of the masks to the masks
        network: Any = Drawn(trust * right)
        loss, figures = SegmentorObjective(network, UNetSpec(steps=1))({"image": mask[:, :1], "mask": mask}, 0)
        losses.append(float(loss.detach()))
        assert losses[-1] == pytest.approx(sum(float(f.detach()) for f in figures.values()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.01 * losses[0]


def test_the_gradient_of_a_segmentors_loss_leads_to_its_masks() -> None:
    network = segmentor().train()
    objective = SegmentorObjective(network, UNetSpec(steps=1))
    mask = torch.zeros(2, 2, 16, 16, dtype=torch.uint8)
    mask[:, 0, 4:12, 4:12] = 255
    batch = {"image": (mask[:, :1] // 2 + 30), "mask": mask}
    assert_gradient_leads_down(lambda: objective(batch, 0)[0], network.parameters())


def test_a_mask_that_is_another_structures_costs_more(small_run: Run) -> None:
    """What a store holds, what is learnt and what is measured have the structures in one order."""
    store, study = small_run.store(), small_run.study
    rows = store.indices("train")[:12]
    batch = {"image": torch.from_numpy(store.images[rows]), "mask": torch.from_numpy(store.masks[rows])}
    logits = 20 * (batch["mask"].float() / 255) - 10
    losses = {}
    for order in itertools.permutations(range(len(study.structures))):
        network: Any = Drawn(logits[:, list(order)])
        losses[order] = float(SegmentorObjective(network, study.segmentor)(batch, 0)[0].detach())
    assert min(losses, key=losses.__getitem__) == (0, 1, 2)
    measured = Measurements.of(study).read(batch["mask"].float() / 255)
    values = torch.from_numpy(store.values()[rows])[:, study.measured_columns]
    torch.testing.assert_close(measured, values, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("logit", [-30.0, -8.0, 0.0, 30.0])
def test_an_absent_structure_pulls_its_logits_down(logit: float) -> None:
    """The Dice loss of an empty mask is flat, but the cross-entropy is not; and neither divides by nothing."""

    network: Any = Drawn(torch.full((2, 2, 16, 16), logit))
    batch = {"image": torch.zeros(2, 1, 16, 16), "mask": torch.zeros(2, 2, 16, 16, dtype=torch.uint8)}
    loss, _ = SegmentorObjective(network, UNetSpec(steps=1))(batch, 0)
    loss.backward()
    gradient = network.logits.grad
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert (gradient > 0).all()
    assert logit < -20 or float(gradient.sum()) > 1e-5


def test_a_segmentor_learns_who_lacks_a_structure(plaque_run: Run) -> None:
    """Of a network with two weights a structure: what it learns depends on no machine."""

    class Threshold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.zeros(1, 2, 1, 1)), nn.Parameter(torch.zeros(1, 2, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x + self.bias

    store, network = plaque_run.store(), Threshold()
    batch = {"image": torch.from_numpy(store.images[:60].copy()), "mask": torch.from_numpy(store.masks[:60].copy())}
    objective = SegmentorObjective(network, UNetSpec(steps=1))  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(network.parameters(), 1.0)
    for step in range(60):
        optimiser.zero_grad()
        objective(batch, step)[0].backward()
        optimiser.step()
    truly = torch.from_numpy(store.values()[:60, plaque_run.study.measured_columns[1]] > 0)
    assert 20 < truly.sum() < 50
    seen = (network(to_unit(batch["image"]))[:, 1] > 0).flatten(1).any(dim=1)
    assert torch.equal(seen, truly)


def test_the_dice_of_a_reader_is_that_of_the_validation_people(small_run: Run) -> None:
    store = small_run.store()
    rows = store.indices("validation")
    x, mask = to_unit(torch.from_numpy(store.images[rows])), torch.from_numpy(store.masks[rows])
    for part in ("segmentor", "judge"):
        metrics = artefact.read_meta(small_run.path(part))["metrics"]
        with torch.no_grad():
            seen = small_run.load(part).masks(x) > 0.5
        expected = dice(seen.float(), (mask > 127).float()).nanmean(dim=0)
        for structure, value in zip(small_run.study.structures, expected, strict=True):
            assert metrics[f"validation_dice_{structure}"] == pytest.approx(float(value), abs=1e-4)


def test_guide_and_judge_are_different_networks(small_run: Run, small_batch: Batch) -> None:
    areas = [small_run.load(part).read(small_batch["image"]) for part in ("segmentor", "judge")]
    assert not torch.allclose(*areas, rtol=1e-3)


def test_regressed_areas_have_the_unit_of_the_training_areas() -> None:
    network = regressor().eval()
    areas = torch.tensor([[100.0, 7.0], [300.0, 7.0], [500.0, 7.0]])
    network.set_statistics(areas)
    assert network.mean.tolist() == [300, 7]
    assert network.std.tolist() == [200, pytest.approx(1e-6)]  # a constant area does not divide by zero
    x = images(3)
    torch.testing.assert_close(network.read(x), network(x) * network.std + network.mean)
    assert network.state_dict()["mean"].tolist() == [300, 7]  # the unit travels with the weights


def test_the_regressors_loss_weighs_structures_alike() -> None:
    network = regressor().eval()
    nn.init.zeros_(network.resnet.fc.weight)
    nn.init.zeros_(network.resnet.fc.bias)  # so it answers with the mean
    network.mean.copy_(torch.tensor([64.0, 16.0]))
    network.std.copy_(torch.tensor([32.0, 8.0]))
    mask = torch.zeros(1, 2, 16, 16, dtype=torch.uint8)
    mask[0, 0, :8, :12], mask[0, 1, :8, :3] = 255, 255  # 96 and 24 pixels: one standard deviation more
    objective = RegressorObjective(network, RegressorSpec(steps=1), two_areas())
    loss, _ = objective({"image": mask[:, :1], "mask": mask}, 0)
    assert float(loss.detach()) == pytest.approx(1)


def test_a_regressor_learns_areas_of_deformed_images() -> None:
    """Areas are measured again after a deformation, so a rescaled square is a lesson, not a contradiction."""

    class Exact(nn.Module):
        """Measures what it sees, which here is the mask."""

        mean, std = torch.tensor([64.0, 64.0]), torch.tensor([20.0, 20.0])

        def forward(self, x: Tensor) -> Tensor:
            seen.append(two_areas().estimate((x + 1) / 2).repeat(1, 2))
            return (seen[-1] - self.mean) / self.std

    seen: list[Tensor] = []
    mask = torch.zeros(8, 2, 16, 16, dtype=torch.uint8)
    mask[:, :, 4:12, 4:12] = 255
    spec = RegressorSpec(steps=1, augment=Augment(scale=0.3))
    objective = RegressorObjective(Exact(), spec, two_areas())  # type: ignore[arg-type]
    torch.manual_seed(0)
    loss, _ = objective({"image": mask[:, :1], "mask": mask}, 0)
    assert float(loss) < 1e-6
    assert seen[0].std() > 5


def test_the_gradient_of_a_regressors_loss_leads_to_its_areas() -> None:
    network = regressor().train()
    network.set_statistics(torch.tensor([[40.0, 40.0], [90.0, 90.0]]))
    mask = torch.zeros(8, 2, 16, 16, dtype=torch.uint8)
    mask[:, 0, 4:12, 4:12], mask[:, 1, 2:5, 2:8] = 255, 255
    objective = RegressorObjective(network, RegressorSpec(steps=1, augment=Augment(scale=0.3)), two_areas())

    def loss() -> Tensor:
        torch.manual_seed(0)
        return objective({"image": mask[:, :1], "mask": mask}, 0)[0]

    assert_gradient_leads_down(loss, network.parameters())


def test_a_regressor_learns_from_images_in_which_a_structure_has_no_place() -> None:
    torch.manual_seed(0)
    places = tuple(
        Measurement(name, name, MEASURES["bottom"], False, (k,)) for k, name in enumerate(("large", "small"))
    )
    measurements = Measurements(Grid((16, 16)), places, ("large", "small"))
    network = Regressor(RegressorSpec(steps=1), 1, measurements)
    masks = torch.zeros(4, 2, 16, 16, dtype=torch.uint8)
    for sample in range(4):
        masks[sample, 0, : 4 + 2 * sample] = 255
    masks[:3, 1, 2:5] = 255  # and one image does not show it
    network.set_statistics(measurements.estimate(masks.float() / 255))
    assert bool(network.mean.isfinite().all())
    objective = RegressorObjective(network, RegressorSpec(steps=1), measurements)
    batch = {"image": torch.randint(256, (4, 1, 16, 16), dtype=torch.uint8), "mask": masks}
    loss, _ = objective(batch, 0)
    loss.backward()
    assert bool(loss.isfinite())
    assert all(bool(one.grad.isfinite().all()) for one in network.parameters() if one.grad is not None)
    assert bool(objective.validate(batch).isfinite().all())
