"""The benchmarks run, and compare what they say they compare."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.measure import Contender, compare
from benchmarks.ours import build

ROOT = Path(__file__).parents[1]
CONFIGURATIONS: dict[str, Any] = yaml.safe_load((ROOT / "benchmarks" / "published.yaml").read_text())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_our_network_has_as_many_parameters_as_the_published_one(name: str) -> None:
    with torch.device("meta"):
        theirs, ours = (build(CONFIGURATIONS[name], kind) for kind in ("causal-gen", "two-stream"))
    counts = [sum(p.numel() for p in network.parameters() if p.requires_grad) for network in (theirs, ours)]
    assert counts[1] == pytest.approx(counts[0], rel=0.011)


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
