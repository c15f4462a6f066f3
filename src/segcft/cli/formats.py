"""`segcft import padchest`, `jsrt`, `dicom` and `ccta`: data in their own format, made a folder that a study reads."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.cli.options import count, hardware, quiet_libraries, seed
from segcft.coronary.defaults import CALCIUM_DEVIATIONS, CALCIUM_FLOOR, SIZE, SPACING, WINDOW
from segcft.errors import SegcftError

if TYPE_CHECKING:
    import torch

    from segcft.importers.convert import Summary
    from segcft.importers.masks import Segmenter

FORMATS = ("padchest", "jsrt", "dicom", "ccta")
"""What `import` takes besides a study, in two words, as one says it."""


def add_formats(command: Callable[[str, object, str], argparse.ArgumentParser]) -> None:
    """Add a command for each of :data:`FORMATS`; ``command`` adds one of a name, a function and a summary."""
    padchest = command("import-padchest", _import_padchest, "make a folder of PadChest (also: import padchest)")
    padchest.add_argument("--csv", metavar="FILE", type=Path, required=True, help="PadChest's table, plain or gzip")
    padchest.add_argument(
        "--images", metavar="DIR", type=Path, required=True, help="folder of its PNG files or numbered folders"
    )
    _conversion(padchest)
    _masks(padchest, "made by the PSPNet of torchxrayvision: pip install 'segcft[padchest]'")
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
    padchest.add_argument("--limit", type=count, metavar="N", help="use the first N rows of the table only")

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

    dicom = command("import-dicom", _import_dicom, "make a folder of DICOM files (also: import dicom)")
    dicom.add_argument("folder", metavar="DIR", type=Path, help="folder with the files, at any depth")
    _conversion(dicom, size=(256, 256), window=None)
    _masks(dicom, "none")
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

    _add_ccta(
        command("import-ccta", _import_ccta, "make a folder of straightened coronary arteries (also: import ccta)")
    )


def _add_ccta(ccta: argparse.ArgumentParser) -> None:
    ccta.add_argument(
        "--table",
        metavar="FILE",
        type=Path,
        required=True,
        help="CSV with a row a vessel: id, volume, centreline, lumen, wall (files), perhaps patient, split and others",
    )
    _folder(ccta, SIZE, threads="2; each holds a volume or two")
    ccta.add_argument("--spacing", type=_number, metavar="MM", default=SPACING, help="of pixels (default: %(default)g)")
    ccta.add_argument(
        "--start", type=_number, metavar="MM", default=0.0, help="where along the centreline images begin (default: 0)"
    )
    ccta.add_argument(
        "--smooth",
        type=_number,
        metavar="MM",
        default=0.0,
        help="how far, root mean square, the course may pass by the centreline's points; half a voxel where these are "
        "centres of voxels (default: 0, through all)",
    )
    turned = ccta.add_mutually_exclusive_group()
    turned.add_argument(
        "--angles",
        type=_number,
        nargs="+",
        metavar="DEG",
        default=[0.0],
        help="an image of each vessel at each angle about its centreline (default: 0)",
    )
    turned.add_argument("--sweep", type=count, metavar="N", help="N angles, evenly over half a turn")
    ccta.add_argument(
        "--window",
        type=_number,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=WINDOW,
        help=f"HU that become black and white (default: {WINDOW[0]:g} {WINDOW[1]:g})",
    )
    ccta.add_argument(
        "--calcium-floor",
        type=_number,
        metavar="HU",
        default=CALCIUM_FLOOR,
        help="calcified is what is brighter, and brighter than the lumen (default: %(default)g)",
    )
    ccta.add_argument(
        "--calcium-deviations",
        type=_number,
        metavar="X",
        default=CALCIUM_DEVIATIONS,
        help="by this many of the lumen's standard deviations (default: %(default)g)",
    )
    ccta.add_argument(
        "--ras",
        action="store_true",
        help="centrelines and meshes are in RAS where neither they nor the table say so (default: LPS, as in DICOM)",
    )


def _conversion(
    parser: argparse.ArgumentParser,
    size: tuple[int, int] = (224, 224),
    window: tuple[float, float] | None = (0.5, 99.5),
) -> None:
    """What conversions of radiographs take; ``window`` is None where files may have one of their own."""
    _folder(parser, size)
    parser.add_argument(
        "--window",
        type=_percentile,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=window,
        help="percentiles of each image that become black and white (default: "
        + ("0.5 99.5)" if window else "what the file says, else 0.5 99.5)"),
    )


def _masks(parser: argparse.ArgumentParser, default: str) -> None:
    """Where the masks of radiographs come from; see :func:`_segmenter`."""
    masks = parser.add_mutually_exclusive_group()
    masks.add_argument(
        "--masks",
        metavar="DIR",
        type=Path,
        help=f"ready-made masks, ID.png with bit flags 1 left lung, 2 right lung, 4 heart (default: {default})",
    )
    masks.add_argument("--segmentor", metavar="RUN", type=Path, help="masks as the judge of this run sees them")
    parser.add_argument(
        "--batch-size", type=count, metavar="N", default=16, help="images segmented at once (default: 16)"
    )
    hardware(parser)


def _folder(parser: argparse.ArgumentParser, size: tuple[int, int], threads: str = "one a core, at most 16") -> None:
    """What every conversion to a folder takes."""
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="folder to write, or to go on with")
    shown = "x".join(map(str, size))
    parser.add_argument(
        "--size", type=_size, metavar="HxW", default=size, help=f"of the images, in pixels (default: {shown})"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the split by patient (default: 0)")
    parser.add_argument("--workers", type=count, metavar="N", help=f"threads (default: {threads})")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    return count(height), count(width or height)


def _percentile(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"a percentile is a number from 0 to 100, not {text!r}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, not {text!r}")
    return value


def _import_padchest(options: argparse.Namespace) -> None:
    from segcft.config.study import Splits
    from segcft.importers.masks import PSPNet
    from segcft.importers.padchest import Selection, check_source, convert_padchest
    from segcft.utils.progress import ConsoleProgress

    _check_order("--window", options.window)
    _check_order("--ages", options.ages)
    check_source(options.csv, options.images)  # a wrong path is told before anything heavy is imported
    chosen = {"projections": options.projections, "labels": options.labels}
    selection = Selection(ages=tuple(options.ages), **{name: tuple(v) for name, v in chosen.items() if v})
    summary = convert_padchest(
        options.csv,
        options.images,
        options.out,
        _segmenter(options) or PSPNet(_device(options)),
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
    from segcft.config.study import Splits
    from segcft.importers.jsrt import convert_jsrt
    from segcft.utils.progress import ConsoleProgress

    _check_order("--window", options.window)
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
    quiet_libraries()
    from segcft.config.study import Splits
    from segcft.importers.dicom import Pseudonyms, convert_dicom
    from segcft.utils.progress import ConsoleProgress

    _check_order("--window", options.window)
    summary = convert_dicom(
        options.folder,
        options.out,
        size=options.size,
        window=tuple(options.window) if options.window else None,
        views=options.views,
        pseudonyms=Pseudonyms(options.salt, options.naming, options.keep_patient_ids),
        segmenter=_segmenter(options),
        batch_size=options.batch_size,
        splits=Splits(seed=options.seed),
        workers=options.workers,
        progress=ConsoleProgress(),
    )
    _tell(summary, options.out)


def _import_ccta(options: argparse.Namespace) -> None:
    quiet_libraries()
    from segcft.config.study import Splits
    from segcft.coronary.plaque import Threshold
    from segcft.importers.ccta import convert_ccta
    from segcft.utils.progress import ConsoleProgress

    _check_order("--window", options.window)
    sweep = options.sweep and [180 * step / options.sweep for step in range(options.sweep)]
    summary = convert_ccta(
        options.table,
        options.out,
        size=options.size,
        spacing=options.spacing,
        start=options.start,
        smooth=options.smooth,
        angles=sweep or options.angles,
        window=tuple(options.window),
        threshold=Threshold(options.calcium_floor, options.calcium_deviations),
        ras=options.ras,
        splits=Splits(seed=options.seed),
        workers=options.workers or 2,
        progress=ConsoleProgress(),
    )
    _tell(summary, options.out)


def _check_order(option: str, limits: Sequence[float] | None) -> None:
    """Raise :class:`SegcftError` unless the first of two limits is the lower one."""
    if limits is not None and not limits[0] < limits[1]:
        raise SegcftError(f"{option}: {limits[0]:g} is not below {limits[1]:g}")


def _tell(summary: Summary, out: Path) -> None:
    """What a conversion has done."""
    print(summary)
    if summary.warning:
        print(f"segcft: {summary.warning}", file=sys.stderr)
    print(f"folder: {out} (rejected.csv says why images were left out)", file=sys.stderr)


def _segmenter(options: argparse.Namespace) -> Segmenter | None:
    """What gives the masks of a conversion, where the options say so."""
    if options.masks is not None:
        from segcft.importers.masks import FolderMasks

        return FolderMasks(options.masks, options.size)
    if options.segmentor is None:
        return None
    from segcft.pipeline.segmenter import RunSegmenter

    return RunSegmenter(options.segmentor, _device(options))


def _device(options: argparse.Namespace) -> torch.device:
    quiet_libraries()
    from segcft.training.loop import make_fabric

    return make_fabric(options.device).device
