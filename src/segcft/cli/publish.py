"""`segcft publish`, `report` and `results`: what is made of evaluated runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segcft.cli.options import METHODS, Command, hardware, quiet_libraries
from segcft.errors import Code, SegcftError


def add_publish(command: Command) -> None:
    """Add the commands ``publish``, ``report`` and ``results``."""
    published = command("publish", _publish, "make a model to give away of an evaluated run")
    published.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    published.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the published model")
    published.add_argument(
        "--method",
        action="append",
        default=[],
        dest="methods",
        choices=METHODS,
        help="which image mechanism; may be repeated (default: the last of these that is trained)",
    )
    published.add_argument(
        "--card", metavar="FILE", type=Path, help="Markdown on the data and their licence; needed for real data"
    )
    published.add_argument(
        "--readers",
        action="store_true",
        help="segmentor and judge alone, which make masks for images that have none (`segcft segment`)",
    )
    published.add_argument(
        "--example",
        action="append",
        default=[],
        dest="examples",
        metavar="ID",
        help="a test sample whose image and values are given away with the model, as their licence allows; may be "
        "repeated (default: some of simulated data)",
    )
    published.add_argument("--large", action="store_true", help="allow more than 20 MB of weights")
    published.add_argument(
        "--hub",
        metavar="USER/MODEL",
        help="write it as the Hugging Face Hub shows models, under this name; RUN may be a published model",
    )
    published.add_argument("--licence", default="", help="with --hub: that of the weights, e.g. cc-by-sa-4.0")

    reported = command("report", _report, "write one self-contained page of HTML about an evaluated run")
    reported.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    reported.add_argument("--out", metavar="FILE", type=Path, help="the page (default: RUN/report.html)")
    hardware(reported)

    results = command("results", _results, "write the page of results of evaluated runs and published models")
    results.add_argument("folders", metavar="FOLDER", type=Path, nargs="+", help="runs or published models")
    results.add_argument("--out", metavar="FILE", type=Path, required=True, help="the page, in Markdown")


def _publish(options: argparse.Namespace) -> None:
    from segcft.pipeline.run import Run

    run = Run(options.run)
    try:
        card = options.card.read_text(encoding="utf-8") if options.card else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SegcftError(Code.UNREADABLE, f"--card {options.card}", f"cannot be read ({error})") from None
    quiet_libraries()
    for option, given in (("--method", options.methods), ("--example", options.examples)):
        if options.readers and given:
            raise SegcftError(Code.CONFLICT, option, "readers come without image mechanisms; leave it out")
    if options.hub is not None:
        from segcft.export.hub import check_names

        check_names(options.hub, options.licence)
        given = {
            "--card": card,
            "--method": options.methods,
            "--example": options.examples,
            "--readers": options.readers,
        }
        for option in (name for name, value in given.items() if value and run.published):
            raise SegcftError(Code.CONFLICT, option, "RUN is published already, as it is; leave it out")
    if options.hub is not None and run.published:
        pass  # as it is
    elif options.readers:
        from segcft.pipeline.publish_readers import publish_readers

        publish_readers(run, options.folder, card, options.large)
    else:
        from segcft.pipeline.publish import publish

        publish(run, options.folder, options.methods, card, options.large, options.examples)
    print(f"published model: {options.folder} (its card is README.md)", file=sys.stderr)
    if options.hub is not None:
        from segcft.export.hub import write_for_hub

        write_for_hub(run if run.published else Run(options.folder), options.folder, options.hub, options.licence)
        print(f"to upload it: hf upload {options.hub} {options.folder}", file=sys.stderr)


def _report(options: argparse.Namespace) -> None:
    from segcft.pipeline.run import Run

    run, out = Run(options.run), options.out or options.run / "report.html"
    quiet_libraries()
    from segcft.report.page import write_report
    from segcft.training.loop import make_fabric

    write_report(run, out, make_fabric(options.device).device)
    print(f"report: {out}", file=sys.stderr)


def _results(options: argparse.Namespace) -> None:
    from segcft.report.results import render_results
    from segcft.utils.atomic import write_text

    write_text(options.out, render_results(options.folders))
    print(f"results: {options.out}", file=sys.stderr)
