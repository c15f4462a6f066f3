"""True counterfactuals of a part of the vessel: the lumen is wider there, and elsewhere as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcft.config.loader import parse_study, read_mapping
from segcft.config.study import Study
from segcft.data.store import Store
from segcft.evaluate.truth import Truth
from segcft.importers.simulated import import_simulated
from segcft.measures.measurements import Measurements
from segcft.simulate.coronary import CoronarySimulator
from segcft.simulate.noise import UndrawableError

CONFIG = Path(__file__).parents[1] / "configs" / "coronary-quickstart.yaml"
PEOPLE = 12
TOLERANCE = 0.3
"""mm², of parts of 30 to 60: masks are bytes, and thin layers of plaque are parts of many pixels."""
AREA = {"kind": "continuous", "unit": "mm²"}
THIRDS = {"proximal": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "distal": (2 / 3, 1.0)}


@pytest.fixture(scope="module")
def study() -> Study:
    raw: dict[str, Any] = read_mapping(CONFIG)
    for name, (begin, end) in THIRDS.items():
        raw["variables"][name] = AREA
        zone = {"axis": "x", "begin": begin, "end": end}
        raw["structures"][f"{name}_lumen"] = {"variable": name, "of": ["lumen"], "zone": zone}
    raw["variables"]["own_half"] = AREA
    zone = {"axis": "x", "end": 0.5, "of": "structure"}
    raw["structures"]["own_half"] = {"variable": "own_half", "of": ["lumen"], "zone": zone}
    return parse_study(raw)


@pytest.fixture(scope="module")
def store(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return import_simulated(study, tmp_path_factory.mktemp("zones") / "store", people=PEOPLE, split="train")


def measured(study: Study, store: Store, do: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What is read from the true counterfactuals, (N,) each; NaN where none was drawn."""
    drawn = Truth(study, store).counterfactuals(torch.arange(len(store)), do)
    assert drawn is not None
    return dict(zip(study.measured, Measurements.of(study).estimate(drawn.mask, drawn.image).T, strict=True))


def known(study: Study, store: Store) -> dict[str, torch.Tensor]:
    return dict(zip(study.variables, torch.from_numpy(store.values()).T, strict=True))


@pytest.mark.parametrize("name", THIRDS)
@pytest.mark.parametrize("share", [0.8, 1.25])
def test_a_third_is_as_asked_and_all_else_stays(study: Study, store: Store, name: str, share: float) -> None:
    before = known(study, store)
    after = measured(study, store, {name: share * before[name]})
    assert after[name].isfinite().all()
    torch.testing.assert_close(after[name], share * before[name], atol=TOLERANCE, rtol=0)
    for other in {*THIRDS, "noncalcified_plaque_area", "calcified_plaque_area"} - {name}:
        torch.testing.assert_close(after[other], before[other], atol=TOLERANCE, rtol=0)
    total = before["lumen_area"] + (share - 1) * before[name]
    torch.testing.assert_close(after["lumen_area"], total, atol=TOLERANCE, rtol=0)


def test_several_parts_at_once(study: Study, store: Store) -> None:
    before = known(study, store)
    do = {"proximal": 0.9 * before["proximal"], "distal": 1.2 * before["distal"]}
    do["noncalcified_plaque_area"] = 1.1 * before["noncalcified_plaque_area"]
    after = measured(study, store, do)
    for name, wanted in (do | {"middle": before["middle"]}).items():
        torch.testing.assert_close(after[name], wanted, atol=TOLERANCE, rtol=0)


def test_what_nobody_could_draw_is_not_drawn(study: Study, store: Store) -> None:
    before = known(study, store)
    assert measured(study, store, {"middle": 0.01 * before["middle"]})["middle"].isnan().all()
    both = {"middle": before["middle"], "lumen_area": before["lumen_area"]}
    assert measured(study, store, both)["middle"].isnan().all()
    assert Truth(study, store).counterfactuals(torch.arange(2), {"own_half": before["own_half"][:2]}) is None


def test_a_vessel_is_as_ever_where_no_part_is_set() -> None:
    simulator = CoronarySimulator((48, 192), 0.0625)
    person = simulator.attributes(7)
    (plain, masks), (same, again) = simulator.render(7, person), simulator.render(7, person, {})
    assert (plain == same).all()
    assert (masks == again).all()
    columns = masks[2].astype(float).sum(axis=0)
    own = columns[:96].sum() / 255 * 0.0625
    image, wider = simulator.render(7, person, {(0.0, 0.5): 1.2 * own})
    # Beyond where one goes over into the other all is narrower by the little that the wider part takes there.
    assert np.allclose(wider[2].sum(axis=0)[120:], columns[120:], rtol=0.01)
    assert image.shape == plain.shape
    with pytest.raises(ValueError, match="overlap"):
        simulator.render(7, person, {(0.0, 0.5): own, (0.4, 0.9): own})
    with pytest.raises(UndrawableError):
        simulator.render(7, person, {(0.0, 0.5): 0.01 * own})
