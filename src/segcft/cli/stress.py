"""`segcft stress`: how does somebody's classifier answer to each cause of an image?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.cli.options import Command, count, hardware, quiet_libraries, whole
from segcft.errors import Code, SegcftError
from segcft.utils.output import check

if TYPE_CHECKING:
    from segcft.pipeline.run import Run
    from segcft.stress.people import Person
    from segcft.utils.progress import Progress


def add_stress(command: Command) -> None:
    """Add the command ``stress``."""
    parser = command(
        "stress",
        _stress,
        "try somebody's classifier or segmentor on counterfactuals: what does it answer to?",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a run or of a published model")
    parser.add_argument(
        "--classifier",
        metavar="FILE",
        type=Path,
        required=True,
        help="a YAML file that says what runs (ONNX, TorchScript, safetensors with a class, or Python), what it "
        "expects of images and what it gives (docs/stress.md)",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        help="whose images: a folder of them, one with images/ and metadata.csv, a CSV table with the column image, or "
        "a store (default: the run's own test people; a published model has none)",
    )
    parser.add_argument("--seed", type=whole, help="for a simulated study: new people of this seed in place of --data")
    parser.add_argument("--people", metavar="N", type=count, default=100, help="images at most (default: 100)")
    parser.add_argument(
        "--variables",
        metavar="NAME",
        nargs="+",
        default=[],
        help="what is set, each by itself (default: all variables, and how the film was exposed)",
    )
    parser.add_argument("--doses", metavar="N", type=count, default=5, help="values of each number (default: 5)")
    parser.add_argument(
        "--direct", action="store_true", help="hold what a variable causes as it is: its direct effect on the image"
    )
    parser.add_argument(
        "--groups",
        metavar="NAME",
        nargs="+",
        default=[],
        help="compare groups by these variables or columns (default: by what is known of people beside measures)",
    )
    parser.add_argument(
        "--also",
        metavar="MODEL",
        type=Path,
        action="append",
        default=[],
        help="another model of the same variables, whose answers are tried, too: how far effects depend on the model; "
        "may be repeated",
    )
    parser.add_argument("--method", default=None, help="which method answers, see `segcft counterfactual`")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="folder of page, table and JSON (default: runs/stress-CLASSIFIER)"
    )
    parser.add_argument("--json", action="store_true", help="print stress.json instead of the table")
    hardware(parser)


def _stress(options: argparse.Namespace) -> None:
    if options.doses < 2:
        raise SegcftError(Code.OUT_OF_RANGE, "--doses", "a dose-response needs two or more")
    folder = options.out or Path("runs") / f"stress-{options.classifier.stem}"
    check(folder, (), "stress.json", "a stress test is written to a folder")
    from segcft.pipeline.run import Run

    run = Run(options.model)
    quiet_libraries()
    from segcft.api.model import Model
    from segcft.config.sources import SimulatedData
    from segcft.readers.classifier import load_audited
    from segcft.report.stress import write_page
    from segcft.stress.audit import Settings, stress
    from segcft.stress.people import chosen
    from segcft.stress.source import ModelSource
    from segcft.training.loop import make_fabric
    from segcft.utils.lock import Lock
    from segcft.utils.progress import ConsoleProgress

    device, progress = make_fabric(options.device).device, ConsoleProgress()
    model = Model(run, device)
    audited = load_audited(options.classifier, run.study, device)
    settings = Settings(tuple(options.variables), options.doses, options.direct, tuple(options.groups))
    with Lock(folder):
        people = chosen(_people(options, run, folder, progress), options.people, settings.seed)
        source = ModelSource(model, people, options.method, options.direct)
        origin: dict[str, object] = {"model": run.folder.name, "method": source.method}
        origin["classifier"] = options.classifier.name
        origin["simulated"] = isinstance(run.study.data, SimulatedData) and options.data is None
        others = [Model(other, device) for other in options.also]
        also = [ModelSource(other, people, options.method, options.direct) for other in others]
        audit = stress(source, audited, settings, also, origin, progress)
        audit.write(folder)
        write_page(audit, folder / "stress.html")
    print((folder / ("stress.json" if options.json else "stress.md")).read_text(encoding="utf-8"))
    print(f"page: {folder / 'stress.html'} (and stress.md, stress.json and three tables)", file=sys.stderr)


def _people(options: argparse.Namespace, run: Run, folder: Path, progress: Progress) -> list[Person]:
    from segcft.pipeline.importing import new_samples
    from segcft.stress.people import people_of_store, read_people

    data, seed = options.data, options.seed
    if data is not None and seed is not None:
        raise SegcftError(Code.CONFLICT, "--seed", "give --data or --seed, not both: they are different people")
    if data is not None and not (data / "store.json").is_file():
        people, passed = read_people(data, run.study, options.groups)
        for one in passed:
            print(f"passed over: {one.name}: {one.reason}", file=sys.stderr)
        return people
    if unknown := [name for name in options.groups if name not in run.study.variables]:
        known = ", ".join(run.study.variables)
        raise SegcftError(Code.UNKNOWN, "--groups", f"{unknown[0]!r} is no variable of the study ({known})")
    if data is None and seed is None:
        if run.published:
            why = "a published model has no people of its own; give some, or, of a simulated study, --seed N"
            raise SegcftError(Code.MISSING, "--data", why)
        store = run.samples_of([*run.asked, *run.methods().values()])
    else:
        store = new_samples(run.study, data, seed, folder / "store", progress, options.people)
    return people_of_store(store, store.indices("test"), run.study)
