"""`segcft readers`: do people tell answers from real images?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.cli.options import Command, count, hardware, method, quiet_libraries, whole
from segcft.errors import Code, SegcftError

if TYPE_CHECKING:
    from segcft.pipeline.run import Run


def add_readers(command: Command) -> None:
    """Add the command ``readers``."""
    parser = command("readers", _readers, "a blinded study: do readers tell answers from real images?")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run, which keeps the key")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write: for readers, or for the results")
    parser.add_argument(
        "--answers",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="what readers gave back, a table each: how often they were right, and how far they agree",
    )
    parser.add_argument("--cases", metavar="N", type=count, help="images, each of another person (default: 60 at most)")
    method(parser, "whose answers are shown")
    parser.add_argument("--seed", metavar="N", type=whole, help="of who is shown as what (default: nobody knows it)")
    hardware(parser)


def _readers(options: argparse.Namespace) -> None:
    quiet_libraries()
    from segcft.pipeline.run import Run

    run = Run(options.run)
    run.require_unpublished()
    if options.answers:
        for option, given in (("--cases", options.cases), ("--method", options.method)):
            if given is not None:
                raise SegcftError(Code.CONFLICT, option, "the study is made already; leave it out with --answers")
        _score(run, options)
    else:
        _make(run, options)


def _make(run: Run, options: argparse.Namespace) -> None:
    from segcft.pipeline.blinded import make_blinded, require_empty, write_blinded
    from segcft.report.blinded import render_blinded
    from segcft.training.loop import make_fabric
    from segcft.utils.progress import ConsoleProgress

    require_empty(options.folder)
    device = make_fabric(options.device).device
    blinded = make_blinded(
        run,
        device,
        ConsoleProgress(),
        method=options.method,
        cases=options.cases,
        seed=options.seed,
    )
    write_blinded(blinded, render_blinded(blinded), options.folder)
    print(f"for readers: {options.folder / 'index.html'}; the key stays in {run.folder / 'readers'}", file=sys.stderr)


def _score(run: Run, options: argparse.Namespace) -> None:
    from segcft.evaluate.blinded import render, scores
    from segcft.pipeline.blinded import read_ratings
    from segcft.utils.atomic import write_text

    ratings, counts = read_ratings(run, options.answers)
    rows = scores(ratings, options.seed or 0)
    text = render(rows, run.study.name, counts)
    write_text(options.folder / "readers.md", text)
    write_text(options.folder / "readers.json", json.dumps({"rows": rows, "images": counts}, indent=2) + "\n")
    print(text)
    print(f"table: {options.folder / 'readers.md'} (and readers.json)", file=sys.stderr)
