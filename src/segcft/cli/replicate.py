"""`segcft replicate`: a study trained several times, with intervals over people and trainings."""

from __future__ import annotations

import argparse
import sys

from segcft.cli.options import Command, compiling, count, hardware, jobs, quiet_libraries, study
from segcft.cli.plan import folder_of, hours, study_of


def add_replicate(command: Command) -> None:
    """Add the command ``replicate``."""
    parser = command("replicate", _replicate, "train a study several times: what hangs on its seeds")
    study(parser, out="folder of the trainings (default: runs/NAME-seeds)")
    parser.add_argument("--seeds", metavar="S", type=count, default=5, help="how many trainings (default: 5)")
    hours(parser)
    hardware(parser)
    jobs(parser)
    compiling(parser)


def _replicate(options: argparse.Namespace) -> None:
    run = options.study if options.study.is_dir() else None
    found, own = study_of(options, run / "study.yaml" if run else options.study, run)
    quiet_libraries()
    from segcft.pipeline.pool import default_jobs
    from segcft.pipeline.replicates import run_replicates
    from segcft.pipeline.run import Run
    from segcft.training.loop import make_fabric
    from segcft.utils.progress import ConsoleProgress

    folder = options.out or folder_of(found).with_name(f"{found.name}-seeds")
    fabric = make_fabric(options.device)
    run_replicates(
        found,
        options.seeds,
        folder,
        fabric,
        data=options.data,
        progress=ConsoleProgress(),
        jobs=options.jobs or default_jobs(fabric.device),
        compile=options.compile,
        own=Run(own) if (own / "study.yaml").is_file() else None,
    )
    print((folder / "evaluation" / "table.md").read_text(encoding="utf-8"))
    print(f"table: {folder / 'evaluation' / 'table.md'} (and table.json)", file=sys.stderr)
