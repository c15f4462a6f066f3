"""One recipe for any data: every study in configs/planned, planned, run and judged without a hand, in one table.

``python -m benchmarks.recipe --data DIR`` takes data sets from folders of DIR that are named below. Simulated sets need
none; sets whose folder is not there are left out. Where fewer than 100 subjects would be tested, every one is judged
once, in five folds. What is done is kept in ``--out``: the same command goes on. The figures of every set are kept in a
file beside the page, ``recipe.json`` beside ``recipe.md``: sets that are not run now stay on the page as they were.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from PIL import Image

from benchmarks.recipe_page import page
from benchmarks.recipe_set import Judged, read_sets, write_sets
from segcft.config.sources import Splits

ROOT = Path(__file__).parents[1]
CONFIGS, PUBLISHED = ROOT / "configs" / "planned", ROOT / "models"
FOLDERS = {"jsrt": "jsrt256", "ctr": "ctr256", "acdc": "acdc128", "hippocampus": "hippocampus"}
"""Study -> the folder of its data."""
VOLUMES = ("hippocampus",)
"""Studies of slices whose folder has volumes, ``images/*.nii.gz`` and ``labels/*.nii.gz``."""
FOLDS, FEWEST_TESTED = 5, 100
SIDE = 64
"""Pixels a side of a slice, without scaling: what is beyond is cut off, what is missing is 0."""
WINDOW = (0.5, 99.5)
"""Percentiles of a volume between which its slices' greys are."""


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    studies = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    written = options.page or options.out / "recipe.md"
    kept = written.with_suffix(".json")
    for name in options.sets or studies:
        data = options.data / FOLDERS[name] if options.data and name in FOLDERS else None
        if name in FOLDERS and (data is None or not data.is_dir()):
            print(f"{name}: left out, as {data or 'its data'} is not there", file=sys.stderr)
            continue
        if data is not None and name in VOLUMES:
            data = slices_of(data, options.out / f"{name}-slices")
        run = options.out / name
        command = [sys.executable, "-m", "segcft", "run", str(CONFIGS / f"{name}.yaml"), "--out", str(run)]
        folded = data is not None and subjects_tested(CONFIGS / f"{name}.yaml", data) < FEWEST_TESTED
        hours = options.hours / FOLDS if folded else options.hours
        command += ["--hours", f"{hours:.3g}", "--device", options.device]
        command += ["--data", str(data)] if data else []
        command += ["--folds", str(FOLDS)] if folded else []
        if code := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            sys.exit(code)  # what failed has been said
        write_sets(kept, read_sets(kept) | {name: Judged.read(run)})
        shown = page(read_sets(kept), PUBLISHED, studies)
        written.write_text(shown, encoding="utf-8")
        print(shown)


def subjects_tested(study: Path, data: Path) -> float:
    """How many subjects of a folder would be in the test part of a study, about."""
    said = yaml.safe_load(study.read_text(encoding="utf-8"))["data"]
    cells = pd.read_csv(data / said.get("table", "metadata.csv"), dtype=str)
    return cells[said.get("patient", said.get("id", "id"))].nunique() * Splits().test


def slices_of(volumes: Path, folder: Path) -> Path:
    """A folder of sagittal slices of volumes, of each the one that shows most of its labels; returns the folder."""
    import nibabel

    if (folder / "metadata.csv").is_file():
        return folder
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    ids = []
    for path in sorted((volumes / "labels").glob("*.nii.gz")):
        if not (volumes / "images" / path.name).is_file():
            continue
        image, labels = (
            np.asarray(nibabel.as_closest_canonical(nibabel.load(one)).dataobj)
            for one in (volumes / "images" / path.name, path)
        )
        at = int((labels > 0).sum(axis=(1, 2)).argmax())
        low, high = np.percentile(image, WINDOW)
        greys = np.clip((image[at] - low) / max(high - low, 1e-6), 0, 1) * 255
        ids.append(path.name.removesuffix(".nii.gz"))
        for kind, pixels in (("images", greys.round()), ("masks", labels[at])):
            # The front to the left and the head up, as a sagittal slice is shown.
            Image.fromarray(framed(pixels.T[::-1, ::-1].astype(np.uint8))).save(folder / kind / f"{ids[-1]}.png")
    pd.DataFrame({"id": ids}).to_csv(folder / "metadata.csv", index=False)
    return folder


def framed(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of an array (H, W), filled up with 0, as (SIDE, SIDE)."""
    for axis in (0, 1):
        missing = max(0, SIDE - pixels.shape[axis])
        sides = [(0, 0), (0, 0)]
        sides[axis] = (missing // 2, missing - missing // 2)
        first = (pixels.shape[axis] + missing - SIDE) // 2
        pixels = np.pad(pixels, sides).take(range(first, first + SIDE), axis=axis)
    return pixels


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the data sets' folders")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="some of configs/planned (default: all)")
    parser.add_argument("--hours", type=float, default=1.5, help="of each set, all its folds together")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--page", type=Path, help="file to write (default: recipe.md in --out)")
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    return parser


if __name__ == "__main__":
    main()
