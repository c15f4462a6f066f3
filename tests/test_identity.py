"""Identity: a verifier of people, what it takes for one person, and what it learns."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from segcft.errors import Code, DataError
from segcft.evaluate.identity import (
    CHANGED,
    FALSE_ACCEPTS,
    OTHER_IMAGE,
    Photographs,
    Seen,
    Verification,
    Verifier,
    contrast,
    render_identity,
    summed,
    train_verifier,
    verify,
)

TINY = Verification(widths=(4, 4, 4, 4), numbers=8, steps=2, people=4)
PEOPLE = 40


class Corner(Verifier):
    """Knows a person by the grey level of a corner, an angle: no outcome hangs on a training."""

    def __init__(self) -> None:
        super().__init__(TINY, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.pi / 2 * (x[:, 0, 0, 0] + 1)  # 0 to pi
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def photographs(levels: list[int], people: list[str] | None = None) -> Photographs:
    images = torch.zeros(len(levels), 1, 16, 16, dtype=torch.uint8)
    images[:] = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    masks = torch.zeros(len(levels), 1, 16, 16, dtype=torch.uint8)
    masks[..., 4:12, 4:12] = 255
    return Photographs(images, masks, people or [f"p{k}" for k in range(len(levels))])


LEVELS = [6 * k for k in range(PEOPLE)]


class TestVerify:
    def test_the_image_itself_is_its_person(self) -> None:
        shown = photographs(LEVELS)
        own = {one.method: one for one in verify(Corner(), shown, {"segmentor": shown.images})}["segmentor"]
        assert own.accepted.all()
        assert own.nearest.all()

    def test_another_persons_image_is_not(self) -> None:
        shown = photographs(LEVELS)
        other = {one.method: one for one in verify(Corner(), shown, {"segmentor": shown.images.roll(20, dims=0)})}
        assert not other["segmentor"].accepted.any()
        assert not other["segmentor"].nearest.any()

    def test_one_in_a_hundred_pairs_of_others_is_taken_for_one_person(self) -> None:
        shown = photographs(LEVELS)
        pairs = 0
        for shift in range(1, PEOPLE):
            answers = {"segmentor": shown.images.roll(shift, dims=0)}
            pairs += int({one.method: one for one in verify(Corner(), shown, answers)}["segmentor"].accepted.sum())
        assert pairs / (PEOPLE * (PEOPLE - 1)) <= FALSE_ACCEPTS

    def test_other_images_of_a_person_are_compared_with_each_other(self) -> None:
        people = [f"p{k // 2}" for k in range(20)] + ["alone"]
        levels = [12 * (k // 2) + k % 2 for k in range(20)] + [250]
        found = {one.method: one for one in verify(Corner(), photographs(levels, people), {})}
        assert len(found[OTHER_IMAGE].people) == 20
        assert found[OTHER_IMAGE].accepted.all()
        assert found[OTHER_IMAGE].nearest.all()
        assert "alone" not in found[OTHER_IMAGE].people

    def test_without_repeats_there_is_no_such_row(self) -> None:
        assert {one.method for one in verify(Corner(), photographs(LEVELS), {})} == {CHANGED}

    def test_changes_do_not_depend_on_the_answers(self) -> None:
        shown = photographs(LEVELS)
        with_answers = verify(Corner(), shown, {"segmentor": shown.images})
        assert np.array_equal(verify(Corner(), shown, {})[0].accepted, with_answers[0].accepted)

    def test_one_person_alone_is_refused(self) -> None:
        with pytest.raises(DataError) as error:
            verify(Corner(), photographs([3, 9], ["a", "a"]), {})
        assert error.value.code == Code.EMPTY


class TestTraining:
    def test_contrast_is_that_of_the_formula(self) -> None:
        z = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
        total = 0.0
        for i in range(6):
            partner = (i + 3) % 6
            weights = [math.exp(float(z[i] @ z[j]) / 0.3) for j in range(6) if j != i]
            total -= math.log(math.exp(float(z[i] @ z[partner]) / 0.3) / sum(weights))
        assert float(contrast(z.clone(), 0.3)) == pytest.approx(total / 6, rel=1e-5)

    def test_pairs_alike_and_others_opposite_cost_little(self) -> None:
        z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
        assert float(contrast(z.clone(), 0.05)) < 1e-6

    def test_directions_have_unit_length(self) -> None:
        verifier = train_verifier(photographs(LEVELS), TINY)
        lengths = verifier.directions(photographs(LEVELS).images).norm(dim=1)
        assert torch.allclose(lengths, torch.ones(PEOPLE), atol=1e-5)

    def test_trainings_of_one_seed_are_one_and_leave_random_numbers_alone(self) -> None:
        torch.manual_seed(0)
        expected = torch.rand(2)
        torch.manual_seed(0)
        once, twice = (train_verifier(photographs(LEVELS), TINY, seed=4) for _ in range(2))
        assert torch.equal(torch.rand(2), expected)
        assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))

    def test_fewer_people_than_a_batch_has_are_all_in_it(self) -> None:
        train_verifier(photographs([10, 200, 90]), Verification(widths=(4, 4, 4, 4), numbers=8, steps=2, people=24))

    @pytest.mark.parametrize(("masks", "size"), [(0, (16, 16)), (1, (8, 8, 8))])
    def test_without_structures_and_of_volumes(self, masks: int, size: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 255, (6, 1, *size), generator=generator, dtype=torch.uint8)
        known = Photographs(images, torch.zeros(6, masks, *size, dtype=torch.uint8), list("abcdef"))
        assert len(verify(train_verifier(known, TINY), known, {})) == 1


class TestSum:
    def test_of_one_person_there_is_no_row(self) -> None:
        one = np.ones(2, dtype=bool)
        assert summed([[Seen(OTHER_IMAGE, one, one, np.array(["a", "a"]))]]) == []

    def test_people_of_several_runs_are_counted_together(self) -> None:
        yes, no = np.ones(3, dtype=bool), np.zeros(1, dtype=bool)
        runs = [[Seen("segmentor", yes, yes, np.array(["a", "b", "c"]))], [Seen("segmentor", no, no, np.array(["d"]))]]
        (found,) = summed(runs)
        assert (found.share, found.nearest, found.n) == (0.75, 0.75, 4)
        assert found.low <= found.share <= found.high
        assert "75.0" in render_identity([found])
