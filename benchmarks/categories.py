"""Does an image say what nobody has told? ``python -m benchmarks.categories RUN [RUN ...]``.

Of the test samples of trained runs, of which nothing but the image and its measures is told: how often the likeliest
category is right, and the mean of minus the logarithm of the right one's probability (nats; less is better), by the
measures alone and with the image (:mod:`segcft.counterfactual.evidence`). How far the image is believed is learnt from
the validation samples. The folds of a run are given one by one, and all samples are counted together.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from segcft.evaluate.table import grid
from segcft.evaluate.temperature import beliefs, categorical, fitted_temperature
from segcft.pipeline.run import Run
from segcft.utils.progress import ConsoleProgress, Progress

Found = dict[str, list[tuple[bool, float, bool, float]]]
"""Variable -> of each sample whether the likeliest category is right and the right one's log probability: by the
measures, and with the image."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.categories", description=__doc__)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folders of trained runs")
    parser.add_argument("--method", default="none", help="whose image mechanism: none, regressor or segmentor")
    options = parser.parse_args(arguments)
    found: Found = defaultdict(list)
    for folder in options.runs:
        temperature = add(found, Run(folder), options.method, ConsoleProgress())
        print(f"{folder}: {'the image says nothing' if temperature is None else f'temperature {temperature:.0f} nats'}")
    print(render(found))


def add(found: Found, run: Run, method: str, progress: Progress) -> float | None:
    """Add what is inferred of the categories of a run's test samples; the temperature, None where the image is not
    asked."""
    study, store, model = run.study, run.store(), run.model(method)
    believed = fitted_temperature(study, model, store, store.indices("validation", masked=True), progress)
    temperature = None if believed is None else believed.temperature
    temperatures = torch.tensor([torch.inf, temperature or torch.inf], dtype=torch.float64)
    names, rows, values = list(study.variables), store.indices("test", masked=True), store.values()
    for place, belief in beliefs(study, model, store, rows, progress):
        by_both = belief.log_posterior(temperatures).exp()
        for k in categorical(study):
            right = float(values[rows[place]][k])
            if np.isnan(right):
                continue
            shares = torch.zeros(2, len(study.variables[names[k]].categories), dtype=torch.float64)
            shares.index_add_(1, belief.categories[:, k].long(), by_both)
            likeliest = (shares.argmax(dim=1) == right).tolist()
            log = shares[:, int(right)].clamp(min=1e-6).log().tolist()
            found[names[k]].append((likeliest[0], log[0], likeliest[1], log[1]))
    return temperature


def render(found: Found) -> str:
    """A row a variable, in Markdown."""
    rows = []
    for name, each in found.items():
        right, log, right_seen, log_seen = np.array(each, dtype=float).mean(axis=0)
        rows.append([name, str(len(each)), f"{right:.0%}, {-log:.2f}", f"{right_seen:.0%}, {-log_seen:.2f}"])
    return grid(["variable", "samples", "by the measures: right, loss", "and by the image"], rows)


if __name__ == "__main__":
    main()
