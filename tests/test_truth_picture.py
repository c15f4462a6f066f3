"""The README's picture: what is drawn beside the truth is the truth, and the answer is nearer to it than the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import segcft
from benchmarks.picture import MODEL, VARIABLE, compare, draw


def test_the_truth_has_what_was_asked_for_and_the_answer_is_nearer_to_it(tmp_path: Path) -> None:
    model = segcft.load(MODEL)
    (one,) = compared = compare(model, VARIABLE, (0.2,))
    before, _, after = one.masks
    assert after.sum() == pytest.approx(1.2 * before.sum(), rel=0.02)
    truth = one.truth.astype(float)
    changed = np.abs(one.image - truth) > 2  # elsewhere an answer is off by its rounding
    assert np.abs(one.answer - truth)[changed].mean() < 0.7 * np.abs(one.image - truth)[changed].mean()
    draw(compared, model.study, VARIABLE).savefig(tmp_path / "truth.png")
    assert (tmp_path / "truth.png").stat().st_size > 0
