"""Answers in the user's own pixels: the model's change is added, and all detail that it does not see stays."""

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
from segcft.config.image import Image
from segcft.data.resize import SQUARE, fit_image
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
    assert np.array_equal(full_resolution(grey, SQUARE, GRID, before, before), grey)


def test_a_change_is_added_where_it_is() -> None:
    grey = smooth((1, 96, 144), 6)
    before = fit_image(grey, GRID)
    after = before.copy()
    after[:, 10:20, 10:20] += 30
    full = full_resolution(grey, SQUARE, GRID, before, after)
    gained = (full - grey) * 255
    assert np.allclose(gained[:, 36:54, 36:54], 30)
    assert np.abs(gained[:, :24]).max() == 0
    assert np.abs(fit_image(full, GRID).astype(int) - after).mean() < 1


def test_detail_that_the_grid_does_not_show_stays() -> None:
    grey = smooth((1, 128, 192), 8)
    fine = 0.05 * np.sign(np.random.default_rng(2).normal(size=grey.shape))
    before, after = fit_image(grey, GRID), fit_image(smooth((1, 128, 192), 8, seed=3), GRID)
    plain, detailed = (full_resolution(one, SQUARE, GRID, before, after) for one in (grey, grey + fine))
    assert np.allclose(detailed - plain, fine)


@pytest.mark.parametrize("shape", [(96, 144), (96, 96), (100, 230), (40, 20)])
def test_the_grid_sees_in_it_what_was_drawn_there(shape: tuple[int, int]) -> None:
    grey = smooth((1, *shape), 4)
    before, change = fit_image(grey, GRID), 20 * smooth((1, *GRID.size), 4, seed=5)
    after = (before + change).astype(np.uint8)
    again = fit_image(full_resolution(grey, SQUARE, GRID, before, after), GRID).astype(float)
    canvas = before == before[0, 0, 0]  # what the image was filled up with has the image's own border again
    assert np.abs(again - after)[~canvas].mean() < 0.1 * np.abs(after.astype(float) - before)[~canvas].mean()


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
    with pytest.raises(DataError):  # answers keep no pixels alive
        found.full_resolution()
    found.save(tmp_path / "one.dcm", full_resolution=doubled)
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


def test_what_cannot_be_written_leaves_what_is_there(large: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    own.write_bytes(large.read_bytes())
    answer = segcft.load(MODELS / "chest-sim").counterfactual(own, do={"heart_area": "+20%"})
    answer.save(tmp_path / "folder", full_resolution=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    own.unlink()
    with pytest.raises(DataError):
        answer.save(tmp_path / "folder", full_resolution=True)
    with pytest.raises(DataError):
        answer.save(tmp_path / "new", full_resolution=True)
    with pytest.raises(DataError):
        answer.save(tmp_path / "numbers.json", full_resolution=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()} == before
    assert not (tmp_path / "new").exists()
