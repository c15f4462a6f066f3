"""`segcft simulate`: people as files, natural, selected, randomised or under a do()."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from segcft.cli.entry import main
from segcft.errors import Code, DataError
from segcft.io.provenance import inspect
from segcft.io.scan import read_array
from segcft.simulate.chest import ChestSimulator
from segcft.simulate.pendulum import PendulumSimulator
from segcft.simulate.people import Confounding, Population
from segcft.simulate.volume import VolumeSimulator
from tests.refused import refused

KINDS = {"chest": ["--size", "32"], "pendulum": ["--size", "32"], "retina": ["--size", "32x40"], "volume": []}


def simulate(folder: Path, kind: str, *options: str) -> pd.DataFrame:
    assert main(["simulate", kind, str(folder), "--people", "3", "--seed", "4", *KINDS[kind], *options]) == 0
    return pd.read_csv(folder / "metadata.csv", dtype={"id": str})


@pytest.mark.parametrize(
    ("kind", "do"),
    [("chest", "heart_area=150"), ("pendulum", "angle=10"), ("retina", "age=80"), ("volume", "posterior_volume=1600")],
)
def test_counterfactuals_are_files_of_the_same_people(kind: str, do: str, tmp_path: Path) -> None:
    variable, _, value = do.partition("=")
    natural, set_to = simulate(tmp_path / "natural", kind), simulate(tmp_path / "set", kind, "--do", do)
    assert list(natural["person"]) == list(set_to["person"])
    assert set(set_to[variable]) == {float(value)}
    images = sorted((tmp_path / "set" / "images").iterdir())
    assert len(images) == 3
    record: Any = inspect(images[0])
    assert record["do"] == {variable: float(value)}
    assert record["person"] == natural["person"][0]


def test_a_volume_is_as_the_simulator_draws_it(tmp_path: Path) -> None:
    table = simulate(tmp_path / "v", "volume", "--do", "bend=90", "--size", "14x40x28", "--spacing", "2", "1", "2")
    simulator, person = VolumeSimulator((14, 40, 28), 4.0, (2.0, 1.0, 2.0)), int(table["person"][1])
    image, masks = simulator.counterfactual(person, {"bend": 90.0})[1:]
    values, _, _ = read_array(tmp_path / "v" / "images" / f"{table['id'][1]}.nii.gz")
    np.testing.assert_array_equal(values.squeeze(), image)
    values, _, _ = read_array(tmp_path / "v" / "masks" / f"{table['id'][1]}_posterior.nii.gz")
    np.testing.assert_array_equal(values.squeeze(), masks[1])


@pytest.mark.parametrize("kind", ["chest", "retina", "volume"])
def test_what_a_simulator_has_not_is_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    words = ["simulate", kind, str(folder), "--people", "2"]
    for wrong in (["--do", "weight=80"], ["--randomise", "weight"], ["--confound", "sex=0.5"], ["--do", "age=old"]):
        assert main([*words, *wrong]) == 1
    assert main([*words, "--size", "64x64x64x64"]) == 1
    assert main([*words, "--do", "age=80", "--randomise", "age"]) == 1
    assert not folder.exists()


def test_an_option_of_another_kind_is_told_of(tmp_path: Path) -> None:
    for words in (["ccta", "--do", "age=80"], ["ccta", "--people", "3"], ["chest", "--spacing", "1", "1", "1"]):
        with pytest.raises(SystemExit) as ended:
            main(["simulate", words[0], str(tmp_path / "files"), *words[1:]])
        assert ended.value.code == 2


def test_a_selection_goes_by_what_people_are_like_of_themselves() -> None:
    simulator = ChestSimulator((32, 32))
    selected = Population(3, Confounding("heart_area", 0.0))
    natural = [person for person, _ in zip(selected.of(simulator), range(8), strict=False)]
    old = Population(3, Confounding("heart_area", 0.0), do={"age": 90.0})
    aged = [person for person, _ in zip(old.of(simulator), range(8), strict=False)]
    assert [person.id for person in aged] == [person.id for person in natural]
    assert {person.attributes["age"] for person in aged} == {90.0}


def test_without_a_sex_nothing_goes_with_it() -> None:
    with refused(DataError, Code.UNSUPPORTED, "light"):
        Population(confounding=Confounding("light", 0.1)).of(PendulumSimulator((32, 32)))
