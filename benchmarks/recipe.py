"""One recipe for any data: every study in configs/planned, planned, run and judged without a hand, in one table.

``python -m benchmarks.recipe --data DIR`` takes data sets from folders of DIR that are named below. Simulated sets need
none; sets whose folder is not there are left out. Where fewer than 100 subjects would be tested, every one is judged
once, in five folds. What is done is kept in ``--out``: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from PIL import Image

from segcft.config.sources import Splits
from segcft.evaluate.names import method_name

CONFIGS = Path(__file__).parents[1] / "configs" / "planned"
FOLDERS = {"jsrt": "jsrt256", "ctr": "ctr256", "acdc": "acdc128", "hippocampus": "hippocampus"}
"""Study -> the folder of its data."""
VOLUMES = ("hippocampus",)
"""Studies of slices whose folder has volumes, ``images/*.nii.gz`` and ``labels/*.nii.gz``."""
FOLDS, FEWEST_TESTED = 5, 100
SIDE = 64
"""Pixels a side of a slice, without scaling: what is beyond is cut off, what is missing is 0."""
WINDOW = (0.5, 99.5)
"""Percentiles of a volume between which its slices' greys are."""

SLOPE = (0.9, 1.1)
MARGIN, FACTOR, OTHERS = 3.0, 1.5, 1.0
"""The error of the structure intervened on is at most the judge's own plus this, or times this, whichever is more; that
of the others at most the judge's own plus this. In percentage points."""

Row = dict[str, Any]


class Line(NamedTuple):
    """What a method does to a structure when it is intervened on: its slope, its error, the judge's own error, and the
    largest error of another structure less the judge's own of that one."""

    method: str
    structure: str
    slope: float | None
    error: float | None
    judge: float | None
    others: float | None

    @property
    def missed(self) -> str:
        """Which targets are missed."""
        found = []
        if self.slope is None or not SLOPE[0] <= self.slope <= SLOPE[1]:
            found.append("slope")
        if self.error is None or self.judge is None or self.error > max(self.judge + MARGIN, FACTOR * self.judge):
            found.append("error")
        if self.others is not None and self.others > OTHERS:
            found.append("others")
        return ", ".join(found)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    studies = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    for name in options.sets or studies:
        data = options.data / FOLDERS[name] if options.data and name in FOLDERS else None
        if name in FOLDERS and (data is None or not data.is_dir()):
            print(f"{name}: left out, as {data or 'its data'} is not there", file=sys.stderr)
            continue
        if data is not None and name in VOLUMES:
            data = slices_of(data, options.out / f"{name}-slices")
        run = options.out / name
        command = [sys.executable, "-m", "segcft", "run", str(CONFIGS / f"{name}.yaml"), "--out", str(run)]
        command += ["--hours", str(options.hours), "--device", options.device]
        command += ["--data", str(data)] if data else []
        command += (
            ["--folds", str(FOLDS)] if data and subjects_tested(CONFIGS / f"{name}.yaml", data) < FEWEST_TESTED else []
        )
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = json.loads((run / "evaluation" / "table.json").read_text(encoding="utf-8"))
        print("\n".join(table(name, rows)), flush=True)


def subjects_tested(study: Path, data: Path) -> float:
    """How many subjects of a folder would be in the test part of a study, about."""
    said = yaml.safe_load(study.read_text(encoding="utf-8"))["data"]
    cells = pd.read_csv(data / said.get("table", "metadata.csv"), dtype=str)
    return cells[said.get("patient", said.get("id", "id"))].nunique() * Splits().test


def lines(rows: Sequence[Row]) -> Iterator[Line]:
    """What is in an evaluation's rows, for every method and structure intervened on."""
    found: dict[tuple[str, str, str, str], float | None] = {}
    for row in rows:
        found[row["method"], row["metric"], row["intervention"], row["structure"]] = row["value"]
    own = {
        s: value for (method, metric, _, s), value in found.items() if method == "judge" and metric in ("mape", "mae")
    }
    for row in rows:
        if row["metric"] != "slope" or not row["intervened"]:
            continue
        method, variable, structure = row["method"], row["intervention"], row["structure"]
        metric = "mape" if (method, "mape", variable, structure) in found else "mae"
        beyond = [
            error - judge
            for other, judge in own.items()
            if other != structure
            and judge is not None
            and (error := found.get((method, metric, variable, other))) is not None
        ]
        error = found.get((method, metric, variable, structure))
        yield Line(method, structure, row["value"], error, own.get(structure), max(beyond, default=None))


def table(name: str, rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a set, as a table in Markdown."""
    yield f"\n## {name}\n\n| method | structure | slope | error | judge's own | others beyond it | missed |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | --- |"
    for line in lines(rows):
        numbers = (f"{value:.2f}" if value is not None else "–" for value in line[2:])
        yield f"| {method_name(line.method)} | {line.structure} | {' | '.join(numbers)} | {line.missed or 'nothing'} |"
    patterns: dict[str, list[float]] = {}
    for row in rows:
        if row["metric"] == "pattern energy" and row["value"] is not None:
            patterns.setdefault(row["method"], []).append(row["value"])
    yield "\nPattern energy, at most: " + ", ".join(f"{method_name(m)} {max(v):.2f}" for m, v in patterns.items())


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
    parser.add_argument("--hours", type=float, default=1.5, help="of each training: a fold has so many")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    return parser


if __name__ == "__main__":
    main()
