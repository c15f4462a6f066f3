"""`segcft run` and a command for each of its stages."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segcft.cli.options import Command, compiling, count, hardware, jobs, quiet_libraries, study
from segcft.cli.plan import AGAIN, folder_of, hours, study_of
from segcft.errors import Code, SegcftError, StudyError

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.fabric import Fabric

    from segcft.config.study import Study
    from segcft.data.shards import Shard
    from segcft.pipeline.run import Run
    from segcft.pipeline.runner import Pipeline

STAGES = {
    "import": "import or simulate the samples: images, masks, table, splits (import --help: other formats)",
    "segmentor": "train the guiding segmentor",
    "judge": "train the segmentor that judges the counterfactuals: no stage sees it, and it is no kin of the guides",
    "regressor": "train the guiding regressor (ResNet)",
    "predictor": "train the predictor that guides what images show of the attributes (ResNet)",
    "predictor-judge": "train the predictor that judges it: no stage sees it",
    "scm": "fit the causal mechanisms of the attributes (flows)",
    "hvae": "train the image mechanism (hierarchical VAE)",
    "cft-regressor": "fine-tune the image mechanism with the regressor (Reg-CFT)",
    "cft-segmentor": "fine-tune the image mechanism with the segmentor (Seg-CFT)",
    "cft-predictor": "fine-tune the image mechanism with the predictor alone (Pred-CFT), where there are no structures",
}


def add_run(command: Command) -> None:
    """Add the command ``run``."""
    parser = command("run", _run, "run all stages of a study, up to the table and figures")
    study(parser)
    hours(parser)
    hardware(parser, several=True)
    jobs(parser)
    compiling(parser)
    parser.add_argument(
        "--folds",
        type=count,
        metavar="K",
        help="for small sets: K runs, so that each subject is judged once, by parts that have not seen it, and one "
        "table of all; --jobs folds at a time (default folder: runs/NAME-K-folds)",
    )
    parser.add_argument(
        "--again",
        metavar="STAGE",
        action="append",
        default=[],
        help="make this stage again, and what depends on it, though it is up to date; may be repeated; 'plan' plans "
        "again what the study file leaves out",
    )


def add_stages(command: Command) -> None:
    """Add a command for each of :data:`STAGES`."""
    for name, summary in STAGES.items():
        parser = command(name, _stage, summary)
        study(parser)
        hours(parser)
        hardware(parser, several=True)
        if name == "hvae" or name.startswith("cft-"):
            compiling(parser)
        if name == "import":
            parser.add_argument(
                "--shard",
                metavar="I/N",
                type=_shard,
                help="import only share I of N; when all are there, import without --shard joins them into the store",
            )


def _shard(text: str) -> Shard:
    from segcft.data.shards import Shard

    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def make_pipeline(options: argparse.Namespace) -> Pipeline:
    study, folder = _study(options)
    from segcft.pipeline.folds import require_folder
    from segcft.pipeline.run import Run
    from segcft.pipeline.runner import Pipeline
    from segcft.utils.progress import ConsoleProgress

    run = Run(folder, study)
    require_folder(run)
    return Pipeline(run, _fabric(options), options.data, ConsoleProgress(), getattr(options, "compile", False))


def _study(options: argparse.Namespace) -> tuple[Study, Path]:
    """The study and the folder of its run: errors come before anything heavy is imported."""
    folder = options.study if options.study.is_dir() else None
    path = folder / "study.yaml" if folder else options.study
    found = study_of(options, path, options.out or folder)
    quiet_libraries()
    return found


def _fabric(options: argparse.Namespace) -> Fabric:
    from segcft.training.loop import make_fabric

    return make_fabric(options.device, getattr(options, "devices", 1), getattr(options, "nodes", 1))


def _run(options: argparse.Namespace) -> None:
    spread = options.devices * options.nodes > 1
    if spread and (options.jobs or 1) > 1:
        raise SegcftError(
            Code.CONFLICT, "--jobs", "with --devices or --nodes one part is trained at a time, on all of them"
        )
    study, folder = _study(options)
    if options.folds or study.splits.in_folds:
        _run_folds(options, study, folder, spread)
        return
    pipeline = make_pipeline(options)
    from segcft.pipeline.pool import default_jobs, run_all

    again = [stage for stage in options.again if stage != AGAIN]
    _require(options, pipeline, again)
    if again:
        pipeline.forget(again)
    jobs = options.jobs or (1 if spread else default_jobs(pipeline.fabric.device))
    run_all(pipeline, jobs)
    if pipeline.fabric.is_global_zero:
        _show(pipeline.run)


def _run_folds(options: argparse.Namespace, study: Study, folder: Path, spread: bool) -> None:
    if spread:
        raise SegcftError(Code.CONFLICT, "--folds", "a fold has one device; with --jobs each has the next one")
    from segcft.pipeline.folds import in_folds, run_folds, runs_of

    if options.folds and options.folds != study.splits.folds:
        study = in_folds(study, options.folds)
        folder = options.out or folder_of(study)  # a run that is not in folds keeps its own
    from segcft.pipeline.pool import default_jobs
    from segcft.pipeline.run import Run
    from segcft.pipeline.runner import Pipeline
    from segcft.utils.progress import ConsoleProgress

    run = Run(folder, study)
    fabric = _fabric(options)
    again = [stage for stage in options.again if stage != AGAIN]
    _require(options, Pipeline(runs_of(run)[0], fabric), again)
    run_folds(
        run,
        fabric,
        data=options.data,
        progress=ConsoleProgress(),
        jobs=options.jobs or default_jobs(fabric.device),
        compile=options.compile,
        again=again,
    )
    _show(run)


def _show(run: Run) -> None:
    """Print the table of an evaluated run."""
    print((run.evaluation / "table.md").read_text(encoding="utf-8"))
    print(f"table:   {run.evaluation / 'table.md'} (and table.json)\nfigures: {run.evaluation / 'figures'}")


def _stage(options: argparse.Namespace) -> None:
    pipeline = make_pipeline(options)
    if getattr(options, "shard", None) is not None:
        from segcft.pipeline.importing import import_shard

        if pipeline.fabric.world_size > 1:
            raise SegcftError(
                Code.CONFLICT, "--shard", "one process imports one shard; leave out --devices and --nodes"
            )
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
            raise StudyError(error.code, f"{options.study}: {error.field}", error.text) from None
