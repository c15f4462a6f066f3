"""Several judges of the same answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from segcft.cli import main
from segcft.evaluate.judges import compare, render_judges
from segcft.pipeline.run import Run
from tests.test_judging import another_judge


def row(value: float | None, method: str = "segmentor", metric: str = "slope", **more: Any) -> dict[str, Any]:
    about = {"intervention": "heart_area", "structure": "heart", "intervened": True} | more
    return {"method": method, "metric": metric, "value": value} | about


def test_what_judges_say_stands_side_by_side(small_run: Run) -> None:
    first = [row(0.8), row(0.5, "none"), row(9.0, intervened=False, structure="left_lung"), row(3.0, metric="locality")]
    second = [row(0.9), row(None, "none")]
    compared = compare(small_run.study, {"own": first, "other": second})
    by_method = {one["method"]: one for one in compared}
    assert len(compared) == 2
    assert by_method["segmentor"]["judges"] == {"own": 0.8, "other": 0.9}
    assert by_method["segmentor"]["mean"] == pytest.approx(0.85)
    assert by_method["segmentor"]["range"] == pytest.approx(0.1)
    assert by_method["none"]["mean"] is by_method["none"]["range"] is None
    text = render_judges(small_run.study, compared)
    line = next(one for one in text.splitlines() if "Seg-CFT" in one)
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "heart area",
        "Seg-CFT",
        "0.80",
        "0.90",
        "0.85",
        "0.10",
    ]
    assert text.index("No CFT") < text.index("Seg-CFT")


def test_a_run_is_judged_by_several(small_run: Run, tmp_path: Path, undrawn: None) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run.folder, run)
    own = (run / "evaluation" / "table.md").read_text()
    other = tmp_path / "other"
    other.mkdir()
    another_judge(small_run, other / "judge.safetensors")
    words = ["evaluate", str(run), "--judge", str(run), "--judge", str(other), "--device", "cpu"]
    assert main(words) == 0
    folder = run / "evaluation-judges"
    rows = json.loads((folder / "judges.json").read_text())
    tables = {name: json.loads((folder / "by" / name / "table.json").read_text()) for name in ("run", "other")}
    assert rows == compare(small_run.study, tables)
    assert {judge for one in rows for judge in one["judges"]} == {"run", "other"}
    assert any(one["range"] for one in rows)
    assert (run / "evaluation" / "table.md").read_text() == own
    metrics = {name: {one["metric"] for one in rows} for name, rows in tables.items()}
    assert "coverage" in metrics["run"]  # its own judge is the one by whom intervals were calibrated
    assert "coverage" not in metrics["other"]
    assert "coverage of the band" in metrics["other"]  # which hangs on no judge


def test_a_judge_that_is_there_twice_or_nowhere_is_refused_at_once(small_run: Run, tmp_path: Path) -> None:
    words = ["evaluate", str(small_run.folder), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--judge", str(small_run.folder), "--judge", str(small_run.folder)]) == 1
    assert main([*words, "--judge", str(small_run.folder), "--judge", str(tmp_path / "nobody")]) == 1
    assert not list((tmp_path / "out").rglob("table.md"))
