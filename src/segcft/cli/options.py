"""Options that commands share: kinds of values, and the hardware."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segcft.importers.options import COUNT, WHOLE, Kind

Command = Callable[[str, object, str], argparse.ArgumentParser]
"""Adds a command of a name, a function and a summary."""


def value_of(kind: Kind) -> Callable[[str], Any]:
    """The argparse type of a ``kind`` of values."""

    def parse(text: str) -> Any:
        try:
            return kind.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


count, whole = value_of(COUNT), value_of(WHOLE)


def model(text: str) -> Path:
    """The argparse type of a run or a published model: its folder, or its name on the Hugging Face Hub."""
    from segcft.utils.hub import located

    return Path(located(text))


def run_or_model(parser: argparse.ArgumentParser, metavar: str = "RUN") -> None:
    """Add the argument ``run``."""
    help = "folder of a run or of a published model, or hf://USER/MODEL"
    parser.add_argument("run", metavar=metavar, type=model, help=help)


METHODS = ("none", "regressor", "segmentor", "predictor")
"""What a mechanism of the image was fine-tuned by."""


def method(parser: argparse.ArgumentParser, what: str = "which image mechanism") -> None:
    """Add the option ``--method``."""
    help = f"{what} (default: the last of these that is trained)"
    parser.add_argument("--method", choices=METHODS, help=help)


def data(parser: argparse.ArgumentParser, help: str = "folder of images, masks and table") -> None:
    parser.add_argument("--data", metavar="DIR", type=Path, help=help)


def study(
    parser: argparse.ArgumentParser,
    help: str = "study file, e.g. configs/quickstart.yaml, or the folder of a run",
    out: str = "folder of the run (default: runs/STUDY's name)",
) -> None:
    parser.add_argument("study", metavar="STUDY", type=Path, help=help)
    data(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help=out)


def jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        help="parts trained at the same time, each in a process of its own with its share of the cores, or on the "
        "next of the machine's GPUs (default: 2 on a CPU with two cores or more, else 1)",
    )


def compiling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile",
        action="store_true",
        help="have PyTorch compile the image mechanism for its trainings: minutes once, meant for GPUs",
    )


def hardware(parser: argparse.ArgumentParser, several: bool = False) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    if several:
        parser.add_argument("--devices", type=int, default=1, metavar="N", help="devices on each node (default: 1)")
        parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes (default: 1)")


def quiet_libraries() -> None:
    """Keep other libraries' start-up chatter off the screen."""
    import logging

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(monai|lightning|pydicom|highdicom)")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    logging.getLogger("highdicom").setLevel(logging.ERROR)  # which would tell patients' names
