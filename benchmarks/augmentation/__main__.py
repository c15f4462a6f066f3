"""Does a classifier learn better from confounded people with counterfactuals? ``python -m benchmarks.augmentation``.

In the training people heart area and sex go together by selection; among the test people they are independent. From
simulated people to the table in one command, which goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import segcft
from benchmarks.augmentation.classifier import Settings, answers
from benchmarks.augmentation.figure import draw
from benchmarks.augmentation.people import LABEL, VARIABLE, Set, joined, part, read_set, simulate, truth
from benchmarks.augmentation.table import Correct, Interval, accuracies, markdown
from segcft.api.balance import correlation_ratio
from segcft.api.balanced import Recipe, augment
from segcft.config.loader import load_study
from segcft.pipeline.pool import run_all
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training.loop import make_fabric
from segcft.utils.atomic import write_text
from segcft.utils.progress import ConsoleProgress, Progress

CONFOUNDED, REWEIGHTED = "confounded people", "confounded people, reweighted"
NO_CFT, REG_CFT, SEG_CFT = (f"+ counterfactuals, {name}" for name in ("No CFT, unchecked", "Reg-CFT", "Seg-CFT"))
ALONE, TRUTH, UNBIASED = "counterfactuals alone, Seg-CFT", "+ true counterfactuals", "as many unconfounded people"
RECIPES = {
    # Without fine-tuning hardly an answer passes the check.
    NO_CFT: Recipe(VARIABLE, LABEL, "none", threshold=math.inf),
    REG_CFT: Recipe(VARIABLE, LABEL, "regressor"),
    SEG_CFT: Recipe(VARIABLE, LABEL, "segmentor"),
    ALONE: Recipe(VARIABLE, LABEL, "segmentor", originals=False),
}


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    progress, fabric = ConsoleProgress(), make_fabric(options.device)
    folder: Path = options.out
    confounded = simulate(folder, "confounded", options.people, options.share, progress)
    run = Run(folder / "run", load_study(options.study))
    run_all(Pipeline(run, fabric, confounded, progress), options.jobs)
    store = run.store()
    training, held_out = part(store, "train"), part(store, "test")
    test = read_set(simulate(folder, "test", options.test_people, options.share, progress))
    unbiased = simulate(folder, "unbiased", len(training.male), options.share, progress)
    augmented = {name: _augmented(run, recipe, folder, fabric.device, progress) for name, recipe in RECIPES.items()}

    median = float(np.median(training.heart))
    arms: dict[str, Callable[[], Set]] = {
        CONFOUNDED: lambda: training,
        REWEIGHTED: lambda: training.reweighted(median),
        **{name: partial(read_set, path) for name, path in augmented.items()},
        TRUTH: lambda: truth(augmented[SEG_CFT], confounded),
        UNBIASED: lambda: read_set(unbiased),
    }
    settings, judged = Settings(steps=options.steps), joined(test, held_out)
    correct: dict[str, Correct] = {}
    with progress.task("Classifiers", len(arms) * options.seeds) as task:
        for name, make in arms.items():
            images, found = make(), []
            for seed in range(options.seeds):
                odds = answers(images, judged, seed, settings, folder / "classifiers", fabric.device)
                found.append((odds > 0) == judged.male)
                task.advance(note=name)
            correct[name] = np.stack(found)

    rows = table(correct, test, median)
    record = {
        "segcft": segcft.__version__,
        "torch": torch.__version__,
        "seeds": options.seeds,
        "share": options.share,
        "people": {"training": len(training.male), "test": len(test.male), "held out": len(held_out.male)},
        "correlation ratio": {
            name: correlation_ratio(one.male, one.heart) for name, one in (("training", training), ("test", test))
        },
        "classifier": asdict(settings),
        "augmentation": {name: _report(path) for name, path in augmented.items()},
        "rows": {name: {group: cell._asdict() for group, cell in row.items()} for name, row in rows.items()},
    }
    write_text(folder / "table.json", json.dumps(record, indent=1) + "\n")
    write_text(folder / "table.md", markdown(rows) + "\n")
    shown = {"No CFT": NO_CFT, "Reg-CFT": REG_CFT, "Seg-CFT": SEG_CFT}
    draw(folder / "figure.png", {title: augmented[name] for title, name in shown.items()}, confounded, store)
    print(markdown(rows))
    print(f"table and figure: {folder}", file=sys.stderr)


def table(correct: Mapping[str, Correct], test: Set, median: float) -> dict[str, dict[str, Interval]]:
    """Accuracies of every arm, and Seg-CFT less the others; the people are those of ``test`` and then others."""
    people, everybody = len(test.male), next(iter(correct.values())).shape[1]
    tested = np.arange(everybody) < people
    cells = np.full(everybody, -1)
    cells[:people] = test.cells(median)
    groups = {
        "all test people": tested,
        "women, large heart": cells == 1,
        "men, small heart": cells == 2,
        "women, small heart": cells == 0,
        "men, large heart": cells == 3,
        "held-out confounded people": ~tested,
    }
    others = [name for name in correct if name != SEG_CFT]
    return accuracies(correct, groups, {f"Seg-CFT less {other}": (SEG_CFT, other) for other in others})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augmentation", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/augmentation"), metavar="DIR")
    parser.add_argument("--study", type=Path, default=Path(__file__).with_name("study.yaml"), metavar="FILE")
    parser.add_argument("--people", type=int, default=1500, metavar="N", help="confounded people (default: 1500)")
    parser.add_argument("--test-people", type=int, default=2000, metavar="N", help="(default: 2000)")
    parser.add_argument(
        "--share",
        type=float,
        default=0.05,
        help="of men with small and women with large hearts this share is among the confounded people (default: 0.05)",
    )
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="classifiers of each kind (default: 10)")
    parser.add_argument(
        "--steps", type=int, default=Settings.steps, metavar="N", help=f"of a classifier (default: {Settings.steps})"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="parts of the run trained at once (default: 1)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    return parser


def _augmented(run: Run, recipe: Recipe, folder: Path, device: torch.device, progress: Progress) -> Path:
    out = folder / f"augmented-{recipe.method}{'' if recipe.originals else '-alone'}"
    if not (out / "augmentation.json").is_file():
        augment(run, out, recipe, device=device, progress=progress)
    return out


def _report(augmented: Path) -> Any:
    return json.loads((augmented / "augmentation.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
