"""`segcft simulate`: simulated samples as files, to try an import on."""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from pathlib import Path

from segcft.cli.options import Command, count, whole
from segcft.errors import Code, SegcftError

KINDS = {
    "chest": ("radiographs with masks", (256, 256)),
    "pendulum": ("images of a pendulum, a light and the shadow", (96, 96)),
    "retina": ("colour photographs with masks of disc and cup", (96, 96)),
    "volume": ("NIfTI volumes of a structure in two parts, with masks", (32, 40, 56)),
}
"""Simulators, of which a study calls one ``KIND-simulator``: what they draw, and on which grid by default."""


def add_simulate(command: Command) -> None:
    """Add the command."""
    parser = command("simulate", _simulate, "write simulated samples as files, to try an import on")
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", dest="kind", required=True)
    for name, (draws, size) in KINDS.items():
        kind = kinds.add_parser(name, help=draws, description=f"Write {draws}.")
        _add_folder(kind, "metadata.csv")
        kind.add_argument("--people", type=count, metavar="N", default=200, help="how many subjects (default: 200)")
        shown, cells = "x".join(map(str, size)), "voxels" if len(size) == 3 else "pixels"
        help = f"{cells} along each axis, e.g. {shown}, or one number for all (default: {shown})"
        kind.add_argument("--size", type=_size, metavar="PX", default=size, help=help)
        if len(size) == 3:
            help = "edges of a voxel (default: 1 1 1)"
            kind.add_argument("--spacing", type=_length, metavar="MM", nargs=3, default=[1.0, 1.0, 1.0], help=help)
        _add_population(kind)
    ccta = kinds.add_parser("ccta", help=(draws := "CT volumes with centrelines and meshes of the vessel"))
    ccta.description = f"Write {draws}."
    _add_folder(ccta, "cases.csv")
    ccta.add_argument("--vessels", type=count, metavar="N", default=5, help="how many subjects (default: 5)")
    ccta.add_argument(
        "--voxels",
        type=count,
        nargs=3,
        metavar=("I", "J", "K"),
        default=(256, 256, 200),
        help="of a volume, whose field of view stays 128 x 128 x 120 mm (default: 256 256 200)",
    )


def _add_folder(parser: argparse.ArgumentParser, table: str) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help=f"folder to write; its table is {table}")
    parser.add_argument("--seed", type=whole, default=0, help="of the samples (default: 0)")


def _add_population(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--do",
        type=_set,
        metavar="VARIABLE=VALUE",
        action="append",
        default=[],
        help="write the same people's true counterfactuals, VARIABLE being set to VALUE; e.g. age=80 or sex=F; may be "
        "repeated",
    )
    parser.add_argument(
        "--confound",
        type=_confounding,
        metavar="VARIABLE=SHARE",
        help="make VARIABLE and sex go together by selection: of men below and women above its median only SHARE, 0 to "
        "1, are kept; e.g. heart_area=0.05",
    )
    parser.add_argument(
        "--randomise",
        metavar="VARIABLE",
        help="set VARIABLE to that of another subject, so that it depends on neither sex nor age",
    )


def _size(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(count, text.split("x")))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"whole numbers with x between, not {text!r}") from None


def _length(text: str) -> float:
    from segcft.io.volumefile import VOXEL  # others than these are believed of no file

    try:
        if VOXEL[0] <= float(text) <= VOXEL[1]:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{VOXEL[0]:g} to {VOXEL[1]:g} mm, not {text!r}")


def _set(text: str) -> tuple[str, float | str]:
    variable, _, value = text.partition("=")
    if not variable or not value:
        raise argparse.ArgumentTypeError(f"VARIABLE=VALUE, not {text!r}")
    try:
        return variable, float(value)
    except ValueError:
        return variable, value  # a category


def _confounding(text: str) -> tuple[str, float]:
    variable, _, share = text.partition("=")
    try:
        if variable and 0 <= float(share) <= 1:
            return variable, float(share)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"VARIABLE=SHARE with a share of 0 to 1, not {text!r}")


def _simulate(options: argparse.Namespace) -> None:
    print(_write_vessels(options) if options.kind == "ccta" else _write_people(options))


def _write_people(options: argparse.Namespace) -> Path:
    from segcft.importers.simulated import SIMULATORS
    from segcft.simulate.files import study_lines, write_people
    from segcft.simulate.people import Confounding, Population
    from segcft.utils.progress import ConsoleProgress

    axes = len(KINDS[options.kind][1])
    size = options.size * axes if len(options.size) == 1 else options.size
    if len(size) != axes:
        why = f"expected one number, or {axes} as a {options.kind} has axes, not {len(size)}"
        raise SegcftError(Code.INVALID, "--size", why)
    spacing = tuple(options.spacing) if axes == 3 else None
    source = f"{options.kind}-simulator"
    module, _, name = SIMULATORS[source].partition(":")
    make = getattr(importlib.import_module(module), name)
    try:
        simulator = make(size) if spacing is None else make(size, math.prod(spacing), spacing=spacing)
    except ValueError as error:
        raise SegcftError(Code.OUT_OF_RANGE, "--size", str(error)) from None
    table = write_people(
        options.folder,
        simulator,
        options.people,
        source=source,
        population=Population(
            options.seed,
            Confounding(*options.confound) if options.confound else None,
            options.randomise,
            dict(options.do),
        ),
        spacing=spacing,
        progress=ConsoleProgress(),
    )
    lines = study_lines(simulator, volumes=spacing is not None)
    print(f"a study of these files has the lines\n\n{lines}\n", file=sys.stderr)
    return table


def _write_vessels(options: argparse.Namespace) -> Path:
    from segcft.simulate.ccta import Grid, write_ccta
    from segcft.utils.progress import ConsoleProgress

    return write_ccta(
        options.folder, options.vessels, seed=options.seed, grid=Grid.of(options.voxels), progress=ConsoleProgress()
    )
