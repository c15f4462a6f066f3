"""Somebody's classifier, regressor or segmentor, as it is asked about images and about answers.

A classifier or regressor is any callable from images to numbers, which gets from :class:`Classifier` what it expects.
Of a segmentor the output is how well its masks overlap with the judge's of the same image (:class:`Overlap`).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from segcft.config.foreign import ForeignClassifier, Outputs
from segcft.config.loader import read_mapping, validate
from segcft.config.study import Study
from segcft.errors import Code, RunError, SegcftError
from segcft.readers.foreign import (
    ForeignSegmentor,
    Network,
    asked,
    check_axes,
    expected,
    file_of,
    open_network,
    probabilities,
)
from segcft.readers.reader import MaskReader

HALF = 0.5
"""The probability, and the share of a pixel, at which a decision flips."""


class Audited(Protocol):
    """What is audited: numbers of images."""

    @property
    def names(self) -> Sequence[str]:
        """Of its outputs."""

    @property
    def decides(self) -> bool:
        """Whether outputs are probabilities, so that a decision flips at :data:`HALF`."""

    def __call__(self, x: Tensor, masks: Tensor) -> Tensor:
        """The outputs (B, K) of images (B, C, *size) in [-1, 1], of which the judge sees ``masks`` (B, S, *size)."""


class Classifier:
    """A network whose outputs are probabilities, where it ``gives`` logits, classes or probabilities, or numbers.

    Args:
        network: any callable from what it expects, (B, C, *size), to (B, outputs), or (B,) of one output.
        spec: what it expects and gives.
        what: it is, for errors.
    """

    def __init__(self, network: Network, spec: Outputs, what: object = "classifier") -> None:
        self.network, self.spec, self.what = network, spec, what
        self.names, self.decides = tuple(spec.outputs), spec.gives != "numbers"
        self.columns = list(spec.outputs.values())

    @torch.no_grad()
    def __call__(self, x: Tensor, masks: Tensor) -> Tensor:
        """See :class:`Audited`.

        Raises:
            RunError: the network cannot read the images, or does not give what it is said to.
        """
        given = asked(self.network, expected(x, self.spec, self.what), self.what)
        given = given.reshape(len(x), -1)  # of one output there may be no axis
        if given.shape[1] <= max(self.columns):
            why = f"it gives {given.shape[1]} numbers of an image, and {max(self.columns) + 1} are named (outputs)"
            raise RunError(Code.INVALID, self.what, why)
        if self.decides:
            given = probabilities(given, self.spec.gives, self.what)
        return given[:, self.columns]


class Overlap:
    r"""A segmentor, whose outputs are the Dice of its masks a with the judge's masks b,
    :math:`2 \lvert a \cap b \rvert / (\lvert a \rvert + \lvert b \rvert)`, 1 where both see nothing.

    Args:
        segmentor: of the structures of ``study``.
        study: of the judge.
    """

    decides = False

    def __init__(self, segmentor: MaskReader, study: Study) -> None:
        self.segmentor, self.names = segmentor, tuple(f"Dice of {name}" for name in study.masked)

    @torch.no_grad()
    def __call__(self, x: Tensor, masks: Tensor) -> Tensor:
        """See :class:`Audited`."""
        own, judged = (part.flatten(2) > HALF for part in (self.segmentor.masks(x), masks))
        both, all_ = (own & judged).sum(dim=2), own.sum(dim=2) + judged.sum(dim=2)
        return torch.where(all_ > 0, 2 * both / all_.clamp(min=1), 1.0)


def load_audited(card: Path, study: Study, device: torch.device | str = "cpu") -> Audited:
    """What a YAML file describes: a segmentor where it has ``structures``
    (:class:`~segcft.config.foreign.ForeignReader`), else a classifier or regressor
    (:class:`~segcft.config.foreign.ForeignClassifier`).

    Raises:
        StudyError: the file is none.
        RunError: its network or code cannot be read, or does not give what it is said to of an image.
        DataError: ONNX Runtime is not installed.
    """
    raw = read_mapping(card, "description of a classifier")
    if "structures" in raw:
        return Overlap(ForeignSegmentor(card, study, device), study)
    spec = validate(ForeignClassifier, raw, str(card))
    check_axes(card, spec, study)
    found = Classifier(_network(card, spec, torch.device(device)), spec, spec.network or spec.code)
    # Now, and not after an hour; of no single grey, as who divides by an image's deviation has nothing to say of that.
    ramp = torch.linspace(-1, 1, study.image.size[-1], device=device)
    image = ramp.expand(1, study.image.channels, *study.image.size).contiguous()
    found(image, image[:, :0])
    return found


def _network(card: Path, spec: ForeignClassifier, device: torch.device) -> Network:
    if spec.network and not spec.code:
        return open_network(file_of(card, spec.network), device)
    made = _named(card, spec.code)
    if not spec.network:
        return made.to(device).eval() if isinstance(made, nn.Module) else made
    path = file_of(card, spec.network)
    try:
        network = made(**spec.arguments)
        network.load_state_dict(load_file(path))
    except Exception as error:  # of the user's class, of safetensors and of PyTorch alike
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(Code.UNREADABLE, path, f"no weights of {spec.code} ({reason})") from None
    return network.to(device).eval()


def _named(card: Path, code: str) -> Any:
    """What a card's ``code`` names, in a file beside it or in an installed package. While a file is imported, others
    beside it are found by their names."""
    place, _, name = code.partition(":")
    field = f"{card}: code"
    beside = str((card.parent / place).parent.resolve())
    sys.path.insert(0, beside)
    try:
        if place.endswith(".py"):
            found = importlib.util.spec_from_file_location(f"audited_{Path(place).stem}", card.parent / place)
            assert found is not None
            assert found.loader is not None
            module = sys.modules[found.name] = importlib.util.module_from_spec(found)  # dataclasses look there
            found.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except SegcftError:
        raise
    except Exception as error:  # whatever the user's code does
        raise RunError(Code.UNREADABLE, field, f"cannot import {place} ({error})") from None
    finally:
        sys.path.remove(beside)
    made = getattr(module, name, None)
    if not callable(made):
        raise RunError(Code.MISSING, field, f"{place} has no {name} that can be called")
    return made
