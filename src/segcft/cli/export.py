"""`segcft export`: a model in the forms that other programs run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segcft.cli.options import Command, quiet_libraries, run_or_model


def add_export(command: Command) -> None:
    """Add the command ``export``."""
    parser = command("export", _export, "write a model in ONNX, which runs without segcft and PyTorch")
    run_or_model(parser, "MODEL")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write")
    parser.add_argument(
        "--method",
        choices=("none", "regressor", "segmentor", "predictor"),
        help="which image mechanism (default: the last of these that is trained)",
    )


def _export(options: argparse.Namespace) -> None:
    quiet_libraries()
    from segcft.export.onnx import export_onnx
    from segcft.pipeline.run import Run

    apart = export_onnx(Run(options.run), options.folder, options.method)
    for name, largest in apart.items():
        print(f"{name}.onnx: at most {largest:.1g} from what PyTorch gives", file=sys.stderr)
    print(f"exported: {options.folder} (how to run it is in README.md)", file=sys.stderr)
