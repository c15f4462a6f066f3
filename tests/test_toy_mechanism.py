"""An image mechanism of another kind, which only this file knows: a flow on pixels goes through the whole pipeline."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

import segcft
from refused import refused
from segcft.config.mechanisms import SPECS, MechanismSpec
from segcft.config.study import Image, Study, Variable
from segcft.data.grey import to_unit
from segcft.errors import Code, StudyError
from segcft.image_models.mechanism import MECHANISMS, ImageMechanism
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training import artefact
from segcft.training.loop import make_fabric
from tests.conftest import MakeStudy

LEVEL = 2 / 255
"""The width of a grey level, by which a density of images in [-1, 1] is a probability of levels."""


class ToyFlowSpec(MechanismSpec):
    """Sizes of the flow: ``layers`` of coupling, ``hidden`` channels in each."""

    architecture: Literal["toy-flow"]
    layers: PositiveInt = 2
    hidden: PositiveInt = 4

    def check_image(self, size: tuple[int, ...], channels: int) -> None:
        if min(size) < 2:
            raise ValueError("image.size: a chessboard needs two pixels")


class ToyNoise(NamedTuple):
    z: Tensor
    log_density: Tensor | None


class Coupling(nn.Module):
    """The black pixels of a chessboard, scaled and shifted by what the white ones and the parents say."""

    white: Tensor

    def __init__(self, spec: ToyFlowSpec, size: tuple[int, ...], parents: int, colour: int) -> None:
        super().__init__()
        self.see = nn.Conv2d(1, spec.hidden, 3, padding=1)
        self.listen = nn.Linear(parents, spec.hidden)
        self.say = nn.Conv2d(spec.hidden, 2, 3, padding=1)
        self.register_buffer("white", (torch.arange(size[0])[:, None] + torch.arange(size[1]) + colour) % 2 == 0)

    def forward(self, still: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.see(still * self.white) + self.listen(parents)[:, :, None, None])
        log_scale, shift = (self.say(hidden) * ~self.white).chunk(2, dim=1)
        return torch.tanh(log_scale), shift


class ToyFlow(ImageMechanism):
    """RealNVP (Dinh et al. 2017) of an image given its parents. There are no latents and there is no posterior."""

    spec: ToyFlowSpec

    def __init__(self, spec: ToyFlowSpec, image: Image, variables: Mapping[str, Variable]) -> None:
        super().__init__(spec, image, variables)
        features = self.parents.features
        self.layers = nn.ModuleList(Coupling(spec, image.size, features, colour) for colour in range(spec.layers))
        self.loc = nn.Linear(features, 1)
        self.log_scale = nn.Parameter(torch.zeros(1))

    def abduct(self, x: Tensor, values: Tensor, sample: bool = True) -> ToyNoise:
        parents = self.parents(values)
        total = torch.zeros(len(x), device=x.device)
        for layer in self.layers:
            log_scale, shift = layer(x, parents)
            x = (x - shift) * torch.exp(-log_scale)
            total = total - log_scale.flatten(1).sum(dim=1)
        z = (x - self.loc(parents)[:, :, None, None]) * torch.exp(-self.log_scale)
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(z) - self.log_scale + math.log(LEVEL)
        return ToyNoise(z, (total + normal.flatten(1).sum(dim=1)) / self.pixels)

    def predict(self, noise: ToyNoise, values: Tensor) -> Tensor:
        parents = self.parents(values)
        x = noise.z * torch.exp(self.log_scale) + self.loc(parents)[:, :, None, None]
        for layer in reversed(self.layers):
            log_scale, shift = layer(x, parents)
            x = x * torch.exp(log_scale) + shift
        return x.clamp(-1, 1)

    def sample(self, n: int, pixel_noise: bool = True) -> ToyNoise:
        return ToyNoise(torch.randn(n, self.channels, *self.grid.size, device=self.log_scale.device), None)

    def loss(self, x: Tensor, values: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.constraint(x, values).mean(), {}

    def constraint(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor:
        return -self.log_density(x, values)

    def log_density(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor:
        density = self.abduct(x, values).log_density
        assert density is not None
        return density

    def lengths(self, noise: ToyNoise) -> dict[str, Tensor]:
        return {} if noise.log_density is None else {"image": -noise.log_density / math.log(2)}


SPECS.add("toy-flow", ToyFlowSpec)
MECHANISMS.add("toy-flow", ToyFlow)

TOY = {"architecture": "toy-flow", "steps": 30, "batch_size": 12, "learning_rate": 1e-2, "gradient_clip": 5}


@pytest.fixture(scope="module")
def study(make_small_study: MakeStudy) -> Study:
    return make_small_study({"hvae": TOY, "finetune.guides": ["segmentor"], "finetune.steps": 3})


@pytest.fixture(scope="module")
def toy_run(small_run: Run, study: Study, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run with the flow as its image mechanism: trained, fine-tuned and evaluated."""
    folder = tmp_path_factory.mktemp("toy") / "run"
    shutil.copytree(small_run.folder, folder)
    run = Run(folder, study)
    run.write_study()
    Pipeline(run, make_fabric("cpu")).run_all()
    return run


def picture(run: Run, row: int = 0) -> np.ndarray:
    store = run.store()
    return np.array(store.images[store.indices("test")[row], 0])


def test_its_settings_are_read_and_checked(make_small_study: MakeStudy, study: Study) -> None:
    assert isinstance(study.hvae, ToyFlowSpec)
    assert study.hvae.hidden == 4
    assert Study.model_validate(study.model_dump(mode="json")) == study
    for key, what in (("hidden", "hvae.hidden: "), ("hiden", "hvae.hiden: unknown key; did you mean 'hidden'?")):
        with pytest.raises(StudyError, match=what):
            make_small_study({"hvae": TOY | {key: 0}})
    with pytest.raises(StudyError, match="a chessboard needs two pixels"):
        make_small_study({"hvae": TOY, "image.size": [1, 32]})


def test_it_is_trained_and_fine_tuned(toy_run: Run) -> None:
    assert toy_run.methods() == {"none": "hvae", "segmentor": "cft-segmentor"}
    before, after = (toy_run.load(part).state_dict() for part in ("hvae", "cft-segmentor"))
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    metrics = artefact.read_meta(toy_run.path("hvae"))["metrics"]
    assert math.isfinite(metrics["validation_bits_per_pixel"])
    typical = toy_run.typical("hvae")
    assert typical is not None
    assert set(typical.ranges) == {"image"}


def test_it_is_evaluated(toy_run: Run) -> None:
    rows = json.loads((toy_run.evaluation / "table.json").read_text())
    metrics = {row["metric"] for row in rows if row["method"] == "segmentor"}
    assert {"mape", "slope", "locality", "composition", "reversibility"} <= metrics
    assert "reconstruction" not in metrics  # it tells no part of pixels apart
    (composition,) = (r["value"] for r in rows if (r["method"], r["metric"]) == ("segmentor", "composition"))
    assert composition < 1  # grey levels: abduction and prediction are each other's inverse
    assert (toy_run.evaluation / "table.md").is_file()


def test_it_answers(toy_run: Run) -> None:
    model = segcft.load(toy_run.folder)
    answer = model.counterfactual(picture(toy_run), {"age": 60}, {"heart_area": "+20%"}, draws=2)
    assert answer.image.shape == (1, 32, 32)
    assert (answer.image != answer.original).any()
    same = model.counterfactual(picture(toy_run), do={"age": "+0"}, draws=0)
    assert np.abs(same.difference).max() <= 1
    drawn = model.sample(2, do={"sex": "F"})
    assert drawn.images.shape == (2, 1, 32, 32)
    likely = model.log_likelihood(picture(toy_run))
    assert likely.image == pytest.approx(-likely.bits_per_pixel * math.log(2) * 32 * 32)


def test_an_image_of_another_kind_is_warned_of(toy_run: Run) -> None:
    model = segcft.load(toy_run.folder)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    (answer,) = model.answer([model.question(noise)])
    assert any(text.startswith("image: unlike those that the model has learnt") for text in answer.warnings)


def test_a_mechanism_may_know_less(toy_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a density there is no warning and no likelihood, and answers are what they are."""
    network: Any = toy_run.load("hvae")
    store = toy_run.store()
    x, values = to_unit(torch.from_numpy(store.images[:3].copy())), torch.from_numpy(store.values()[:3])
    for name in ("log_density", "lengths"):
        monkeypatch.setattr(ToyFlow, name, getattr(ImageMechanism, name))
    noise = network.abduct(x, values)
    assert network.log_density(x, values) is None
    assert network.lengths(noise) == {}
    assert network.reconstruction(noise) is None
    model = segcft.load(toy_run.folder)
    assert model.counterfactual(picture(toy_run), do={"heart_area": "+5%"}, draws=0).image.shape == (1, 32, 32)
    with refused(segcft.errors.RunError, Code.UNSUPPORTED, "hvae.architecture"):
        model.log_likelihood(picture(toy_run))


def test_a_compiled_step_is_the_same(study: Study) -> None:
    network = ToyFlow(study.hvae, study.image, study.variables).train()  # type: ignore[arg-type]
    x, values = torch.rand(2, 1, 32, 32) * 2 - 1, torch.tensor([[0, 50.0, 200, 200, 200], [1, 60.0, 210, 190, 220]])
    eager = network.predict(network.abduct(x, values), values.flip(0))
    network.compile_passes("aot_eager")
    compiled = network.predict(network.abduct(x, values), values.flip(0))
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-5)
    assert F.mse_loss(compiled, eager) < 1e-6
