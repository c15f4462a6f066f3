"""`segcft plan`: the settings that a study file leaves out."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.cli.options import Command, data, hardware, quiet_libraries
from segcft.errors import Code, SegcftError

if TYPE_CHECKING:
    from segcft.config.outline import Outline
    from segcft.config.study import Study


AGAIN = "plan"
"""What ``--again`` calls planning."""


def add_plan(command: Command) -> None:
    """Add the command ``plan``."""
    parser = command("plan", _plan, "plan what a study file leaves out, from its data, this machine and the hours")
    parser.add_argument("study", metavar="STUDY", type=Path, help="study file, e.g. configs/planned/jsrt.yaml")
    data(parser)
    hours(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, help="file to write, a study file (default: the screen)")
    hardware(parser)


def hours(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--hours``."""
    help = "what is planned is planned for so many hours, all stages together (default: 1.5)"
    parser.add_argument("--hours", metavar="H", type=_positive, help=help)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"a number of hours above 0, not {text!r}")
    return number


def study_of(options: argparse.Namespace, path: Path, out: Path | None) -> tuple[Study, Path]:
    """The study in the file ``path`` and the folder of its run; what the file leaves out is planned, or was before.

    Raises:
        SegcftError: planning is asked for and not possible.
    """
    from segcft.config.outline import Outline, read_study

    study = read_study(path)  # errors come before anything heavy is imported
    said = vars(options)  # not every command has all of these options
    folder = out or folder_of(study, said.get("folds"))
    again = AGAIN in said.get("again", ())
    if not isinstance(study, Outline):
        if again:
            raise _nothing_to_plan(path)
        return study, folder
    if said.get("devices", 1) * said.get("nodes", 1) > 1:
        why = "what this study file leaves out is planned on one device: `segcft plan` first, then run what it writes"
        raise SegcftError(Code.CONFLICT, "--devices", why)
    _check(study)
    quiet_libraries()
    from segcft.planning.record import Request, planned_study
    from segcft.utils.progress import ConsoleProgress

    request = Request(study, options.data, options.device, said.get("hours"), said.get("jobs"))
    return planned_study(request, folder, ConsoleProgress(), again), folder


def folder_of(study: Study | Outline, folds: int | None = None) -> Path:
    """The folder of a study's run where none is given; ``folds`` of which it is to have others than it says."""
    from segcft.config.outline import Outline

    its = study.section("splits").get("folds") if isinstance(study, Outline) else study.splits.folds
    folds = folds or its
    return Path("runs") / (f"{study.name}-{folds}-folds" if folds else study.name)


def _check(outline: Outline) -> None:
    """Raise what is wrong with an outline, before anything heavy is imported."""
    from segcft.planning.plan import usual_study

    usual_study(outline)


def _nothing_to_plan(path: Path) -> SegcftError:
    return SegcftError(Code.EMPTY, path, "this study file leaves nothing out, so there is nothing to plan")


def _plan(options: argparse.Namespace) -> None:
    from segcft.config.outline import Outline, read_study

    study = read_study(options.study)
    if not isinstance(study, Outline):
        raise _nothing_to_plan(options.study)
    _check(study)
    quiet_libraries()
    from segcft.planning.record import Request, plan_text
    from segcft.utils.atomic import write_text
    from segcft.utils.progress import ConsoleProgress

    text = plan_text(Request(study, options.data, options.device, options.hours), ConsoleProgress())
    if options.out is None:
        print(text, end="")
    else:
        write_text(options.out, text)
