"""Trained parts on disk: one safetensors file each, with where they come from in its header.

The header (``meta``) records the study, the fingerprint of the data, the version of segcft, the metrics and the
key of everything that the part was made from. Beside it is a digest of ``meta`` and the weights, which is checked when
they are read. No pickle is read or written.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from segcft.errors import Code, RunError
from segcft.utils.atomic import written

DIGEST = "sha256"
"""The field of a header that has the digest of the rest; older parts have none."""

_LONGEST = 10_000  # characters of a name


class _Meta(BaseModel):
    """What others rely on in a ``meta``, where it is there; it may hold more."""

    model_config = ConfigDict(strict=True, extra="allow")

    key: str
    part: str = ""
    made_from: dict[str, str] = {}
    version: str = ""
    data: str = ""
    seconds: float = 0.0
    metrics: dict[str, float] = {}
    study: dict[str, Any] = {}
    source: dict[str, Any] = {}
    findings: list[dict[str, str]] = []


def save(path: Path, module: nn.Module, meta: Mapping[str, Any]) -> None:
    """Write the weights of ``module`` and ``meta`` (JSON) to ``path``: whole, or not at all.

    Raises:
        RunError: a weight is not a finite number.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise RunError(
                Code.FAILED, path, f"not written, since {name} is not finite; lower the learning rate, and train again"
            )
    text = json.dumps(meta)
    with written(path) as partial:
        try:
            save_file(tensors, partial, metadata={"segcft": text, DIGEST: _digest(text, tensors)})
        except SafetensorError as error:
            raise OSError(str(error)) from None


def load(path: Path, module: nn.Module) -> dict[str, Any]:
    """Read the weights at ``path`` into ``module``; returns their ``meta``.

    Raises:
        RunError: the file is missing or damaged, or holds the weights of another network.
    """
    meta = read_meta(path)
    try:
        header, tensors = _read(path)
        if DIGEST in header and header[DIGEST] != _digest(header["segcft"], tensors):
            raise RunError(Code.DAMAGED, path, "not what was written (checksum); make or copy it again")
        module.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise RunError(Code.OTHER, path, f"not the weights of this study's {type(module).__name__}: {error}") from None
    return meta


def same_weights(path: Path, other: Path) -> bool:
    """Whether two files hold the same weights, bit for bit, whatever their headers say; a damaged one holds none."""
    try:
        (_, ours), (_, theirs) = _read(path), _read(other)
    except SafetensorError:
        return False
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and weights of a part."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def read_meta(path: Path) -> dict[str, Any]:
    """The ``meta`` of the part at ``path``, without its weights.

    Raises:
        RunError: the file is missing, damaged or not of segcft.
    """
    if not path.is_file():
        raise RunError(Code.MISSING, path, "there is no such file; run this stage first")
    try:
        with safe_open(path, framework="pt") as file:
            meta: dict[str, Any] = json.loads((file.metadata() or {})["segcft"])
        _Meta.model_validate(meta)
    except ValidationError as error:
        wrong = error.errors()[0]
        field = f"{path}: {'.'.join(map(str, wrong['loc'])) or 'header'}"
        raise RunError(Code.DAMAGED, field, f"damaged, or not written by segcft ({wrong['msg']})") from None
    except (SafetensorError, KeyError, ValueError, OSError, RecursionError) as error:
        raise RunError(Code.DAMAGED, path, f"damaged, or not written by segcft ({error})") from None
    return meta


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of a header's text and of every tensor's name, type, shape and bytes."""
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write what an interrupted training needs to go on: whole, or not at all."""
    with written(path) as partial, partial.open("wb") as file:  # whose errors tell more than those of PyTorch's files
        torch.save(dict(state), file)


def load_plain(path: Path) -> Any:
    """What :func:`torch.save` wrote, tensors and plain values only: a pickle from elsewhere must not run code.

    Raises:
        ValueError: it is compressed, as PyTorch's files are not, or has names that are no names.
        Exception: almost any other, where the file is damaged.
    """
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(file) as packed:
                parts = packed.infolist()
                if sum(part.file_size for part in parts) > path.stat().st_size:
                    raise ValueError("it is compressed")
                if (damaged := packed.testzip()) is not None:  # PyTorch writes checksums, and does not look at them
                    raise ValueError(damaged)
                for part in parts:
                    if part.filename.endswith("data.pkl"):
                        _check_names(io.BytesIO(packed.read(part)))
        else:  # PyTorch's older format: five pickles, then tensors
            file.seek(0)
            for _ in range(5):
                _check_names(file)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_names(file: IO[bytes]) -> None:
    """Check that no text in a pickle is so long that PyTorch, which searches its own messages for patterns, hangs."""
    for _, text, _ in pickletools.genops(file):
        if isinstance(text, str) and len(text) > _LONGEST:
            raise ValueError(f"a name of {len(text)} characters")


def load_checkpoint(path: Path, key: str) -> dict[str, Any] | None:
    """The checkpoint at ``path`` (tensors and plain values only), or None where there is none made from ``key``."""
    if not path.is_file():
        return None
    try:
        state = load_plain(path)
    except Exception as error:  # torch raises many kinds for a damaged file, with advice not for users
        kind = type(error).__name__
        raise RunError(Code.DAMAGED, path, f"this checkpoint is damaged ({kind}); delete it to start again") from None
    return state if isinstance(state, dict) and state.get("key") == key else None
