"""What do classifiers of real radiographs read? ``python -m benchmarks.stress_real --data DIR``.

Two networks learn from half of the patients, and are tried on the others (`segcft stress`) by the answers of
``models/chest``: sex at the NIH (DIR/nih224), and enlarged hearts at the Chinese hospital (DIR/ctr256: a cardiothoracic
ratio above one half, by its reference). Nobody knows what is right here. It is told how well each tells what it learnt,
and what is found. The model has been trained on images of these hospitals: what is new to the classifier is not new to
it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from segcft.api.model import Model
from segcft.api.question import read_pixels
from segcft.config.foreign import Outputs
from segcft.evaluate.auc import auc
from segcft.evaluate.two_sample import Classifier as Recipe
from segcft.evaluate.two_sample import on
from segcft.readers.classifier import Classifier
from segcft.report.stress import write_page
from segcft.stress.audit import Settings, stress
from segcft.stress.people import Person, chosen
from segcft.stress.source import ModelSource
from segcft.utils.atomic import write_text
from segcft.utils.progress import ConsoleProgress

MODEL = Path(__file__).parents[1] / "models/chest"
ENLARGED = 0.5
"""Cardiothoracic ratios above it are of enlarged hearts."""
CHILD = 18
"""Years below which patients are left out: the model has learnt from few."""
SIDE = 112
"""Pixels a side that classifiers see."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stress_real", description=__doc__)
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="folder of nih224 and ctr256")
    parser.add_argument("--steps", type=int, default=800, help="of each training (default: 800)")
    parser.add_argument("--people", type=int, default=100, help="images that are tried on, at most (default: 100)")
    parser.add_argument("--doses", type=int, default=5)
    parser.add_argument("--variables", nargs="+", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/stress-real"))
    parser.add_argument("--page", type=Path, help="Markdown page to write")
    options = parser.parse_args(arguments)
    model = Model(MODEL)
    tables = {"a man, NIH": sex(options.data), "an enlarged heart, China": enlarged(options.data)}
    parts = [tried(model, name, table, options) for name, table in tables.items()]
    text = "\n".join(["# What do classifiers of real radiographs read?", "", *parts])
    print(text)
    if options.page is not None:
        write_text(options.page, text)


def sex(data: Path) -> pd.DataFrame:
    """Adults of the NIH, who is a man, and what the model is told of them."""
    table = _table(data / "nih224")
    table = table[table["age"].astype(float) >= CHILD]
    rows = table[["sex", "age", "view"]].to_dict("records")
    known = pd.Series([{"site": "nih"} | row for row in rows], index=table.index, dtype=object)
    return table.assign(label=table["sex"] == "M", known=known)


def enlarged(data: Path) -> pd.DataFrame:
    """Those of the Chinese hospital of whom there is a ratio."""
    table = _table(data / "ctr256")
    ratio = table["cardiothoracic_ratio"].astype(float)
    table = table[ratio.notna()].assign(label=ratio[ratio.notna()] > ENLARGED, patient=table["id"])
    known = pd.Series([{"site": "ctr", "view": "PA"}] * len(table), index=table.index, dtype=object)
    return table.assign(known=known)


def _table(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    return table.assign(file=[str(folder / "images" / f"{id}.png") for id in table["id"]])


def tried(model: Model, name: str, table: pd.DataFrame, options: argparse.Namespace) -> str:
    """Train on half of the patients, try on the others; what is found, in Markdown."""
    progress, patients = ConsoleProgress(), table["patient"].to_numpy(dtype=str)
    order = np.random.default_rng(0).permutation(np.unique(patients))
    teaches = np.isin(patients, order[: len(order) // 2])
    images = torch.from_numpy(np.stack([read_pixels(model.study, file) for file in table["file"]]))
    small = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True).round().byte()
    label = table["label"].to_numpy(dtype=bool)
    first, second = (small[torch.from_numpy(teaches & (label == one))] for one in (False, True))
    with progress.task(f"Training: {name}", options.steps) as task:
        network = Recipe(steps=options.steps).train(first, second, 0, task.advance)
    network.requires_grad_(False)
    others = on(torch.device("cpu"), small[torch.from_numpy(~teaches)])
    scores = np.concatenate([network(x)[:, 0].numpy() for x in others])
    told = auc(scores[label[~teaches]], scores[~label[~teaches]])
    fields = table[["id", "patient", "file", "known"]][~teaches]
    persons = chosen([Person(*row) for row in fields.itertuples(index=False)], options.people, 0)
    spec = Outputs(outputs={name: 0}, range=(-1, 1), size=(SIDE, SIDE))
    settings = Settings(tuple(options.variables), options.doses)
    origin = {"model": MODEL.name, "classifier": name}
    source = ModelSource(model, persons)
    audit = stress(source, Classifier(network, spec, name), settings, (), origin | {"method": source.method}, progress)
    folder = options.out / name.replace(", ", "-").replace(" ", "-").lower()
    audit.write(folder)
    write_page(audit, folder / "stress.html")
    table_ = (folder / "stress.md").read_text(encoding="utf-8").replace("\n## ", "\n### ").partition("\n")[2]
    return f"## {name}\n\nThe area under the ROC curve is {told:.2f} ({len(scores)} images of others).\n{table_}"


if __name__ == "__main__":
    main()
