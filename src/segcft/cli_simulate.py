"""`segcft simulate`: simulated people as files, to try an import on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from segcft.cli_options import count, seed


def add_simulate(command: Callable[[str, object, str], argparse.ArgumentParser]) -> None:
    """Add the command; ``command`` adds one of a name, a function and a summary."""
    parser = command("simulate", _simulate, "write simulated people as files, to try an import on")
    parser.add_argument("kind", choices=("ccta",), help="ccta: CT volumes with centrelines and meshes of the vessel")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write; its table is cases.csv")
    parser.add_argument("--vessels", type=count, metavar="N", default=5, help="how many people (default: 5)")
    parser.add_argument("--seed", type=seed, default=0, help="of the people (default: 0)")
    parser.add_argument(
        "--voxels",
        type=count,
        nargs=3,
        metavar=("I", "J", "K"),
        default=(256, 256, 200),
        help="of a volume, whose field of view stays 128 x 128 x 120 mm (default: 256 256 200)",
    )


def _simulate(options: argparse.Namespace) -> None:
    from segcft.progress import ConsoleProgress
    from segcft.simulate.ccta import Grid, write_ccta

    table = write_ccta(
        options.folder,
        options.vessels,
        seed=options.seed,
        grid=Grid.of(options.voxels),
        progress=ConsoleProgress(),
    )
    print(table)
