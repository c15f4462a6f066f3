"""Films as other hospitals make them: greys change in the known ways, and what is no longer to be seen has no mask."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from segcft.config.section import Augment, Film
from segcft.data.augment import Augmenter
from segcft.data.draw import Draw
from segcft.data.film import FilmChanger, smoothed
from segcft.errors import Code, StudyError

NOTHING = {"window": 0, "gamma": 0, "exposure": 0, "blur": 0, "marks": 0, "tubes": 0, "border": 0}
SIZE = (48, 40)


def pictures(samples: int = 6, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Smooth images in [-0.8, 0.8] and masks of two halves."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(samples, channels, 6, 5, generator=generator)
    image = torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear") * 1.6 - 0.8
    mask = torch.zeros(samples, 2, *SIZE)
    mask[:, 0, :, : SIZE[1] // 2] = 1
    mask[:, 1, :, SIZE[1] // 2 :] = 0.5
    return image, mask


def changed(seed: int = 0, **film: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image and mask before, and after the change that is asked for alone, of all samples."""
    image, mask = pictures()
    spec = Film.model_validate(NOTHING | {"share": 1.0} | film)
    return image, mask, *FilmChanger(spec)(image, mask, Draw(image, torch.Generator().manual_seed(seed)))


def test_everything_together_keeps_shapes_ranges_and_the_generator_s_word() -> None:
    image, mask = pictures(channels=2)
    augment = Augmenter(Augment(film=Film(share=0.7, invert=True)))
    once, twice, other = (augment(image, mask, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    for before, after in zip((image, mask), once, strict=True):
        assert after.shape == before.shape
        assert after.dtype == before.dtype
        assert after.isfinite().all()
    assert -1 <= once[0].min() <= once[0].max() <= 1
    assert 0 <= once[1].min() <= once[1].max() <= 1
    assert torch.equal(once[0], twice[0])
    assert not torch.equal(once[0], other[0])


def test_a_share_of_none_changes_nothing() -> None:
    image, mask = pictures()
    assert Augmenter(Augment(film=Film(share=0)))(image, mask)[0] is image
    same = FilmChanger(Film.model_validate(NOTHING | {"share": 1.0}))(image, mask, Draw(image, None))
    assert torch.equal(same[0], image)
    assert torch.equal(same[1], mask)


def test_gamma_and_window_keep_the_order_of_greys() -> None:
    for film in ({"gamma": 1.0}, {"window": 0.1}):
        image, mask, after, masks = changed(**film)
        assert torch.equal(masks, mask)
        for before, one in zip(image.flatten(1), after.flatten(1), strict=True):
            assert (one[before.argsort()].diff() >= -1e-6).all()


def test_a_window_goes_from_black_to_white() -> None:
    _, _, after, _ = changed(window=0.1)
    black, white = ((after == end).float().mean(dim=(1, 2, 3)) for end in (-1, 1))
    for share in (black, white):
        assert ((share > 0) & (share <= 0.1 + 1e-3)).all()


def test_a_collimator_covers_images_and_ends_masks_alike() -> None:
    image, mask, after, masks = changed(border=0.2)
    covered = after == -1
    assert torch.equal(masks, torch.where(covered, 0, mask))
    assert torch.equal(after[~covered], image[~covered])
    shares = covered.float().mean(dim=(2, 3))[:, 0]
    assert ((shares > 0) & (shares < 1 - 0.6**2 + 0.02)).all()
    assert not covered[:, :, SIZE[0] // 2, SIZE[1] // 2].any()


def test_tubes_and_marks_brighten_a_little_of_the_image() -> None:
    for film in ({"tubes": 1}, {"marks": 2}):
        image, mask, after, masks = changed(**film)
        touched = ((after - image).abs() > 0.05).float().mean(dim=(1, 2, 3))
        assert torch.equal(masks, mask)
        assert (touched < 0.25).all()
        assert (touched > 0).any()
        if "tubes" in film:
            assert (after >= image - 1e-6).all()


def test_a_tube_is_one_line_without_gaps() -> None:
    from scipy.ndimage import label

    black = torch.full((4, 1, 128, 128), -1.0)
    spec = Film.model_validate(NOTHING | {"share": 1.0, "tubes": 1})
    for seed in range(5):
        drawn, _ = FilmChanger(spec)(black, black[:, :0], Draw(black, torch.Generator().manual_seed(seed)))
        for one in drawn[:, 0]:
            assert label((one > one.max() * 0.5 - 0.5).numpy(), structure=[[1] * 3] * 3)[1] == 1


def test_a_negative_is_the_image_turned_over() -> None:
    image, _, after, _ = changed(invert=True)
    assert torch.equal(after, -image)


def test_smoothing_is_a_gaussian_s() -> None:
    image, _ = pictures(3)
    width = torch.tensor([0.7, 1.5, 2.0])
    found = smoothed(image, width, 2.0)
    for one, after, sd in zip(image[:, 0], found[:, 0], width.tolist(), strict=True):
        expected = gaussian_filter(one.double().numpy(), sd, mode="nearest", radius=4)
        assert torch.allclose(after.double(), torch.from_numpy(expected), atol=1e-6)


def test_volumes_are_no_films() -> None:
    volume = torch.zeros(1, 1, 8, 8, 8)
    with pytest.raises(StudyError) as caught:
        Augmenter(Augment(film=Film(share=0.5)))(volume, volume)
    assert caught.value.code is Code.UNSUPPORTED


def test_a_film_that_is_off_is_not_written() -> None:
    assert "film" not in Augment(rotate=3).model_dump()
    assert "film" in Augment(film=Film(share=0.1)).model_dump()
