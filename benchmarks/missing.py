"""What images teach of attributes that many of their subjects lack: ``python -m benchmarks.missing``.

Simulated people, half of whom lack sex and age. The image mechanism is trained, by likelihood alone, on those who have
both; on all, with what is missing drawn (``hvae.missing: draw``); on all, with draws that follow what a predictor sees
in the image; and, as the best that can be had, on all with nothing missing. Asked is what sex and age do to the image
by themselves, all areas held: effectiveness is the share of the true change that the answers obtain, e't / |t|^2 over
all people that nobody was trained on, and 1 is right; the rest of the change is amplification, and 0 is right. Areas
are asked for, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.data.batches import sequential
from segcft.evaluate.names import plain
from segcft.evaluate.table import grid
from segcft.evaluate.truth import Truth
from segcft.grey import to_unit
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training.loop import make_fabric
from segcft.utils.progress import ConsoleProgress

STUDY = Path(__file__).parent.parent / "configs/quickstart.yaml"
LACKING = ("sex", "age")
BATCH = 64
WAYS: Mapping[str, Mapping[str, Any]] = {
    "left out": {},
    "drawn": {"hvae": {"missing": "draw"}},
    "drawn, as the image shows": {"hvae": {"missing": "draw"}, "predictor": {}},
    "nothing missing": {},
}


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    ways = options.ways or list(WAYS)
    rows = [[way, *_scores(way, options)] for way in ways]
    study = _study(ways[0], options)
    asked = [f"do({plain(name)})" for name in (*LACKING, *study.measured)]
    print(f"effectiveness / amplification; {options.share:.0%} lack {' and '.join(LACKING)}\n")
    print(grid(["samples that lack attributes", *asked], rows))


def _study(way: str, options: argparse.Namespace) -> Study:
    """The quickstart's with the settings of a way, and a share of its steps."""
    raw = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    changes = dict(WAYS[way])
    if "predictor" in changes:
        changes["predictor"] = raw["regressor"] | {"seed": 17}
        changes["predictor_judge"] = raw["regressor"] | {"seed": 18}
    raw |= {section: raw.get(section, {}) | new for section, new in changes.items()}
    for section in ("scm", "hvae", *(["predictor"] if "predictor" in raw else [])):
        raw[section] = raw[section] | {"steps": max(1, round(raw[section]["steps"] * options.steps))}
    raw["data"] = raw["data"] | {"people": options.people}
    return parse_study(raw)


def _scores(way: str, options: argparse.Namespace) -> list[str]:
    """How much of the true change the mechanism of a way obtains, of every variable."""
    study = _study(way, options)
    pipeline = Pipeline(
        Run(options.out / way.replace(", ", "-").replace(" ", "-"), study), make_fabric("cpu"), None, ConsoleProgress()
    )
    pipeline.run_stage("import")
    if way != "nothing missing":
        _hide(pipeline, options)
    pipeline.run_stage("hvae")
    return [_score(pipeline, name) for name in (*LACKING, *study.measured)]


def _hide(pipeline: Pipeline, options: argparse.Namespace) -> None:
    """Take the attributes of a share of the training and validation people away."""
    store, columns = pipeline.store, [list(pipeline.study.variables).index(name) for name in LACKING]
    rows = np.concatenate([store.indices("train"), store.indices("validation")])
    rows = np.random.default_rng(0).permutation(rows)[: round(options.share * len(rows))]
    values = store.values()[rows]
    values[:, columns] = np.nan
    store.fill(rows, values)


@torch.inference_mode()
def _score(pipeline: Pipeline, name: str) -> str:
    """Effectiveness and amplification of a change of one variable to another subject's value, all others held."""
    study, store = pipeline.study, pipeline.store
    truth, mechanism = Truth.of(study, store), pipeline.run.load("hvae")
    assert truth is not None
    column, rows = list(study.variables).index(name), store.indices("test")
    lent = np.random.default_rng(1).permutation(store.values()[rows, column])
    along, true, obtained = 0.0, 0.0, 0.0
    others = iter(torch.from_numpy(lent).split(BATCH))
    for batch in sequential(store, rows, BATCH):
        image, values = to_unit(batch["image"]), batch["values"]
        after = values.clone()
        after[:, column] = next(others)
        do: dict[str, Tensor] = {one: after[:, k] for k, one in enumerate(study.variables)}
        drawn = truth.counterfactuals(batch["index"], do)
        assert drawn is not None
        t = drawn.image - image
        e = mechanism.predict(mechanism.abduct(image, values, sample=False), after) - image
        along, true, obtained = along + float((e * t).sum()), true + float(t.square().sum()), obtained + _square(e)
    effective = along / true
    return f"{effective:.2f} / {max(0.0, obtained / true - effective**2) ** 0.5:.2f}"


def _square(one: Tensor) -> float:
    return float(one.square().sum())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.missing", description=__doc__)
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="(default: all)")
    parser.add_argument("--people", type=int, default=1500, help="simulated people (default: 1500)")
    parser.add_argument("--share", type=float, default=0.5, help="of those trained on who lack (default: 0.5)")
    parser.add_argument("--steps", type=float, default=1.0, help="share of the quickstart's steps (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/missing"))
    return parser


if __name__ == "__main__":
    main()
