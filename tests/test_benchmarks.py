"""The benchmarks run, and compare what they say they compare."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from benchmarks import categories, full, grain, hospitals, hours, second_opinion, sense, turned
from benchmarks.measure import Contender, compare
from benchmarks.ours import build
from segcft.api.model import Model
from segcft.config.mechanisms import HVAESpec
from segcft.config.sources import SeveralFolders
from segcft.config.stages import RegressorSpec
from segcft.config.variable import Variable
from segcft.pipeline.run import Run
from segcft.readers.predictor import Predictor
from segcft.simulate import ChestSimulator
from tests.conftest import MODELS

ROOT = Path(__file__).parents[1]
CONFIGURATIONS: dict[str, Any] = yaml.safe_load((ROOT / "benchmarks" / "published.yaml").read_text())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_our_network_has_as_many_parameters_as_the_published_one(name: str) -> None:
    with torch.device("meta"):
        theirs, ours = (build(CONFIGURATIONS[name], kind) for kind in ("causal-gen", "two-stream"))
    counts = [sum(p.numel() for p in network.parameters() if p.requires_grad) for network in (theirs, ours)]
    assert counts[1] == pytest.approx(counts[0], rel=0.011)


@pytest.mark.slow
def test_one_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    options = ["--configurations", "morphomnist32", "--tasks", "counterfactual", "--batch", "1", "--rounds", "1"]
    command = [sys.executable, "-m", "benchmarks", *options, "--threads", "1", "--json", tmp_path / "b.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["contender"] for row in rows] == ["causal-gen's network", "two-stream"]
    assert all(row["ms"] > 0 and row["from"] <= row["ratio"] <= row["to"] for row in rows)
    assert done.stdout.count("morphomnist32") == 2


def test_a_contender_that_fails_is_told() -> None:
    broken = Contender("broken", "benchmarks.baseline:make", {"folder": "/nowhere", **_arguments()})
    with pytest.raises(RuntimeError, match=r"(?s)broken:.*/nowhere: no causal-gen here"):
        compare([broken], rounds=1, threads=1)


def _arguments() -> dict[str, Any]:
    return {"configuration": CONFIGURATIONS["morphomnist32"], "task": "train", "batch": 1}


@pytest.mark.slow
def test_hours_follow_from_measured_steps_and_stated_assumptions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measuring = ["--configuration", "morphomnist32", "--batch", "2", "--rounds", "1", "--threads", "1"]
    assuming = ["--images", "1000", "--train-share", "0.5", "--epochs", "40", "--finetune-epochs", "4"]
    network = ["--per-node", "4", "--bandwidth-inside", "200", "--bandwidth", "20"]
    device = ["--peak", "50", "--share", "0.25"]
    hours.main([*measuring, *assuming, *network, *device, "--devices", "1", "4", "8", "--json", str(tmp_path / "h")])
    record = json.loads((tmp_path / "h").read_text())

    parameters = sum(p.numel() for p in build(CONFIGURATIONS["morphomnist32"], "two-stream").parameters())
    size = record["measured"]["gradient_bytes"]
    assert size == pytest.approx(4 * parameters, rel=0.01)  # of float32, but for the few that do not learn
    product = record["measured"]["product_flop"] / record["measured"]["product_s"]
    flop = [2 * 1e9 * step["GFLOP an image"] for step in record["steps"]]
    seconds = [step["ms"] / 1000 for step in record["steps"]]
    assert 0 < flop[0] < flop[1]  # a fine-tuning step decodes twice and asks the guide
    for step, operations, second in zip(record["steps"], flop, seconds, strict=True):
        assert step["GFLOP/s"] == pytest.approx(operations / second / 1e9)
        assert step["share of the product's"] == pytest.approx(operations / second / product)

    ring = {1: 0.0, 4: 1.5 * size / 200e9, 8: 1.75 * size / 20e9}
    measured, assumed = record["hours"][:3], record["hours"][3:]
    for rows, steps in ((measured, seconds), (assumed, [operations / 12.5e12 for operations in flop])):
        assert [row["devices"] for row in rows] == [1, 4, 8]
        for row in rows:
            reduce, batch = ring[row["devices"]], 2 * row["devices"]
            assert row["global batch"] == batch
            assert row["all-reduce, ms"] == pytest.approx(1000 * reduce)
            training = 40 * 500 / batch * (steps[0] + reduce) / 3600
            finetuning = 4 * 500 / batch * (steps[1] + reduce) / 3600
            assert row["training, h"] == pytest.approx(training)
            assert row["fine-tuning, h"] == pytest.approx(finetuning)
            assert row["both, h"] == pytest.approx(training + finetuning)
    printed = capsys.readouterr().out
    assert printed.count("| measured on ") == printed.count("| assumed: 0.25 of 50 TFLOP/s |") == 3
    assert "1,000 images, 0.5 of which train; 40 epochs of training, 4 of fine-tuning; 2 images a device" in printed


def test_operations_are_counted_as_by_hand() -> None:
    convolution, linear = torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Linear(7, 11)
    image, values = torch.rand(2, 3, 8, 8), torch.rand(4, 7, requires_grad=True)
    forward = 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)
    assert hours.count_flop(lambda: convolution(image)) == forward
    assert hours.count_flop(lambda: convolution(image).sum().backward()) == 2 * forward  # the weight's gradient
    forward = 2 * (4 * 11) * 7
    assert hours.count_flop(lambda: linear(values).sum().backward()) == 3 * forward  # and the input's


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peak", "100"], "--peak and --share go together"),
        (["--peak", "100", "--share", "30"], "--share: 30 is over 1"),
        (["--train-share", "72"], "--train-share: 72 is over 1"),
        (["--devices", "1", "0"], "argument --devices: '0' is not a whole number above 0"),
        (["--devices", "1.5"], "argument --devices: '1.5' is not a whole number above 0"),
        (["--bandwidth", "inf"], "argument --bandwidth: 'inf' is not a number above 0"),
        (["--epochs", "-1"], "argument --epochs: '-1' is not a number above 0"),
        (["--configuration", "mimic193"], "argument --configuration: invalid choice: 'mimic193'"),
        pytest.param(
            ["--device", "cuda"],
            "--device cuda: PyTorch finds no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_hours_refuses_options_that_mean_nothing(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        hours.main(options)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_readers_are_tested_at_the_hospital_that_they_have_not_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = 24
    simulator = ChestSimulator((32, 32))
    for number, source in enumerate(("jsrt256", "ctr256")):
        for kind in ("images", "masks"):
            (tmp_path / source / kind).mkdir(parents=True)
        for person in range(people):
            image, masks = simulator.render(person, simulator.attributes(person + 100 * number))
            flags = sum((mask > 127).astype("uint8") << bit for bit, mask in enumerate(masks))
            Image.fromarray(image).save(tmp_path / source / "images" / f"{person}.png")
            Image.fromarray(flags).save(tmp_path / source / "masks" / f"{person}.png")
        rows = "".join(f"{person},0.{40 + person}\n" for person in range(people))
        (tmp_path / source / "metadata.csv").write_text(f"id,{'cardiothoracic_ratio' if number else 'other'}\n{rows}")
    cases = ["--cases", "without jsrt", "--share", "0.0004"]
    hospitals.main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), *cases])
    lines = [line for line in capsys.readouterr().out.splitlines() if "without jsrt" in line]
    assert len(lines) == 3  # the segmentor, the judge and both
    assert all(f" {people} |" in line for line in lines)
    trained = Run(tmp_path / "out" / "without-jsrt" / "segmentor").study.data
    assert isinstance(trained, SeveralFolders)
    assert list(trained.folders) == ["ctr"]


@pytest.mark.slow
def test_answers_in_own_pixels_are_compared_with_the_truth_at_that_size(capsys: pytest.CaptureFixture[str]) -> None:
    full.main(["--people", "2", "--times", "2"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 9
    assert all(float(row[2]) > 0 for row in rows)


def test_the_area_under_the_curve_is_of_pairs_of_one_view() -> None:
    ratio, ill = np.array([0.4, 0.5, 0.6, 0.7]), np.array([False, True, False, True])
    assert sense.auc_within_views(ratio, ill, np.array(["PA"] * 4)) == 0.75
    # 0.5 is less than 0.6, but of another view.
    assert sense.auc_within_views(ratio, ill, np.array(["PA", "PA", "AP", "AP"])) == 1.0
    assert math.isnan(sense.auc_within_views(ratio, ill, np.array(["a", "b", "c", "d"])))


def test_masks_tell_enlarged_hearts_whatever_their_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "masks").mkdir()
    rows = []
    for number in range(12):
        ill, side = number % 3 == 0, 100 + 20 * number  # pixels
        mask = np.zeros((side, side + 7), np.uint8)
        mask[side // 4 : side // 2, side // 10 : side // 3] = 2
        mask[side // 4 : side // 2, 2 * side // 3 : 9 * side // 10] = 1
        mask[side // 2 : 3 * side // 4, side // 4 : (3 if ill else 2) * side // 4] |= 4  # 1/2 or 1/4 of 4/5
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
        rows.append([number, number, "PA", "Cardiomegaly|Mass" if ill else "No Finding"])
    pd.DataFrame(rows, columns=["id", "patient", "view", "findings"]).to_csv(tmp_path / "metadata.csv", index=False)
    sense.main([str(tmp_path)])
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].split("|")][1:-1]
    assert cells[:2] == ["all", "4 / 8"]
    assert float(cells[2]) == pytest.approx(0.5 / 0.8, abs=0.03)
    assert float(cells[3]) == pytest.approx(0.25 / 0.8, abs=0.03)
    assert cells[4].startswith("1.00 ")


def test_what_was_done_to_images_is_counted(small_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    turned.main([str(small_run.folder), "--most", "4"])
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == list(turned.DONE)
    assert all(row[1] == "4" for row in rows)


def test_who_is_told_as_it_is_is_right() -> None:
    found = {
        turned.NOTHING: Counter({turned.SILENT: 3, "mirrored": 1}),
        "mirrored": Counter({"mirrored": 1, "framed": 1}),
    }
    lines = turned.render(found).splitlines()[2:]
    assert [[cell.strip() for cell in line.strip("| ").split("|")][2:] for line in lines] == [
        ["25 %", "75 %"],
        ["100 %", "50 %"],
    ]


@pytest.mark.slow
def test_categories_are_told_of_all_test_samples(small_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    categories.main([str(small_run.folder)])
    out = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in out[-1].split("|")][1:-1]
    assert cells[:2] == ["sex", str(len(small_run.store().indices("test")))]
    assert ("says nothing" in out[0]) == (cells[2] == cells[3])


def test_a_second_opinion_differs_as_people_of_one_hospital_and_view_do() -> None:
    """What is said hangs on the hospital and the view, which also tell of the age: they are held."""
    random = np.random.default_rng(0)
    hospital, view = random.integers(2, size=(2, 200))
    age = 50 + 10 * hospital - 8 * view + random.normal(0, 5, 200)
    age[:20] = np.nan
    variables = {
        "age": Variable(kind="continuous"),
        "view": Variable(kind="categorical", categories=("PA", "AP")),
    }
    reader = Predictor(RegressorSpec(steps=1), 1, 2, variables, ["age", "view"])
    said = {"age": 3 + 0.5 * age + 20 * hospital - 7 * view}
    values = torch.from_numpy(np.column_stack([age, view]))
    found = second_opinion.slope(reader, "age", said, values, hospital.astype(str))
    assert found == pytest.approx(0.5)


def test_a_second_opinion_shares_are_of_the_expected_changes() -> None:
    expected = np.array([2.0, -2.0, 0.0, 4.0])
    found = np.array([1.0, -1.0, 0.0, 2.0])
    one = second_opinion.Opinion("older", "age", "none", expected, found)
    cells = second_opinion.render([one], np.array(["a", "b", "c", "d"])).splitlines()[-1].split("|")[1:-1]
    assert [cell.strip() for cell in cells] == ["older", "age", "No CFT", "2", "1", "0.50 (0.50 to 0.50)"]


def test_grain_is_asked_of_people_whom_nobody_has_seen() -> None:
    """With the model's own settings an answer is its own; with grain less changes elsewhere, and where noise moves only
    where something changes."""
    model = Model(MODELS / "chest-sim-borders")
    spec = model.study.hvae
    assert isinstance(spec, HVAESpec)
    found = grain.measured(model, 1, [0, spec.grain])
    assert {key: rows.shape for key, rows in found.items()} == {
        (f"{name}_area", moves, width): (2, 4)
        for name in ("left_lung", "right_lung", "heart")
        for moves in grain.MOVES
        for width in (0, spec.grain)
    }
    own = [grain.errors(model, question) for question in grain.questions(model, 1)]
    answers = {
        settings: np.concatenate([rows for asked, rows in found.items() if asked[1:] == settings])
        for settings in product(grain.MOVES, (0, spec.grain))
    }
    np.testing.assert_array_equal(answers[spec.noise_moves, spec.grain], own)
    assert all(np.isfinite(rows).all() for rows in answers.values())
    elsewhere = {settings: rows[:, 2].mean() for settings, rows in answers.items()}
    assert elsewhere["everywhere", spec.grain] < elsewhere["everywhere", 0]
    assert elsewhere["where it changes", 0] < elsewhere["everywhere", 0]
    assert grain.render(found).count("do(heart_area)") == 4
    with pytest.raises(SystemExit, match="cannot fold"):
        grain.measured(Model(MODELS / "chest-sim"), 1, [0])
    with pytest.raises(SystemExit, match="simulated"):
        grain.measured(Model(MODELS / "hippocampus"), 1, [0])
