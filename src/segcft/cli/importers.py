"""`segcft import NAME`: data in a format of their own, made a folder that a study reads.

Options, their help and checks are those that the importer declares.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import MISSING, Field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segcft.cli.options import hardware, quiet_libraries, value_of
from segcft.importers.importer import IMPORTERS, Importer, MaskedImporter, flag, options
from segcft.importers.options import Option

if TYPE_CHECKING:
    from segcft.importers.masks import Segmenter


def listed() -> str:
    """What importers there are, for help."""
    lines = (f"  segcft import {name:10} {importer.summary}" for name, importer in IMPORTERS.items())
    return "data in a format of their own, which become a folder that a study reads:\n" + "\n".join(lines)


def importer_parser(importer: type[Importer]) -> argparse.ArgumentParser:
    """The command line of an importer."""
    summary = importer.summary[0].upper() + importer.summary[1:] + "."
    parser = argparse.ArgumentParser(prog=f"segcft import {importer.name}", description=summary)
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="folder to write, or to go on with")
    for declared, option in options(importer):
        _add(parser, declared, option)
    if issubclass(importer, MaskedImporter):
        _add_masks(parser, importer.otherwise)
    parser.set_defaults(command=lambda given: _import(importer, given))
    return parser


def _add(parser: argparse.ArgumentParser, declared: Field[Any], option: Option) -> None:
    kind, name = option.kind, flag(declared, option)
    more: dict[str, Any] = {
        "help": (option.help + _default(declared, option)).replace("%", "%%"),
        "default": argparse.SUPPRESS,
    }
    if not kind.metavar:
        more["action"] = "store_true"
    else:
        metavar = option.unit.upper() or kind.metavar
        more |= {"type": value_of(kind), "metavar": metavar}
        if option.many == "pair":
            more |= {"nargs": 2, "metavar": ("LOW", "HIGH")}
        elif option.many:
            more |= {"nargs": "+"} if option.many == "list" else {"action": "append"}
    if name.startswith("-"):
        parser.add_argument(name, dest=declared.name, required=declared.default is MISSING, **more)
    else:
        parser.add_argument(declared.name, **more | {"default": None})


def _default(declared: Field[Any], option: Option) -> str:
    """The default, as help shows it."""
    shown, value = option.shown, declared.default
    if not shown and option.kind.metavar and value not in (MISSING, None):
        shown = option.write(value)
    return f" (default: {shown})" if shown else ""


def _add_masks(parser: argparse.ArgumentParser, otherwise: str) -> None:
    masks = parser.add_mutually_exclusive_group()
    masks.add_argument(
        "--masks",
        metavar="DIR",
        type=Path,
        help="ready-made masks, ID.png with bit flags 1 left lung, 2 right lung, 4 heart (default: "
        f"{otherwise or 'none'})",
    )
    masks.add_argument("--segmentor", metavar="RUN", type=Path, help="masks as the judge of this run sees them")
    hardware(parser)


def _import(importer: type[Importer], given: argparse.Namespace) -> None:
    from segcft.utils.progress import ConsoleProgress

    words = [(field.name, option.many, getattr(given, field.name, None)) for field, option in options(importer)]
    values: dict[str, Any] = {name: tuple(word) if many else word for name, many, word in words if word is not None}
    chosen = importer(**values)  # errors come before anything heavy is imported
    quiet_libraries()
    if isinstance(chosen, MaskedImporter):
        chosen = replace(chosen, segmenter=_segmenter(given, chosen))
    summary = chosen.convert(given.out, ConsoleProgress())
    print(summary)
    if summary.warning:
        print(f"segcft: {summary.warning}", file=sys.stderr)
    print(f"folder: {given.out} (rejected.csv says why images were left out)", file=sys.stderr)


def _segmenter(given: argparse.Namespace, importer: MaskedImporter) -> Segmenter | None:
    """What gives the masks, as the command line says or by default."""
    if given.masks is not None:
        from segcft.importers.masks import FolderMasks

        return FolderMasks(given.masks, importer.size)
    if given.segmentor is None and not importer.otherwise:
        return None
    from segcft.training.loop import make_fabric

    device = make_fabric(given.device).device
    if given.segmentor is None:
        return importer.default_segmenter(device)
    from segcft.pipeline.segmenter import RunSegmenter

    return RunSegmenter(given.segmentor, device)
