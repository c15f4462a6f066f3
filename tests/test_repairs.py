"""What happened to an image that is unlike the training images, where undoing it makes it like them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import segcft
from segcft.api.model import Model
from segcft.counterfactual.repairs import (
    ORIENTATIONS,
    UNDONE,
    gained_by_turning,
    limits,
    what_happened,
    without_border,
)
from segcft.counterfactual.warnings import turned_image
from segcft.grey import to_unit

MODEL = Path(__file__).parents[1] / "models" / "chest-sim"

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model() -> Model:
    return segcft.load(MODEL)


def example(number: int) -> tuple[Pixels, dict[str, float | str]]:
    """A simulated film, and what is known of it."""
    row = pd.read_csv(MODEL / "examples" / "attributes.csv").iloc[number]
    return np.array(Image.open(MODEL / "examples" / row["image"])), {"sex": row["sex"], "age": float(row["age"])}


def framed(pixels: Pixels) -> Pixels:
    height, width = pixels.shape
    inner = Image.fromarray(pixels).resize((width - 28, height - 28))
    return np.pad(np.array(inner), 14)


DONE = {
    "like a negative": lambda pixels: 255 - pixels,
    "upside down": lambda pixels: pixels[::-1, ::-1],
    "mirrored": lambda pixels: pixels[:, ::-1],
    "turned to the left": np.rot90,
    "turned to the right": lambda pixels: np.rot90(pixels, -1),
    "framed": framed,
}


def test_everything_is_done_that_can_be_undone() -> None:
    assert set(DONE) == set(UNDONE)


def told(model: Model, pixels: Pixels, known: dict[str, float | str]) -> str:
    """What is told of an image's past."""
    image = np.ascontiguousarray(pixels)
    answer = model.counterfactual(image, known, {"heart_area": "+10%"}, draws=0)
    values = [answer.record["variables"][name]["before"] for name in model.study.variables]
    numbers = [
        variable.categories.index(value) if variable.categories else value
        for value, variable in zip(values, model.study.variables.values(), strict=True)
    ]
    x, row = to_unit(torch.from_numpy(image)[None, None]), torch.tensor([numbers])
    _, one = model.model_of(None)
    typical = model.run.typical(model.methods["segmentor"], one.mechanism.lengths(one.abduct(x, row).noise))
    name = what_happened(one, model.judge, x, row, model.study.measured_columns, typical)
    warned = [text for text in answer.warnings if text.startswith("image")]
    assert all(name in text for text in warned)
    return name if warned else ""


@pytest.mark.parametrize("name", DONE)
def test_a_film_that_was_changed_is_known_again(model: Model, name: str) -> None:
    for number in range(3):
        pixels, known = example(number)
        assert told(model, DONE[name](pixels), known) == name


def test_of_a_film_as_it_is_and_of_noise_nothing_is_told(model: Model) -> None:
    pixels, known = example(0)
    assert told(model, pixels, known) == ""
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    assert told(model, noise, known) == ""


def test_what_is_not_square_cannot_be_turned_and_one_grey_has_no_border(model: Model) -> None:
    wide, flat = torch.rand(1, 1, 6, 9), torch.zeros(1, 1, 8, 8)
    shapes = {name: undone.shape if (undone := undo(wide)) is not None else None for name, undo in UNDONE.items()}
    turned = {"turned to the left", "turned to the right"}
    assert {name for name, shape in shapes.items() if shape == (1, 1, 9, 6)} == turned
    assert {name for name, shape in shapes.items() if shape == wide.shape} == set(UNDONE) - turned - {"framed"}
    assert UNDONE["framed"](flat) is None
    assert UNDONE["framed"](torch.full((1, 3, 5, 5), torch.nan)) is None


def test_a_border_is_cut_off_and_what_is_in_it_fills_the_image() -> None:
    inner = torch.rand(1, 1, 20, 30) * 0.5 + 0.25
    image = torch.full((1, 1, 40, 60), -1.0)
    image[:, :, 10:30, 20:50] = inner
    found = without_border(image)
    assert found is not None
    assert found.shape == image.shape
    assert float(found.min()) > 0.2
    assert float(found.mean()) == pytest.approx(float(inner.mean()), abs=0.02)
    assert without_border(inner) is None


REAL = MODEL.with_name("chest")


@pytest.fixture(scope="module")
def hospitals() -> Model:
    return segcft.load(REAL)


def about_the_image(model: Model, pixels: Pixels) -> list[str]:
    answer = model.counterfactual(np.ascontiguousarray(pixels), {}, {"heart_area": "+10%"}, draws=0)
    return [text for text in answer.warnings if text.startswith("image")]


class TestTurned:
    """A mirrored film may be typical: it is found because it would be more so, were it put right."""

    @pytest.mark.parametrize("name", ["1.png", "2.png"])
    def test_a_mirrored_film_of_a_real_person_is_told(self, hospitals: Model, name: str) -> None:
        pixels = np.array(Image.open(REAL / "examples" / name))
        assert about_the_image(hospitals, pixels) == []
        (warning,) = about_the_image(hospitals, pixels[:, ::-1])
        assert "mirrored" in warning

    def test_gains_of_an_image_and_of_what_was_done_to_it_are_opposite(self, hospitals: Model) -> None:
        x = to_unit(torch.from_numpy(np.array(Image.open(REAL / "examples" / "1.png")))[None, None])
        values = torch.tensor(hospitals.people[:1].tolist(), device=hospitals.device)
        _, one = hospitals.model_of(None)
        columns = hospitals.study.measured_columns
        straight = gained_by_turning(one, hospitals.judge, x, values, columns)
        turned = gained_by_turning(one, hospitals.judge, x.flip(3), values, columns)
        assert set(straight) == set(ORIENTATIONS)
        assert float(straight["mirrored"]) == pytest.approx(-float(turned["mirrored"]), abs=1e-4)
        assert float(straight["mirrored"]) < 0

    def test_of_volumes_nothing_is_known(self, hospitals: Model) -> None:
        _, one = hospitals.model_of(None)
        assert gained_by_turning(one, hospitals.judge, torch.zeros(1, 1, 4, 4, 4), hospitals.people[:1], []) == {}

    def test_one_in_a_hundred_may_be_taken_for_turned(self) -> None:
        assert limits({"mirrored": [k / 100 for k in range(199)]}) == {"mirrored": 1.97}

    def test_of_few_the_largest_gain_is_the_limit(self) -> None:
        assert limits({"mirrored": [k / 100 for k in range(60)] + [math.nan, math.inf]}) == {"mirrored": 0.59}

    def test_from_very_few_nothing_is_learnt(self) -> None:
        assert limits({"mirrored": [0.1] * 49}) == {}

    def test_who_only_loses_has_the_limit_0(self) -> None:
        assert limits({"mirrored": [-0.3] * 60, "upside down": []}) == {"mirrored": 0.0}

    def test_what_gains_most_is_told(self) -> None:
        gains = {"mirrored": torch.tensor(0.3), "upside down": torch.tensor(0.5)}
        most = {"mirrored": 0.1, "upside down": 0.1}
        (warning,) = turned_image(gains, most)
        assert "upside down" in warning
        assert turned_image(gains, {"mirrored": 0.31, "upside down": 0.51}) == []
        assert turned_image(gains, {}) == []
