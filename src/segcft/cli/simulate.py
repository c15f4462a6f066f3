"""`segcft simulate`: simulated samples as files, to try an import on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segcft.cli.options import Command, count, whole
from segcft.errors import Code, SegcftError


def add_simulate(command: Command) -> None:
    """Add the command."""
    parser = command("simulate", _simulate, "write simulated samples as files, to try an import on")
    parser.add_argument(
        "kind",
        choices=("ccta", "chest", "pendulum", "retina", "volume"),
        help="ccta: CT volumes with centrelines and meshes of the vessel; chest: radiographs with masks; pendulum: "
        "images of a pendulum, a light and the shadow; retina: colour photographs with masks of disc and cup; volume: "
        "NIfTI volumes of a structure in two parts, with masks",
    )
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="folder to write; its table is cases.csv (ccta) or metadata.csv"
    )
    parser.add_argument("--seed", type=whole, default=0, help="of the samples (default: 0)")
    ccta = parser.add_argument_group("ccta")
    ccta.add_argument("--vessels", type=count, metavar="N", default=5, help="how many subjects (default: 5)")
    ccta.add_argument(
        "--voxels",
        type=count,
        nargs=3,
        metavar=("I", "J", "K"),
        default=(256, 256, 200),
        help="of a volume, whose field of view stays 128 x 128 x 120 mm (default: 256 256 200)",
    )
    people = parser.add_argument_group("chest, pendulum, retina and volume")
    people.add_argument("--people", type=count, metavar="N", default=200, help="how many subjects (default: 200)")
    images = parser.add_argument_group("chest, pendulum and retina")
    images.add_argument("--size", type=_side, metavar="PX", help="pixels a side (default: 256 of chest, else 96)")
    chest = parser.add_argument_group("chest")
    chest.add_argument(
        "--confound",
        type=_confounding,
        metavar="VARIABLE=SHARE",
        help="make VARIABLE and sex go together by selection: of men below and women above its median only SHARE, 0 to "
        "1, are kept; e.g. heart_area=0.05",
    )
    chest.add_argument(
        "--randomise",
        metavar="VARIABLE",
        help="set VARIABLE to that of another subject, so that it depends on neither sex nor age",
    )
    retina = parser.add_argument_group("retina")
    retina.add_argument(
        "--do",
        type=_set,
        metavar="VARIABLE=VALUE",
        action="append",
        default=[],
        help="write the same people's true counterfactuals, VARIABLE being set to VALUE; e.g. age=80 or sex=F; may be "
        "repeated",
    )


def _side(text: str) -> int:
    if not text.isdecimal() or int(text) < 16:
        raise argparse.ArgumentTypeError(f"a whole number of pixels, 16 or more, not {text!r}")
    return int(text)


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
    if options.do and options.kind != "retina":
        why = f"true counterfactuals are written of retina, not of {options.kind}"
        raise SegcftError(Code.UNSUPPORTED, "--do", why)
    from segcft.utils.progress import ConsoleProgress

    size = {} if options.size is None else {"size": (options.size, options.size)}
    if options.kind == "chest":
        from segcft.simulate.chestset import Confounding, study_lines, write_chest

        table = write_chest(
            options.folder,
            options.people,
            seed=options.seed,
            confounding=Confounding(*options.confound) if options.confound else None,
            randomise=options.randomise,
            progress=ConsoleProgress(),
            **size,
        )
        print(f"a study of these files has the lines\n\n{study_lines()}\n", file=sys.stderr)
    elif options.kind == "pendulum":
        from segcft.simulate.pendulumset import study_lines as lines_of_pendulums
        from segcft.simulate.pendulumset import write_pendulums

        table = write_pendulums(options.folder, options.people, seed=options.seed, progress=ConsoleProgress(), **size)
        print(f"a study of these files has the lines\n\n{lines_of_pendulums()}\n", file=sys.stderr)
    elif options.kind == "retina":
        from segcft.simulate.retinaset import study_lines as lines_of_retinas
        from segcft.simulate.retinaset import write_retinas

        table = write_retinas(
            options.folder,
            options.people,
            seed=options.seed,
            do=dict(options.do),
            progress=ConsoleProgress(),
            **size,
        )
        print(f"a study of these files has the lines\n\n{lines_of_retinas()}\n", file=sys.stderr)
    elif options.kind == "volume":
        from segcft.simulate.volumeset import study_lines as lines_of_volumes
        from segcft.simulate.volumeset import write_volumes

        table = write_volumes(options.folder, options.people, seed=options.seed, progress=ConsoleProgress())
        print(f"a study of these files has the lines\n\n{lines_of_volumes()}\n", file=sys.stderr)
    else:
        from segcft.simulate.ccta import Grid, write_ccta

        table = write_ccta(
            options.folder,
            options.vessels,
            seed=options.seed,
            grid=Grid.of(options.voxels),
            progress=ConsoleProgress(),
        )
    print(table)
