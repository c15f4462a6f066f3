"""What the corpora of several readers are made from."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcft.config.loader import load_study
from segcft.config.study import Study

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "models" / "coronary-quickstart"
CHEST = ROOT / "models" / "chest-sim"
RECORD = {"segcft": "0", "study": "fuzz", "model": "abc", "do": ["age=63"], "variables": {"age": {"before": 60.5}}}
"""What an image that segcft made says of itself."""


@cache
def chest() -> Study:
    return load_study(CHEST / "study.yaml")


@cache
def pixels(size: tuple[int, int] = (24, 20)) -> NDArray[np.uint8]:
    """Smooth, with some noise: what compresses like an image."""
    y, x = np.mgrid[: size[0], : size[1]]
    noise = np.random.default_rng(0).integers(0, 20, size)
    return (4 * y + 3 * x + noise).astype(np.uint8)


def written(name: str, write: Callable[[Path], object]) -> bytes:
    """What ``write`` writes to a path of this name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def contents(*paths: Path) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def lazily(module: str, name: str, *more: Any) -> Callable[[], Callable[[Path], object]]:
    """``name`` of a module, imported by whom it serves, called with a path and ``more``."""

    def open() -> Callable[[Path], object]:
        function = getattr(importlib.import_module(module), name)
        return lambda path: function(path, *more)

    return open
