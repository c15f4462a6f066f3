"""What a reader says of answers that has learnt from images and tables alone.

``python -m benchmarks.second_opinion RUN --data DIR`` trains a reader of age, sex, view and cardiothoracic ratio
(``benchmarks/second_opinion.yaml``; the ratio is that of ctr's key points) on the training people of RUN, a run of
``configs/anatomy/chest-128.yaml``: without masks, guide or judge. It reads the answers about RUN's test people. A
change should look to it as people look who differ so: what it says is regressed on the true value among people whom it
has not seen, given hospital and view, and an answer that changes the value by so much is expected to change what is
said accordingly. A changed lung should change the ratio that it reads by as much as the lung changes the ratio.
Intervals are over people; that the regression is not exact, least of all that of the ratio, is not in them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.config.loader import load_study
from segcft.config.study import Study
from segcft.data.store import Store
from segcft.evaluate.bootstrap import bootstrap_means
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.table import grid
from segcft.grey import rounded, to_unit
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.readers.predictor import Predictor
from segcft.training.loop import make_fabric
from segcft.utils.progress import ConsoleProgress, Progress

STUDY = Path(__file__).with_suffix(".yaml")
RATIO, LUNG = "cardiothoracic_ratio", "left_lung_area"
BATCH = 32

Floats = NDArray[np.float64]


class Ask(NamedTuple):
    """An intervention: the column of its variable among values (N, V), what it is set to, (N,), and what is read."""

    label: str
    column: int
    set_to: Tensor
    read: str


class Opinion(NamedTuple):
    """What is said of the answers of a method: changes of what is read that were expected and found, (N,)."""

    label: str
    read: str
    method: str
    expected: Floats
    found: Floats


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_opinion", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a trained run of the three hospitals")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets' folders")
    parser.add_argument("--study", type=Path, default=STUDY, help="another study of a reader")
    parser.add_argument("--out", type=Path, default=Path("runs/second-opinion"))
    options = parser.parse_args(arguments)
    progress, run = ConsoleProgress(), Run(options.run)
    own = Run(options.out, load_study(options.study))
    Pipeline(own, make_fabric("cpu"), options.data, progress).run_stage("predictor")
    reader: Predictor = own.load("predictor")
    store, known = run.store(), own.store()
    unseen = np.sort(np.concatenate([known.indices("validation"), known.indices("test")]))
    said, values = says(reader, images(known, unseen)), torch.from_numpy(known.values()[unseen])
    source = known.table["segcft:source"].iloc[unseen].to_numpy(dtype=str)
    effects = {one.name: slope(reader, one.name, said, values, source) for one in reader.outputs}
    print(quality(reader, said, values))
    rows = apart(store, known)
    patients = store.table["patient"].iloc[rows].to_numpy(dtype=str)
    print()
    print(render(list(opinions(run, store, rows, reader, effects, progress)), patients))


def apart(store: Store, known: Store) -> NDArray[np.int64]:
    """Test samples of the run that the reader was not trained on, and whose causes are all known.

    Raises:
        SystemExit: it was trained on one of them.
    """
    rows = store.indices("test", complete=True)
    trained = set(known.table["patient"].iloc[known.indices("train")])
    seen = set(store.table["patient"].iloc[rows]) & trained
    if seen:
        raise SystemExit(f"the reader was trained on {len(seen)} of the people whom it should judge: other splits?")
    return rows


def images(store: Store, rows: NDArray[np.int64]) -> Tensor:
    """(N, C, *size) in [-1, 1]."""
    return to_unit(torch.from_numpy(np.stack([store.images[row] for row in rows])))


@torch.inference_mode()
def says(reader: Predictor, x: Tensor) -> dict[str, Floats]:
    """What the reader says of images: of numbers in their unit, of two categories the log odds of the second, (N,)."""
    said = torch.cat([reader(part) for part in x.split(BATCH)])
    found = {}
    for place, output in enumerate(reader.outputs):
        one = said[:, output.columns]
        value = one[:, 1] - one[:, 0] if output.categories else one[:, 0] * reader.std[place] + reader.mean[place]
        found[output.name] = value.double().numpy()
    return found


def slope(reader: Predictor, name: str, said: dict[str, Floats], values: Tensor, source: NDArray[np.str_]) -> float:
    """By how much more is said of people whose value is larger by 1, of one hospital and, but for the view itself, of
    one view: these are causes of the others."""
    columns = {one.name: one.column for one in reader.outputs}
    value = values[:, columns[name]].double().numpy()
    others = [source == one for one in sorted(set(source))]
    if name != "view":
        others.append(values[:, columns["view"]].numpy())
    held = np.column_stack([value, *others]).astype(float)
    rows = ~np.isnan(held).any(axis=1)
    fit, *_ = np.linalg.lstsq(held[rows], said[name][rows], rcond=None)
    return float(fit[0])


def quality(reader: Predictor, said: dict[str, Floats], values: Tensor) -> str:
    """How well the reader reads people whom it has not seen, in words."""
    lines = []
    for output in reader.outputs:
        value = values[:, output.column].double().numpy()
        known = ~np.isnan(value)
        one, value = said[output.name][known], value[known]
        if output.categories:
            lines.append(f"{plain(output.name)}: {np.mean((one > 0) == (value == 1)):.0%} of {known.sum()} right")
        else:
            lines.append(f"{plain(output.name)}: r {np.corrcoef(one, value)[0, 1]:.2f} of {known.sum()}")
    return "The reader, of people whom it has not seen: " + ", ".join(lines) + "."


@torch.no_grad()
def opinions(
    run: Run,
    store: Store,
    rows: NDArray[np.int64],
    reader: Predictor,
    effects: dict[str, float],
    progress: Progress,
) -> Iterator[Opinion]:
    """What the reader says of each method's answers to each question."""
    study, x = run.study, images(store, rows)
    values = torch.from_numpy(store.values()[rows])
    before = says(reader, x)
    models = {method: run.model(method) for method in run.methods()}
    column = list(study.variables).index
    asks = list(questions(study, values))
    for ask in progress(asks, len(asks), "Asking"):
        do = torch.full_like(values, torch.nan)
        do[:, ask.column] = ask.set_to
        for method, model in models.items():
            after = model.scm.counterfactual(values, do, torch.Generator().manual_seed(study.evaluation.seed))
            answers = [
                rounded(model.abduct(image, own).predict(wanted))
                for image, own, wanted in zip(x.split(BATCH), values.split(BATCH), after.split(BATCH), strict=True)
            ]
            change = (after - values)[:, column(ask.read)].double().numpy()
            found = says(reader, torch.cat(answers))[ask.read] - before[ask.read]
            yield Opinion(ask.label, ask.read, method, effects[ask.read] * change, found)


def questions(study: Study, values: Tensor) -> Iterator[Ask]:
    """What is asked: each attribute is another one, hearts get a share of the thorax that is usual, a lung shrinks."""
    names = list(study.variables)
    for name in ("sex", "view"):
        column = names.index(name)
        yield Ask(f"the other {name}", column, 1 - values[:, column], name)
    age, ratio, lung = (names.index(one) for one in ("age", RATIO, LUNG))
    median = values[:, age].median()
    yield Ask("20 years to the middle", age, values[:, age] + 20 * (median - values[:, age]).sign(), "age")
    yield Ask("ratio 0.45", ratio, torch.full_like(values[:, ratio], 0.45), RATIO)
    yield Ask("left lung -20 %", lung, 0.8 * values[:, lung], RATIO)


def render(found: Sequence[Opinion], patients: NDArray[np.str_]) -> str:
    """A row a question and method, in Markdown. What is obtained of an expected change is a ratio of means, each
    answer's sign being that of its expected change."""
    head = ["asked for", "read", "method", "expected change", "found", "share"]
    body = []
    for one in found:
        sign, size = np.sign(one.expected), np.abs(one.expected)
        means = bootstrap_means(np.column_stack([size, one.found * sign]), patients)
        shares = np.divide(one.found * sign, size, out=np.zeros_like(size), where=size > 0)
        share = bootstrap_means(shares[:, None], patients, weights=size[:, None])
        body.append(
            [
                one.label,
                plain(one.read),
                method_name(one.method),
                *(f"{value:.3g}" for value in means.value),
                f"{share.value[0]:.2f} ({share.low[0]:.2f} to {share.high[0]:.2f})",
            ]
        )
    return grid(head, body, labels=3)


if __name__ == "__main__":
    main()
