"""Arguments of the Python interface: what is of another kind than expected is refused by name.

Python's own errors about such arguments come from deep inside, and some arguments of a wrong kind do something else
than was meant: the text ``"12"`` is a sequence of two values.
"""

from __future__ import annotations

import errno
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from segcft.api.question import Match, Values
from segcft.causal.intervention import Intervention, Kind
from segcft.errors import Code, DataError, InterventionError, RunError, SegcftError

MOST = 1_000_000
"""Draws or samples that are asked for at once; there is no memory for the pictures of more."""

SEEDS = (-(2**63), 2**64 - 1)
"""What PyTorch takes."""

MOST_AMOUNT = int(torch.finfo(torch.float32).max)
"""Of a value; whole numbers of Python may have any number of digits, and no other number can take them then."""

_LONGEST = 60  # characters of an argument in a message


def refuse(
    name: str, expected: str, given: object, error: type[SegcftError] = DataError, code: Code = Code.INVALID
) -> NoReturn:
    """Raise ``error`` about the argument ``name``."""
    shown = "" if given is None else type(given).__name__
    if given is None or isinstance(given, str | bytes | int | float | complex):
        huge = isinstance(given, int) and abs(given) > 10**_LONGEST
        shown = f"{shown} {'of many digits' if huge else repr(given)[:_LONGEST]}".strip()
    elif isinstance(given, np.ndarray | Tensor):
        shown += f" of shape {tuple(given.shape)}"
    raise error(code, name, f"expected {expected}, not {shown}")


def whole(name: str, number: Any, least: int, most: int = MOST) -> int:
    """A whole number from ``least`` to ``most``, of Python, NumPy or PyTorch; no truth value.

    Raises:
        DataError: it is none.
    """
    try:
        found = None if isinstance(number, bool | np.bool_) else operator.index(number)
    except Exception:  # a tensor of several numbers has errors of its own
        found = None
    if found is None:
        refuse(name, f"a whole number, {least} or more", number)
    if not least <= found <= most:
        refuse(name, f"a whole number from {least} to {most}", number, code=Code.OUT_OF_RANGE)
    return found


def flag(name: str, value: Any) -> bool:
    """True or False.

    Raises:
        DataError: it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        refuse(name, "True or False", value)
    return bool(value)


def text(name: str, value: Any, example: str, error: type[SegcftError] = DataError) -> str:
    """A text, of which there is an ``example``.

    Raises:
        SegcftError: the ``error`` that is given, if it is none.
    """
    if not isinstance(value, str):
        refuse(name, f"a text such as {example!r}", value, error)
    return value


def place(name: str, value: Any, error: type[SegcftError] = DataError) -> Path:
    """A path, as text or as a :class:`~pathlib.Path`, of which a file or folder can be.

    Raises:
        SegcftError: the ``error`` that is given, if it is none.
    """
    if not isinstance(value, str | os.PathLike):
        refuse(name, "a path", value, error)
    try:
        path = Path(value)
        os.stat(path)
    except OSError as reason:
        if reason.errno == errno.ENAMETOOLONG:
            refuse(name, "a path that the system can have", value, error)
    except (ValueError, TypeError):  # it has a zero character, or is of bytes
        refuse(name, "a path that the system can have", value, error)
    return path


def hardware(name: str, value: Any) -> torch.device:
    """A device that PyTorch can compute on here.

    Raises:
        RunError: it is none.
    """
    try:
        device = torch.device(value)
        torch.zeros(1, device=device).cpu()  # there may be no such device, or one without numbers ("meta")
    except Exception:
        refuse(name, "a device that PyTorch has here, such as 'cpu' or 'cuda'", value, RunError)
    return device


def values(name: str, given: Any) -> Values:
    """Values of variables, as :data:`segcft.api.question.Values` says; None is none of them.

    What they say is for :func:`segcft.api.question.parse_values` to read, and so is a value that is missing.

    Raises:
        InterventionError: they are of another kind.
    """
    if given is None:
        return ()
    if isinstance(given, Mapping):
        for variable, value in given.items():
            text(f"{name}: the name of a variable", variable, "age", InterventionError)
            if not (pd.api.types.is_scalar(value) and pd.isna(value)):
                amount(f"{name}[{variable!r}]", value)
            if isinstance(value, Intervention) and value.variable != variable:
                raise InterventionError(
                    Code.CONFLICT, f"{name}[{variable!r}]", f"this is an intervention on {value.variable!r}"
                )
        return given
    if isinstance(given, str):
        return given
    if not isinstance(given, Sequence) or isinstance(given, bytes | bytearray | memoryview):
        expected = "a mapping such as {'age': 63}, or a list of texts such as ['age=63']"
        refuse(name, expected, given, InterventionError)
    for number, value in enumerate(given):
        if isinstance(value, Intervention):
            amount(f"{name}[{number}]", value)
        else:
            text(f"{name}[{number}]", value, "age=63", InterventionError)
    return given


def amount(name: str, value: Any) -> None:
    """Check what a variable is set to or changed by: a number, a text, another image, or an intervention of these.

    Raises:
        InterventionError: it is of another kind.
    """
    expected = "a number, or a text such as '+20%'"
    if isinstance(value, Intervention):
        text(f"{name}: variable", value.variable, "age", InterventionError)
        if value.kind not in get_args(Kind):
            refuse(f"{name}: kind", f"one of {', '.join(get_args(Kind))}", value.kind, InterventionError)
        value = value.amount
    elif isinstance(value, Match):
        return
    number = isinstance(value, int | float | np.number) and not isinstance(value, np.complexfloating | np.timedelta64)
    if not (number or isinstance(value, str | np.bool_)) or value != value:
        refuse(name, expected, value, InterventionError)
    if isinstance(value, int) and abs(value) > MOST_AMOUNT:
        refuse(name, "a number below 3.4e38", value, InterventionError, Code.OUT_OF_RANGE)


def several(name: str, given: Any, expected: str) -> list[Any]:
    """The items of a list, or of an array or a column of one axis.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(given, np.ndarray | Tensor) and given.ndim == 1:
        return list(given.tolist())
    if isinstance(given, pd.Series | pd.Index):
        return list(given)
    if not isinstance(given, Sequence) or isinstance(given, str | bytes | bytearray | memoryview):
        refuse(name, expected, given)
    return list(given)


def stream(name: str, given: Any, expected: str, error: type[SegcftError]) -> Iterator[Any]:
    """What has items one after the other: no text, and no mapping, whose items are its keys.

    Raises:
        SegcftError: the ``error`` that is given, if it is something else.
    """
    single = (str, bytes, bytearray, memoryview, Mapping, pd.DataFrame)
    try:
        if not isinstance(given, single):
            return iter(given)
    except Exception:  # of a tensor without axes, or sparse, whose errors do not name the argument
        pass
    refuse(name, expected, given, error)
