"""Two-sample tests and distances: are two sets of images, or of what is read from them, alike?

:func:`told_apart` trains a classifier to tell them and tests it on people whom it has not seen (Lopez-Paz & Oquab,
*Revisiting classifier two-sample tests*, ICLR 2017). Of features there are the distances of Fréchet, between normal
distributions (Heusel et al., *GANs trained by a two time-scale update rule*, NeurIPS 2017),

.. math:: \\lVert \\mu_1 - \\mu_2 \\rVert^2 + \\operatorname{tr}\\bigl(\\Sigma_1 + \\Sigma_2
          - 2 (\\Sigma_1 \\Sigma_2)^{1/2}\\bigr),

and of a kernel: the unbiased squared maximum mean discrepancy under :math:`k(x, y) = (x^\\top y / d + 1)^3` (Bińkowski
et al., *Demystifying MMD GANs*, ICLR 2018), which may be below 0 where they are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.grey import to_unit
from segcft.readers.regressor import resnet

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

BATCH, PIXELS = 64, 224 * 224
"""So many images of so many pixels are read at once, fewer of larger ones."""


def on(device: torch.device, images: Tensor) -> Iterator[Tensor]:
    """Images (N, C, *size) in grey levels as batches on a device, (B, C, *size) in [-1, 1]."""
    size = max(1, BATCH * PIXELS // images[0].numel()) if len(images) else 1
    return (to_unit(part.to(device)) for part in images.split(min(BATCH, size)))


def descend(
    network: nn.Module,
    loss: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    weight_decay: float,
    advance: Callable[[int], object],
) -> None:
    """So many steps of AdamW on the ``loss`` of a batch, its learning rate falling along a cosine to 0."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    network.train()
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        schedule.step()
        advance(1)
    network.eval()


@dataclass(frozen=True)
class Classifier:
    """How a classifier is trained: a ResNet with one block a level, by AdamW with a falling learning rate.

    Nothing is augmented: what is resampled once more looks otherwise, and that is what is to be seen.
    """

    widths: tuple[int, ...] = (16, 32, 64, 64)
    steps: int = 400
    batch_size: int = 16
    learning_rate: float = 0.002
    weight_decay: float = 0.05

    def train(
        self,
        first: Tensor,
        second: Tensor,
        seed: int,
        advance: Callable[[int], object],
        device: torch.device | str = "cpu",
    ) -> nn.Module:
        """A network on ``device`` whose output (B, 1) is high for images like ``second``, of images (B, C, *size) in
        grey levels."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = resnet(self.widths, [1] * len(self.widths), first.shape[1], first.dim() - 2, 1)
        network.to(device)
        generator, half = torch.Generator().manual_seed(seed), self.batch_size // 2
        label = torch.cat([torch.zeros(half, 1), torch.ones(half, 1)]).to(device)

        def loss() -> Tensor:
            parts = [one[torch.randint(len(one), (half,), generator=generator)] for one in (first, second)]
            return F.binary_cross_entropy_with_logits(network(to_unit(torch.cat(parts).to(device))), label)

        descend(network, loss, self.steps, self.learning_rate, self.weight_decay, advance)
        return network


class Told(NamedTuple):
    """How well two sets are told apart: the area under the ROC curve, 0.5 if they are alike, and its 95 % interval."""

    auc: float
    low: float
    high: float


@torch.enable_grad()
def told_apart(
    first: Tensor,
    second: Tensor,
    folds: tuple[Rows, Rows],
    people: tuple[Rows, Rows],
    classifier: Classifier,
    *,
    seed: int = 0,
    draws: int = 1000,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] = lambda steps: None,
) -> Told:
    """Train classifiers to tell two sets of images, each tested on the fold that it was not trained on.

    Both sets may be of the same people: whoever is seen on both sides in a training teaches what differs, and not who
    it is. All images of the one set are compared with all of the other.

    Args:
        first: (N, C, *size), grey levels 0..255 (uint8).
        second: (M, C, *size) likewise.
        folds: the fold of each image of both, 0 to K - 1, such that nobody is in two folds: (N,) and (M,).
        people: whom each image is of, by number; resamples are of people.
        classifier: how it is trained.
        seed: of trainings and resamples.
        draws: resamples.
        device: where classifiers are trained.
        advance: is told of steps done, K x ``classifier.steps`` in all.
    """
    random = np.random.default_rng(seed)
    right, pairs = np.zeros(1 + draws), np.zeros(1 + draws)
    for fold in range(int(max(folds[0].max(), folds[1].max())) + 1):
        held = [torch.from_numpy(one == fold) for one in folds]
        network = classifier.train(first[~held[0]], second[~held[1]], seed + fold, advance, device)
        scores = [_scores(network, images[here]) for images, here in zip((first, second), held, strict=True)]
        higher = (scores[1][:, None] > scores[0]) + 0.5 * (scores[1][:, None] == scores[0])
        shown = [one[here.numpy()] for one, here in zip(people, held, strict=True)]
        counts = np.split(_counts(np.concatenate(shown), draws, random), [len(shown[0])], axis=1)
        right += np.einsum("dm,mn,dn->d", counts[1], higher, counts[0])
        pairs += counts[0].sum(axis=1) * counts[1].sum(axis=1)
    auc = right / pairs
    low, high = np.percentile(auc[1:], [2.5, 97.5])
    return Told(float(auc[0]), float(low), float(high))


@torch.no_grad()
def _scores(network: nn.Module, images: Tensor) -> Floats:
    device = next((one.device for one in network.parameters()), images.device)
    return torch.cat([network(x).cpu() for x in on(device, images)])[:, 0].double().numpy()


def _counts(people: Rows, draws: int, random: np.random.Generator) -> Floats:
    """How often each image counts: once, and in resamples of the people, (1 + draws, N)."""
    _, owner = np.unique(people, return_inverse=True)
    subjects = int(owner.max()) + 1
    times = random.multinomial(subjects, np.full(subjects, 1 / subjects), size=draws)
    return np.concatenate([np.ones((1, len(owner))), times[:, owner]])


def frechet(first: Floats, second: Floats) -> float:
    """The distance of Fréchet between features (N, D) and (M, D), in units of the features squared."""
    from scipy.linalg import sqrtm

    covariances = [np.atleast_2d(np.cov(one, rowvar=False)) for one in (first, second)]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    shift = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    return float(shift + np.trace(covariances[0] + covariances[1] - 2 * root))


def kernel_distance(first: Floats, second: Floats) -> float:
    """The unbiased squared maximum mean discrepancy between features (N, D) and (M, D), two rows each at least."""

    def kernel(x: Floats, y: Floats) -> Floats:
        return (x @ y.T / x.shape[1] + 1) ** 3

    within = sum(
        (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(first, first), kernel(second, second))
    )
    return float(within - 2 * kernel(first, second).mean())
