"""How much of a true direct effect an image tells of at all: what the answer has that errs least.

``python -m benchmarks.knowable`` sets the sex, and the age, of simulated people and holds their areas. No image of a
man shows what his breasts would be like. An answer that knows all else, and of these how likely each is, errs least if
it is their mean. Its direct effect and its amplification are printed as an evaluation has them, beside the size of the
true change.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from segcft.evaluate.metrics.pair_change import along
from segcft.simulate.chest import ChestSimulator
from segcft.simulate.people import person_number
from segcft.utils.progress import ConsoleProgress

SEED = 1
"""Of the people, as the study's."""


def changes(simulator: ChestSimulator, person: int, do: dict[str, float | str], draws: int) -> Tensor:
    """What ``do`` truly changes, all else held, (K, H, W) in grey levels: one for each of ``draws`` ways in which what
    the image does not show may be."""
    known = simulator.attributes(person)
    before = simulator.render(person, known)[0].astype(np.float32)
    unseen = [person_number(SEED + 1, k) for k in range(draws)] if known["sex"] == "M" else [person]
    drawn = [simulator.render(person, known | do, unseen=one)[0] - before for one in unseen]
    return torch.from_numpy(np.stack(drawn))


def best(true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of an answer that is the mean of all other ways ``true`` (K, H, W) may be: the share of each that it has, its
    amplification, and the mean square of the true change, (K,) each."""
    count = len(true)
    answer = (true.sum(dim=0) - true) / (count - 1) if count > 1 else true
    return *along(answer, true), true.square().flatten(1).mean(dim=1)


def questions(simulator: ChestSimulator, people: int) -> Iterator[tuple[str, int, dict[str, float | str]]]:
    """An attribute, a person, and what it is set to: the other sex, another one's age."""
    for index in range(people):
        person, other = person_number(SEED, index), person_number(SEED, people + index)
        sex = simulator.attributes(person)["sex"]
        yield "sex", person, {"sex": "F" if sex == "M" else "M"}
        yield "age", person, {"age": simulator.attributes(other)["age"]}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.knowable", description=__doc__)
    parser.add_argument("--people", type=int, default=200, metavar="N")
    parser.add_argument("--draws", type=int, default=24, metavar="N", help="of what no image shows (default: 24)")
    parser.add_argument("--size", type=int, default=128, metavar="PX", help="pixels a side (default: 128)")
    options = parser.parse_args(arguments)
    simulator = ChestSimulator((options.size, options.size))
    found: dict[str, list[list[float]]] = {"sex": [], "age": []}
    asked = list(questions(simulator, options.people))
    for name, person, do in ConsoleProgress()(asked, len(asked), "drawing"):
        share, rest, size = best(changes(simulator, person, do, options.draws if name == "sex" else 1))
        # Larger changes count more, as in the evaluation; where nothing changes there is no share.
        found[name].append([float((one.nan_to_num() * size).mean()) for one in (share, rest, torch.ones_like(size))])
    print("| do | true change, grey levels (root mean square) | direct effect of the best answer | its amplification |")
    print("| --- | ---: | ---: | ---: |")
    for name, rows in found.items():
        share, rest, size = np.mean(rows, axis=0)
        print(f"| {name}, areas held | {np.sqrt(size):.2f} | {share / size:.2f} | {rest / size:.2f} |")


if __name__ == "__main__":
    main()
