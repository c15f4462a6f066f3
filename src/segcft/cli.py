"""The command line: ``segcft COMMAND --help`` explains each command.

Heavy libraries are imported by the commands that use them, so that help and errors are instant.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import segcft
from segcft.errors import SegcftError

if TYPE_CHECKING:
    from segcft.data.convert import Summary
    from segcft.data.masks import Segmenter
    from segcft.data.shards import Shard
    from segcft.pipeline import Pipeline

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

a public data set in its own format, which becomes a folder as above:
  segcft import padchest --csv PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv --images DIR --out padchest
  segcft run configs/padchest.yaml --data padchest
  segcft import jsrt --images All247images --masks scratch --clinical CLNDAT_EN.txt CNNDAT_EN.TXT --out jsrt

images from a hospital's archive, without names and dates:
  segcft import dicom DIR --view PA AP --salt SECRET --out hospital

an image mechanism that causal-gen has trained (STUDY: hvae has 'architecture: causal-gen'):
  segcft import causal-gen checkpoint.pt STUDY --out RUN --parent sex --parent age=44..73
  segcft run STUDY --out RUN

one image, one question:
  segcft counterfactual runs/jsrt chest.png --do left_lung_area=+20% --set age=63 --set sex=F --out answer

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

FORMATS = ("causal-gen", "padchest", "jsrt", "dicom")
"""What `import` takes besides a study, in two words, as one says it."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for an error that the message explains, 130 for Ctrl-C."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["import"] and words[1:2] and words[1] in FORMATS:  # `import STUDY` is another command
        words = [f"import-{words[1]}", *words[2:]]
    options = _parser().parse_args(words)
    try:
        options.command(options)
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
        part.add_argument("study", metavar="STUDY", type=Path, help="study file, e.g. configs/quickstart.yaml")
        part.add_argument("--data", metavar="DIR", type=Path, help="folder of images, masks and table")
        part.add_argument("--out", metavar="DIR", type=Path, help="folder of the run (default: runs/STUDY's name)")
        _hardware(part, several=True)
    for part in (
        whole,
        *(part for name, part in commands.choices.items() if name == "hvae" or name.startswith("cft-")),
    ):
        part.add_argument(
            "--compile",
            action="store_true",
            help="have PyTorch compile the image mechanism for its trainings: minutes once, meant for GPUs",
        )
    whole.add_argument(
        "--jobs",
        type=_count,
        metavar="N",
        help="parts trained at the same time, each in a process of its own with its share of the cores, or on the next "
        "of the machine's GPUs (default: 2 on a CPU with two cores or more, else 1)",
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
    _hardware(adopted)

    padchest = command("import-padchest", _import_padchest, "make a folder of PadChest (also: import padchest)")
    padchest.add_argument("--csv", metavar="FILE", type=Path, required=True, help="PadChest's table, plain or gzip")
    padchest.add_argument(
        "--images", metavar="DIR", type=Path, required=True, help="folder of its PNG files or numbered folders"
    )
    _conversion(padchest)
    masks = padchest.add_mutually_exclusive_group()
    masks.add_argument(
        "--masks",
        metavar="DIR",
        type=Path,
        help="ready-made masks, ID.png with bit flags 1 left lung, 2 right lung, 4 heart (default: made by the PSPNet "
        "of torchxrayvision: pip install 'segcft[padchest]')",
    )
    masks.add_argument("--segmentor", metavar="RUN", type=Path, help="masks as the judge of this run sees them")
    padchest.add_argument(
        "--projection",
        metavar="NAME",
        action="append",
        dest="projections",
        help="projection to keep, e.g. PA; may be repeated (default: PA)",
    )
    padchest.add_argument(
        "--exclude-label",
        metavar="LABEL",
        action="append",
        dest="labels",
        help="leave out images with this label; may be repeated (default: 'exclude' and 'suboptimal study')",
    )
    padchest.add_argument(
        "--ages",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        default=(18, 110),
        help="least age, and the largest that is believed (default: 18 110)",
    )
    padchest.add_argument("--limit", type=_count, metavar="N", help="use the first N rows of the table only")
    padchest.add_argument(
        "--batch-size", type=_count, metavar="N", default=16, help="images segmented at once (default: 16)"
    )
    _hardware(padchest)

    jsrt = command("import-jsrt", _import_jsrt, "make a folder of JSRT with the masks of SCR (also: import jsrt)")
    jsrt.add_argument("--images", metavar="DIR", type=Path, required=True, help="folder of the raw .IMG files")
    jsrt.add_argument(
        "--masks", metavar="DIR", type=Path, required=True, help="folder of SCR's fold1 and fold2 with GIF files"
    )
    jsrt.add_argument(
        "--clinical",
        metavar="FILE",
        type=Path,
        nargs="+",
        required=True,
        help="JSRT's text files on people with a nodule and without, CLNDAT_EN.txt and CNNDAT_EN.TXT",
    )
    _conversion(jsrt, size=(256, 256))

    dicom = command("import-dicom", _import_dicom, "make a folder of DICOM files, without masks (also: import dicom)")
    dicom.add_argument("folder", metavar="DIR", type=Path, help="folder with the files, at any depth")
    _conversion(dicom, size=(256, 256), window=None)
    dicom.add_argument(
        "--view",
        metavar="NAME",
        nargs="+",
        default=[],
        dest="views",
        help="projections to keep, e.g. PA AP (default: all, and files that do not say)",
    )
    dicom.add_argument(
        "--id",
        choices=("digest", "uid", "file"),
        default="digest",
        dest="naming",
        help="images are called by a digest of their SOP Instance UID, by this uid, or by their file below DIR, which "
        "may hold names or dates (default: digest)",
    )
    dicom.add_argument(
        "--salt",
        metavar="SECRET",
        default="",
        help="any text that you keep to yourself: without it nobody can tell by trial whose digest one is",
    )
    dicom.add_argument(
        "--keep-patient-ids", action="store_true", help="keep the ids of patients, instead of a digest of them"
    )

    judged = command("evaluate", _evaluate, "judge a run's counterfactuals and print the table")
    judged.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    judged.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        help="people that the run has never seen: a folder like the study's data, or a store (default: the run's "
        "own test people)",
    )
    judged.add_argument(
        "--seed",
        type=_seed,
        help="for a simulated study: new people of this seed, whom the run has never seen",
    )
    judged.add_argument("--out", metavar="DIR", type=Path, help="folder of table and figures")
    judged.add_argument("--json", action="store_true", help="print the rows of table.json instead of the table")
    _hardware(judged)

    asked = command("counterfactual", _counterfactual, "answer a question about one image")
    asked.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    asked.add_argument("image", metavar="IMAGE", type=Path, help="image file (PNG, TIFF, JPEG, DICOM)")
    asked.add_argument(
        "--do",
        metavar="VARIABLE=AMOUNT",
        action="append",
        required=True,
        help="intervention: age=63 sets, +20%% and +500 change, +1.5sd changes by standard deviations, sex=F; may be "
        "repeated",
    )
    asked.add_argument(
        "--set",
        metavar="VARIABLE=VALUE",
        action="append",
        default=[],
        dest="known",
        help="what is known of the person, e.g. age=63; areas are read from the image, age and sex from a "
        "DICOM file's header, and the rest is inferred",
    )
    asked.add_argument(
        "--method",
        default=None,
        help="No CFT, Reg-CFT or Seg-CFT; also none, regressor, segmentor (default: the last of these that is trained)",
    )
    asked.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of the answer")
    _hardware(asked)
    return parser


def _conversion(
    parser: argparse.ArgumentParser,
    size: tuple[int, int] = (224, 224),
    window: tuple[float, float] | None = (0.5, 99.5),
) -> None:
    """What every conversion to a folder takes; ``window`` is None where files may have one of their own."""
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="folder to write, or to go on with")
    shown = "x".join(map(str, size))
    parser.add_argument(
        "--size", type=_size, metavar="HxW", default=size, help=f"of the images, in pixels (default: {shown})"
    )
    parser.add_argument(
        "--window",
        type=_percentile,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=window,
        help="percentiles of each image that become black and white (default: "
        + ("0.5 99.5)" if window else "what the file says, else 0.5 99.5)"),
    )
    parser.add_argument("--seed", type=_seed, default=0, help="of the split by patient (default: 0)")
    parser.add_argument("--workers", type=_count, metavar="N", help="threads (default: one a core, at most 16)")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    return _count(height), _count(width or height)


def _percentile(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"a percentile is a number from 0 to 100, not {text!r}")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number, 0 or more, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a whole number, 1 or more, not {text!r}")
    return int(text)


def _shard(text: str) -> Shard:
    from segcft.data.shards import Shard

    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _hardware(parser: argparse.ArgumentParser, several: bool = False) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    if several:
        parser.add_argument("--devices", type=int, default=1, metavar="N", help="devices on each node (default: 1)")
        parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes (default: 1)")


def _pipeline(options: argparse.Namespace) -> Pipeline:
    from segcft.study import load_study

    study = load_study(options.study)  # a wrong study is told before anything heavy is imported
    _quiet_libraries()
    from segcft.pipeline import Pipeline
    from segcft.progress import ConsoleProgress
    from segcft.run import Run
    from segcft.training import make_fabric

    fabric = make_fabric(options.device, getattr(options, "devices", 1), getattr(options, "nodes", 1))
    run = Run(options.out or Path("runs") / study.name, study)
    compile = getattr(options, "compile", False)
    return Pipeline(run, fabric, options.data, ConsoleProgress(), compile)


def _run(options: argparse.Namespace) -> None:
    spread = options.devices * options.nodes > 1
    if spread and (options.jobs or 1) > 1:
        raise SegcftError("--jobs: with --devices or --nodes one part is trained at a time, on all of them")
    pipeline = _pipeline(options)
    from segcft.parallel import default_jobs, run_all

    jobs = options.jobs or (1 if spread else default_jobs(pipeline.fabric.device))
    if jobs > 1:
        run_all(pipeline, jobs)
    else:
        pipeline.run_all()
    if pipeline.fabric.is_global_zero:
        folder = pipeline.run.evaluation
        print((folder / "table.md").read_text(encoding="utf-8"))
        print(f"table:   {folder / 'table.md'} (and table.json)\nfigures: {folder / 'figures'}")


def _stage(options: argparse.Namespace) -> None:
    pipeline = _pipeline(options)
    if getattr(options, "shard", None) is not None:
        from segcft.importing import import_shard

        if pipeline.fabric.world_size > 1:
            raise SegcftError("--shard: one process imports one shard; leave out --devices and --nodes")
        import_shard(pipeline.run, options.data, options.shard, pipeline.progress)
        return
    if options.stage not in pipeline.stages:
        raise SegcftError(f"{options.study}: finetune.guides: this study has no stage {options.stage!r}")
    pipeline.run_stage(options.stage)


def _import_causal_gen(options: argparse.Namespace) -> None:
    from segcft.images.spec import CausalGenSpec
    from segcft.study import load_study

    if not isinstance(load_study(options.study).hvae, CausalGenSpec):
        raise SegcftError(f"{options.study}: hvae.architecture: a checkpoint of causal-gen needs 'causal-gen'")
    pipeline = _pipeline(options)
    from segcft.artefact import digest_of
    from segcft.images.checkpoint import TrainedParent, load_causal_gen

    checkpoint = options.checkpoint.absolute()  # what the run records is read from elsewhere
    parents = [TrainedParent.parse(text) for text in options.parents]

    def load(network: Any) -> dict[str, Any]:
        settings = load_causal_gen(options.checkpoint, network, parents)
        found = {"checkpoint": str(checkpoint), "sha256": digest_of(checkpoint)}
        return found | {"parents": options.parents, "hparams": settings}

    pipeline.adopt_image_mechanism(load)


def _import_padchest(options: argparse.Namespace) -> None:
    from segcft.data.padchest import Selection, check_source, convert_padchest
    from segcft.progress import ConsoleProgress
    from segcft.study import Splits

    check_source(options.csv, options.images)  # a wrong path is told before anything heavy is imported
    chosen = {"projections": options.projections, "labels": options.labels}
    selection = Selection(ages=tuple(options.ages), **{name: tuple(v) for name, v in chosen.items() if v})
    summary = convert_padchest(
        options.csv,
        options.images,
        options.out,
        _segmenter(options),
        size=options.size,
        window=tuple(options.window),
        selection=selection,
        splits=Splits(seed=options.seed),
        limit=options.limit,
        batch_size=options.batch_size,
        workers=options.workers,
        progress=ConsoleProgress(),
    )
    _tell(summary, options.out)


def _import_jsrt(options: argparse.Namespace) -> None:
    from segcft.data.jsrt import convert_jsrt
    from segcft.progress import ConsoleProgress
    from segcft.study import Splits

    summary = convert_jsrt(
        options.images,
        options.masks,
        options.clinical,
        options.out,
        size=options.size,
        window=tuple(options.window),
        splits=Splits(seed=options.seed),
        workers=options.workers,
        progress=ConsoleProgress(),
    )
    _tell(summary, options.out)


def _import_dicom(options: argparse.Namespace) -> None:
    _quiet_libraries()
    from segcft.data.dicomset import Pseudonyms, convert_dicom
    from segcft.progress import ConsoleProgress
    from segcft.study import Splits

    summary = convert_dicom(
        options.folder,
        options.out,
        size=options.size,
        window=tuple(options.window) if options.window else None,
        views=options.views,
        pseudonyms=Pseudonyms(options.salt, options.naming, options.keep_patient_ids),
        splits=Splits(seed=options.seed),
        workers=options.workers,
        progress=ConsoleProgress(),
    )
    _tell(summary, options.out)


def _tell(summary: Summary, out: Path) -> None:
    """What a conversion has done."""
    print(summary)
    print(f"folder: {out} (rejected.csv says why images were left out)", file=sys.stderr)


def _segmenter(options: argparse.Namespace) -> Segmenter:
    """What gives the masks of a conversion."""
    from segcft.data import masks

    if options.masks is not None:
        return masks.FolderMasks(options.masks, options.size)
    _quiet_libraries()
    from segcft.training import make_fabric

    device = make_fabric(options.device).device
    return masks.RunSegmenter(options.segmentor, device) if options.segmentor else masks.PSPNet(device)


def _evaluate(options: argparse.Namespace) -> None:
    from segcft.run import Run

    run = Run(options.run)
    _quiet_libraries()
    from segcft.importing import check_unseen, new_people
    from segcft.pipeline import evaluate_people
    from segcft.progress import ConsoleProgress
    from segcft.training import make_fabric

    device, progress = make_fabric(options.device).device, ConsoleProgress()
    if options.data is None and options.seed is None:
        folder = options.out or run.evaluation
        rows = evaluate_people(run, run.store(), folder, device, progress)
    else:
        folder = options.out or run.folder / "evaluation-new"
        store = new_people(run.study, options.data, options.seed, folder / "store", progress)
        check_unseen(run, store)
        rows = evaluate_people(run, store, folder, device, progress)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"table and figures: {folder}", file=sys.stderr)


def _counterfactual(options: argparse.Namespace) -> None:
    from segcft.run import Run

    run = Run(options.run)
    _quiet_libraries()
    from segcft.answer import answer
    from segcft.training import make_fabric

    found = answer(run, options.image, options.do, options.known, options.method, make_fabric(options.device).device)
    found.save(options.out)
    print(found.summary())
    print(f"images and numbers: {options.out}", file=sys.stderr)


def _quiet_libraries() -> None:
    """Keep other libraries' start-up chatter off the screen."""
    import logging

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(monai|lightning|pydicom)")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
