"""The command line: ``segcft COMMAND --help`` explains each command.

Heavy libraries are imported by the commands that use them, so that help and errors are instant.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import segcft
from segcft.cli.app import add_app
from segcft.cli.ask import add_ask
from segcft.cli.augment import add_augment
from segcft.cli.formats import FORMATS, add_formats
from segcft.cli.options import count, hardware, quiet_libraries, seed
from segcft.cli.simulate import add_simulate
from segcft.errors import SegcftError, StudyError
from segcft.utils.signals import Terminated, orderly_end

if TYPE_CHECKING:
    from segcft.data.shards import Shard
    from segcft.pipeline.runner import Pipeline

MANUAL = """\
Counterfactual medical images: what would this radiograph look like, had the heart been 20 % larger?

segcft takes a study (a YAML file: causal graph, structures, sizes, budgets) from images to a table of how
effective its counterfactuals are, with no fine-tuning (No CFT) and with fine-tuning guided by a regressor
(Reg-CFT) or by a segmentor (Seg-CFT).
"""

EXAMPLES = """\
a first run, on simulated radiographs, under ten minutes on a laptop:
  segcft run configs/quickstart.yaml

your own images, masks and table:
  segcft run configs/jsrt.yaml --data /data/jsrt256 --out runs/jsrt
  segcft evaluate runs/jsrt --data /data/other-people --json > table.json

a published model, judged on your own people:
  segcft evaluate models/jsrt --data /data/jsrt256 --out judged

a public data set in its own format, which becomes a folder as above:
  segcft import padchest --csv PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv --images DIR --out padchest
  segcft run configs/padchest.yaml --data padchest
  segcft import jsrt --images All247images --masks scratch --clinical CLNDAT_EN.txt CNNDAT_EN.TXT --out jsrt

coronary arteries of your own CT angiographies, straightened:
  segcft import ccta --table cases.csv --sweep 4 --out straightened

which settings matter, judged on validation people:
  segcft ablation configs/ablation/chest-sim.yaml

images from a hospital's archive, without names and dates:
  segcft import dicom DIR --view PA AP --salt SECRET --out hospital

an image mechanism that causal-gen has trained (STUDY: hvae has 'architecture: causal-gen'):
  segcft import causal-gen checkpoint.pt STUDY --out RUN --parent sex --parent age=44..73
  segcft run STUDY --out RUN

training people balanced by counterfactuals, so that heart area tells nothing about sex:
  segcft augment runs/quickstart balanced --variable heart_area --label sex

one image, one question:
  segcft counterfactual models/jsrt chest.png --do left_lung_area=-20% --set age=63 --set sex=F --out answer

sliders in the browser:
  segcft app models/chest-sim models/jsrt

all about a run on one page, with its failure cases:
  segcft report runs/jsrt

Every stage that is up to date is skipped, and an interrupted one goes on where it was: run the same command
again. Results are in RUN/evaluation: table.md, table.json and figures/.
"""

STAGES = {
    "import": "import or simulate the samples: images, masks, table, splits",
    "segmentor": "train the guiding segmentor (U-Net)",
    "judge": "train the independent segmentor that judges the counterfactuals",
    "regressor": "train the guiding regressor (ResNet)",
    "scm": "fit the causal mechanisms of the attributes (flows)",
    "hvae": "train the image mechanism (hierarchical VAE)",
    "cft-regressor": "fine-tune the image mechanism with the regressor (Reg-CFT)",
    "cft-segmentor": "fine-tune the image mechanism with the segmentor (Seg-CFT)",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for an error that the message explains, 130 for Ctrl-C, 143 for
    SIGTERM and 138 for SIGUSR1."""
    words = sys.argv[1:] if arguments is None else arguments
    if (
        words[:1] == ["import"] and words[1:2] and words[1] in ("causal-gen", *FORMATS)
    ):  # `import STUDY` is another command
        words = [f"import-{words[1]}", *words[2:]]
    options = _parser().parse_args(words)
    try:
        with orderly_end():
            options.command(options)
    except Terminated as end:
        print(f"segcft: ended by {end.name}; the same command goes on from the last checkpoint", file=sys.stderr)
        return int(end.code or 0)
    except SegcftError as error:
        print(f"segcft: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("segcft: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a folder that cannot be written, a full disk: the system names the file
        print(f"segcft: error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segcft",
        description=MANUAL,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"segcft {segcft.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: object, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        added.set_defaults(command=function, stage=name)
        return added

    whole = command("run", _run, "run all stages of a study, up to the table and figures")
    for part in (whole, *(command(name, _stage, summary) for name, summary in STAGES.items())):
        part.add_argument(
            "study", metavar="STUDY", type=Path, help="study file, e.g. configs/quickstart.yaml, or the folder of a run"
        )
        part.add_argument("--data", metavar="DIR", type=Path, help="folder of images, masks and table")
        part.add_argument("--out", metavar="DIR", type=Path, help="folder of the run (default: runs/STUDY's name)")
        hardware(part, several=True)
    whole.add_argument(
        "--again",
        metavar="STAGE",
        action="append",
        default=[],
        help="make this stage again, and what depends on it, though it is up to date; may be repeated",
    )
    compared = command("ablation", _ablation, "run variants of a study and compare them on its validation people")
    compared.add_argument("file", metavar="FILE", type=Path, help="ablation file, e.g. configs/ablation/chest-sim.yaml")
    compared.add_argument("--data", metavar="DIR", type=Path, help="folder of images, masks and table")
    compared.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="folder of the table and of a run a variant (default: runs/ablation-FILE)",
    )
    compared.add_argument("--only", metavar="NAME", nargs="+", default=[], help="variants to run (default: all)")
    hardware(compared)

    for part in (whole, compared):
        part.add_argument(
            "--jobs",
            type=count,
            metavar="N",
            help="parts trained at the same time, each in a process of its own with its share of the cores, or on the "
            "next of the machine's GPUs (default: 2 on a CPU with two cores or more, else 1)",
        )
    for name, part in commands.choices.items():
        if name in ("run", "ablation", "hvae") or name.startswith("cft-"):
            part.add_argument(
                "--compile",
                action="store_true",
                help="have PyTorch compile the image mechanism for its trainings: minutes once, meant for GPUs",
            )

    imported = commands.choices["import"]
    imported.add_argument(
        "--shard",
        metavar="I/N",
        type=_shard,
        help="import only share I of N; when all are there, import without --shard joins them into the store",
    )

    adopted = command(
        "import-causal-gen",
        _import_causal_gen,
        "take the image mechanism from a checkpoint of causal-gen (also: import causal-gen)",
    )
    adopted.add_argument("checkpoint", metavar="CKPT", type=Path, help="checkpoint.pt of its image mechanism")
    adopted.add_argument(
        "study", metavar="STUDY", type=Path, help="study file; its hvae section has 'architecture: causal-gen'"
    )
    adopted.add_argument(
        "--parent",
        metavar="NAME[=NORM]",
        action="append",
        required=True,
        dest="parents",
        help="a variable of the study that conditions the checkpoint's network; repeat for every one, in the order of "
        "its parents_x. NORM of a continuous variable is how it was normalised: LOW..HIGH was mapped to [-1, 1], or "
        "MEAN:STD was standardised (of its logarithm where the study says 'scale: log')",
    )
    adopted.add_argument("--data", metavar="DIR", type=Path, help="folder of images, masks and table")
    adopted.add_argument("--out", metavar="DIR", type=Path, help="folder of the run (default: runs/STUDY's name)")
    hardware(adopted)

    add_formats(command)
    add_simulate(command)
    add_augment(command)

    judged = command("evaluate", _evaluate, "judge the counterfactuals of a run or published model; print the table")
    judged.add_argument("run", metavar="RUN", type=Path, help="folder of a run or of a published model")
    judged.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        help="people that the run has never seen: a folder like the study's data, or a store (default: the run's "
        "own test people; a published model has none)",
    )
    judged.add_argument(
        "--seed",
        type=seed,
        help="for a simulated study: new people of this seed, whom the run has never seen",
    )
    judged.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="which of the run's own people: validation people where settings are chosen (default: test)",
    )
    judged.add_argument(
        "--judge",
        metavar="RUN",
        type=Path,
        help="another judge: that of a run or published model of the same structures on the same grid, or its file "
        "(default: the run's own)",
    )
    judged.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="folder of table and figures (default: RUN/evaluation, of other people RUN/evaluation-new; of a published "
        "model runs/evaluation-NAME; by another judge with -other-judge)",
    )
    judged.add_argument("--json", action="store_true", help="print the rows of table.json instead of the table")
    hardware(judged)

    add_ask(command)
    add_app(command)

    published = command("publish", _publish, "make a model to give away of an evaluated run")
    published.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    published.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the published model")
    published.add_argument(
        "--method",
        action="append",
        default=[],
        dest="methods",
        choices=("none", "regressor", "segmentor"),
        help="which image mechanism; may be repeated (default: the last of these that is trained)",
    )
    published.add_argument(
        "--card", metavar="FILE", type=Path, help="Markdown on the data and their licence; needed for real data"
    )
    published.add_argument("--large", action="store_true", help="allow more than 20 MB of weights")

    reported = command("report", _report, "write one self-contained page of HTML about an evaluated run")
    reported.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    reported.add_argument("--out", metavar="FILE", type=Path, help="the page (default: RUN/report.html)")
    hardware(reported)

    results = command("results", _results, "write the page of results of evaluated runs and published models")
    results.add_argument("folders", metavar="FOLDER", type=Path, nargs="+", help="runs or published models")
    results.add_argument("--out", metavar="FILE", type=Path, required=True, help="the page, in Markdown")
    return parser


def _shard(text: str) -> Shard:
    from segcft.data.shards import Shard

    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pipeline(options: argparse.Namespace) -> Pipeline:
    from segcft.config.study import load_study

    folder = options.study if options.study.is_dir() else None
    study = load_study(folder / "study.yaml" if folder else options.study)  # told before anything heavy is imported
    quiet_libraries()
    from segcft.pipeline.run import Run
    from segcft.pipeline.runner import Pipeline
    from segcft.training.loop import make_fabric
    from segcft.utils.progress import ConsoleProgress

    fabric = make_fabric(options.device, getattr(options, "devices", 1), getattr(options, "nodes", 1))
    run = Run(options.out or folder or Path("runs") / study.name, study)
    compile = getattr(options, "compile", False)
    return Pipeline(run, fabric, options.data, ConsoleProgress(), compile)


def _run(options: argparse.Namespace) -> None:
    spread = options.devices * options.nodes > 1
    if spread and (options.jobs or 1) > 1:
        raise SegcftError("--jobs: with --devices or --nodes one part is trained at a time, on all of them")
    pipeline = _pipeline(options)
    from segcft.pipeline.pool import default_jobs, run_all

    _require(options, pipeline, options.again)
    if options.again:
        pipeline.forget(options.again)
    jobs = options.jobs or (1 if spread else default_jobs(pipeline.fabric.device))
    run_all(pipeline, jobs)
    if pipeline.fabric.is_global_zero:
        folder = pipeline.run.evaluation
        print((folder / "table.md").read_text(encoding="utf-8"))
        print(f"table:   {folder / 'table.md'} (and table.json)\nfigures: {folder / 'figures'}")


def _stage(options: argparse.Namespace) -> None:
    pipeline = _pipeline(options)
    if getattr(options, "shard", None) is not None:
        from segcft.pipeline.importing import import_shard

        if pipeline.fabric.world_size > 1:
            raise SegcftError("--shard: one process imports one shard; leave out --devices and --nodes")
        import_shard(pipeline.run, options.data, options.shard, pipeline.progress)
        return
    _require(options, pipeline, [options.stage])
    pipeline.run_stage(options.stage)


def _require(options: argparse.Namespace, pipeline: Pipeline, stages: Sequence[str]) -> None:
    """Check that the study has these stages."""
    for name in stages:
        try:
            pipeline.stage(name)
        except StudyError as error:
            raise StudyError(f"{options.study}: {error}") from None


def _ablation(options: argparse.Namespace) -> None:
    from segcft.pipeline.ablation import load_ablation, run_ablation

    ablation = load_ablation(options.file)
    ablation.choose(options.only)  # a wrong name, too, is told before anything heavy is imported
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


def _import_causal_gen(options: argparse.Namespace) -> None:
    from segcft.config.mechanisms import CausalGenSpec
    from segcft.config.study import load_study

    if not isinstance(load_study(options.study).hvae, CausalGenSpec):
        raise SegcftError(f"{options.study}: hvae.architecture: a checkpoint of causal-gen needs 'causal-gen'")
    pipeline = _pipeline(options)
    from segcft.image_models.causal_gen_checkpoint import TrainedParent, load_causal_gen
    from segcft.pipeline.stages.image import LikelihoodStage
    from segcft.utils.digest import digest_of

    checkpoint = options.checkpoint.absolute()  # what the run records is read from elsewhere
    parents = [TrainedParent.parse(text) for text in options.parents]

    def load(network: Any) -> dict[str, Any]:
        settings = load_causal_gen(options.checkpoint, network, parents)
        found = {"checkpoint": str(checkpoint), "sha256": digest_of(checkpoint)}
        return found | {"parents": options.parents, "hparams": settings}

    with pipeline.lock:
        pipeline.run_stage("import")
        LikelihoodStage().adopt(pipeline, load)


def _evaluate(options: argparse.Namespace) -> None:
    from segcft.pipeline.run import Run

    run = Run(options.run)
    others = options.data is not None or options.seed is not None
    if others and options.split != "test":
        raise SegcftError("--split validation: is about the run's own people; leave out --data and --seed")
    if run.published and not others:
        raise SegcftError(
            f"{options.run}: a published model has no people of its own to be judged on; give others, with --data DIR, "
            "or, of a simulated study, --seed N"
        )
    quiet_libraries()
    from segcft.pipeline.importing import new_people
    from segcft.pipeline.judging import evaluate_people
    from segcft.training.loop import make_fabric
    from segcft.utils.lock import Lock
    from segcft.utils.progress import ConsoleProgress

    device, progress = make_fabric(options.device).device, ConsoleProgress()
    if run.published:
        run.require_card()
        folder = Path("runs") / f"evaluation-{run.folder.resolve().name}"
    else:
        own = run.store()  # told before people are simulated, if there is none
        folder = run.folder / "evaluation-new" if others else run.evaluation_of(options.split)
    if options.judge is not None:  # the run's own table is its own judge's
        folder = folder.with_name(f"{folder.name}-other-judge")
    folder = options.out or folder
    with Lock(folder):
        store = new_people(run.study, options.data, options.seed, folder / "store", progress) if others else own
        rows = evaluate_people(run, store, folder, device, progress, options.split, options.judge)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"table and figures: {folder}", file=sys.stderr)


def _publish(options: argparse.Namespace) -> None:
    from segcft.pipeline.run import Run

    run = Run(options.run)
    try:
        card = options.card.read_text(encoding="utf-8") if options.card else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SegcftError(f"--card {options.card}: cannot be read ({error})") from None
    quiet_libraries()
    from segcft.pipeline.publish import publish

    publish(run, options.folder, options.methods, card, options.large)
    print(f"published model: {options.folder} (its card is README.md)", file=sys.stderr)


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


if __name__ == "__main__":
    sys.exit(main())
