"""An image mechanism from outside of the package: the flow of docs/how-to-add/image-mechanism.md.

tests/test_how_to_add.py follows the page.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import segcft
from refused import refused
from segcft.config.study import Study
from segcft.errors import Code, StudyError
from segcft.grey import to_unit
from segcft.image_models.mechanism import MECHANISMS, ImageMechanism
from segcft.pipeline.run import Run
from tests.conftest import MakeStudy

pytestmark = pytest.mark.slow
FLOW = {"architecture": "flow", "steps": 1}


def picture(run: Run, row: int = 0) -> np.ndarray:
    store = run.store()
    return np.array(store.images[store.indices("test")[row], 0])


@pytest.mark.usefixtures("flow_run")
def test_its_settings_are_read_and_checked(make_small_study: MakeStudy) -> None:
    study = make_small_study({"hvae": FLOW})
    assert study.hvae.model_dump()["hidden"] == 8
    assert Study.model_validate(study.model_dump(mode="json")) == study
    for key, what in (("hidden", "hvae.hidden: "), ("hiden", "hvae.hiden: unknown key; did you mean 'hidden'?")):
        with pytest.raises(StudyError, match=what):
            make_small_study({"hvae": FLOW | {key: 0}})
    with pytest.raises(StudyError, match="a chessboard needs two pixels"):
        make_small_study({"hvae": FLOW, "image.size": [1, 32]})


def test_it_is_trained_and_fine_tuned(flow_run: Run) -> None:
    before, after = (flow_run.load(part).state_dict() for part in ("hvae", "cft-segmentor"))
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    typical = flow_run.typical("hvae", ["image"])
    assert typical is not None
    assert set(typical.ranges) == {"image"}


def test_it_answers(flow_run: Run) -> None:
    model = segcft.load(flow_run.folder)
    answer = model.counterfactual(picture(flow_run), {"age": 60}, {"heart_area": "+20%"}, draws=2)
    assert answer.image.shape == (1, 32, 32)
    assert (answer.image != answer.original).any()
    same = model.counterfactual(picture(flow_run), do={"age": "+0"}, draws=0)
    assert np.abs(same.difference).max() <= 1
    drawn = model.sample(2, do={"sex": "F"})
    assert drawn.images.shape == (2, 1, 32, 32)
    likely = model.log_likelihood(picture(flow_run))
    assert likely.image == pytest.approx(-likely.bits_per_pixel * math.log(2) * 32 * 32)


def test_an_image_of_another_kind_is_warned_of(flow_run: Run) -> None:
    model = segcft.load(flow_run.folder)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    (answer,) = model.answer([model.question(noise)])
    assert any(text.startswith("image: unlike ") for text in answer.warnings)


def test_a_mechanism_may_know_less(flow_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a density there is no warning and no likelihood, and answers are what they are."""
    network: Any = flow_run.load("hvae")
    store = flow_run.store()
    x, values = to_unit(torch.from_numpy(store.images[:3].copy())), torch.from_numpy(store.values()[:3])
    for name in ("log_density", "lengths"):
        monkeypatch.setattr(MECHANISMS["flow"], name, getattr(ImageMechanism, name))
    noise = network.abduct(x, values)
    assert network.log_density(x, values) is None
    assert network.lengths(noise) == {}
    assert network.reconstruction(noise) is None
    model = segcft.load(flow_run.folder)
    assert model.counterfactual(picture(flow_run), do={"heart_area": "+5%"}, draws=0).image.shape == (1, 32, 32)
    with refused(segcft.errors.RunError, Code.UNSUPPORTED, "hvae.architecture"):
        model.log_likelihood(picture(flow_run))


def test_a_compiled_step_is_the_same(flow_run: Run) -> None:
    network: Any = flow_run.load("hvae").train()
    x, values = torch.rand(2, 1, 32, 32) * 2 - 1, torch.tensor([[0, 50.0, 200, 200, 200], [1, 60.0, 210, 190, 220]])
    eager = network.predict(network.abduct(x, values), values.flip(0))
    network.compile_passes("aot_eager")
    compiled = network.predict(network.abduct(x, values), values.flip(0))
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-5)
    assert F.mse_loss(compiled, eager) < 1e-6
