"""`segcft evaluate`: the table of a run or a published model, on its own samples or on others."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from segcft.cli.options import Command, hardware, quiet_libraries, run_or_model, whole
from segcft.errors import Code, SegcftError
from segcft.utils.output import check


def add_evaluate(command: Command) -> None:
    """Add the command ``evaluate``."""
    parser = command("evaluate", _evaluate, "judge the counterfactuals of a run or published model; print the table")
    run_or_model(parser)
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        help="samples that the run has never seen: a folder like the study's data, or a store (default: the run's "
        "own test samples; a published model has none)",
    )
    parser.add_argument(
        "--seed", type=whole, help="for a simulated study: new samples of this seed, which the run has never seen"
    )
    parser.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="which of the run's own samples: validation where settings are chosen (default: test)",
    )
    parser.add_argument(
        "--judge",
        metavar="RUN",
        type=Path,
        action="append",
        default=[],
        help="another judge: that of a run or published model of the same structures on the same grid, or its file; or "
        "a YAML file that describes a segmentor from elsewhere, in ONNX or TorchScript (docs/evaluation.md). Default: "
        "the run's own; may be repeated, and each judges all answers",
    )
    parser.add_argument(
        "--questions",
        metavar="DIR",
        type=Path,
        help="judge nothing, but write the images and what is asked of them to this folder, for another method to "
        "answer; `segcft counterfactual OTHER DIR/questions.csv` answers them, too",
    )
    parser.add_argument(
        "--answers",
        metavar="NAME=TABLE",
        action="append",
        default=[],
        help="judge another method, too: a CSV table with the columns id, of a question, and file, an image (from the "
        "table's folder); may be repeated",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="folder of table and figures (default: RUN/evaluation, of other samples RUN/evaluation-new; of a "
        "published model runs/evaluation-NAME; by another judge with -other-judge, by several with -judges, with "
        "other methods with -other-methods)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the rows of table.json, or of judges.json, instead of the table"
    )
    hardware(parser)


def _evaluate(options: argparse.Namespace) -> None:
    from segcft.pipeline.run import Run

    run = Run(options.run)
    run.require_one()
    others = options.data is not None or options.seed is not None
    if others and options.split != "test":
        raise SegcftError(
            Code.CONFLICT, "--split validation", "it is of the run's own samples; leave out --data and --seed"
        )
    if run.published and not others:
        raise SegcftError(
            Code.MISSING,
            "--data",
            "a published model has no samples of its own; give some, or, of a simulated study, --seed N",
        )
    answers = _answers(options.answers)
    if options.questions is not None:
        if answers or options.judge or options.json or options.out:
            why = "it judges nothing; leave out --answers, --judge, --json and --out"
            raise SegcftError(Code.CONFLICT, "--questions", why)
        check(options.questions, (), "questions.csv", "questions are written to a folder")
    quiet_libraries()
    from segcft.pipeline.importing import new_samples
    from segcft.pipeline.judging import ask_samples, evaluate_by, evaluate_samples
    from segcft.pipeline.stages.evaluation import RECORD
    from segcft.training.loop import make_fabric
    from segcft.utils.lock import Lock
    from segcft.utils.progress import ConsoleProgress

    device, progress = make_fabric(options.device).device, ConsoleProgress()
    if run.published:
        run.require_card()
        folder = Path("runs") / f"evaluation-{run.folder.resolve().name}"
    else:
        own = run.store()  # an error comes before the simulation
        folder = run.folder / "evaluation-new" if others else run.evaluation_of(options.split)
    if options.judge:  # the run's own table is its own judge's
        folder = folder.with_name(f"{folder.name}-{'judges' if len(options.judge) > 1 else 'other-judge'}")
    if answers or options.questions is not None:  # both are of the same samples
        folder = folder.with_name(f"{folder.name}-other-methods")
    folder = options.out or (folder if others or options.questions is None else options.questions)
    with Lock(folder):
        if options.out is not None:  # perhaps the folder of a run's own evaluation, which this one is not
            (folder / RECORD).unlink(missing_ok=True)
        store = new_samples(run.study, options.data, options.seed, folder / "store", progress) if others else own
        if options.questions is not None:
            table = ask_samples(run, store, options.questions, device, progress, options.split)
            print(f"questions: {table}", file=sys.stderr)
            return
        asked = (run, store, folder, device, progress, options.split)
        if len(options.judge) > 1:
            rows, table = evaluate_by(options.judge, *asked, answers), folder / "judges.md"
        else:
            judge = options.judge[0] if options.judge else None
            rows, table = evaluate_samples(*asked, judge, answers), folder / "table.md"
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print(table.read_text(encoding="utf-8"))
    print(f"table and figures: {folder}", file=sys.stderr)


def _answers(given: list[str]) -> dict[str, Path]:
    """Another method -> the table of its answers, of ``NAME=TABLE``."""
    found: dict[str, Path] = {}
    for text in given:
        name, equals, table = text.partition("=")
        if not equals or not table:
            raise SegcftError(Code.INVALID, "--answers", f"{text!r} is no NAME=TABLE, e.g. theirs=theirs/answers.csv")
        if name in found:
            raise SegcftError(Code.DUPLICATE, "--answers", f"{name!r} has two tables")
        found[name] = Path(table)
    if found:
        from segcft.evaluate.given import check_methods

        check_methods(list(found))
    return found
