"""Images a second into a store and out of it: ``python -m benchmarks.data --help``.

The baseline is what research code does in place of a store: a PyTorch DataLoader whose workers open and resize a PNG
file for every sample of every epoch. The store has done that once, at import, whose time is printed too. Both read from
the system's cache.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.data.batches import Batches
from segcft.data.store import Store
from segcft.importers.folder import import_folder


class Files(Dataset[Any]):
    """PNG files, resized when asked for: (1, ``size``, ``size``) uint8 each."""

    def __init__(self, folder: Path, size: int) -> None:
        self.paths, self.size = sorted(folder.glob("*.png")), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as picture:
            return torch.from_numpy(np.asarray(picture.resize((self.size, self.size)))[None].copy())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--images", type=int, default=600, metavar="N", help="files to make (default: 600)")
    parser.add_argument("--file-size", type=int, default=512, metavar="PX", help="pixels a side (default: 512)")
    parser.add_argument("--size", type=int, default=224, metavar="PX", help="of the study's grid (default: 224)")
    parser.add_argument("--batch", type=int, default=32, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="the fastest counts (default: 3)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, options.images, options.file_size)
        study = _study(options.size)
        print("| what | images/s | ratio |\n| --- | --- | --- |")
        imported = _fastest(lambda: import_folder(study, folder, folder / "store"), options.rounds)
        print(
            f"| import: image and mask, {options.file_size} to {options.size} px | {options.images / imported:.0f} | |"
        )
        workers = os.cpu_count() or 1
        images = Files(folder / "images", options.size)
        files = DataLoader(images, options.batch, shuffle=True, num_workers=workers, persistent_workers=True)
        sum(1 for _ in files)  # starts the workers
        store = Store(folder / "store")
        batches = Batches(store, store.indices(), options.batch, seed=0)
        steps = len(store) // options.batch
        base = options.images / _fastest(lambda: sum(1 for _ in files), options.rounds)
        ours = steps * options.batch / _fastest(lambda: sum(1 for _ in batches.from_step(0, steps)), options.rounds)
        print(f"| DataLoader of PNG files, {workers} workers: images | {base:.0f} | 1 |")
        print(f"| segcft's batches: images, masks and values | {ours:.0f} | {ours / base:.1f} |")


def _fastest(call: Callable[[], Any], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _write(folder: Path, images: int, size: int) -> None:
    """Smooth images with some noise, which compress about as radiographs do, and masks of two ellipses."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    for part in ("images", "masks"):
        (folder / part).mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "age"])
        for i in range(images):
            width = random.uniform(0.2, 0.4)
            left, right = (((columns + s) / width) ** 2 + rows**2 * 2 < 1 for s in (0.5, -0.5))
            image = 160 - 80 * (left | right) + 30 * rows + random.normal(0, 3, rows.shape)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{i}.png")
            Image.fromarray((left + 2 * right).astype(np.uint8)).save(folder / "masks" / f"{i}.png")
            table.writerow([i, 50 + i % 30])


def _study(size: int) -> Study:
    step = {"steps": 1}
    area = {"kind": "continuous", "parents": ["age"]}
    return parse_study(
        {
            "name": "files",
            "image": {"size": [size, size]},
            "variables": {"age": {"kind": "continuous"}, "left_area": area, "right_area": area},
            "structures": {
                "left": {"variable": "left_area", "bit": 1},
                "right": {"variable": "right_area", "bit": 2},
            },
            "data": {"source": "folder"},
            "segmentor": step | {"seed": 1},
            "judge": step | {"seed": 2},
            "regressor": step,
            "scm": step,
            "hvae": step | {"levels": [{"width": 8}]},
            "finetune": step,
        }
    )


if __name__ == "__main__":
    main()
