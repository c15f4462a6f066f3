"""Answers in the user's own pixels: what is not changed stays what it is, and what moves takes its detail along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter

import segcft
from segcft.api.full import full_resolution
from segcft.config.study import Image
from segcft.data.resize import fit_image
from segcft.errors import Code, DataError
from tests.conftest import MODELS

GRID = Image(size=(32, 48))


def smooth(shape: tuple[int, ...], width: float, seed: int = 0) -> np.ndarray:
    """Noise in [0.2, 0.8] that is smooth over ``width`` pixels."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0, width, width))
    return 0.5 + 0.3 * noise / np.abs(noise).max()


@given(height=st.integers(20, 150), width=st.integers(20, 150))
def test_what_is_not_changed_is_the_image_itself(height: int, width: int) -> None:
    grey = np.random.default_rng(1).random((1, height, width))
    before = fit_image(grey, GRID)
    for displacement in (None, np.zeros((2, *GRID.size), np.float32)):
        assert np.array_equal(full_resolution(grey, 1.0, GRID, before, before, displacement), grey)


def test_a_change_without_displacement_is_added() -> None:
    grey = smooth((1, 96, 144), 6)
    before = fit_image(grey, GRID)
    after = before.copy()
    after[:, 10:20, 10:20] += 30
    full = full_resolution(grey, 1.0, GRID, before, after, None)
    gained = (full - grey) * 255
    assert np.allclose(gained[:, 36:54, 36:54], 30)
    assert np.abs(gained[:, :24]).max() == 0
    assert np.abs(fit_image(full, GRID).astype(int) - after).mean() < 1


@pytest.mark.parametrize("shape", [(96, 144), (64, 96), (96, 96), (100, 230)])
def test_detail_moves_along_with_the_anatomy(shape: tuple[int, int]) -> None:
    """Of a picture that is shifted on the grid, lines finer than the grid are shifted too."""
    grey = smooth((1, *shape), 2)
    before = fit_image(grey, GRID)
    canvas = (max(shape[0], round(shape[1] * 32 / 48)), max(shape[1], round(shape[0] * 48 / 32)))
    steps = 2  # pixels of the grid, to the right
    after = np.roll(before, steps, axis=2)
    displacement = np.zeros((2, *GRID.size), np.float32)
    displacement[0] = -steps * 2 / GRID.size[1]
    full = full_resolution(grey, 1.0, GRID, before, after, displacement)
    own = round(steps * canvas[1] / GRID.size[1])
    inner = (slice(None), slice(10, -10), slice(3 * own, -3 * own))
    assert full.shape == grey.shape
    moved, enlarged = np.roll(grey, own, axis=2), full_resolution(grey, 1.0, GRID, before, after, None)
    assert np.abs(full - moved)[inner].mean() < 0.25 * np.abs(enlarged - moved)[inner].mean()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An example of the simulated chests, enlarged and no square."""
    path = tmp_path_factory.mktemp("full") / "large.png"
    with Picture.open(MODELS / "chest-sim" / "examples" / "1.png") as example:
        example.convert("L").resize((300, 260)).save(path)
    return path


def test_an_answer_has_the_pixels_of_its_image(large: Path, tmp_path: Path) -> None:
    model = segcft.load(MODELS / "chest-sim")
    answer = model.counterfactual(large, do={"heart_area": "+20%"})
    full = answer.full_resolution()
    assert full.shape == (1, 260, 300)
    assert answer.study is not None
    again = fit_image(full / 255, answer.study.image).astype(int)
    assert np.abs(again - answer.image).mean() < 1
    answer.save(tmp_path / "folder", full_resolution=True)
    with Picture.open(tmp_path / "folder" / "counterfactual-full.png") as saved:
        assert saved.size == (300, 260)
        assert np.array_equal(np.asarray(saved.convert("L")), full[0])
    answer.save(tmp_path / "folder")  # the next answer there has none
    assert not (tmp_path / "folder" / "counterfactual-full.png").exists()
    answer.save(tmp_path / "one.png", full_resolution=True)
    assert segcft.__version__ in (tmp_path / "one.png").read_bytes().decode("latin-1")  # it says where it comes from


def test_a_dicom_file_has_the_size_of_its_own_pixels(tmp_path: Path) -> None:
    import pydicom

    model = segcft.load(MODELS / "coronary-quickstart")
    height, width = model.study.image.size
    image = np.asarray(Picture.open(MODELS / "coronary-quickstart" / "examples" / "1.png").convert("L"))
    doubled = np.kron(image, np.ones((2, 2), np.uint8))
    found = model.counterfactual(doubled, do={"lumen_area": "-10%"})
    found.save(tmp_path / "one.dcm", full_resolution=True)
    assert found.spacing is not None
    written = pydicom.dcmread(tmp_path / "one.dcm")
    assert (written.Rows, written.Columns) == (2 * height, 2 * width)
    assert [float(one) for one in written.NominalScannedPixelSpacing] == pytest.approx(
        [one / 2 for one in found.spacing]
    )


def test_another_image_is_refused(large: Path) -> None:
    answer = segcft.load(MODELS / "chest-sim").counterfactual(large, do={"heart_area": "+20%"})
    with pytest.raises(DataError) as caught:
        answer.full_resolution(np.eye(300, dtype=np.uint8)[:260] * 200)
    assert caught.value.code is Code.CONFLICT
