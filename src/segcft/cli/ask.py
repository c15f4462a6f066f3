"""`segcft counterfactual` and `segcft inspect`: questions about images, and where an image comes from."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from segcft.cli.options import Command, count, hardware, quiet_libraries, run_or_model, whole
from segcft.errors import Code, SegcftError
from segcft.utils.output import check_answer, check_answers, check_any_answer, check_apart

if TYPE_CHECKING:
    import torch

    from segcft.pipeline.run import Run


def add_ask(command: Command) -> None:
    """Add the commands."""
    asked = command("counterfactual", _counterfactual, "answer a question about one image, or about many")
    run_or_model(asked)
    asked.add_argument(
        "image",
        metavar="IMAGE",
        type=Path,
        help="image file (PNG, TIFF, JPEG, DICOM, NIfTI), of volumes a NIfTI file or a folder with a DICOM series; or "
        "a folder of them, asked all the same; or a CSV table with the columns image, do (interventions, ';' between "
        "them) and, for what is known, the names of variables",
    )
    asked.add_argument(
        "--do",
        metavar="VARIABLE=AMOUNT",
        action="append",
        default=[],
        help="intervention: age=63 sets; a sign makes it a change, +20%%, -500 (by the unit) or +1.5sd (by standard "
        "deviations); sex=F; match:OTHER.png takes it from another image; may be repeated; of a table, for "
        "rows without any",
    )
    asked.add_argument(
        "--set",
        metavar="VARIABLE=VALUE",
        action="append",
        default=[],
        dest="known",
        help="what is known of the subject, e.g. age=63 (of a table, for rows that do not say it); areas are read from "
        "the image, age and sex from a DICOM file's header, and the rest is inferred",
    )
    asked.add_argument(
        "--method",
        default=None,
        help="No CFT, Reg-CFT, Seg-CFT or Pred-CFT; also none, regressor, segmentor, predictor (default: the last of "
        "these that is trained)",
    )
    asked.add_argument(
        "--draws",
        type=whole,
        metavar="N",
        help="further answers from the posterior, for their spread (default: 8 of one image, 0 of many)",
    )
    asked.add_argument(
        "--exact",
        action="store_true",
        help="correct the answer until the guide reads what was asked for; the judge, which takes no part, may refuse",
    )
    asked.add_argument(
        "--out",
        metavar="PATH",
        type=Path,
        required=True,
        help="folder of the answer, or of the answers; of one image also a file: the counterfactual as .png or .dcm "
        "(of a volume .nii.gz), or the numbers as .json. A file that is there is replaced, and so is an earlier "
        "answer; the answers of many images go on where they were; a folder of other things is refused",
    )
    asked.add_argument(
        "--full-resolution",
        action="store_true",
        help="of one image: write the counterfactual in the image's own pixels, as the .png, .dcm or .nii.gz, or "
        "beside the others in the folder",
    )
    asked.add_argument(
        "--pixel-mm",
        metavar=("HEIGHT", "WIDTH"),
        type=float,
        nargs="+",
        help="of one image: the size of its pixels in mm, where its file does not say it (models with image.fit: "
        "physical); of a volume depth, height and width of a voxel",
    )
    asked.add_argument("--dicom", action="store_true", help="of many images: write DICOM files, too")
    asked.add_argument(
        "--jobs", type=count, metavar="N", help="of many images: processes (default: 2 on a CPU with two cores or more)"
    )
    hardware(asked)

    inspected = command("inspect", _inspect, "tell whether images are synthetic, and what was asked of which model")
    inspected.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="PNG, GIF, DICOM or NIfTI file, or an answer's JSON"
    )


def _counterfactual(options: argparse.Namespace) -> None:
    from segcft.io.scan import is_series

    check_apart(options.out, options.image, f"--out {options.out}")
    one_series = is_series(options.image)  # a volume, or images of one folder
    many = (options.image.is_dir() and not one_series) or options.image.suffix.lower() == ".csv"
    if not (many or one_series):
        _refuse_for_one(options)
    (check_answers if many else check_any_answer)(options.out)  # before what takes its time
    from segcft.pipeline.run import Run

    run = Run(options.run)
    volumes = run.study.image.is_volume
    many = many or (one_series and not volumes)
    if not many:
        _refuse_for_one(options)
    if many and (options.full_resolution or options.pixel_mm):
        raise SegcftError(Code.CONFLICT, "--full-resolution, --pixel-mm", "of one image only")
    if many:
        check_answers(options.out)
    else:
        check_answer(options.out, volumes)
    quiet_libraries()
    from segcft.training.loop import make_fabric

    device = make_fabric(options.device).device
    if many:
        _batch(options, run, device)
        return
    from segcft.api.model import DRAWS, Model
    from segcft.api.question import Sized

    draws = DRAWS if options.draws is None else options.draws
    image = Sized(options.image, tuple(options.pixel_mm)) if options.pixel_mm else options.image
    found = Model(run, device).counterfactual(image, options.known, options.do, options.method, draws, options.exact)
    found.save(options.out, options.full_resolution)
    print(found.summary())
    print(f"images and numbers: {options.out}", file=sys.stderr)


def _refuse_for_one(options: argparse.Namespace) -> None:
    """Check that nothing is asked for that only the answers about many images have.

    Raises:
        SegcftError: there is.
    """
    if options.dicom or options.jobs:
        hint = "give --out a name that ends in .dcm, or of a volume a folder, which has a series"
        raise SegcftError(Code.CONFLICT, "--dicom, --jobs", f"for many images only; for one, {hint}")


def _batch(options: argparse.Namespace, run: Run, device: torch.device) -> None:
    from segcft.api.many import PASSED, answer_all
    from segcft.api.question import parse_values
    from segcft.api.questions import folder_items, table_items
    from segcft.errors import InterventionError
    from segcft.pipeline.pool import default_jobs
    from segcft.utils.progress import ConsoleProgress

    parse_values(run.study, options.do)  # one error, and not one for every image
    parse_values(run.study, options.known, known=True)
    if options.image.is_dir():
        if not options.do:
            raise InterventionError(Code.MISSING, "--do", "nothing is asked for, e.g. --do heart_area=+20%")
        asked = folder_items(options.image, options.known, options.do, run.study.image.is_volume)
    else:
        asked = table_items(options.image, run.study, options.known, options.do)
    done = answer_all(
        run,
        asked.items,
        options.out,
        device,
        options.method,
        options.draws or 0,
        options.dicom,
        options.jobs or default_jobs(device),
        ConsoleProgress(),
        asked.passed,
        options.exact,
    )
    print(f"{options.out / 'manifest.csv'}: {done.answered + done.before} answers, {done.before} of them from before")
    if done.warned:
        print(f"warning: {done.warned} of them have warnings (last column); believe none of these", file=sys.stderr)
    if asked.passed:
        kind, first = "files were" if options.image.is_dir() else "columns or cells were", asked.passed[0]
        passed = f"{len(asked.passed)} {kind} passed over, the first: {first.name} ({first.reason})"
        print(f"{options.out / PASSED}: {passed}", file=sys.stderr)
    if done.rejected:
        raise SegcftError(Code.FAILED, options.out / "rejected.csv", f"{done.rejected} questions could not be answered")


def _inspect(options: argparse.Namespace) -> None:
    from segcft.io.provenance import inspect

    unknown: list[Path] = []
    for path in options.files:
        record = inspect(path)
        unknown += [path] * (record is None)
        print(f"{path}: {'does not say that segcft made it' if record is None else 'synthetic, made by segcft'}")
        if record is not None:
            print(json.dumps(record, indent=1, ensure_ascii=False))
    if unknown:
        raise SegcftError(
            Code.MISSING, unknown[0], f"no record in it, as in {len(unknown)} of {len(options.files)} files"
        )
