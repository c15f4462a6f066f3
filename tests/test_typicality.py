"""Images unlike those that a model has learnt are warned of, and others are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import segcft
from refused import refused
from segcft.api.model import Model
from segcft.cli import main
from segcft.counterfactual.warnings import LARGEST_SHOWN, atypical_image
from segcft.errors import Code, RunError
from segcft.image_models.typicality import FEWEST_IMAGES, TypicalRanges, prediction_interval, typical_ranges
from segcft.pipeline.run import Run
from segcft.training import artefact
from tests.conftest import MODELS

if TYPE_CHECKING:
    from starlette.testclient import TestClient

PARTS = ("hvae", "cft-regressor", "cft-segmentor")
WITH_EXAMPLES = ("chest-sim", "coronary-sim", "coronary-quickstart")


def about_the_image(warnings: list[str]) -> list[str]:
    return [text for text in warnings if text.startswith("image: unlike ")]


def asked(model: Model, image: Any) -> list[str]:
    (answer,) = model.answer([model.question(image)])
    return about_the_image(answer.warnings)


def example(name: str, number: int = 1) -> NDArray[np.uint8]:
    with Image.open(MODELS / name / "examples" / f"{number}.png") as file:
        return np.array(file.convert("L"))


def padded(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = (side // 2 for side in pixels.shape)
    small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
    return np.pad(small, ((height // 2, height - height // 2), (width // 2, width - width // 2)))


def checkerboard(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    y, x = np.indices(pixels.shape)
    return (255 * ((y // 8 + x // 8) % 2)).astype(np.uint8)


def gradient(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    y, x = np.indices(pixels.shape)
    return (255 * (y + x) / (y + x).max()).astype(np.uint8)


JUNK: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "Gaussian noise": lambda x: np.random.default_rng(0).normal(128, 40, x.shape).clip(0, 255).astype(np.uint8),
    "uniform noise": lambda x: np.random.default_rng(0).integers(0, 256, x.shape, dtype=np.uint8),
    "checkerboard": checkerboard,
    "gradient": gradient,
    "padded": padded,
    "4 levels": lambda x: (np.round(x / 85) * 85).astype(np.uint8),
    "inverted": lambda x: 255 - x,
}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_junk_is_warned_of_and_examples_are_not(name: str) -> None:
    model = segcft.load(MODELS / name)
    for number in (1, 2, 3):
        assert asked(model, example(name, number)) == []
    for what, made in JUNK.items():
        assert len(asked(model, made(example(name)))) == 1, what
    for other in WITH_EXAMPLES:
        if other.split("-")[0] != name.split("-")[0]:
            assert len(asked(model, example(other))) == 1, other


def test_images_of_another_organ_or_none_are_warned_of_by_a_model_of_few_people() -> None:
    model = segcft.load(MODELS / "jsrt")
    for what in ("Gaussian noise", "uniform noise", "checkerboard", "padded", "inverted"):
        assert len(asked(model, JUNK[what](example("chest-sim")))) == 1, what
    assert len(asked(model, example("coronary-sim"))) == 1


# --- what is recorded ---


def test_every_image_mechanism_records_what_is_usual(small_run: Run) -> None:
    store = small_run.store()
    for part in PARTS:
        typical = small_run.typical(part, ("image", "latents"))
        assert typical is not None
        assert typical.images == len(store.indices("validation", complete=True))
        image, latents = typical.ranges["image"], typical.ranges["latents"]
        assert 0 <= image[0] < image[1]
        assert 0 <= latents[0] < latents[1] < image[1]
    assert "usual" not in artefact.read_meta(small_run.path("scm"))


def test_it_is_of_validation_people_alone(small_run: Run) -> None:
    network, store = small_run.load("hvae"), small_run.store()
    recorded = small_run.typical("hvae", ("image", "latents"))
    assert recorded is not None
    store.images = np.array(store.images)
    for part in ("train", "test"):
        store.images[store.indices(part)] = 255 - store.images[store.indices(part)]
    again = typical_ranges(network, store, 7)
    assert again is not None
    assert again.ranges["image"] == pytest.approx(recorded.ranges["image"], rel=1e-4)
    assert again.ranges["latents"] == pytest.approx(recorded.ranges["latents"], rel=1e-3)
    one = store.indices("validation", complete=True)[0]
    store.images[one] = 255 * (np.indices(store.images[one].shape).sum(axis=0) % 2)
    other = typical_ranges(network, store, 7)
    assert other is not None
    assert other.ranges["image"][1] != pytest.approx(recorded.ranges["image"][1], rel=1e-2)


def test_looking_at_what_is_usual_changes_and_draws_nothing(small_run: Run) -> None:
    network, store = small_run.load("cft-segmentor"), small_run.store()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.random.get_rng_state()
    first, second = (typical_ranges(network, store, 16) for _ in range(2))
    assert first == second
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_too_few_validation_people_make_no_record(small_run: Run) -> None:
    store = small_run.store()
    rows = store.indices("validation", complete=True)
    store.table.loc[rows[FEWEST_IMAGES - 1 :], "split"] = "train"
    assert typical_ranges(small_run.load("hvae"), store, 16) is None


@pytest.fixture
def headed(small_run: Run, tmp_path: Path) -> Callable[[Any], Run]:
    """Makes a copy of the small run in which something else, or nothing, is recorded as usual."""

    def make(usual: Any) -> Run:
        shutil.copytree(small_run.folder, tmp_path / "run")
        run = Run(tmp_path / "run")
        for part in PARTS:
            network = run.build(part)
            meta = artefact.load(run.path(part), network)
            del meta["usual"]
            artefact.save(run.path(part), network, meta | ({} if usual is None else {"usual": usual}))
        return run

    return make


def test_a_part_from_before_there_was_a_record_warns_of_no_image(headed: Callable[[Any], Run]) -> None:
    assert asked(segcft.load(headed(None).folder), JUNK["uniform noise"](np.zeros((32, 32), np.uint8))) == []


@pytest.mark.parametrize(
    "usual",
    [
        "often",
        [1, 2],
        {"images": 500},
        {"images": 500, "latents": [0, 1]},
        {"images": 500, "imgae": [0, 1], "latents": [0, 1]},
        {"images": 500, "image": [0, 1], "latents": [0, 1], "more": [0, 1]},
        {"images": 500, "image": [1], "latents": [0, 1]},
        {"images": 500, "image": [0, "many"], "latents": [0, 1]},
        {"images": "many", "image": [0, 1], "latents": [0, 1]},
    ],
)
def test_a_damaged_record_is_refused(headed: Callable[[Any], Run], usual: Any) -> None:
    with refused(RunError, Code.DAMAGED, "safetensors: usual"):
        asked(segcft.load(headed(usual).folder), np.eye(32, dtype=np.uint8))


# --- where it shows ---


def test_the_command_line_and_its_manifest_tell(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(example("chest-sim")).save(tmp_path / "images" / "person.png")
    Image.fromarray(JUNK["uniform noise"](example("chest-sim"))).save(tmp_path / "images" / "noise.png")
    words = ["counterfactual", str(MODELS / "chest-sim")]
    do = ["--do", "heart_area=+10%", "--out"]
    assert main([*words, str(tmp_path / "images" / "noise.png"), *do, str(tmp_path / "answer")]) == 0
    assert "image: unlike " in capsys.readouterr().out
    told = json.loads((tmp_path / "answer" / "counterfactual.json").read_text())
    assert len(about_the_image(told["warnings"])) == 1
    assert main([*words, str(tmp_path / "images"), *do, str(tmp_path / "answers")]) == 0
    told = pd.read_csv(tmp_path / "answers" / "manifest.csv", keep_default_na=False).set_index("id")["warnings"]
    assert len(about_the_image(told["noise"].split("; "))) == 1
    assert about_the_image(told["person"].split("; ")) == []


def test_the_web_page_tells(client: TestClient, question: dict[str, Any]) -> None:
    from segcft.app.payload import encode

    noise = encode(JUNK["uniform noise"](np.zeros((1, 128, 128), np.uint8)))
    plain, strange = (client.post("/api/question", json=one).json() for one in (question, question | {"pixels": noise}))
    assert about_the_image(plain["record"]["warnings"]) == []
    assert len(about_the_image(strange["record"]["warnings"])) == 1


def lengths(image: float, latents: float) -> dict[str, torch.Tensor]:
    return {"image": torch.tensor(image), "latents": torch.tensor(latents)}


def test_either_term_on_either_side_is_told() -> None:
    typical = TypicalRanges.model_validate({"images": 500, "image": (1.0, 2.0), "latents": (0.01, 0.02)})
    assert atypical_image(lengths(1.5, 0.015), typical) == []
    assert atypical_image(lengths(3.0, 0.03), None) == []
    for image, latents, told in (
        (0.5, 0.015, "(0.5 bits a pixel, usually 1 to 2)"),
        (3.0, 0.015, "(3 bits a pixel, usually 1 to 2)"),
        (1.5, 0.03, "(0.03 bits a pixel in the latents, usually 0.01 to 0.02)"),
        (
            1e25,
            0.001,
            f"(over {LARGEST_SHOWN} bits a pixel, usually 1 to 2, and 0.001 bits a pixel in the latents",
        ),
        (float("nan"), 0.015, f"(over {LARGEST_SHOWN} bits a pixel, usually 1 to 2)"),
    ):
        (warning,) = atypical_image(lengths(image, latents), typical)
        assert told in warning


# --- the range ---


@given(
    seed=st.integers(0, 2**32 - 1),
    people=st.integers(FEWEST_IMAGES, 200),
    scale=st.floats(1e-3, 1e3),
    skew=st.floats(0, 1),
)
@settings(max_examples=50)
def test_the_range_holds_the_middle_and_goes_with_the_unit(seed: int, people: int, scale: float, skew: float) -> None:
    random = np.random.default_rng(seed)
    seen = torch.from_numpy(np.exp(skew * random.normal(size=people)) + random.uniform(size=people))
    low, high = prediction_interval(seen)
    assert 0 <= low <= seen.median() <= high
    assert prediction_interval(scale * seen) == pytest.approx((scale * low, scale * high), rel=1e-6)


@pytest.mark.parametrize("people", [16, 100, 500])
def test_few_more_of_the_same_people_are_outside_of_it(people: int) -> None:
    generator = torch.Generator().manual_seed(0)
    missed = []
    for _ in range(100):
        low, high = prediction_interval(10 + torch.randn(people, generator=generator))
        more = 10 + torch.randn(500, generator=generator)
        missed.append(((more < low) | (more > high)).double().mean())
    assert torch.stack(missed).mean() < 2e-3
    assert not low <= 10 + 20 <= high
