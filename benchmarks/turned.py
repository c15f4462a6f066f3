"""Is it seen what was done to an image? ``python -m benchmarks.turned RUN`` does to test people's images what
:mod:`segcft.counterfactual.repairs` undoes, and says how many are warned of, and of how many it is told rightly.

A run has its own test people; of a published model ``--people RUN`` has others of the same study.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segcft.counterfactual.repairs import ORIENTATIONS, gained_by_turning, what_happened
from segcft.counterfactual.warnings import atypical_image, turned_image
from segcft.evaluate.cohort import Cohort, SampleBatch
from segcft.evaluate.table import grid
from segcft.grey import rounded
from segcft.pipeline.calibration import read_calibration
from segcft.pipeline.completion import fill_likely
from segcft.pipeline.run import Run
from segcft.utils.progress import ConsoleProgress

FRAME = 0.08
"""Share of each side that a frame covers."""

NOTHING, SILENT, UNTOLD = "as it is", "no warning", "a warning that says no more"


def framed(images: Tensor) -> Tensor:
    """Images (B, C, H, W), smaller, in a black frame."""
    height, width = images.shape[2:]
    down, across = round(FRAME * height), round(FRAME * width)
    inner = F.interpolate(images, (height - 2 * down, width - 2 * across), mode="bilinear", antialias=True)
    return F.pad(inner, (across, across, down, down), value=-1.0)


DONE: dict[str, Callable[[Tensor], Tensor]] = {
    NOTHING: lambda images: images,
    "like a negative": lambda images: -images,
    "upside down": lambda images: images.flip(2, 3),
    "mirrored": lambda images: images.flip(3),
    "turned to the left": lambda images: images.rot90(1, (2, 3)),
    "turned to the right": lambda images: images.rot90(-1, (2, 3)),
    "framed": framed,
}
"""How an image is to look -> what is done to it."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.turned", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run, or a published model")
    parser.add_argument("--people", metavar="RUN", type=Path, help="a run that has the test people")
    parser.add_argument("--most", metavar="N", type=int, default=300, help="images at most (default: 300)")
    options = parser.parse_args(arguments)
    run, holder = Run(options.run), Run(options.people or options.run)
    store = holder.store()
    fill_likely(run, store, "test")
    rows = np.random.default_rng(0).permutation(store.indices("test", complete=True))[: options.most]
    cohort = Cohort(run.study, store, np.sort(rows), torch.device("cpu"))
    found = {name: Counter[str]() for name in DONE}
    told = _Told(run)
    for samples in ConsoleProgress()(cohort.batches(), -(-len(cohort) // run.study.evaluation.batch_size), "Looking"):
        for name, do in DONE.items():
            found[name].update(told(samples, rounded(do(samples.image))))
    print(render(found))


class _Told:
    """What is told of images by the last method of a run."""

    def __init__(self, run: Run) -> None:
        method, part = list(run.methods().items())[-1]
        self.model, self.judge, self.columns = run.model(method), run.judge(), run.study.measured_columns
        self.typical = run.typical(part, ("image", "latents"))
        calibration = read_calibration(run).get(method)
        self.turned = calibration.turned if calibration else {}

    @torch.no_grad()
    def __call__(self, samples: SampleBatch, images: Tensor) -> list[str]:
        """How each image looks, :data:`SILENT` or :data:`UNTOLD`. Its measures are those that are read from it."""
        values = samples.values.clone()
        values[:, self.columns] = self.judge.read(images)
        values = self.model.scm.derive(values)
        lengths = self.model.mechanism.lengths(self.model.abduct(images, values).noise)
        gains = gained_by_turning(self.model, self.judge, images, values, self.columns)
        said = []
        for k, (image, own) in enumerate(zip(images.split(1), values.split(1), strict=True)):
            if atypical_image({name: bits[k] for name, bits in lengths.items()}, self.typical):
                happened = what_happened(self.model, self.judge, image, own, self.columns, self.typical)
                said.append(happened or UNTOLD)
                continue
            warning = turned_image({name: bits[k] for name, bits in gains.items()}, self.turned)
            said.append(next((name for name in ORIENTATIONS if any(name in text for text in warning)), SILENT))
        return said


def render(found: dict[str, Counter[str]]) -> str:
    """A row for everything that was done, in Markdown: shares of the images."""
    body = []
    for name, said in found.items():
        right, total = said[SILENT if name == NOTHING else name], said.total()
        warned = total - said[SILENT]
        body.append([name, str(total), f"{100 * warned / total:.0f} %", f"{100 * right / total:.0f} %"])
    return grid(["images", "of them", "warned of", "told rightly"], body)


if __name__ == "__main__":
    main()
