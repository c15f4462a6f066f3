"""Answers in the image's own pixels beside the simulator's truth: ``python -m benchmarks.full``.

Simulated people whom no training has seen are drawn at several times the side of the model's grid. The model answers on
its grid; the answer in the image's own pixels (:mod:`segcft.api.full`) and the answer enlarged are compared with what
the simulator truly makes of the person at that size. Errors are of the pixels that truly change by more than a level.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import segcft
from segcft.config.sources import SimulatedData
from segcft.data.resize import smooth
from segcft.evaluate.names import plain
from segcft.evaluate.table import grid
from segcft.simulate import ChestSimulator
from segcft.simulate.people import person_number
from segcft.utils.progress import ConsoleProgress

MODEL = Path(__file__).parents[1] / "models" / "chest-sim"
CHANGES = (-0.25, -0.15, 0.15, 0.25)
FINE = 2.0
"""Detail is what a Gaussian of this many pixels of the grid takes away."""

Grey = NDArray[np.float64]


def errors(model: segcft.Model, variable: str, people: int, times: int, progress: ConsoleProgress) -> dict[str, Grey]:
    """Mean errors of grey levels, and of detail, of each way to have the answer at the image's own size, (2,)."""
    study = model.study
    assert isinstance(study.data, SimulatedData)
    height, width = study.image.size
    simulator, small = ChestSimulator((height * times, width * times)), ChestSimulator((height, width))
    found: dict[str, list[Grey]] = {}
    for index in progress(range(people), people, f"do({plain(variable)})"):
        person = person_number(study.data.seed, study.data.people + index)  # after all that the study has drawn
        known, large = small.attributes(person), simulator.attributes(person)
        change = CHANGES[index % len(CHANGES)]
        image, _ = simulator.render(person, large)
        truth, _ = simulator.render(
            person, simulator.attributes(person, {variable: float(large[variable]) * (1 + change)})
        )
        answer = model.counterfactual(image, known, do={variable: float(known[variable]) * (1 + change)})
        changed = np.abs(truth.astype(float) - image) > 1
        ways = {
            "no change": image.astype(float),
            "answer, enlarged": smooth(answer.image, image.shape)[0],
            "answer in its own pixels": answer.full_resolution(image)[0].astype(float),
        }
        for way, shown in ways.items():
            both = (shown - truth, _fine(shown, times) - _fine(truth, times))
            off, detail = (np.abs(one)[changed].mean() for one in both)
            found.setdefault(way, []).append(np.array([off, detail]))
    return {way: np.mean(every, axis=0) for way, every in found.items()}


def _fine(image: Grey | NDArray[np.uint8], times: int) -> Grey:
    image = image.astype(float)
    fine: Grey = image - gaussian_filter(image, FINE * times)
    return fine


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full", description=__doc__)
    parser.add_argument("--people", type=int, default=40, help="for each structure (default: 40)")
    parser.add_argument("--times", type=int, default=4, help="the grid's side (default: 4)")
    options = parser.parse_args(arguments)
    model, body = segcft.load(MODEL), []
    for variable in model.study.measured:
        for way, (off, detail) in errors(model, variable, options.people, options.times, ConsoleProgress()).items():
            body.append([f"do({plain(variable)})", way, f"{off:.2f}", f"{detail:.2f}"])
    print(grid(["do", "shown", "grey levels", "of detail"], body, labels=2))


if __name__ == "__main__":
    main()
