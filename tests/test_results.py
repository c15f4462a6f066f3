"""The page of results: what it shows is what the evaluations found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from refused import refused
from segcft.cli import main
from segcft.errors import Code, RunError
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from segcft.report.results import Result, render_results

ROOT = Path(__file__).parents[1]


def test_the_page_has_the_numbers_of_the_table_and_those_of_the_paper(small_run: Run, tmp_path: Path) -> None:
    page = render_results([small_run.folder])
    rows = [r for r in Result.read(small_run.folder).rows if r["intervened"] and r["metric"] == "mape"]
    assert len(rows) >= 3 * 4
    for row in rows:
        value = round(row["value"], 1) + 0.0  # no minus before a zero
        assert f"**{value:.1f}**" in page or f"**{value:+.1f}**" in page
    for number in ("16.1", "13.3", "8.5", "PadChest (paper)"):
        assert number in page
    assert main(["results", str(small_run.folder), "--out", str(tmp_path / "results.md")]) == 0
    assert (tmp_path / "results.md").read_text() == page


def test_a_published_model_has_the_results_of_its_run(small_run: Run, tmp_path: Path) -> None:
    publish(small_run, tmp_path / "small")
    pages = [render_results([folder]) for folder in (small_run.folder, tmp_path / "small")]
    first, second = (
        page.replace(str(folder), "")
        for page, folder in zip(pages, (small_run.folder, tmp_path / "small"), strict=True)
    )
    assert first == second


def test_runs_of_the_same_structures_share_their_tables(small_run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(small_run.folder, other)
    study = other / "study.yaml"
    study.write_text(study.read_text().replace("name: small", "name: another", 1))
    page = render_results([small_run.folder, other])
    assert page.count("### How well the judges read") == 1
    assert "| another " in page
    assert "| small " in page


def test_what_is_not_evaluated_is_named(small_run: Run, tmp_path: Path) -> None:
    with refused(RunError, Code.MISSING, tmp_path):
        render_results([tmp_path])
    bare = tmp_path / "bare"
    shutil.copytree(small_run.folder, bare)
    (bare / "evaluation" / "table.json").unlink()
    with refused(RunError, Code.INVALID, "bare/evaluation/table.json"):
        render_results([bare])


@pytest.mark.parametrize("value", [10**400, -(10**400), 1e301, "3", [3], None])
def test_a_figure_that_cannot_be_is_refused(small_run: Run, tmp_path: Path, value: object) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_run.folder, copy)
    rows = json.loads((copy / "evaluation" / "table.json").read_text())
    rows[0]["ci_high"] = value
    (copy / "evaluation" / "table.json").write_text(json.dumps(rows))
    with refused(RunError, Code.INVALID, "table.json"):
        render_results([copy])


def test_the_page_of_the_project_is_that_of_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "results.md"
    if not page.is_file():
        pytest.skip("docs/results.md is not written yet")
    monkeypatch.chdir(ROOT)
    command = page.read_text(encoding="utf-8").split("`segcft results ", 1)[1].split("`", 1)[0]
    assert page.read_text(encoding="utf-8") == render_results([Path(folder) for folder in command.split()])
