"""What version 0.1.0 has made loads, answers and goes on as before.

``data/answers-0.1.0.json`` holds what the published models answered, and ``data/run-0.1.0.zip`` a run, tiny, of which
the last training was interrupted: both were made before the package was laid out anew.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segcft
from segcft.data.store import Store
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training.loop import make_fabric

DATA = Path(__file__).parent / "data"
MODELS = Path(__file__).parents[1] / "models"
ANSWERS = json.loads((DATA / "answers-0.1.0.json").read_text(encoding="utf-8"))

GREY = 0.5
"""Grey levels by which the mean of a block may differ: processors round differently. A mistake moves it by more."""
DRAWN = ("obtained_sd",)
"""Figures of draws of what is missing, which are picked by their weights: a rounding may pick another one."""
CLOSE = 2e-3
"""The same of numbers, relative."""


def block_means(image: np.ndarray, blocks: int = 8) -> np.ndarray:
    """Means of ``blocks`` x ``blocks`` parts of an image (1, H, W): its digest, which forgives a rounding."""
    rows = np.array_split(image[0].astype(float), blocks, axis=0)
    return np.array([[block.mean() for block in np.array_split(row, blocks, axis=1)] for row in rows])


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for field, value in expected.items():
        if field in DRAWN and value is not None:
            assert 0 <= found[field] < math.inf, field
        elif isinstance(value, float):
            assert found[field] == pytest.approx(value, rel=CLOSE, abs=0.02), field
        else:
            assert found.get(field) == value, field


@pytest.mark.parametrize("name", list(ANSWERS))
def test_a_published_model_answers_as_it_did(name: str) -> None:
    model, expected = segcft.load(MODELS / name), ANSWERS[name]
    for case in expected["answers"]:
        answer = model.counterfactual(MODELS / case["image"], do=case["do"], draws=2)
        assert np.abs(block_means(answer.image) - case["blocks"]).max() < GREY
        assert list(answer.record["variables"]) == list(case["variables"])
        for variable, row in case["variables"].items():
            assert_close(answer.record["variables"][variable], row)
        assert len(answer.record["warnings"]) == case["warnings"]
    drawn = model.sample(2, seed=expected["sample"]["seed"])
    for image, blocks in zip(drawn.images, expected["sample"]["blocks"], strict=True):
        assert np.abs(block_means(image) - blocks).max() < GREY
    for variable, values in expected["sample"]["table"].items():
        for found, value in zip(drawn.attributes[variable], values, strict=True):
            assert_close({variable: found}, {variable: value})
    likelihood = model.log_likelihood(MODELS / expected["answers"][0]["image"], draws=2)
    assert_close(likelihood._asdict(), {key: expected["log_likelihood"][key] for key in ("image", "bits_per_pixel")})
    assert_close(likelihood.attributes, expected["log_likelihood"]["attributes"])


@pytest.fixture
def earlier_run(tmp_path: Path) -> Run:
    """A run of version 0.1.0: trained up to Reg-CFT, and interrupted after two of four steps of Seg-CFT."""
    shutil.unpack_archive(DATA / "run-0.1.0.zip", tmp_path / "run")
    return Run(tmp_path / "run")


def test_a_store_is_read(earlier_run: Run) -> None:
    store = Store(earlier_run.folder / "store", verify=True)
    store.require(earlier_run.study)
    assert store.fingerprint == json.loads((earlier_run.folder / "import.json").read_text())["fingerprint"]


KEYS = {
    "segmentor": "c1324b6d3fc55b39",
    "judge": "11b1ae35ba724c83",
    "regressor": "e4acc067e103601d",
    "scm": "cb1bad135de6a5d1",
    "hvae": "ab20210e4fc06672",
    "cft-regressor": "71bf749b55b337bc",
    "cft-segmentor": "166a0f5d252b34d0",
    "evaluate": "cf1f5ec5bd6bc225",
}
"""What version 0.1.0 calls the run's stages by."""


def test_keys_are_what_they_were(earlier_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segcft, "__version__", "0.1.0")
    pipeline = Pipeline(earlier_run, make_fabric("cpu"))
    pipeline.keys["import"] = json.loads((earlier_run.folder / "import.json").read_text())["fingerprint"]
    for stage, key in KEYS.items():
        pipeline.keys[stage] = pipeline.key(stage)
        assert pipeline.keys[stage] == key, stage
    assert pipeline.stages == ("import", *KEYS)


def test_a_run_is_up_to_date_and_its_training_goes_on(earlier_run: Run) -> None:
    made = {path.name: path.read_bytes() for path in earlier_run.folder.glob("*.safetensors")}
    assert "cft-segmentor.safetensors" not in made
    pipeline = Pipeline(earlier_run, make_fabric("cpu"))
    pipeline.run_stage("cft-regressor")
    log = earlier_run.training / "cft-segmentor.jsonl"
    before = log.read_text().splitlines()[:2]
    pipeline.run_stage("cft-segmentor")
    lines = log.read_text().splitlines()
    assert lines[:2] == before
    assert len(lines) == 4
    assert {name: earlier_run.folder.joinpath(name).read_bytes() for name in made} == made
