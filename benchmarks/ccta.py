"""CT angiographies a minute into straightened images: ``python -m benchmarks.ccta --help``.

The baseline is what a script does without care for memory: NiBabel's float64 array of the whole volume, sampled by
SciPy at the same points; one after another, without masks, checks or files. Both are processes of their own, on the
same files, which the system has in its cache. Simulated vessels are copied until there are enough.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from segcft.simulate.ccta import Grid, write_ccta
from segcft.simulate.coronary import MARGIN


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ccta", description=__doc__)
    parser.add_argument("--vessels", type=int, default=20, metavar="N", help="to import (default: 20)")
    parser.add_argument("--simulated", type=int, default=2, metavar="N", help="different ones (default: 2)")
    parser.add_argument("--voxels", type=int, nargs=3, default=(512, 512, 200), metavar=("I", "J", "K"))
    parser.add_argument("--angles", type=int, default=1, metavar="N", help="images of each (default: 1)")
    parser.add_argument("--script", type=Path, help=argparse.SUPPRESS)  # the baseline's own process
    options = parser.parse_args(arguments)
    if options.script:
        _script(options.script, options.angles)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ccta(folder, min(options.simulated, options.vessels), grid=Grid.of(options.voxels))
        _copy(folder / "cases.csv", options.vessels)
        angles = str(options.angles)
        base = _run("benchmarks.ccta", "--script", folder / "cases.csv", "--angles", angles)
        ours = _run(
            *("segcft.cli", "import", "ccta", "--table", folder / "cases.csv", "--out", folder / "straightened"),
            *("--start", MARGIN, "--sweep", angles),
        )
        images = len(list((folder / "straightened" / "images").glob("*.png")))
    print("| what | images | seconds | GB | times as fast |\n| --- | ---: | ---: | ---: | ---: |")
    print(
        f"| NiBabel and SciPy, images alone | {options.vessels * options.angles} | {base[0]:.1f} | {base[1]:.1f} | 1 |"
    )
    print(f"| segcft import ccta, with masks | {images} | {ours[0]:.1f} | {ours[1]:.1f} | {base[0] / ours[0]:.1f} |")


def _copy(table: Path, vessels: int) -> None:
    """Files of their own for as many vessels."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number in range(len(rows), vessels):
        row = dict(rows[number % len(rows)])
        shutil.copytree(table.parent / row["id"], table.parent / f"copy-{number}")
        files = {
            column: f"copy-{number}/{Path(row[column]).name}" for column in ("volume", "centreline", "lumen", "wall")
        }
        rows.append(row | files | {"id": f"copy-{number}"})
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _run(module: str, *arguments: object) -> tuple[float, float]:
    """Seconds and GB at most that a module's process takes."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{module} failed")
    return time.perf_counter() - begin, usage.ru_maxrss * 1024 / 1e9


def _script(table: Path, angles: int) -> None:
    import nibabel
    from scipy.ndimage import map_coordinates

    from segcft.coronary.centreline import Centreline
    from segcft.coronary.reformation import Reformation
    from segcft.io.vesselfile import read_centreline

    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        image = nibabel.load(table.parent / row["volume"])
        values = image.get_fdata()
        to_index = np.linalg.inv(image.affine) @ np.diag([-1.0, -1.0, 1.0, 1.0])
        centreline = Centreline(read_centreline(table.parent / row["centreline"]).points)
        for angle in np.arange(angles) * np.pi / angles:
            points = Reformation.of(centreline, angle=float(angle), start=MARGIN).points
            index = points @ to_index[:3, :3].T + to_index[:3, 3]
            map_coordinates(values, np.moveaxis(index, -1, 0), order=1)


if __name__ == "__main__":
    main()
