"""`segcft run` and a command for each of its stages."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segcft.cli.options import Command, compiling, hardware, jobs, quiet_libraries, study
from segcft.cli.plan import AGAIN, hours, study_of
from segcft.errors import Code, SegcftError, StudyError

if TYPE_CHECKING:
    from segcft.data.shards import Shard
    from segcft.pipeline.runner import Pipeline

STAGES = {
    "import": "import or simulate the samples: images, masks, table, splits (import --help: other formats)",
    "segmentor": "train the guiding segmentor (U-Net)",
    "judge": "train the independent segmentor that judges the counterfactuals",
    "regressor": "train the guiding regressor (ResNet)",
    "scm": "fit the causal mechanisms of the attributes (flows)",
    "hvae": "train the image mechanism (hierarchical VAE)",
    "cft-regressor": "fine-tune the image mechanism with the regressor (Reg-CFT)",
    "cft-segmentor": "fine-tune the image mechanism with the segmentor (Seg-CFT)",
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
    folder = options.study if options.study.is_dir() else None
    study, out = study_of(options, folder / "study.yaml" if folder else options.study, options.out or folder)
    quiet_libraries()
    from segcft.pipeline.run import Run
    from segcft.pipeline.runner import Pipeline
    from segcft.training.loop import make_fabric
    from segcft.utils.progress import ConsoleProgress

    fabric = make_fabric(options.device, getattr(options, "devices", 1), getattr(options, "nodes", 1))
    run = Run(out, study)
    compile = getattr(options, "compile", False)
    return Pipeline(run, fabric, options.data, ConsoleProgress(), compile)


def _run(options: argparse.Namespace) -> None:
    spread = options.devices * options.nodes > 1
    if spread and (options.jobs or 1) > 1:
        raise SegcftError(
            Code.CONFLICT, "--jobs", "with --devices or --nodes one part is trained at a time, on all of them"
        )
    pipeline = make_pipeline(options)
    from segcft.pipeline.pool import default_jobs, run_all

    again = [stage for stage in options.again if stage != AGAIN]
    _require(options, pipeline, again)
    if again:
        pipeline.forget(again)
    jobs = options.jobs or (1 if spread else default_jobs(pipeline.fabric.device))
    run_all(pipeline, jobs)
    if pipeline.fabric.is_global_zero:
        folder = pipeline.run.evaluation
        print((folder / "table.md").read_text(encoding="utf-8"))
        print(f"table:   {folder / 'table.md'} (and table.json)\nfigures: {folder / 'figures'}")


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
