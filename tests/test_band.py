"""Bands around the pixels of answers: they hold as often as they say, and are of what is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segcft
from segcft.app.payload import encode_answer
from segcft.counterfactual.band import CHANGED, FLOOR, Band, factors, misses, scale, truly_changed
from segcft.counterfactual.intervals import LEVEL, HalfWidths
from segcft.evaluate.metrics.band import BandCoverage, BandWidth
from segcft.pipeline.calibration import read_calibration
from segcft.pipeline.run import Run

HALF = HalfWidths(upto=(1.0,), widths=(2.0, 3.0), relative=False)
ONE = Band(of="simulator", radius=1, spread={"x": 2.0, "y": 1.0}, factors={"x": HALF})


def someone(random: np.random.Generator, change: float) -> np.ndarray:
    """How far the pixels of a person's answer are off, some people's all more than others'."""
    return random.exponential(random.uniform(0.5, 1.5) * (1 + change), random.integers(1, 60))


def test_bands_hold_for_new_people() -> None:
    """In the mean over calibrations at least 90 % of a new person's changed pixels are within, and by what is known of
    80 people a bin hardly more."""
    random, held = np.random.default_rng(0), []
    for _ in range(100):
        changes = random.uniform(0, 3, 240)
        names = np.array([f"p{k}" for k in range(240)])
        found = factors([someone(random, change) for change in changes], changes, names)
        assert found is not None
        new = random.uniform(0, 3, 200)
        held.append(np.mean([(someone(random, c) <= found.around(1.0, c)).mean() for c in new]))
    assert LEVEL - 0.01 < np.mean(held) < LEVEL + 0.03  # sd of the mean 0.002


def test_of_few_people_there_is_none_and_of_nine_the_largest_counts() -> None:
    one = np.array([0.1, 0.2, 7.0])
    for people, expected in ((8, None), (9, 7.0)):
        found = factors([one] * people, np.ones(people), np.array([f"p{k}" for k in range(people)]))
        assert (found and found.widths) == (None if expected is None else (expected,))


def test_answers_about_one_person_are_not_many_people() -> None:
    assert factors([np.ones(5)] * 50, np.ones(50), np.array(["p"] * 50)) is None


def test_everybody_counts_alike_however_many_answers_are_about_them() -> None:
    one, others = np.full(3, 0.1), np.full(3, 100.0)
    names = np.array([*["p"] * 400, *(f"q{k}" for k in range(19))])
    found = factors([one] * 400 + [others] * 19, np.ones(419), names)
    assert found is not None
    assert found.widths == (100.0,)


def test_where_nothing_has_truly_changed_nothing_is_learnt() -> None:
    some = [np.ones(3), np.zeros(0)] * 20
    names = np.array([f"p{k}" for k in range(40)])
    found = factors(some, np.ones(40), names)
    assert found == factors(some[::2], np.ones(20), names[::2])
    assert factors([np.zeros(0)] * 40, np.ones(40), names) is None
    assert factors([np.ones(3)] * 40, np.zeros(40), names) is None


@pytest.mark.parametrize("size", [(9, 12), (6, 7, 8)])
def test_the_scale_follows_what_changes_near(size: tuple[int, ...]) -> None:
    image, answer = torch.zeros(2, 1, *size), torch.zeros(2, 1, *size)
    answer[0, 0][(3,) * len(size)] = 0.9
    found = scale(image, answer, 1)
    assert found.shape == image.shape
    assert torch.all(found[1] == FLOOR)
    near = FLOOR + 0.9 / 3 ** (len(size) / 2)
    assert float(found[0, 0][(3,) * len(size)]) == pytest.approx(near)
    assert float(found[0, 0][(2,) * len(size)]) == pytest.approx(near)
    assert float(found[0, 0][(5,) * len(size)]) == pytest.approx(FLOOR)


def test_misses_are_of_the_pixels_that_truly_change() -> None:
    image = torch.zeros(2, 1, 4, 4)
    truth, answer = image.clone(), image.clone()
    truth[0, 0, 0, 0], truth[0, 0, 1, 1] = 0.5, CHANGED / 2
    truth[1] = torch.nan  # nobody knows it
    first, second = misses(image, answer, truth, 1)
    assert first == pytest.approx([0.5 / FLOOR])
    assert len(second) == 0
    assert truly_changed(image, truth).sum() == 1


def test_a_band_is_as_wide_as_its_widest_change_and_unknown_where_one_is() -> None:
    image, answer = torch.zeros(1, 1, 8, 8), torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    one = scale(image, answer, 1)
    for change, factor in ((1.9, 2.0), (2.1, 3.0)):
        width = ONE.half_width(image, answer, {"x": change})
        assert width is not None
        torch.testing.assert_close(width, (factor * one).clamp(max=2))
    far = ONE.half_width(image, answer + 1.5, {"x": 2.1})
    assert far is not None
    assert far.max() == 2  # no two grey levels differ by more
    assert ONE.half_width(image, answer, {"x": 1.0, "y": 1.0}) is None
    assert ONE.half_width(image, answer, {}) is None


# --- of a run ---


def test_an_evaluation_calibrates_and_judges_the_band(small_run: Run) -> None:
    found, study = read_calibration(small_run), small_run.study
    for method in small_run.methods():
        band = found[method].band
        assert band is not None
        assert band.of == "simulator"
        assert set(band.factors) <= set(study.asked)
        assert band.factors
    rows = json.loads((small_run.evaluation / "table.json").read_text())
    for metric in (BandCoverage.name, BandWidth.name):
        shown = {(row["method"], row["intervention"]) for row in rows if row["metric"] == metric}
        assert {(method, name) for method in found for name in found[method].band.factors} <= shown
    shares = [row["value"] for row in rows if row["metric"] == BandCoverage.name and row["value"] is not None]
    assert all(0 <= share <= 1 for share in shares)
    assert "coverage of the band" in (small_run.evaluation / "table.md").read_text()


def test_an_answer_has_the_band_of_its_change(small_run: Run, tmp_path: Path) -> None:
    model, band = segcft.load(small_run.folder), read_calibration(small_run)["segmentor"].band
    image = small_run.store().images[int(small_run.store().indices("test")[0])]
    one = next(iter(band.factors))
    answer = model.counterfactual(image[0], do={one: "+10%"}, method="segmentor")
    row = answer.record["variables"][one]
    pair = [torch.from_numpy(part.astype(np.float32) / 127.5 - 1)[None] for part in (answer.original, answer.image)]
    width = band.half_width(*pair, {one: abs(row["after"] - row["before"])})
    assert answer.band is not None
    assert answer.band == pytest.approx(127.5 * width[0].numpy(), rel=1e-3, abs=1e-2)
    assert answer.record["band"] == {"level": LEVEL, "of": "simulator"}
    answer.save(tmp_path / "answer")
    assert Image.open(tmp_path / "answer" / "band.png").size == answer.image.shape[:0:-1]
    assert "band of 90 %" in answer._repr_html_()
    assert encode_answer(answer, small_run.study)["band"]
    exact = model.counterfactual(image[0], do={one: "+10%"}, method="segmentor", exact=True)
    assert exact.band is None
    assert encode_answer(exact, small_run.study)["band"] is None
    assert "band" not in exact.record
    exact.save(tmp_path / "answer")
    assert not (tmp_path / "answer" / "band.png").exists()


def test_of_real_people_it_is_learnt_from_deformed_images(plaque_run: Run) -> None:
    for one in read_calibration(plaque_run).values():
        if one.band is not None:
            assert one.band.of == "deformations"
            assert set(one.band.factors) <= set(plaque_run.study.measured)
    assert any(one.band is not None for one in read_calibration(plaque_run).values())
