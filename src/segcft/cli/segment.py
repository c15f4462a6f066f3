"""`segcft segment`: masks for images that have none."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segcft.cli.options import Command, count, hardware, model, quiet_libraries
from segcft.errors import Code, SegcftError


def add_segment(command: Command) -> None:
    """Add the command."""
    parser = command("segment", _segment, "write the masks that trained readers see, and agree on, in images without")
    parser.add_argument(
        "runs",
        metavar="RUN",
        type=model,
        nargs="+",
        help="runs or published models, or hf://USER/MODEL, all of whose readers must agree; of one structure set",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        help="of images, or of volumes (NIfTI files, folders with a DICOM series); or with images/ and metadata.csv",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument(
        "--agreement",
        metavar="DICE",
        type=_share,
        default=0.85,
        help="least overlap of any two readers, 0 to 1, of every structure (default: 0.85)",
    )
    parser.add_argument(
        "--window",
        metavar=("LOW", "HIGH"),
        type=_percent,
        nargs=2,
        help="percentiles of each image that become black and white (default: as the runs read their own images)",
    )
    parser.add_argument("--batch-size", metavar="N", type=count, help="images at once (default: 16; volumes: 1)")
    parser.add_argument(
        "--dicom-seg",
        action="store_true",
        help="write DIR/dicom-seg/ID.dcm besides, a DICOM Segmentation on the stored pixels of every image that is a "
        "DICOM file, and of every series; it has the patient's name, as that has (needs pip install "
        "'segcft[dicom-seg]')",
    )
    hardware(parser)


def _share(text: str) -> float:
    return _number(text, 1, "0 to 1")


def _percent(text: str) -> float:
    return _number(text, 100, "0 to 100")


def _number(text: str, most: float, expected: str) -> float:
    try:
        if 0 <= float(text) <= most:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"a number from {expected}, not {text!r}")


def _segment(options: argparse.Namespace) -> None:
    quiet_libraries()
    from segcft.pipeline.readers import Readers
    from segcft.pipeline.segment import Settings, segment
    from segcft.training.loop import make_fabric
    from segcft.utils.progress import ConsoleProgress

    device = make_fabric(options.device).device
    readers = Readers.of(options.runs, device)
    window = tuple(options.window) if options.window else None
    if window and window[0] >= window[1]:
        raise SegcftError(Code.INVALID, "--window", f"expected two percentiles, the lower first, not {window}")
    settings = Settings(options.agreement, window, options.batch_size, options.dicom_seg)
    print(segment(readers, options.folder, options.out, settings=settings, progress=ConsoleProgress()))
    if len(readers.readers) == 1:
        print(
            "warning: one reader agrees with itself; give a run with segmentor and judge, or another", file=sys.stderr
        )
    bits = ", ".join(f"{name}: {1 << bit}" for bit, name in enumerate(readers.structures))
    print(f"folder: {options.out} (bits of masks: {bits}; rejected.csv says why images were left out)", file=sys.stderr)
