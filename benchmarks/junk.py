"""Which images are warned of: ``python -m benchmarks.junk MODEL RUN``.

Test people of RUN, which has the samples of MODEL (``segcft import MODEL/study.yaml --out RUN``), and what is no such
image: noise, patterns, a photograph, test people's images that were changed, and with ``--other RUN`` those of another
study. Each is looked at with the attributes of a test person. Printed are medians, and the share that is warned of.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data
from skimage.transform import resize

from segcft.counterfactual.warnings import atypical_image
from segcft.data.store import Store
from segcft.grey import to_unit
from segcft.pipeline.run import Run

Images = NDArray[np.uint8]
BATCH = 32


def patterns(shape: tuple[int, ...]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """What is no image of a person, each of ``shape`` (N, C, H, W) in 0..255."""
    random = np.random.default_rng(0)
    height, width = shape[2:]
    y, x = np.mgrid[:height, :width]
    yield "Gaussian noise", random.normal(128, 40, shape)
    yield "uniform noise", random.uniform(0, 256, shape)
    yield "checkerboard, 8 px", np.broadcast_to(255.0 * ((y // 8 + x // 8) % 2), shape)
    yield "gradient", np.broadcast_to(255 * (y / height + x / width) / 2, shape)
    yield "photograph", np.broadcast_to(resized(data.camera()[None, None], height, width), shape)


def changes() -> dict[str, Callable[[Images], NDArray[np.float64]]]:
    """What may have happened to the image of a person."""
    return {
        "half the size, padded by black": padded,
        "4 grey levels": lambda images: np.round(images / 85) * 85.0,
        "16 grey levels": lambda images: np.round(images / 17) * 17.0,
        "inverted": lambda images: 255.0 - images,
        "upside down": lambda images: images[:, :, ::-1].astype(float),
        "left and right swapped": lambda images: images[..., ::-1].astype(float),
        "half the contrast": lambda images: 64 + images / 2,
    }


def padded(images: Images) -> NDArray[np.float64]:
    height, width = images.shape[2:]
    small = resized(images, height // 2, width // 2)
    return np.pad(small, [(0, 0), (0, 0), *((a // 4, a - a // 4 - a // 2) for a in (height, width))])


def resized(images: Images, height: int, width: int) -> NDArray[np.float64]:
    return np.asarray(resize(images.astype(float), (*images.shape[:2], height, width), anti_aliasing=True))


def people(store: Store, most: int) -> NDArray[np.int64]:
    return store.indices("test", complete=True)[:most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--other", type=Path, nargs="*", default=[])
    parser.add_argument("--people", type=int, default=100, help="on whom changes are tried (default: 100)")
    options = parser.parse_args()

    run, store = Run(options.model), Store(options.run / "store")
    part = list(run.methods().values())[-1]
    network, typical = run.load(part), run.typical(part, ("image", "latents"))
    if typical is None:
        parser.error(f"{options.model}: nothing is recorded as typical")

    @torch.no_grad()
    def judge(what: str, images: NDArray[np.float64] | Images, rows: NDArray[np.int64]) -> None:
        grey = torch.from_numpy(np.clip(np.round(images), 0, 255).astype(np.uint8))
        values = torch.from_numpy(store.values()[rows])
        found = [
            network.lengths(network.abduct(to_unit(x), v, sample=False))
            for x, v in zip(grey.split(BATCH), values.split(BATCH), strict=True)
        ]
        image, latents = (torch.cat([lengths[name] for lengths in found]) for name in ("image", "latents"))
        pairs = [{"image": bits, "latents": share} for bits, share in zip(image, latents, strict=True)]
        warned = sum(bool(atypical_image(pair, typical)) for pair in pairs)
        print(f"| {what} | {image.median():.3g} | {latents.median():.3g} | {warned} of {len(rows)} |", flush=True)

    print("| image | bits a pixel | in the latents | warned of |\n| --- | ---: | ---: | ---: |")
    span, ranges = "{:.3g} to {:.3g}".format, typical.ranges
    print(f"| typical, by {typical.images} people | {span(*ranges['image'])} | {span(*ranges['latents'])} | |")
    everybody = people(store, len(store))
    judge("test people", store.images[everybody], everybody)
    rows = everybody[: options.people]
    images = store.images[rows]
    for what, change in changes().items():
        judge(f"test people, {what}", change(images), rows)
    for what, pattern in patterns(images.shape):
        judge(what, pattern, rows)
    for folder in options.other:
        other = Store(folder / "store")
        theirs = resized(other.images[people(other, len(rows))], *images.shape[2:])
        judge(f"of {folder.name}", theirs, rows[: len(theirs)])


if __name__ == "__main__":
    main()
