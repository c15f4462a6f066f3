"""Each page "How to add", followed to the letter, adds something from outside of the package."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segcft.pipeline.run import Run
from segcft.training import artefact
from tests import howto


@pytest.mark.slow
def test_a_metric(small_run: Run, tmp_path: Path) -> None:
    howto.follow("metric", tmp_path, small_run.folder)
    table = Path("evaluation", "table.json")
    before, after = (json.loads((run / table).read_text()) for run in (small_run.folder, tmp_path / "runs" / "small"))
    own = [row for row in after if row["metric"] == "saturation"]
    assert {row["method"] for row in own} >= {"none", "regressor", "segmentor"}
    assert all(0 <= row["value"] <= 1 for row in own if row["method"] in small_run.methods())
    assert [row for row in after if row["metric"] != "saturation"] == before


@pytest.mark.slow
def test_a_measure(tmp_path: Path) -> None:
    howto.follow("measure", tmp_path)
    run = Run(tmp_path / "runs" / "columns")
    widths = run.store().table["heart_columns"].to_numpy()
    reached = (run.store().masks[:, 0] > 127).any(axis=1).sum(axis=1)
    np.testing.assert_allclose(widths, reached, atol=2)  # a column at each side is covered in part
    rows = json.loads((run.evaluation / "table.json").read_text())
    assert {row["intervention"] for row in rows if row["metric"] == "mape" and row["intervened"]} == {"heart_columns"}


@pytest.mark.slow
def test_a_segmentor(small_run: Run, tmp_path: Path) -> None:
    howto.follow("segmentor", tmp_path, small_run.folder)
    howto.load(tmp_path / "dilated.py")
    run = Run(tmp_path / "runs" / "small")
    assert run.study.judge.architecture == "dilated"
    assert type(run.load("judge")).__name__ == "Dilated"
    for part in ("segmentor", "cft-segmentor"):
        assert artefact.same_weights(run.path(part), small_run.path(part))


@pytest.mark.slow
def test_an_image_mechanism(flow_run: Run, small_run: Run) -> None:
    assert artefact.same_weights(flow_run.path("segmentor"), small_run.path("segmentor"))
    assert flow_run.study.hvae.architecture == "flow"
    assert flow_run.methods() == small_run.methods()
    rows = json.loads((flow_run.evaluation / "table.json").read_text())
    found = {row["metric"]: row["value"] for row in rows if row["method"] == "segmentor"}
    assert found.keys() >= {"mape", "slope", "locality", "composition", "reversibility"}
    assert "reconstruction" not in found  # it tells no part of pixels apart
    assert found["composition"] < 1  # grey levels: abduction and prediction are each other's inverse
    answer = flow_run.folder.parents[1] / "answer"
    assert json.loads((answer / "counterfactual.json").read_text())["do"]


def test_an_importer(tmp_path: Path) -> None:
    howto.follow("importer", tmp_path)
    rows = pd.read_csv(tmp_path / "converted" / "metadata.csv")
    assert list(rows["age"]) == [10 + number // 2 for number in range(16, 100)]
    with (tmp_path / "converted" / "rejected.csv").open(newline="") as file:
        assert {row["kind"] for row in csv.DictReader(file)} == {"too young"}
    table = Run(tmp_path / "runs" / "toy").store().table
    assert np.all(np.diff(table["heart_area"][::10]) > 0)
    assert list(table["split"]) == list(rows["split"])


def test_a_stage(small_run: Run, tmp_path: Path) -> None:
    howto.follow("stage", tmp_path, small_run.folder)
    means = json.loads((tmp_path / "runs" / "small" / "means" / "means.json").read_text())
    store = small_run.store()
    train = store.table.iloc[store.indices("train")]
    assert means.keys() == small_run.study.variables.keys()
    assert means["age"] == pytest.approx(train["age"].mean(), rel=1e-5)


@pytest.mark.slow
def test_a_script_makes_it_known_as_well(tmp_path: Path) -> None:
    module = howto.write_files("importer", tmp_path)
    (tmp_path / "with_it.py").write_text(howto.read_page("index").files["with_it.py"].replace("NAME", module))
    page = howto.read_page("importer")
    commands = [line.replace("segcft ", "python with_it.py ") for line in page.commands]
    howto.check_seen(page.seen, howto.give(commands, tmp_path))
