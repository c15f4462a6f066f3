"""`segcft export`: a model in the forms that other programs run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segcft.cli.options import Command, method, quiet_libraries, run_or_model
from segcft.errors import Code, SegcftError


def add_export(command: Command) -> None:
    """Add the command ``export``."""
    parser = command("export", _export, "write a model for other programs: in ONNX, or as a MONAI bundle")
    run_or_model(parser, "MODEL")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write")
    method(parser)
    parser.add_argument(
        "--bundle",
        choices=("segmentor", "judge"),
        help="write this reader as a MONAI bundle (default: all networks in ONNX, without segcft and PyTorch)",
    )


def _export(options: argparse.Namespace) -> None:
    if options.bundle and options.method:
        raise SegcftError(Code.CONFLICT, "--method", "a bundle has no image mechanism; leave it out")
    quiet_libraries()
    from segcft.export.bundle import export_bundle
    from segcft.export.onnx import export_onnx
    from segcft.pipeline.run import Run

    if options.bundle:
        export_bundle(Run(options.run), options.folder, options.bundle)
        print(f"bundle: {options.folder} (how to run it is in docs/README.md)", file=sys.stderr)
        return
    apart = export_onnx(Run(options.run), options.folder, options.method)
    for name, largest in apart.items():
        print(f"{name}.onnx: at most {largest:.1g} from what PyTorch gives", file=sys.stderr)
    print(f"exported: {options.folder} (how to run it is in README.md)", file=sys.stderr)
