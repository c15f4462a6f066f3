"""`segcft privacy`: does a run give its training people away?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segcft.cli.options import Command, count, hardware, method, quiet_libraries


def add_privacy(command: Command) -> None:
    """Add the command ``privacy``."""
    parser = command("privacy", _privacy, "whether a run gives its training people away, before it is published")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument(
        "--people",
        metavar="N",
        type=count,
        default=500,
        help="training people, and as many held-out ones, at most (default: 500)",
    )
    method(parser)
    hardware(parser)


def _privacy(options: argparse.Namespace) -> None:
    quiet_libraries()
    from segcft.pipeline.privacy import FOLDER, judge_privacy
    from segcft.pipeline.run import Run
    from segcft.training.loop import make_fabric
    from segcft.utils.lock import Lock
    from segcft.utils.progress import ConsoleProgress

    run = Run(options.run)
    run.require_unpublished()
    folder = run.folder / FOLDER
    with Lock(folder):
        device = make_fabric(options.device).device
        judge_privacy(run, folder, device, ConsoleProgress(), people=options.people, method=options.method)
    print((folder / "privacy.md").read_text(encoding="utf-8"))
    print(f"table: {folder / 'privacy.md'} (and privacy.json); `segcft publish` puts it in the card", file=sys.stderr)
