"""`segcft realism`: can the answers of a run be told from real images, and do they still show their person?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segcft.cli.options import Command, count, hardware, quiet_libraries


def add_realism(command: Command) -> None:
    """Add the command ``realism``."""
    parser = command(
        "realism", _realism, "whether answers can be told from real images, and whether they still show their person"
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run, or of one in folds")
    parser.add_argument("--people", metavar="N", type=count, default=1000, help="test images at most (default: 1000)")
    parser.add_argument(
        "--steps",
        metavar="N",
        type=count,
        default=None,
        help="of the training of each that tells answers or people apart (default: 400 and 600)",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder of the table (default: RUN/realism)")
    hardware(parser)


def _realism(options: argparse.Namespace) -> None:
    quiet_libraries()
    from segcft.evaluate.identity import Verification
    from segcft.evaluate.two_sample import Classifier
    from segcft.pipeline.realism import judge_realism
    from segcft.pipeline.run import Run
    from segcft.training.loop import make_fabric
    from segcft.utils.lock import Lock
    from segcft.utils.progress import ConsoleProgress

    run = Run(options.run)
    run.require_unpublished()
    folder = options.out or run.folder / "realism"
    steps = {} if options.steps is None else {"steps": options.steps}
    with Lock(folder):
        judge_realism(
            run,
            folder,
            make_fabric(options.device).device,
            ConsoleProgress(),
            people=options.people,
            classifier=Classifier(**steps),
            verification=Verification(**steps),
        )
    print((folder / "realism.md").read_text(encoding="utf-8"))
    print(f"table: {folder / 'realism.md'} (and realism.json)", file=sys.stderr)
