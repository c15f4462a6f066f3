"""The table of one recipe on all sets: figures and what they miss are those of the evaluation's rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.recipe import CONFIGS, FOLDERS, PUBLISHED, ROOT, SIDE, framed, slices_of, subjects_tested
from benchmarks.recipe_page import beside, page
from benchmarks.recipe_set import Judged, Line, lines, read_sets, write_sets
from segcft.evaluate.names import NO_CHANGE, SEG_LESS_REG
from segcft.planning.record import RECORD


def row(method: str, metric: str, structure: str, value: float | None, intervention: str = "") -> dict[str, Any]:
    intervened = bool(intervention) and intervention.startswith(structure)
    said = {"method": method, "metric": metric, "structure": structure, "value": value, "n": 7}
    return said | {"intervention": intervention, "intervened": intervened}


ROWS = [
    row("judge", "mape", "lung", 2.0),
    row("judge", "mape", "heart", 4.0),
    row("segmentor", "mape", "lung", 4.5, "lung_area"),
    row("segmentor", "mape", "heart", 6.0, "lung_area"),
    row("segmentor", "slope", "lung", 0.95, "lung_area"),
    row("segmentor", "slope", "lung", 0.2, "age"),
    row("none", "mape", "lung", 20.0, "lung_area"),
    row("none", "slope", "lung", 0.1, "lung_area"),
    row("segmentor", "pattern energy", "", 1.3, "lung_area"),
    row(SEG_LESS_REG, "slope", "lung", 0.05, "lung_area"),  # a difference is no method
]


def test_a_line_is_of_an_intervention_on_its_structure() -> None:
    first, second = lines(ROWS)  # in the order of the table's methods
    assert first == Line(method="none", structure="lung", slope=0.1, error=20.0, judge=2.0)
    assert first.missed == "slope, error"
    assert second == Line(method="segmentor", structure="lung", slope=0.95, error=4.5, judge=2.0, others=2.0)
    assert second.missed == "others"


def run_of(folder: Path, rows: list[dict[str, Any]], hours: str, size: tuple[int, int]) -> Path:
    """A run's plan and evaluation."""
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "table.json").write_text(json.dumps(rows))
    (folder / RECORD).write_text(f"# some.yaml, planned for {hours}\nimage: {{size: {list(size)}}}\n")
    return folder


def test_the_page_has_every_number_of_every_set(tmp_path: Path) -> None:
    tuned = json.dumps([*ROWS, row("segmentor", "locality", "", 0.912, "lung_area")])
    for name, size in (("chest", [64, 48]), ("hearts", [32, 32, 32])):  # volumes, where slices were planned
        (tmp_path / name / "evaluation").mkdir(parents=True)
        (tmp_path / name / "evaluation" / "table.json").write_text(tuned)
        (tmp_path / name / "study.yaml").write_text(f"image: {{size: {size}}}\n")
    paired = [
        row(NO_CHANGE, "pair error", "", 20.0, "areas: ED to ES"),
        row("segmentor", "pair error", "", 15.0, "areas: ED to ES"),
        row("segmentor", "pair dice", "heart", 0.876, "areas: ED to ES"),
    ]
    chest = Judged.read(run_of(tmp_path / "runs" / "chest", ROWS, "1.5 hours", (64, 48)))
    hearts = Judged.read(run_of(tmp_path / "runs" / "hearts", paired, "0.3 hours", (32, 32)))
    sets = {"chest": chest, "hearts": hearts}
    assert "chest" in beside(sets, tmp_path)
    assert "hearts" not in beside(sets, tmp_path)
    shown = page(sets, tmp_path)
    for expected in ("64 x 48", "1.30", "0.95", "91.2", "0.75", "0.88", "0.3 hours"):
        assert expected in shown
    assert "Not run yet" not in shown
    assert "Not run yet: hearts" in page({"chest": chest}, tmp_path, ["chest", "hearts"])
    # Without models tuned by hand and without pairs there are no such tables.
    assert shown.count("\n## ") == page({"chest": chest}, tmp_path / "none").count("\n## ") + 2


@pytest.mark.parametrize(
    ("judge", "error", "missed"), [(2, 4.9, ""), (2, 5.1, "error"), (10, 14.9, ""), (10, 15.1, "error")]
)
def test_the_judge_s_own_error_is_allowed_for(judge: float, error: float, missed: str) -> None:
    assert Line(method="segmentor", structure="lung", slope=1.0, error=error, judge=judge).missed == missed


def test_sets_that_are_not_run_again_are_kept(tmp_path: Path) -> None:
    kept = tmp_path / "sets.json"
    assert read_sets(kept) == {}
    hearts = [row("segmentor", "pair error", "", None, "areas"), row("segmentor", "pair dice", "heart", None, "areas")]
    sets = {
        name: Judged.read(run_of(tmp_path / name, rows, "1 hours", (64, 64)))
        for name, rows in (("hearts", hearts), ("chest", ROWS))
    }
    write_sets(kept, sets)
    assert read_sets(kept) == sets
    assert list(read_sets(kept)) == ["chest", "hearts"]  # the page's order does not hang on what was run first


def test_the_page_in_the_documentation_is_that_of_the_figures_kept() -> None:
    sets = read_sets(ROOT / "docs" / "recipe.json")
    studies = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == page(sets, PUBLISHED, studies)


def test_subjects_are_counted_by_patient(tmp_path: Path) -> None:
    pd.DataFrame({"id": range(20), "patient": [k // 2 for k in range(20)]}).to_csv(
        tmp_path / "metadata.csv", index=False
    )
    assert subjects_tested(CONFIGS / "acdc.yaml", tmp_path) == pytest.approx(2)
    assert subjects_tested(CONFIGS / "jsrt.yaml", tmp_path) == pytest.approx(4)
    assert FOLDERS.keys() <= {path.stem for path in CONFIGS.glob("*.yaml")}


def test_slices_show_most_of_the_labels_with_the_head_up_and_the_front_to_the_left(tmp_path: Path) -> None:
    image, labels = np.zeros((10, 30, 20), np.int16), np.zeros((10, 30, 20), np.uint8)
    image[4, 25:, 15:] = 100  # in front and above
    labels[4, 25:, 15:] = 1
    labels[7, :2, :2] = 2
    for name, array in (("images", image), ("labels", labels)):
        (tmp_path / "volumes" / name).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "volumes" / name / "one.nii.gz")
    folder = slices_of(tmp_path / "volumes", tmp_path / "slices")
    mask, shown = (np.asarray(Image.open(folder / kind / "one.png")) for kind in ("masks", "images"))
    assert mask.sum() == 5 * 5
    assert np.array_equal(mask > 0, shown > 0)
    rows, columns = np.nonzero(mask)
    assert rows.max() < SIDE // 2
    assert columns.max() < SIDE // 2


@pytest.mark.parametrize("size", [(10, 100), (64, 64), (65, 63)])
def test_a_frame_keeps_the_middle(size: tuple[int, int]) -> None:
    pixels = np.zeros(size, np.uint8)
    pixels[size[0] // 2, size[1] // 2] = 9
    found = framed(pixels)
    assert found.shape == (SIDE, SIDE)
    assert np.abs(np.argwhere(found == 9) - SIDE // 2).max() <= 1
