"""The README's first picture: answers of a published model beside the simulator's truth.

``python -m benchmarks.picture --out docs/_static/truth.png`` asks for a larger and a smaller heart of simulated people
whom no training has seen. It draws what the model answers, what the simulator truly makes of them, and how much
brighter (red) or darker (blue) than the truth image and answer are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import segcft
from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.evaluate.names import plain
from segcft.evaluate.page import frame, outline, show
from segcft.grey import to_unit
from segcft.importers.simulated import make_simulator, mask_order
from segcft.io.rendering import structure_colours
from segcft.simulate.people import person_number

MODEL, VARIABLE = Path(__file__).parents[1] / "models" / "chest-sim", "heart_area"
CHANGES = (0.3, -0.2)
"""A subject each, relative."""
PANEL = 1.7
"""Inches."""


class Compared(NamedTuple):
    """A subject: image, answer and truth (H, W), the outlined structure's mask in each, and what was asked."""

    image: NDArray[np.uint8]
    answer: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    masks: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    asked: float


def compare(model: segcft.Model, variable: str, changes: tuple[float, ...]) -> list[Compared]:
    """A subject that no training has seen for each change, beside its truth."""
    study = model.study
    assert isinstance(study.data, SimulatedData)
    simulator = make_simulator(study)
    own = study.measured.index(variable)
    place = mask_order(study, simulator)[own]
    found = []
    for index, change in enumerate(changes):
        person = person_number(study.data.seed, study.data.people + index)  # after all that the study has drawn
        known = simulator.attributes(person)
        do = {variable: float(known[variable]) * (1 + change)}
        image, before = simulator.render(person, known)
        truth, after = simulator.render(person, simulator.attributes(person, do))
        answer = model.counterfactual(image, known, do=do)
        masks = (before[place] / 255, answer.masks_after[own].astype(float), after[place] / 255)
        found.append(Compared(image, answer.image.squeeze(), truth, masks, change))
    return found


def draw(compared: list[Compared], study: Study, variable: str) -> Any:
    """A row a subject: image, answer, truth, and how much the image and the answer differ from the truth."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    titles = ("image", "answer", "truth", "image less truth", "answer less truth")
    size = (PANEL * len(titles) + 0.7, 0.92 * PANEL * len(compared) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(compared), len(titles), squeeze=False)
    colour = structure_colours(len(study.structures))[study.measured.index(variable)]
    misses = [(one.image.astype(float) - one.truth, one.answer.astype(float) - one.truth) for one in compared]
    limit = float(np.quantile(np.abs(misses), 0.995))
    for row, one, missed in zip(axes, compared, misses, strict=True):
        for axis, picture, mask in zip(row, (one.image, one.answer, one.truth), one.masks, strict=False):
            show(axis, to_unit(torch.from_numpy(picture))[None])
            outline(axis, mask, colour)
        row[0].set_ylabel(f"do({plain(variable)} {one.asked:+.0%})", fontsize=9)
        for axis, difference in zip(row[3:], missed, strict=True):
            frame(axis)
            axis.imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    bar = figure.colorbar(ScalarMappable(Normalize(-limit, limit), "RdBu_r"), ax=axes[:, -1], shrink=0.8, extend="both")
    bar.set_label("grey levels", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("truth.png"), help="file to write (default: truth.png)")
    options = parser.parse_args(arguments)
    model = segcft.load(MODEL)
    draw(compare(model, VARIABLE, CHANGES), model.study, VARIABLE).savefig(options.out, dpi=130)


if __name__ == "__main__":
    main()
