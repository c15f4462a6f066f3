"""`segcft ablation`: variants of a study, compared."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segcft.cli.options import Command, compiling, data, hardware, jobs, quiet_libraries


def add_ablation(command: Command) -> None:
    """Add the command ``ablation``."""
    parser = command("ablation", _ablation, "run variants of a study and compare them on its validation samples")
    parser.add_argument("file", metavar="FILE", type=Path, help="ablation file, e.g. configs/ablation/chest-sim.yaml")
    parser.add_argument("--base", metavar="STUDY", type=Path, help="study to change (default: the file's own base)")
    data(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="folder of the table and of a run a variant (default: runs/ablation-FILE)",
    )
    parser.add_argument("--only", metavar="NAME", nargs="+", default=[], help="variants to run (default: all)")
    hardware(parser)
    jobs(parser)
    compiling(parser)


def _ablation(options: argparse.Namespace) -> None:
    from segcft.pipeline.ablation import load_ablation, run_ablation

    ablation = load_ablation(options.file, options.base)
    ablation.choose(options.only)  # errors come before anything heavy is imported
    quiet_libraries()
    from segcft.pipeline.pool import default_jobs
    from segcft.training.loop import make_fabric
    from segcft.utils.progress import ConsoleProgress

    fabric = make_fabric(options.device)
    folder = options.out or Path("runs") / f"ablation-{ablation.name}"
    run_ablation(
        ablation,
        folder,
        fabric,
        data=options.data,
        progress=ConsoleProgress(),
        jobs=options.jobs or default_jobs(fabric.device),
        compile=options.compile,
        only=options.only,
    )
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"table: {folder / 'table.md'} (and table.json)", file=sys.stderr)
