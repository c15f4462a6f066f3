"""Grey levels as measures: how dense a structure is, and what training and answers make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refused import refused
from segcft.config.section import Augment, LocalDeformation
from segcft.config.study import Study
from segcft.data.store import Store
from segcft.errors import Code, StudyError
from segcft.grey import to_unit
from segcft.image_models.objective import AugmentedSamples, PairedSamples
from segcft.importers.simulated import import_simulated
from segcft.measures.measurements import Measurements
from segcft.pipeline.run import Run
from segcft.planning.plan import usual_study
from tests.conftest import MakeStudy
from tests.test_planning import outline

DENSITY = {"variable": "density", "of": ["heart"], "measure": "grey"}


@pytest.fixture
def study(make_small_study: MakeStudy) -> Study:
    """The small study with how bright the heart is, beside the left lung."""
    changes = {"variables.density": {"kind": "continuous"}, "evaluation.metric": "mae"}
    return make_small_study(changes | {"structures.density": DENSITY | {"reference": "left_lung"}})


@pytest.fixture
def store(study: Study, tmp_path: Any) -> Store:
    return import_simulated(study, tmp_path / "store", people=30)


def scene() -> tuple[Tensor, Tensor]:
    """An image with a left lung of 40, a heart of 200 and a ground of 100, and the three masks."""
    masks = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    masks[0, 0, 4:20, 2:12], masks[0, 1, 4:20, 20:30], masks[0, 2, 12:28, 12:20] = 1, 1, 1
    grey = torch.full((1, 1, 32, 32), 100, dtype=torch.float64)
    grey[0, 0][masks[0, 0] > 0], grey[0, 0][masks[0, 2] > 0] = 40, 200
    return grey * 2 / 255 - 1, masks


def test_it_is_the_mean_inside_less_that_of_the_reference(study: Study, make_small_study: MakeStudy) -> None:
    image, masks = scene()
    assert float(Measurements.of(study).estimate(masks, image)[0, -1]) == pytest.approx(160)
    changes = {"variables.density": {"kind": "continuous"}, "evaluation.metric": "mae"}
    alone = Measurements.of(make_small_study(changes | {"structures.density": DENSITY}))
    assert float(alone.estimate(masks, image)[0, -1]) == pytest.approx(200)
    brighter = (image + 0.1).clamp(max=1)
    assert float(Measurements.of(study).estimate(masks, brighter)[0, -1]) == pytest.approx(160, abs=1e-4)
    coverage, pixels = (masks[0] * 255).byte().numpy(), ((image[0] + 1) * 127.5).round().byte().numpy()
    exact = Measurements.of(study).exact(coverage, pixels)
    assert exact["density"] == pytest.approx(160, abs=1e-3)
    assert exact["heart_area"] == pytest.approx(128)


def test_less_than_a_reference_it_may_be_negative(study: Study, make_small_study: MakeStudy) -> None:
    grid = Measurements.of(study).grid
    assert Measurements.of(study).all[-1].bounds(grid) == (-255, 255)
    changes = {"variables.density": {"kind": "continuous"}, "evaluation.metric": "mae"}
    alone = Measurements.of(make_small_study(changes | {"structures.density": DENSITY}))
    assert alone.all[-1].bounds(grid) == (0, 255)


def test_where_nothing_is_it_has_none(study: Study) -> None:
    image, masks = scene()
    masks[0, 2] = 0
    assert Measurements.of(study).estimate(masks, image)[0, -1].isnan()


def test_without_an_image_there_is_none(study: Study) -> None:
    _, masks = scene()
    with pytest.raises(ValueError, match="image"):
        Measurements.of(study).estimate(masks)


def test_gradients_flow_to_the_masks_and_to_the_image(study: Study) -> None:
    image, masks = scene()
    soft = (0.2 + 0.6 * masks).requires_grad_(True)
    image.requires_grad_(True)
    small = study.model_copy(update={"image": study.image.model_copy(update={"size": (4, 4)})})
    assert torch.autograd.gradcheck(
        lambda m, x: Measurements.of(small).estimate(m, x)[:, -1], (soft[..., ::8, ::8], image[..., ::8, ::8])
    )


def test_masks_of_another_grid_are_refused(study: Study) -> None:
    """Places and lengths would be those of nothing, without a word."""
    image, masks = scene()
    with pytest.raises(ValueError, match="grid"):
        Measurements.of(study).read(masks[..., ::2, ::2], image[..., ::2, ::2])


@pytest.mark.parametrize("spec", [Augment(contrast=0.3, brightness=0.2), Augment(scale=0.2), Augment()])
def test_augmented_images_are_measured_again(study: Study, store: Store, spec: Augment) -> None:
    batch = {
        "image": torch.from_numpy(np.array(store.images[:8])),
        "mask": torch.from_numpy(np.array(store.masks[:8])),
        "values": torch.from_numpy(store.values()[:8]),
    }
    torch.manual_seed(0)
    image, mask, values = AugmentedSamples(study, spec).with_masks(batch)
    measured = Measurements.of(study).estimate(mask, image)
    torch.testing.assert_close(values[:, study.measured_columns], measured, rtol=1e-4, atol=1e-2)
    assert torch.allclose(values, batch["values"], rtol=1e-4, atol=1e-2) == (spec == Augment())


def test_local_deformations_are_measured_on_their_image(study: Study, store: Store) -> None:
    batch = {
        "image": torch.from_numpy(np.array(store.images[:8])),
        "mask": torch.from_numpy(np.array(store.masks[:8])),
        "values": torch.from_numpy(store.values()[:8]),
    }
    torch.manual_seed(0)
    image, values, known = PairedSamples(study, Augment(), LocalDeformation(share=1.0)).pairs(batch)
    assert known is not None
    moved = (known.image != image).flatten(1).any(dim=1)
    assert moved.any()
    # What is scaled keeps its greys, so of all numbers these change least.
    density = list(study.variables).index("density")
    assert (known.values - values)[moved, density].abs().max() < 40


def test_a_store_has_it_and_another_study_does_not_take_it(study: Study, store: Store, small_study: Study) -> None:
    read = Measurements.of(study).estimate(
        torch.from_numpy(np.array(store.masks)).double() / 255, to_unit(torch.from_numpy(np.array(store.images)))
    )
    assert store.table["density"].to_numpy() == pytest.approx(read[:, -1].numpy(), abs=1e-3)
    store.require(study)
    raw = study.model_dump(mode="json")
    raw["structures"]["density"]["reference"] = "right_lung"
    with pytest.raises(Exception, match="reference"):
        store.require(Study.model_validate(raw))


@pytest.mark.parametrize("view", [{"contrast": 0.1}, {"brightness": 0.1}, {"gamma": 0.1}])
def test_views_leave_greys_alone(make_small_study: MakeStudy, view: dict[str, float]) -> None:
    changes = {"variables.density": {"kind": "continuous"}, "evaluation.metric": "mae", "structures.density": DENSITY}
    with refused(StudyError, Code.CONFLICT, "finetune.view"):
        Measurements.of(make_small_study(changes | {"finetune.view": view}))


@pytest.mark.parametrize("reference", ["lung", "density"])
def test_a_reference_is_a_structure_with_a_mask(make_small_study: MakeStudy, reference: str) -> None:
    changes = {"variables.density": {"kind": "continuous"}, "evaluation.metric": "mae"}
    with pytest.raises(StudyError) as wrong:
        make_small_study(changes | {"structures.density": DENSITY | {"reference": reference}})
    assert "structures.density.reference" in str(wrong.value)
    with refused(StudyError, Code.CONFLICT, "structures.heart.reference"):
        Measurements.of(make_small_study({"structures.heart.reference": "left_lung"}))


def test_a_plan_keeps_greys_out_of_views() -> None:
    plain = outline()
    variables = plain.given["variables"] | {"density": {"kind": "continuous"}}
    structures = plain.given["structures"] | {"density": DENSITY}
    study = usual_study(outline(variables=variables, structures=structures))
    assert not study.finetune.view.contrast
    assert not study.finetune.view.brightness
    assert study.evaluation.metric == "mae"
    Measurements.of(study)


def test_answers_are_read_on_their_own_image(small_run: Run, study: Study) -> None:
    """The judge reads the greys of what it is shown, not of the image before."""
    judge = small_run.load("judge")
    judge.measurements = Measurements.of(study)
    image = to_unit(torch.from_numpy(np.array(small_run.store().images[:4])))
    dark = judge.read(image * 0.5 - 0.5)[:, -1]
    assert not torch.allclose(dark, judge.read(image)[:, -1])
