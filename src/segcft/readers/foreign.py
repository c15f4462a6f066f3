"""Networks from elsewhere, in ONNX or TorchScript, whoever trained them with whatever code; a segmentor as a reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segcft.config.foreign import Expected, ForeignReader
from segcft.config.loader import read_mapping, validate
from segcft.config.study import Study
from segcft.errors import Code, RunError
from segcft.measures.measurements import Measurements
from segcft.readers.reader import MaskReader
from segcft.utils.extra import extra

Network = Callable[[Tensor], Any]
"""From images to one array, or to several of which the first counts."""

ROUNDED = 1e-3
"""How far a network's probabilities may be from 0 and 1: those of half precision are rounded."""
NEVER = 1e-6
"""Probabilities this near 0 and 1 have finite logits."""


class ForeignSegmentor(MaskReader):
    """It brings images to what a network expects, and what this gives to the study's masks and grid. No gradients flow
    through it: it judges, and does not guide.

    Args:
        card: the YAML file of :class:`~segcft.config.foreign.ForeignReader`.
        study: whose images it is to read.
        device: where to compute.

    Raises:
        StudyError: the file is none.
        RunError: its structures, or the axes of its images, are not those of the study, or its network cannot be read,
            or does not give what it is said to of a black image.
        DataError: ONNX Runtime is not installed.
    """

    def __init__(self, card: Path, study: Study, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.measurements = Measurements.of(study)
        self.spec = validate(ForeignReader, read_mapping(card, "description of a segmentor"), str(card))
        if set(self.spec.structures) != set(study.masked):
            wanted = ", ".join(study.masked)
            raise RunError(Code.OTHER, f"{card}: structures", f"those of {study.name!r} are {wanted}: name all of them")
        check_axes(card, self.spec, study)
        self.outputs = [list(self.spec.structures[name]) for name in study.masked]
        device = torch.device(device)
        self.path, self.grid = file_of(card, self.spec.network), study.image.size
        self.network = open_network(self.path, device)
        self.masks(torch.full((1, study.image.channels, *self.grid), -1.0, device=device))  # now, and not after an hour

    def forward(self, x: Tensor) -> Tensor:
        return torch.logit(self.masks(x), eps=NEVER)

    @torch.no_grad()
    def masks(self, x: Tensor) -> Tensor:
        given = self._asked(expected(x, self.spec, self.path))
        if self.spec.gives == "logits" and float(given.min()) >= 0 and float(given.max()) <= 1:
            why = "all that it gives is from 0 to 1, which are probabilities and no logits (gives)"
            raise RunError(Code.INVALID, self.path, why)
        given = probabilities(given, self.spec.gives, self.path)
        found = torch.stack([given[:, outputs].sum(dim=1) for outputs in self.outputs], dim=1)
        return resized(found.clamp(0, 1), self.grid)

    def _asked(self, seen: Tensor) -> Tensor:
        """What the network gives of images as it expects them, (B, outputs, *size)."""
        given = asked(self.network, seen, self.path)
        most = max(max(outputs) for outputs in self.outputs)
        if given.dim() != seen.dim() or given.shape[1] <= most:
            why = f"it gives {tuple(given.shape)}, where {most + 1} masks of {len(seen)} images were expected"
            raise RunError(Code.INVALID, self.path, why)
        return given


def file_of(card: Path, network: str) -> Path:
    """The file of a ``network`` that a ``card`` names.

    Raises:
        RunError: it is not there.
    """
    path = card.parent / network
    if not path.is_file():
        raise RunError(Code.MISSING, f"{card}: network", f"there is no {path}")
    return path


def open_network(path: Path, device: torch.device) -> Network:
    """The network in an ONNX or TorchScript file.

    Raises:
        RunError: it cannot be read.
        DataError: ONNX Runtime is not installed.
    """
    return (_onnx if path.suffix == ".onnx" else _torchscript)(path, device)


def check_axes(card: Path, spec: Expected, study: Study) -> None:
    """See that the network that ``card`` describes is of images, or of volumes, as the study is.

    Raises:
        RunError: it is of the other.
    """
    if spec.size is not None and len(spec.size) != len(study.image.size):
        why = f"{len(spec.size)} axes, where images of {study.name!r} have {len(study.image.size)}"
        raise RunError(Code.OTHER, f"{card}: size", why)


def expected(x: Tensor, spec: Expected, what: object) -> Tensor:
    """Images (B, C, *size) in [-1, 1] as a network expects them.

    Raises:
        RunError: images of several channels cannot become what it expects; ``what`` is the network, for that.
    """
    black, white = spec.range
    seen = black + (white - black) * (x.float() + 1) / 2
    if spec.size is not None:
        seen = resized(seen, spec.size)
    if spec.channels is not None and spec.channels != seen.shape[1]:
        if seen.shape[1] != 1:
            why = f"the study's images have {seen.shape[1]} channels, and the network is to get {spec.channels}"
            raise RunError(Code.OTHER, what, why)
        seen = seen.repeat_interleave(spec.channels, dim=1)
    return seen.contiguous()


def asked(network: Network, seen: Tensor, what: object) -> Tensor:
    """What a ``network`` gives of images as it expects them, (B, ...), on their device.

    Raises:
        RunError: it cannot read them, or gives something else than finite numbers of each; ``what`` is the network.
    """
    try:
        given = _first(network(seen))
    except Exception as error:  # of ONNX Runtime, TorchScript and any Python alike, whatever is wrong with the network
        reason = str(error).strip().splitlines()
        why = f"it cannot read images of {tuple(seen.shape)} ({reason[-1] if reason else type(error).__name__})"
        raise RunError(Code.UNREADABLE, what, why) from None
    if given.dim() == 0 or len(given) != len(seen):
        raise RunError(Code.INVALID, what, f"it gives {tuple(given.shape)} of {len(seen)} images")
    if not bool(given.isfinite().all()):
        raise RunError(Code.INVALID, what, "it gives numbers that are not finite")
    return given.detach().to(seen.device).float()


def probabilities(given: Tensor, gives: str, what: object) -> Tensor:
    """What a network ``gives`` (B, outputs, ...), of which it says ``logits``, ``probabilities`` or ``classes``, as
    probabilities.

    Raises:
        RunError: it says probabilities, and they are none; ``what`` is the network, for that.
    """
    low, high = float(given.min()), float(given.max())
    if gives == "probabilities" and not (low >= -ROUNDED and high <= 1 + ROUNDED):
        raise RunError(Code.INVALID, what, f"it gives {low:g} to {high:g}, which are no probabilities (gives)")
    if gives == "probabilities":
        return given
    return torch.sigmoid(given) if gives == "logits" else torch.softmax(given, dim=1)


def resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps (B, C, *any) of another size: linear between centres, averaged where an axis shrinks."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    *through, height, width = size
    # Only of two axes at once is there something that averages: planes first, and then what lies behind each pixel.
    planes = F.interpolate(maps.flatten(1, -3), size=(height, width), mode="bilinear", antialias=True)
    for depth in through:
        columns = planes.unflatten(1, (-1, maps.shape[2])).flatten(-2)
        columns = F.interpolate(columns, size=(depth, height * width), mode="bilinear", antialias=True)
        planes = columns.unflatten(-1, (height, width))
    return planes


def _torchscript(path: Path, device: torch.device) -> Network:
    try:
        network: Any = torch.jit.load(str(path), map_location=device)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(Code.UNREADABLE, path, f"no TorchScript that can be read ({reason})") from None
    network.eval()
    return lambda x: network(x)


def _onnx(path: Path, device: torch.device) -> Network:
    runtime = extra("onnxruntime", path, "onnx")
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    try:
        providers = [*(one for one in wanted if one in runtime.get_available_providers()), "CPUExecutionProvider"]
        session = runtime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # its errors have no common class that is public
        reason = str(error).strip().splitlines()[0]
        raise RunError(Code.UNREADABLE, path, f"no ONNX that can be read ({reason})") from None
    entry = session.get_inputs()[0]
    batch = entry.shape[0] if entry.shape and isinstance(entry.shape[0], int) else None  # else of any size

    def ask(x: Tensor) -> Tensor:
        parts = [x] if batch is None else x.split(batch)
        given = []
        for part in parts:
            # Of one size alone: the last one is filled up with what it ends in.
            filled = part if batch is None else torch.cat([part, *[part[-1:]] * (batch - len(part))])
            given.append(session.run(None, {entry.name: filled.cpu().numpy()})[0][: len(part)])
        return torch.from_numpy(np.concatenate(given))

    return ask


def _first(given: Any) -> Tensor:
    """The one array of what a network gives: of several the first."""
    while isinstance(given, dict | list | tuple):
        given = next(iter(given.values())) if isinstance(given, dict) else given[0]
    if not isinstance(given, Tensor | np.ndarray):
        raise TypeError(f"it gives no array, but {type(given).__name__}")
    return given if isinstance(given, Tensor) else torch.from_numpy(given)
