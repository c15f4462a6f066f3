"""`segcft augment`: counterfactual data augmentation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segcft.cli.options import Command, count, hardware, quiet_libraries, run_or_model, whole


def add_augment(command: Command) -> None:
    """Add the command."""
    parser = command("augment", _augment, "write a balanced set of a run's training images and their counterfactuals")
    run_or_model(parser)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write; its table is metadata.csv")
    parser.add_argument(
        "--variable", metavar="NAME", required=True, help="what is to tell nothing about the label, e.g. heart_area"
    )
    parser.add_argument("--label", metavar="NAME", required=True, help="a categorical variable, e.g. sex")
    parser.add_argument(
        "--method",
        default="",
        help="No CFT, Reg-CFT, Seg-CFT or Pred-CFT; also none, regressor, segmentor, predictor (default: the last of "
        "these that is trained)",
    )
    parser.add_argument(
        "--draws",
        type=count,
        metavar="N",
        default=1,
        help="how often every label gets the value of every training subject (default: 1)",
    )
    parser.add_argument(
        "--counterfactuals-only", action="store_true", help="leave out the original images (default: they count)"
    )
    parser.add_argument(
        "--threshold",
        type=_threshold,
        metavar="SD",
        help="reject answers a measure of which misses its change by more than this share of its standard deviation "
        "over subjects (default: 0.25; inf: none)",
    )
    parser.add_argument(
        "--tries", type=count, metavar="N", default=5, help="subjects tried for one value before it is left out"
    )
    parser.add_argument("--seed", type=whole, default=0, help="of who is asked for whose value (default: 0)")
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        help="for a published model: images, masks and table as its study has them, or a store; its training "
        "subjects are augmented",
    )
    hardware(parser)


def _threshold(text: str) -> float:
    try:
        if float(text) > 0:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"a number of standard deviations above 0, or inf, not {text!r}")


def _augment(options: argparse.Namespace) -> None:
    from segcft.pipeline.run import Run

    run = Run(options.run)
    quiet_libraries()
    from segcft.api.balanced import Recipe, augment
    from segcft.counterfactual.warnings import NOTABLE
    from segcft.training.loop import make_fabric
    from segcft.utils.progress import ConsoleProgress

    recipe = Recipe(
        options.variable,
        options.label,
        options.method,
        options.draws,
        not options.counterfactuals_only,
        NOTABLE if options.threshold is None else options.threshold,
        options.tries,
        options.seed,
    )
    device = make_fabric(options.device).device
    report = augment(run, options.folder, recipe, data=options.data, device=device, progress=ConsoleProgress())
    images = " and ".join(f"{number} {kind}s" for kind, number in sorted(report["images"].items(), reverse=True))
    print(
        f"{images} of {report['people']} training subjects; {report['answers rejected']} answers rejected\n"
        f"of the variance of {recipe.variable}, {recipe.label} explains {report['correlation ratio after']:.1%} "
        f"(before: {report['correlation ratio before']:.1%})\n"
        f"measures were read by the {report['read by']}"
    )
    if report["values given up"]:
        print(
            f"warning: {report['values given up']} of {report['values asked for']} values were given up after "
            f"{recipe.tries} tries, so the set is not quite balanced; see rejected.csv"
        )
    if run.published:
        print("warning: a published model has no guide, so its judge, which read here, is no judge of this set")
    print(f"images and table: {options.folder}", file=sys.stderr)
