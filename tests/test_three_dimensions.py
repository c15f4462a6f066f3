"""Two axes or three: a tiny volume goes through every network and loss. Studies of volumes are refused as yet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.causal.scm import StructuralCausalModel
from segcft.config.image import Image
from segcft.config.mechanisms import HVAESpec
from segcft.config.section import Augment
from segcft.config.segmentors import UNetSpec
from segcft.config.stages import RegressorSpec
from segcft.config.study import Study
from segcft.counterfactual.finetune import CounterfactualObjective
from segcft.data.augment import Augmenter
from segcft.data.batches import Batch
from segcft.data.draw import Draw
from segcft.errors import StudyError
from segcft.evaluate.locality import changed_region, share_near
from segcft.grid import Grid, channels_last
from segcft.image_models.displacement import between, displaced
from segcft.image_models.hvae import HVAE
from segcft.image_models.objective import LikelihoodObjective
from segcft.measures.measurements import Measurements
from segcft.readers.regressor import Regressor, RegressorObjective
from segcft.readers.segmentor import SegmentorObjective
from segcft.readers.unet import UNet
from tests.conftest import MakeStudy

SIZE = (8, 8, 8)
GRID = Grid(SIZE)
BEFORE, AFTER = (0.1, -0.2, 0.3), (-0.3, 0.1, 0.2)
"""Displacements along x, y and z, in halves of the frame."""


@pytest.fixture(scope="module")
def study(make_small_study: MakeStudy) -> Study:
    """The small study of volumes, which no study file can be as yet."""
    levels = [{"width": 4, "encoder": 0, "z": 0}, {"width": 6, "z": 2, "down": (2, 2, 4)}, {"width": 4, "z": 2}]
    small = make_small_study({"image.size": [8, 8], "hvae.levels": [{"width": 4, "z": 1}], "hvae.patch": 1})
    hvae = HVAESpec.model_validate({"steps": 1, "context": 4, "warp": 4, "levels": levels})
    finetune = small.finetune.model_copy(update={"least_change": 0.1})
    image = Image(size=SIZE, field_of_view=(16.0, 8.0, 8.0), length_unit="mm")
    return small.model_copy(update={"image": image, "hvae": hvae, "finetune": finetune})


@pytest.fixture(scope="module")
def batch(study: Study) -> Batch:
    random = np.random.default_rng(0)
    masks = np.zeros((4, 3, *SIZE), dtype=np.uint8)
    for person in range(4):
        for structure in range(3):
            masks[person, structure, 2 * structure :, : 3 + person, 1 : 4 + structure] = 255
    images = 60 * masks.any(axis=1, keepdims=True) + random.integers(0, 60, (4, 1, *SIZE))
    measured = torch.from_numpy(masks / 255).sum(dim=(2, 3, 4)) * study.image.cell_size
    values = torch.cat([torch.tensor([[0, 50.0], [1, 60], [0, 55], [1, 70]]), measured], dim=1)
    return {
        "image": torch.from_numpy(images.astype(np.uint8)),
        "mask": torch.from_numpy(masks),
        "values": values.float(),
        "index": torch.arange(4),
    }


def unit(batch: Batch) -> Tensor:
    return batch["image"].float() / 127.5 - 1


def mechanism(study: Study, batch: Batch) -> HVAE:
    torch.manual_seed(0)
    assert isinstance(study.hvae, HVAESpec)
    network = HVAE(study.hvae, study.image, study.variables)
    network.parents.set_statistics(batch["values"])
    assert network.warp is not None
    nn.init.normal_(network.warp.displace.weight, std=0.5)
    return channels_last(network)


def every_gradient(network: nn.Module) -> bool:
    trained = [p for p in network.parameters() if p.requires_grad]
    return all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in trained)


def test_the_grid_of_a_volume_has_a_volume(study: Study) -> None:
    assert study.image.spacing == (2, 1, 1)
    assert (study.image.cell_size, study.image.cell_unit) == (2, "mm³")
    measure = Measurements.of(study)
    assert measure.estimate(torch.ones(1, 3, *SIZE)).tolist() == [[1024.0] * 3]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_patches_are_laid_out_as_pixels(dimensions: int) -> None:
    size = (4, 6, 2)[:dimensions]
    maps = torch.rand(2, 5 * 2**dimensions, *(n // 2 for n in size))
    found = Grid(size).unpatch(maps, 2)
    assert found.shape == (2, 5, *size)
    for place in np.ndindex(*(2,) * dimensions):
        channel = np.ravel_multi_index(place, (2,) * dimensions)
        every_second = (slice(None), slice(None), *(slice(start, None, 2) for start in place))
        assert torch.equal(found[every_second], maps[:, channel :: 2**dimensions])
    if dimensions == 2:
        assert torch.equal(found, torch.nn.functional.pixel_shuffle(maps, 2))


def test_readers_train_on_it(study: Study, batch: Batch) -> None:
    torch.manual_seed(0)
    measurements = Measurements.of(study)
    segmentor = UNet(UNetSpec(steps=1, widths=(4, 8)), 1, measurements)
    regressor = Regressor(RegressorSpec(steps=1, widths=(4, 4, 4, 4)), 1, measurements)
    regressor.set_statistics(batch["values"][:, study.measured_columns])
    objectives: list[Any] = [
        SegmentorObjective(segmentor, UNetSpec(steps=1)),
        RegressorObjective(regressor, RegressorSpec(steps=1), measurements),
    ]
    for objective in objectives:
        loss, _ = channels_last(objective)(batch, 0)
        loss.backward()
        assert loss.isfinite()
        assert objective.network.read(unit(batch)).shape == (4, 3)
        assert any(p.grad is not None and p.grad.any() for p in objective.network.parameters())


def test_the_image_mechanism_trains_on_it(study: Study, batch: Batch) -> None:
    network = mechanism(study, batch)
    loss, figures = LikelihoodObjective(network, study)(batch, 0)
    loss.backward()
    assert every_gradient(network)
    assert set(figures) == {"distortion", "rate"}


def test_abduction_and_prediction_are_each_others_inverse(study: Study, batch: Batch) -> None:
    network, x, values = mechanism(study, batch), unit(batch), batch["values"]
    with torch.no_grad():
        noise = network.abduct(x, values)
        torch.testing.assert_close(network.predict(noise, values), x, rtol=0, atol=1e-4)
        other = network.predict(noise, values.flip(0))
        drawn = network.predict(network.sample(2), values[:2])
        assert network.lengths(noise)["latents"].shape == (4,)
    assert other.shape == x.shape
    assert (other - x).abs().mean() > 1e-3
    assert drawn.shape == (2, 1, *SIZE)


def test_displacements_have_as_many_axes_as_the_image() -> None:
    maps = (GRID.places(torch.zeros(SIZE)) * torch.tensor([1.0, 2.0, 3.0])[None, :, None, None, None]).sum(1, True)
    before, after = (torch.tensor(shift)[None, :, None, None, None].expand(1, 3, *SIZE) for shift in (BEFORE, AFTER))
    assert between(before, before).abs().max() < 1e-6
    torch.testing.assert_close(between(before, after), after - before, rtol=0, atol=1e-5)
    carried, wanted = displaced(displaced(maps, before), between(before, after)), displaced(maps, after)
    inner = (..., *(slice(2, -2),) * 3)  # beyond the frame its edge goes on
    torch.testing.assert_close(carried[inner], wanted[inner])
    along = torch.zeros(1, 3, *SIZE)
    along[:, 2] = 2 / SIZE[0]  # x, y, z: the last is the first axis
    torch.testing.assert_close(displaced(maps, along)[:, :, :-1], maps[:, :, 1:])


def test_fine_tuning_has_its_loss(study: Study, batch: Batch) -> None:
    network = mechanism(study, batch)
    torch.manual_seed(1)
    scm = StructuralCausalModel(study.variables, study.scm)
    scm.set_statistics(batch["values"])
    guide = UNet(UNetSpec(steps=1, widths=(4, 8)), 1, Measurements.of(study))
    objective = CounterfactualObjective(network, scm, guide, study.finetune, study, batch["values"], bound=1.0).train()
    loss, figures = objective(batch, 0)
    loss.backward()
    assert every_gradient(network)
    assert all(value.isfinite() for value in figures.values())
    assert 0 < figures["change"] < 1


def test_locality_is_measured_in_it() -> None:
    before = torch.zeros(1, *SIZE, dtype=torch.bool)
    before[0, 4, 4, 4] = True
    assert int(Grid(tuple(before.shape[1:])).dilate(before, 1).sum()) == 7  # the element and its six neighbours
    difference = torch.zeros(1, 1, *SIZE)
    difference[0, 0, 4, 4, 3] = 1.0
    difference[0, 0, 0, 0, 0] = 3.0
    assert share_near(difference, before, before, 1).tolist() == [0.25]
    assert int(changed_region(before[:, None], before[:, None].roll(1, dims=2), 1).sum()) == 7 + 5


def test_augmentation_bends_volume_and_masks_together(batch: Batch) -> None:
    image, masks = unit(batch), batch["mask"].float() / 255
    greys = Augmenter(Augment(gamma=0.1, contrast=0.1, brightness=0.1, noise=0.01))
    changed, same = greys(image, masks)
    assert changed.shape == (4, 1, *SIZE)
    assert torch.equal(same, masks)
    bend = Augmenter(Augment(rotate=10, shift=0.1, scale=0.2, stretch=0.1, elastic=0.02))
    # Of an image that is its own mask both stay the same: the border apart, where one is repeated and the other ends.
    _, moved = bend(masks[:, :1] * 2 - 1, masks[:, :1], torch.Generator().manual_seed(1))
    again, _ = bend(masks[:, :1] * 2 - 1, masks[:, :1], torch.Generator().manual_seed(1))
    assert moved.shape == (4, 1, *SIZE)
    inside = (slice(None), slice(None), *(slice(2, -2),) * 3)
    assert not torch.equal(moved, masks[:, :1])
    torch.testing.assert_close(((again + 1) / 2)[inside], moved[inside], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("part", "amount"), [("rotate", 30), ("shift", 0.1)])
def test_a_turn_and_a_shift_keep_the_volume_of_a_cube(part: str, amount: float) -> None:
    cube = torch.zeros(6, 1, 40, 40, 40)
    cube[:, :, 12:28, 12:28, 12:28] = 1
    _, moved = Augmenter(Augment(**{part: amount}))(cube * 2 - 1, cube, torch.Generator().manual_seed(0))
    assert not torch.equal(moved, cube)
    ratio = moved.sum(dim=(1, 2, 3, 4)) / cube.sum(dim=(1, 2, 3, 4))
    torch.testing.assert_close(ratio, torch.ones(6), rtol=0.02, atol=0)  # what sampling does at the border


def test_a_scale_changes_the_volume_of_a_cube_by_its_cube() -> None:
    cube = torch.zeros(6, 1, 40, 40, 40)
    cube[:, :, 12:28, 12:28, 12:28] = 1
    _, moved = Augmenter(Augment(scale=0.3))(cube * 2 - 1, cube, torch.Generator().manual_seed(0))
    extents = (moved > 0.5).any(dim=4).any(dim=3).sum(dim=2)[:, 0].double()
    volumes = moved.sum(dim=(1, 2, 3, 4)).double()
    assert float(extents.std()) > 1
    torch.testing.assert_close(volumes.pow(1 / 3), extents, rtol=0, atol=1.0)  # to a voxel


@pytest.mark.parametrize("size", [(96, 64), (64, 80), (64, 64), (48, 128)])
def test_an_image_is_turned_as_it_always_was(size: tuple[int, int]) -> None:
    """By the same numbers, whatever the shape of the image: what a seed gave it still gives."""
    spec, image = Augment(rotate=20, scale=0.2, stretch=0.1), torch.rand(3, 1, *size)
    draw = Draw(image, torch.Generator().manual_seed(5))
    angle = draw.uniform(torch.pi / 180 * spec.rotate)
    down = 1 + draw.uniform(spec.scale)
    across, aspect = down * (1 + draw.uniform(spec.stretch)), size[1] / size[0]
    shift = draw.uniform(0.0, 2)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = ((cos / across, sin / across / aspect), (-sin / down * aspect, cos / down))
    linear = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    affine = torch.cat([linear, -linear @ shift.reshape(-1, 2, 1)], dim=-1)
    grid = F.affine_grid(affine, [3, 1, *size], align_corners=False)
    expected = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    found, _ = Augmenter(spec)(image, torch.zeros(3, 1, *size), torch.Generator().manual_seed(5))
    assert torch.equal(found, expected)


def test_a_study_of_volumes_is_refused(make_small_study: MakeStudy) -> None:
    with pytest.raises(StudyError, match=r"image.size: .*give \(height, width\)"):
        make_small_study({"image.size": [32, 32, 32]})
