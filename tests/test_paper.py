"""The studies of the paper as it was: they are whole, have nothing of ours, and can be trained at their sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.paper import STUDIES, simulated
from segcft.config.causal_gen import CausalGenSpec
from segcft.config.loader import load_study
from segcft.config.segmentors import UNetSpec
from segcft.config.sources import SimulatedData
from segcft.image_models.mechanism import MECHANISMS

PAPER = sorted((Path(__file__).parents[1] / "configs" / "paper").glob("*.yaml"))


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_nothing_of_ours_is_in_them(path: Path) -> None:
    study = load_study(path)
    assert isinstance(study.hvae, CausalGenSpec)
    assert isinstance(study.segmentor, UNetSpec)
    assert study.segmentor.loss == "dice"
    assert not study.segmentor.augment.changes_greys
    assert not study.segmentor.augment.deforms
    tuned = study.finetune
    assert (tuned.price, tuned.least_change, tuned.also, tuned.guide_loss) == ("fixed", 0, 0, "squared")
    assert not tuned.view.changes_greys
    assert study.hvae.deform.share == 0
    assert study.hvae.beta == 1
    assert study.predictor is None
    assert list(study.measured) == [f"{name}_area" for name in study.masked]


def test_the_large_ones_can_be_tried_on_simulated_people() -> None:
    assert {path.stem for path in PAPER} == {*STUDIES, "chest-64"}
    for name in STUDIES:
        study = simulated(name, people=60, steps=3, batch=2)
        assert isinstance(study.data, SimulatedData)
        assert study.image == load_study(PAPER[0].parent / f"{name}.yaml").image
        network = MECHANISMS["causal-gen"](study.hvae, study.image, study.variables)
        assert 4e6 < sum(p.numel() for p in network.parameters()) < 1e7
