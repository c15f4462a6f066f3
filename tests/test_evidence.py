"""What an image says of categories that nobody gives, against mechanisms whose likelihood is known."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import segcft
from segcft.causal.missing import MissingValues
from segcft.causal.scm import StructuralCausalModel
from segcft.config.study import Study
from segcft.counterfactual.evidence import (
    MOST_COMBINATIONS,
    Believed,
    Combinations,
    LikelihoodEvidence,
    log_likelihoods,
)
from segcft.counterfactual.model import CounterfactualModel
from segcft.data.store import Store
from segcft.evaluate.temperature import fitted_temperature
from segcft.grey import to_unit
from segcft.image_models.mechanism import ImageMechanism
from segcft.pipeline.calibration import read_calibration, write_calibration
from segcft.pipeline.run import Run
from segcft.utils.progress import Progress

ANY = (-1e9, 1e9)
"""Lengths of images all of which are usual."""
SPREAD = 0.2
"""Standard deviation of an image's grey, in half the range."""


class Grey(ImageMechanism):
    """Images of one grey, which depends on the sex: of F ``dark`` and of M ``bright``, and of chance. The mechanism
    takes every pixel for a throw of its own."""

    def __init__(self, study: Study, dark: float = -0.1, bright: float = 0.1) -> None:
        super().__init__(study.hvae, study.image, study.variables)
        self.means = torch.nn.Parameter(torch.tensor([dark, bright]))
        self.column = list(study.variables).index("sex")

    def log_density(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor | None:
        mean = self.means[values[:, self.column].long()].reshape(-1, 1, 1, 1)
        return torch.distributions.Normal(mean, SPREAD).log_prob(x).flatten(1).mean(dim=1)

    def loss(self, x: Tensor, values: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        raise AssertionError("it is not trained")

    def abduct(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor:
        return x

    def predict(self, noise: Tensor, values: Tensor) -> Tensor:
        return noise

    def sample(self, n: int, pixel_noise: bool = True) -> Tensor:
        return torch.zeros(n, self.channels, *self.grid.size)

    def constraint(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor:
        return torch.zeros(len(x))


class Silent(Grey):
    """It has no likelihood."""

    def log_density(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor | None:
        return None


class Untold(Grey):
    """It must not be asked."""

    def log_density(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor | None:
        raise AssertionError("there is nothing to learn from the image")


@pytest.fixture(scope="module")
def scm(small_run: Run) -> StructuralCausalModel:
    loaded: StructuralCausalModel = small_run.load("scm")
    return loaded


def grey_store(run: Run, dark: float, bright: float) -> Store:
    """The samples of a run; their images are of a grey that their sex sets, and of chance that is the same for both."""
    store = run.store()
    sex = (store.table["sex"] == "M").to_numpy()
    greys = np.where(sex, bright, dark)
    for one in (sex, ~sex):  # as far apart as so many draws of a Gaussian are
        shares = torch.from_numpy((np.arange(one.sum()) + 0.5) / one.sum())
        greys[one] += SPREAD * torch.special.ndtri(shares).numpy()
    grey = np.clip(np.round((greys + 1) * 255 / 2), 0, 255).astype(np.uint8)
    store.images = np.broadcast_to(grey[:, None, None, None], store.images.shape)
    return store


def test_what_is_inferred_is_the_product_of_what_both_say(small_study: Study, scm: StructuralCausalModel) -> None:
    mechanism = Grey(small_study)
    image = torch.full((1, 1, *small_study.image.size), 0.15)
    values = torch.full((1, len(small_study.variables)), math.nan)
    values[0, list(small_study.variables).index("age")] = 60.0
    generator = torch.Generator().manual_seed(0)
    alone = MissingValues(scm, values, generator)
    sex = alone.candidates[:, mechanism.column] == 1
    prior = float(alone.weights[sex].sum())
    temperature = float(mechanism.pixels)  # then the image counts as one throw
    ratio = math.exp((0.25**2 - 0.05**2) / (2 * SPREAD**2))
    expected = prior * ratio / (prior * ratio + 1 - prior)
    seen = LikelihoodEvidence(CounterfactualModel(scm, mechanism), image, Believed(temperature=temperature, usual=ANY))
    both = MissingValues(scm, values, torch.Generator().manual_seed(0), seen=seen)
    assert float(both.weights[sex].sum()) == pytest.approx(expected, abs=1e-4)
    filled, certainty = both.likely()
    assert certainty["sex"] == pytest.approx(max(expected, 1 - expected), abs=1e-4)
    assert int(filled[0, mechanism.column]) == int(expected > 0.5)


def test_who_has_told_all_categories_is_not_looked_at(small_study: Study, scm: StructuralCausalModel) -> None:
    values = torch.full((1, len(small_study.variables)), math.nan)
    values[0, list(small_study.variables).index("sex")] = 1.0
    image = torch.zeros(1, 1, *small_study.image.size)
    seen = LikelihoodEvidence(CounterfactualModel(scm, Untold(small_study)), image, Believed(temperature=1, usual=ANY))
    MissingValues(scm, values, torch.Generator().manual_seed(0), seen=seen)


class Even(StructuralCausalModel):
    """Measures say nothing of the sex: as many are F as M."""

    def log_prob(self, values: Tensor) -> Tensor:
        return torch.zeros_like(values)

    def sample(self, n: int, generator: torch.Generator | None = None, do: Tensor | None = None) -> Tensor:
        assert do is not None
        drawn = torch.where(do.isnan(), 0.0, do)
        drawn[:, self.variables.index("sex")] = torch.arange(n) % 2
        return drawn


def test_the_temperature_is_as_many_pixels_as_err_together(small_run: Run) -> None:
    study, store = small_run.study, grey_store(small_run, -0.1, 0.1)
    rows, mechanism = np.tile(np.arange(len(store)), 2), Grey(study)
    model = CounterfactualModel(Even(study.variables, study.scm), mechanism)
    found = fitted_temperature(study, model, store, rows, Progress())
    assert found is not None
    assert mechanism.pixels / 2 < found.temperature < mechanism.pixels * 4  # it is rather too careful than too sure
    low, high = found.usual
    assert low < high
    density = mechanism.log_density(to_unit(torch.from_numpy(store.images[:1].copy())), torch.zeros(1, 5))
    length = -density.item() / math.log(2)
    assert low < length < high


@pytest.mark.parametrize("low", [math.nan, 50.0])
def test_what_is_impossible_by_the_measures_or_has_no_likelihood_spoils_nothing(
    small_run: Run, scm: StructuralCausalModel, low: float
) -> None:
    """A sample whose right category has no weight, and one whose image no number, are among the others."""

    class Spoilt(Grey):
        def log_density(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor | None:
            found = super().log_density(x, values, sample)
            assert found is not None
            return torch.where(x.flatten(1)[:, 0] > 0.3, torch.full_like(found, -low), found)

    class Odd(Even):
        def log_prob(self, values: Tensor) -> Tensor:
            sex = self.variables.index("sex")
            first = [k for k in range(values.shape[1]) if k != sex][-1]
            known = torch.zeros_like(values)
            known[:, first] = torch.where(values[:, sex] == 0, -1e4, 0.0) * (values[:, first] > 1e9)
            return known

    study, store = small_run.study, grey_store(small_run, -0.1, 0.1)
    store.table.loc[store.table.index[0], "heart_area"] = 1e10
    store.table.loc[store.table.index[0], "sex"] = "F"
    model = CounterfactualModel(Odd(study.variables, study.scm), Spoilt(study))
    assert fitted_temperature(study, model, store, np.arange(len(store)), Progress()) is not None


@pytest.mark.parametrize("kind", [Grey, Silent])
def test_who_is_wrong_or_says_nothing_is_not_asked(
    small_run: Run, scm: StructuralCausalModel, kind: type[Grey]
) -> None:
    study, store = small_run.study, grey_store(small_run, -0.1, 0.1)
    model = CounterfactualModel(scm, kind(study, dark=0.1, bright=-0.1))
    assert fitted_temperature(study, model, store, np.arange(len(store)), Progress()) is None


def test_rare_combinations_are_as_likely_as_the_least_likely(
    small_study: Study, scm: StructuralCausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_COMBINATIONS > 1
    monkeypatch.setattr("segcft.counterfactual.evidence.MOST_COMBINATIONS", 1)
    candidates = scm.sample(30, torch.Generator().manual_seed(0))
    candidates[:, list(small_study.variables).index("sex")] = (torch.arange(30) < 10).float()
    combinations = Combinations(scm, candidates)
    assert len(combinations) == 2
    image = torch.full((1, 1, *small_study.image.size), 0.1)
    found = log_likelihoods(CounterfactualModel(scm, Grey(small_study)), image, combinations)
    assert found is not None
    assert found[0] == found[1]


def test_an_unusual_image_is_not_asked(small_study: Study, scm: StructuralCausalModel) -> None:
    mechanism = Grey(small_study)
    candidates = scm.sample(50, torch.Generator().manual_seed(0))
    image = torch.full((1, 1, *small_study.image.size), 0.9)
    lengths = [-x.item() / math.log(2) for x in map(mechanism.log_density, (image, image), candidates.split(1))]
    for usual, asked in (((0.9 * min(lengths), 1.1 * max(lengths)), True), ((0.0, 0.5 * min(lengths)), False)):
        believed = Believed(temperature=1e3, usual=usual)
        found = LikelihoodEvidence(CounterfactualModel(scm, mechanism), image, believed)(candidates)
        assert (len(found.unique()) > 1) == asked


def test_an_answer_says_what_its_image_tells(small_run: Run, tmp_path: Path) -> None:
    """The odds of a sex are changed by as much as the image is likelier under it; where it is given nothing is."""
    shutil.copytree(small_run.folder, tmp_path / "run")
    run, method = Run(tmp_path / "run"), "segmentor"
    store, study, known = run.store(), run.study, read_calibration(run)[method]
    pixels = np.array(store.images[int(store.indices("test")[0])])
    x, answers, told = to_unit(torch.from_numpy(pixels)[None]), [], []
    write_calibration(run, {method: known.model_copy(update={"categories": None})})
    ask = {"age": 60, "heart_area": 200, "left_lung_area": 200, "right_lung_area": 200}
    for difference in (None, 2.0, -2.0):
        if difference is not None:  # nats that the image is likelier under M than under F
            values = torch.tensor([[float(sex), 60.0, 200.0, 200.0, 200.0] for sex in (0, 1)])
            assert list(study.variables) == ["sex", "age", "left_lung_area", "right_lung_area", "heart_area"]
            mechanism = run.model(method).mechanism
            densities = mechanism.log_density(x.expand(2, *x.shape[1:]), values, sample=False)
            assert densities is not None
            nats = float(densities[1] - densities[0]) * mechanism.pixels
            if nats * difference < 0:
                continue  # the image says the other
            believed = Believed(temperature=nats / difference, usual=ANY)
            write_calibration(run, {method: known.model_copy(update={"categories": believed})})
        model = segcft.load(run.folder)
        row = model.counterfactual(pixels[0], ask, {"heart_area": "+10%"}, method, draws=0).record["variables"]["sex"]
        odds = math.log(row["probability"] / (1 - row["probability"])) * (1 if row["before"] == "M" else -1)
        answers.append(odds)
        told.append(model.counterfactual(pixels[0], ask | {"sex": "M"}, {"heart_area": "+10%"}, method, draws=0).image)
    assert len(answers) == 2
    assert abs(answers[1] - answers[0]) == pytest.approx(2.0, abs=0.05)
    assert (told[0] == told[1]).all()
