"""A small classifier of sex, always trained alike."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.augmentation.people import Set
from segcft.grey import to_unit
from segcft.utils.digest import key_of


@dataclass(frozen=True)
class Settings:
    """A ResNet (He et al. 2016, as in MONAI) and its training, AdamW under a one-cycle learning rate."""

    widths: tuple[int, ...] = (8, 16, 32, 64)
    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.01


def answers(
    training: Set, judged: Set, seed: int, settings: Settings, cache: Path, device: torch.device
) -> NDArray[np.float32]:
    """Log odds of male sex (N,) that a classifier trained on ``training`` gives the images of ``judged``.

    What was computed once, of these very images and settings, is read from the folder ``cache``.
    """
    digest = hashlib.sha256(key_of(seed, asdict(settings), torch.__version__, device.type).encode())
    for array in (training.images, training.male, training.weights, judged.images):
        digest.update(np.ascontiguousarray(array).data)
    path = cache / f"{digest.hexdigest()[:24]}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, predict(train(training, seed, settings, device), judged.images, device))
        partial.replace(path)
    found: NDArray[np.float32] = np.load(path)
    return found


def train(training: Set, seed: int, settings: Settings, device: torch.device) -> nn.Module:
    """The trained network; images are drawn by their weights, with replacement."""
    from monai.networks.nets.resnet import ResNet

    torch.manual_seed(seed)
    network: nn.Module = ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=list(settings.widths),
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_size=7,
        conv1_t_stride=2,
        no_max_pool=True,
        num_classes=1,
    ).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, settings.steps)
    images, male = _images(training.images), torch.tensor(training.male, dtype=torch.float32)
    weights, generator = torch.tensor(training.weights), torch.Generator().manual_seed(seed)
    for _ in range(settings.steps):
        chosen = torch.multinomial(weights, settings.batch_size, replacement=True, generator=generator)
        odds = network(to_unit(images[chosen].to(device)))[:, 0]
        loss = F.binary_cross_entropy_with_logits(odds, male[chosen].to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def predict(network: nn.Module, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    """Log odds (N,) of images (N, H, W)."""
    parts = [network(to_unit(part.to(device)))[:, 0].cpu() for part in _images(images).split(256)]
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found


def _images(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images))[:, None]
