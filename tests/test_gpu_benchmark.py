"""`make gpu` on a CPU: what is done is kept, whatever becomes of a part, and no number is made up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.gpu import parts
from benchmarks.gpu.__main__ import main, plan, run
from benchmarks.gpu.environment import borrow, pins
from benchmarks.gpu.part import Part, Row
from benchmarks.gpu.table import markdown
from tests.gpu_parts import LONG

PARTS = "tests.gpu_parts"
RECORD: Row = {"device": "a device", "tiny": False}


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_what_is_done_is_kept_whatever_becomes_of_a_part(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    chosen = [
        Part("first", f"{PARTS}:done", LONG, {"number": 1}),
        Part("second", f"{PARTS}:failing", LONG, {}),
        Part("third", f"{PARTS}:done", LONG, {"number": 3}),
    ]
    results = run(chosen, LONG, dict(RECORD), out)
    assert json.loads(out.read_text())["parts"] == results
    assert [(result["outcome"], result["reason"]) for result in results] == [
        ("done", ""),
        ("failed", "ValueError: no such thing"),
        ("done", ""),
    ]
    assert [row["rows"] for result in results for row in result["rows"]] == [1, 2, 3]
    assert "ValueError: no such thing" in out.with_suffix(".md").read_text()


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_ended_with_all_that_it_began() -> None:
    limit = 1.0
    rows: list[Row] = []
    while not rows and limit < LONG:  # a busy machine may need longer to begin it
        limit *= 3
        result = Part("endless", f"{PARTS}:endless", limit, {}).run(LONG)
        rows = result["rows"]
        assert result["outcome"] == "stopped"
    deadline = time.monotonic() + LONG / 2  # a kill takes effect when the system comes to it
    while is_running(rows[0]["rows"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_part_that_no_time_is_left_for_is_not_begun(tmp_path: Path) -> None:
    result = run([Part("late", f"{PARTS}:done", LONG, {"number": 1})], 0.0, dict(RECORD), tmp_path / "gpu.json")
    assert [(part["outcome"], part["rows"]) for part in result] == [("not begun", [])]


@pytest.mark.slow
def test_the_whole_command_writes_what_it_has_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    assert main(["--device", "cpu", "--tiny", "--parts", "product", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert [row["precision"] for row in record["parts"][0]["rows"]] == ["bf16", "32"]
    assert all(row["TFLOP/s"] > 0 for row in record["parts"][0]["rows"])
    assert {"device", "torch", "segcft", "commit", "date"} <= record.keys()
    assert capsys.readouterr().out.strip() == out.with_suffix(".md").read_text().strip()
    with pytest.raises(SystemExit):
        main(["--device", "cpu", "--tiny", "--parts", "produce"])
    assert "--parts: produce: not one of product, tests," in capsys.readouterr().err


def steps(**changes: Any) -> list[Row]:
    rows: list[Row] = []
    shared: Any = {"configuration": "morphomnist32", "device": "cpu", "tasks": ["counterfactual"], "batches": [1]}
    parts.steps(rows.append, **shared | {"contender": "two-stream", "precisions": ["32"], "seconds": 0.0} | changes)
    return rows


def test_steps_are_timed_and_their_operations_counted() -> None:
    once, twice = steps(batches=[1, 2])
    assert once["ms"] > 0
    assert once["images/s"] == pytest.approx(1000 / once["ms"])
    assert once["GFLOP an image"] > 0
    assert "GFLOP an image" not in twice  # they are the same an image
    assert "MiB" not in twice  # of a GPU alone


def test_a_step_that_fails_is_told_and_the_rest_goes_on() -> None:
    rows = steps(contender="causal-gen", folder="/nowhere", batches=[1, 2])
    assert [row["error"] for row in rows] == 2 * [
        "FileNotFoundError: /nowhere: no causal-gen here (src/vae.py is missing)"
    ]


def test_training_waits_for_its_samples_for_a_share_of_its_time() -> None:
    rows: list[Row] = []
    parts.training(rows.append, "configs/quickstart.yaml", samples=20, device="cpu", seconds=1e-6)
    assert [row["precision"] for row in rows] == ["default", "bf16"]
    assert all(0 < row["data wait"] < 1 and row["images/s"] > 0 for row in rows)


def test_the_table_has_what_follows_from_what_was_measured_and_nothing_else() -> None:
    where = {"configuration": "c", "task": "train", "batch": 8, "compile": ""}
    timed = [
        where | {"contender": "causal-gen", "precision": "tf32", "ms": 80.0, "images/s": 100.0},
        where | {"contender": "two-stream", "precision": "tf32", "ms": 20.0, "images/s": 400.0, "GFLOP an image": 50.0},
        where | {"contender": "two-stream", "precision": "bf16", "ms": 10.0, "images/s": 800.0, "MiB": 123.0},
        where | {"contender": "two-stream", "precision": "32", "error": "out of memory"},
    ]
    product = [{"precision": "tf32", "rows": 8192, "TFLOP/s": 200.0}]
    made = [
        Part("product", "x:product", 1, {}).result("done", "", rows=product),
        Part("steps", "x:steps", 1, {}).result("done", "", rows=timed),
    ]
    lines = [line for line in markdown(RECORD | {"parts": made}).splitlines() if line.startswith("| c ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [  # of the product: 50 GFLOP x 400 a second of 200 TFLOP/s; times causal-gen: 80 / 20
        ["c", "train", "8", "TF32", "causal-gen", "80", "100", "1", "", ""],
        ["c", "train", "8", "TF32", "two-stream", "20", "400", "4", "0.1", ""],
        ["c", "train", "8", "bf16", "two-stream", "10", "800", "", "", "123"],
        ["c", "train", "8", "float32", "two-stream", "out of memory", "", "", "", ""],
    ]


def test_the_plan_is_what_the_readme_says() -> None:
    without, beside = plan("cuda", tiny=False), plan("cuda", tiny=False, causal_gen="DIR")
    assert {part.name for part in beside} - {part.name for part in without} == {
        "mimic192, causal-gen",
        "padchest224, causal-gen",
    }
    asked = [part.arguments for part in without if part.name.endswith(", two-stream")]
    assert [one["configuration"] for one in asked] == ["mimic192", "padchest224"]
    assert all(one["precisions"] == ["bf16", "tf32", "32"] and len(one["batches"]) > 1 for one in asked)


def test_an_environment_borrows_what_this_python_has(tmp_path: Path) -> None:
    python = borrow(tmp_path / "env")
    command = [python, "-c", "import sys, torch, yaml; print(sys.prefix, torch.__file__)"]
    prefix, found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert (prefix, found) == (str(tmp_path / "env"), sys.modules["torch"].__file__)
    assert borrow(tmp_path / "env") == python


def test_pins_hold_for_what_is_missing_and_pytorch_stays_as_it_is() -> None:
    text = "# why\nnumpy==2.4.6\ntorch==2.13.0\ntyping_extensions==4.16.0\nzuko==1.6.0\n"
    there = {"torch": "2.11.0+cu130", "numpy": "2.5.2", "typing-extensions": "4.0.0"}
    assert pins(text, there) == ["torch==2.11.0+cu130", "zuko==1.6.0"]
