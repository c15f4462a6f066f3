r"""Identity: is an answer still the same person's image?

A verifier learns from training people whose image is whose: a ResNet gives each image a direction z of unit length,
such that two images of one person have directions alike, and those of others have not (NT-Xent; Chen et al., *A simple
framework for contrastive learning of visual representations*, ICML 2020). Of a batch of B people, two images each,

.. math:: -\frac{1}{2B} \sum_i \log \frac{\exp(z_i \cdot z_{i'} / \tau)}{\sum_{j \neq i} \exp(z_i \cdot z_j / \tau)}.

The second image is another one of the person where there is one, else the same; both are changed at random: turned,
shifted, of other greys, with a structure larger or smaller. So what such changes leave is the person.

Of people whom it has not seen, two images are taken for one person's where their directions are closer than those of
all but :data:`FALSE_ACCEPTS` of pairs of different people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.config.section import Augment, LocalDeformation
from segcft.data.augment import Augmenter
from segcft.errors import Code, DataError
from segcft.evaluate.bootstrap import bootstrap_means
from segcft.evaluate.names import method_name
from segcft.evaluate.table import grid
from segcft.evaluate.two_sample import descend, on
from segcft.grey import to_grey_levels, to_unit
from segcft.readers.regressor import resnet

FALSE_ACCEPTS = 0.01
"""The share of pairs of different people that may be taken for one person's."""

CHANGES = Augment(
    rotate=4, shift=0.04, scale=0.06, gamma=0.2, contrast=0.15, brightness=0.1, noise=0.02,
    deform=LocalDeformation(share=0.7, spread=0.35),
)  # fmt: skip
"""What is done to images that still show the same person."""

FEW = 16
"""Images that are changed at once."""

CHANGED = "the same image, changed"
OTHER_IMAGE = "another image of the same person"


@dataclass(frozen=True)
class Verification:
    """How a verifier is trained: ``people`` in a batch, ``temperature`` tau, and directions of so many ``numbers``."""

    widths: tuple[int, int, int, int] = (16, 32, 64, 128)
    numbers: int = 64
    steps: int = 600
    people: int = 24
    learning_rate: float = 0.002
    weight_decay: float = 0.05
    temperature: float = 0.1


class Photographs(NamedTuple):
    """Images (N, C, *size) and masks (N, S, *size), both 0..255 (uint8), and whose they are, (N,)."""

    images: Tensor
    masks: Tensor
    people: Sequence[str]


class Verifier(nn.Module):
    """Gives images a direction. See :func:`train_verifier`."""

    def __init__(self, spec: Verification, channels: int, dimensions: int) -> None:
        super().__init__()
        self.resnet = resnet(spec.widths, [1] * len(spec.widths), channels, dimensions, spec.numbers)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, *size) in [-1, 1] to unit vectors (B, D)."""
        return F.normalize(self.resnet(x).float(), dim=1)

    @torch.no_grad()
    def directions(self, images: Tensor) -> Tensor:
        """Of images (N, C, *size) in grey levels, (N, D), on the CPU."""
        device = next(self.parameters()).device
        return torch.cat([self(x).cpu() for x in on(device, images)])


def augmenter_of(known: Photographs) -> Augmenter:
    """What changes images: where there are structures, those, too."""
    without = {} if known.masks.shape[1] else {"deform": LocalDeformation()}
    return Augmenter(CHANGES.model_copy(update=without))


@torch.enable_grad()
def train_verifier(
    known: Photographs,
    spec: Verification,
    seed: int = 0,
    advance: Callable[[int], object] = lambda steps: None,
    device: torch.device | str = "cpu",
) -> Verifier:
    """Train a verifier of people on a ``device``; ``advance`` is told of steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Verifier(spec, known.images.shape[1], known.images.dim() - 2).to(device)
    augment, generator = augmenter_of(known), torch.Generator().manual_seed(seed)
    random, (_, owner) = np.random.default_rng(seed), np.unique(np.asarray(known.people), return_inverse=True)
    own = [np.flatnonzero(owner == person) for person in range(int(owner.max()) + 1)]
    size = min(spec.people, len(own))

    def loss() -> Tensor:
        chosen = random.choice(len(own), size, replace=False)
        rows = np.array([random.choice(own[person], 2, replace=len(own[person]) < 2) for person in chosen])
        images, masks = (part[torch.from_numpy(rows.T.ravel())] for part in (known.images, known.masks))
        changed, _ = augment(to_unit(images.to(device)), masks.to(device).float() / 255, generator)
        return contrast(network(changed), spec.temperature)

    descend(network, loss, spec.steps, spec.learning_rate, spec.weight_decay, advance)
    return network


def contrast(directions: Tensor, temperature: float) -> Tensor:
    """NT-Xent of unit vectors (2B, D), of which B are of the first images and B, in the same order, of the second."""
    likeness = directions @ directions.T / temperature
    likeness.fill_diagonal_(-torch.inf)
    count = len(directions) // 2
    return F.cross_entropy(likeness, torch.arange(2 * count, device=directions.device).roll(count))


class Seen(NamedTuple):
    """Of images of one kind, (N,) each: whether they are taken for their person's, whether the nearest of all real
    images is of that person, and whose they are."""

    method: str
    accepted: NDArray[np.bool_]
    nearest: NDArray[np.bool_]
    people: NDArray[np.str_]


class Verified(NamedTuple):
    """The share of images that are taken for their person's, with its 95 % interval over people; how often the nearest
    of all real images is of that person; and of how many images this is."""

    method: str
    share: float
    low: float
    high: float
    nearest: float
    n: int


@torch.no_grad()
def verify(verifier: Verifier, shown: Photographs, answers: Mapping[str, Tensor], seed: int = 0) -> list[Seen]:
    """Which answers (N, C, *size) about the N images ``shown`` are taken for the same person's.

    For comparison: other images of the same people, where there are some, and the images themselves, changed as in the
    training.

    Raises:
        DataError: all images are of one person.
    """
    people, real = np.asarray(shown.people), verifier.directions(shown.images)
    alike, others = _likeness(real, real), people[:, None] != people
    if not others.any():
        raise DataError(Code.EMPTY, "people", "there is one test person alone, from whom nobody else can be told")
    threshold = float(np.quantile(alike[others], 1 - FALSE_ACCEPTS))
    found = []
    same = ~others & ~np.eye(len(people), dtype=bool)
    repeated = same.any(axis=1)
    if repeated.any():
        best, nearest = (np.where(mask, alike, -np.inf).max(axis=1)[repeated] for mask in (same, others))
        found.append(Seen(OTHER_IMAGE, best > threshold, best >= nearest, people[repeated]))
    augment, generator = augmenter_of(shown), torch.Generator().manual_seed(seed)
    changed = [
        to_grey_levels(augment(x, mask.float() / 255, generator)[0])
        for x, mask in zip(map(to_unit, shown.images.split(FEW)), shown.masks.split(FEW), strict=True)
    ]
    sets = {CHANGED: verifier.directions(torch.cat(changed))}
    sets |= {name: verifier.directions(images) for name, images in answers.items()}
    for name, one in sets.items():
        likeness = _likeness(one, real)
        nearest_person = people[likeness.argmax(axis=1)]
        found.append(Seen(name, likeness.diagonal() > threshold, nearest_person == people, people))
    return found


def _likeness(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    return (first @ second.T).double().numpy()


def summed(runs: Sequence[Sequence[Seen]]) -> list[Verified]:
    """What was seen of the people of all runs, each by a verifier of its own: the kinds that there are in any."""
    found = []
    for method in dict.fromkeys(one.method for run in runs for one in run):
        own = [one for run in runs for one in run if one.method == method]
        accepted, nearest, people = (np.concatenate([one[k] for one in own]) for k in (1, 2, 3))
        share, low, high = (float(end[0]) for end in bootstrap_means(accepted[:, None].astype(float), people)[:3])
        if np.isnan(low):  # of one person, which is nothing to go by
            continue
        found.append(Verified(method, share, low, high, float(nearest.mean()), len(accepted)))
    return found


def render_identity(found: Sequence[Verified]) -> str:
    """A table of what was seen, in Markdown."""
    body = [
        [
            method_name(one.method),
            f"{100 * one.share:.1f} ({100 * one.low:.1f} to {100 * one.high:.1f})",
            f"{100 * one.nearest:.1f}",
            str(one.n),
        ]
        for one in found
    ]
    return f"""\
## Is it still the same person?

{grid(["", "taken for the same person, %", "nearest of all, %", "images"], body)}

A verifier that has learnt from training people whose image is whose, whatever their greys and the size of a structure,
compares each answer with the image that it is about. It takes {100 * FALSE_ACCEPTS:g} % of pairs of different people
for one person. Nearest of all: how often no image of anybody else is nearer.
"""
