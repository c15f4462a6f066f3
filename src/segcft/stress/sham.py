r"""A control: the change of an answer, moved to elsewhere in the image.

A network that answers to anything unusual in an image answers to every counterfactual, whatever was asked. So each
answer has shams, which change the same image as much, by the same difference, where it means something else: the
difference :math:`\delta` is mirrored, turned by half a turn, or moved by half the frame (:math:`M`, a rigid motion),
and added to the image,

.. math:: x + g \, M \delta .

A motion keeps the energy :math:`\lVert \delta \rVert^2` and the sum of the difference. Black and white may cut off some
of it. That is made up by the gain g, as far as :data:`MOST_GAIN` goes. A sham that has less than :data:`LEAST_ENERGY`
times the energy of the answer all the same is not *kept*, and counts as none.

The motions of a subject are the same for all doses of a variable: responses to shams then sum over doses as those to
answers do. Of all motions those are taken of which the moved differences overlap least with the differences themselves
and lose least, in sum over the doses. What is left of the overlap,
:math:`\langle |\delta|, |M \delta| \rangle / \lVert \delta \rVert^2`, is told: a change of the whole frame has no
elsewhere. How an image was taken changes the whole frame. Its shams have the same difference with its sign changed in
every other square of a board (:math:`M \delta = \pm \delta`), each with another number of squares a side.

If a network does not care where a change is, nor about what black and white cut off, it answers to both alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segcft.grey import rounded

MOST_GAIN = 2.0
"""Times as strong as the answer's own change, at most."""
LEAST_ENERGY = 0.8
"""Of a sham that counts, as a share of the energy of the answer's own change."""
STEPS = 3
"""In which the gain is found."""
SQUARES = 4
"""A side, of the first sham of how an image was taken; each further one has so many more."""
NOTHING = 1e-12
"""The energy of no change at all."""


class Shams(NamedTuple):
    """Images (B, S, C, *size) in [-1, 1], the overlap of each with the answer, and whether it has nearly the energy of
    the answer's change, (B, S)."""

    image: Tensor
    overlap: Tensor
    kept: Tensor


def motions(null: Tensor, answers: Sequence[Tensor], count: int) -> Tensor:
    """The places of the motions of ``count`` shams of each subject, (B, S), the same for all doses.

    Args:
        null: answers to no question, (B, C, *size) in [-1, 1].
        answers: those to each dose.
        count: shams of each answer.
    """
    score = null.new_zeros(len(null), len(_motions(null.dim() - 2)))
    for answer in answers:
        change = answer - null
        places = _places(change)
        kept = _energy(_added(null[:, None], places), 2) / _energy(change).clamp(min=NOTHING)[:, None]
        score += _overlap(places, change) - kept
    return score.argsort(dim=1, stable=True)[:, :count]


def shams(null: Tensor, answer: Tensor, chosen: Tensor) -> Shams:
    """The shams of each ``answer`` by the ``chosen`` :func:`motions` (B, S), about an image whose ``null`` answer is
    given; both are (B, C, *size) in [-1, 1]."""
    change = answer - null
    places = _places(change)[torch.arange(len(null), device=null.device)[:, None], chosen]
    return _as_large(null, change, places, _overlap(places, change))


def boards(null: Tensor, answer: Tensor, count: int) -> Shams:
    """``count`` shams of an ``answer`` that is taken otherwise: the difference, with its sign changed in every other
    square, the same boards for all doses. There is no elsewhere, and the overlap is NaN."""
    change = answer - null
    places = torch.stack([change * _board(change, SQUARES * (1 + k)) for k in range(count)], dim=1)
    return _as_large(null, change, places, change.new_full(places.shape[:2], torch.nan))


def _as_large(null: Tensor, change: Tensor, places: Tensor, overlap: Tensor) -> Shams:
    """Images (B, S, C, *size) that are changed by ``places`` as much as by the ``change``, as far as that goes."""
    start, energy = null[:, None], _energy(change)[:, None]
    gain = torch.ones(places.shape[:2], device=null.device)
    for _ in range(STEPS):
        got = _energy(_added(start, _times(gain, places)), 2)
        gain = (gain * (energy / got.clamp(min=NOTHING)).sqrt()).clamp(max=MOST_GAIN)
    image = rounded(start + _times(gain, places))
    return Shams(image, overlap, _energy(image - start, 2) >= LEAST_ENERGY * energy)


def _places(change: Tensor) -> Tensor:
    """A change (B, C, *size) by every motion, (B, M, C, *size)."""
    return torch.stack([_moved(change, *motion) for motion in _motions(change.dim() - 2)], dim=1)


def _overlap(places: Tensor, change: Tensor) -> Tensor:
    both = (places.abs() * change.abs()[:, None]).flatten(2).sum(dim=2)
    return both / _energy(change).clamp(min=NOTHING)[:, None]


def _board(change: Tensor, squares: int) -> Tensor:
    """1 and -1 in the squares of a board, (*size)."""
    board = torch.ones((), device=change.device)
    for size in change.shape[2:]:
        stripes = torch.arange(size, device=change.device) * squares // size % 2 * -2 + 1
        board = board[..., None] * stripes
    return board


def _motions(dimensions: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Axes that are mirrored, and axes along which it is moved by half the frame; not both none."""
    axes = [tuple(some) for n in range(dimensions + 1) for some in itertools.combinations(range(-dimensions, 0), n)]
    return [(mirrored, moved) for mirrored in axes for moved in axes if mirrored or moved]


def _moved(change: Tensor, mirrored: tuple[int, ...], moved: tuple[int, ...]) -> Tensor:
    change = change.flip(mirrored) if mirrored else change
    return change.roll([change.shape[axis] // 2 for axis in moved], moved) if moved else change


def _added(image: Tensor, change: Tensor) -> Tensor:
    """What is left of a change where grey levels end."""
    return (image + change).clamp(-1, 1) - image


def _times(gain: Tensor, change: Tensor) -> Tensor:
    return gain.reshape(*gain.shape, *(1,) * (change.dim() - gain.dim())) * change


def _energy(change: Tensor, batch: int = 1) -> Tensor:
    """The sum of squares of each."""
    return change.square().flatten(batch).sum(dim=batch)
