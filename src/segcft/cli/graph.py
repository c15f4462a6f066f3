"""`segcft graph`: what the data say about a study's causal graph."""

from __future__ import annotations

import argparse
from pathlib import Path

from segcft.cli.options import Command, data, hardware, whole
from segcft.cli.plan import hours


def add_graph(command: Command) -> None:
    """Add the command ``graph``."""
    parser = command("graph", _graph, "test a study's causal graph on its data, and look for others")
    parser.add_argument("study", metavar="STUDY", type=Path, help="study file, or the folder of a run")
    data(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder of the run (default: runs/STUDY's name)")
    parser.add_argument(
        "--parts",
        metavar="N",
        type=whole,
        default=100,
        help="random parts of the people in which graphs are looked for; 0: none (default: 100)",
    )
    parser.add_argument(
        "--tiers",
        metavar="A,B",
        nargs="+",
        help="variables by when they come about: none is caused by one of a later tier, e.g. sex,age left_lung_area,"
        "heart_area (default: attributes, then measures)",
    )
    hours(parser)
    hardware(parser)


def _graph(options: argparse.Namespace) -> None:
    from segcft.cli.run import make_pipeline

    pipeline = make_pipeline(options)
    from segcft.pipeline.graph import check_graph, render_check, write_check

    pipeline.run_stage("import")
    tiers = None if options.tiers is None else [tier.split(",") for tier in options.tiers]
    study, progress = pipeline.study, pipeline.progress
    check = check_graph(study, pipeline.run.store(), options.parts, tiers, study.scm.seed, progress)
    folder = pipeline.run.folder / "graph"
    folder.mkdir(exist_ok=True)
    write_check(check, folder)
    print(render_check(check))
    print(f"table:   {folder / 'graph.md'} (and graph.json)\npicture: {folder / 'graph.png'}")
