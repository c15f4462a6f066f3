"""What the commands' options have in common: kinds of values, and the hardware."""

from __future__ import annotations

import argparse
import warnings


def count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a whole number, 1 or more, not {text!r}")
    return int(text)


def whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number, 0 or more, not {text!r}")
    return int(text)


def seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number, 0 or more, not {text!r}")
    return int(text)


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
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(monai|lightning|pydicom)")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
