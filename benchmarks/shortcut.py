"""Do guides take a shortcut, and do counterfactuals? ``python -m benchmarks.shortcut --page docs/shortcut.md``.

Among those who train, films of large hearts are brighter (``data.confounding``; correlation rho of 0, 0.5, 0.9), and
among those who judge and are judged they are not. The paper's hypothesis is that a regressor reads the area off the
brightness, so that Reg-CFT brightens the image instead of enlarging the heart, and that a segmentor does not. Each rho
is trained three times at 64 x 64 pixels (``configs/quickstart.yaml``; about two hours on 2 CPU cores): as it is planned
now, without the price on changed pixels, and with guides that learn from images as they are, without changes of greys.

Of each, of test people: by how much the guide's reading rises with the film's brightness (standard deviations of the
area for one of the brightness, of which the area knows nothing), what answers to do(heart area) obtain (slope, error),
how much they brighten what is far from the heart (grey levels for one standard deviation more of the area; the truth
has 0), how local they are and how far from the truth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.trainings import figure_of, train_all, varied
from segcft.config.loader import load_study
from segcft.config.study import Study
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.evaluation import lent
from segcft.evaluate.metrics.effectiveness import error_of
from segcft.evaluate.names import method_name
from segcft.evaluate.table import grid
from segcft.evaluate.truth import Truth
from segcft.grey import GREY_LEVELS
from segcft.grid import Grid
from segcft.pipeline.folds import read_outcome
from segcft.pipeline.judging import guides_of
from segcft.pipeline.replicates import replicate
from segcft.pipeline.run import Run
from segcft.simulate.chest import Noise
from segcft.simulate.radiograph import Exposure
from segcft.utils.atomic import write_text

BASE = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
VARIABLE, STRUCTURE = "heart_area", "heart"
RHOS = (0.0, 0.5, 0.9)
SEEDS = 3
SPLITS = {"train": 0.52, "judge": 0.2, "validation": 0.08, "test": 0.2}
"""Who judges learns from people of their own, whom nothing confounds."""
PEOPLE = 2000
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "as planned": {},
    "no price": {"finetune": {"least_change": 0}},
    "greys as they are": {"segmentor": {"augment": {}}, "regressor": {"augment": {}}},
}
"""What is done -> what it changes in the study."""


class Found(NamedTuple):
    """Of one method of one training."""

    arm: str
    rho: float
    method: str
    reads_brightness: float
    slope: float
    error: float
    brightens: float
    locality: float
    true_error: float


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shortcut", description=__doc__)
    parser.add_argument("--base", type=Path, default=BASE, help="another study of the chest simulator")
    parser.add_argument("--people", type=int, default=PEOPLE, help=f"simulated people (default: {PEOPLE})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"trainings of each (default: {SEEDS})")
    parser.add_argument("--out", type=Path, default=Path("runs/shortcut"))
    parser.add_argument("--page", type=Path, help="Markdown page to write")
    options = parser.parse_args(arguments)
    base = varied(load_study(options.base), "shortcut", {"data": {"people": options.people}, "splits": SPLITS})
    variants = {name: (arm, rho, study) for name, arm, rho, study in variants_of(base, options.seeds)}
    runs = train_all({name: study for name, (_, _, study) in variants.items()}, options.out)
    found = [one for name, run in runs.items() for one in findings(run, *variants[name][:2])]
    text = render(found, base, options.seeds)
    print(text)
    if options.page is not None:
        write_text(options.page, text)


def variants_of(base: Study, seeds: int) -> Iterator[tuple[str, str, float, Study]]:
    """Name, arm, rho and study of every training; those of one seed and rho share what is alike."""
    for seed in range(1, seeds + 1):
        own = replicate(base, seed)
        for rho in RHOS:
            confounding = {"variable": VARIABLE, "quality": "exposure", "rho": rho}
            for arm, changes in ARMS.items():
                name = f"{arm.replace(' ', '-')}-rho-{rho:g}-seed-{seed}"
                yield name, arm, rho, varied(own, name, {"data": {"confounding": confounding}} | changes)


@torch.no_grad()
def findings(run: Run, arm: str, rho: float) -> list[Found]:
    """What is found of both methods of a run, by its table and by its test people; kept beside the table."""
    study, rows, path = run.study, read_outcome(run).rows, run.evaluation / "shortcut.json"
    key = json.dumps(rows, sort_keys=True)
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return [Found(*one) for one in kept["found"]]
    store, error = run.store(), error_of(study).name
    cohort = Cohort.choose(study, store, store.indices("test", complete=True), torch.device("cpu"))
    bright = brightness(store.table["person"].to_numpy()[cohort.rows])
    guides = guides_of(run)
    found = [
        Found(
            arm,
            rho,
            method,
            _reads_brightness(cohort, guides[method], bright),
            figure_of(rows, method, "slope", STRUCTURE, VARIABLE),
            figure_of(rows, method, error, STRUCTURE, VARIABLE),
            _brightens(run, cohort, method),
            figure_of(rows, method, "locality", "", VARIABLE),
            figure_of(rows, method, "true counterfactual error", "", VARIABLE),
        )
        for method in run.methods()
        if method != "none"
    ]
    write_text(path, json.dumps({"key": key, "found": found}))
    return found


def brightness(people: NDArray[np.int64]) -> NDArray[np.float64]:
    """How bright the exposures of simulated people make their films, standardised, (N,)."""
    drawn = [Exposure.draw(Noise.EXPOSURE.stream(int(person))) for person in people]
    found = np.array([np.log(one.beam) - np.log(one.gamma) for one in drawn])
    return (found - found.mean()) / found.std()


def _reads_brightness(cohort: Cohort, guide: Any, bright: NDArray[np.float64]) -> float:
    """By how many standard deviations of the area the guide's reading rises with one of the brightness."""
    column = list(cohort.study.structures).index(STRUCTURE)
    read = torch.cat([guide.read(samples.image)[:, column] for samples in cohort.batches()])
    true = cohort.values[:, cohort.column(VARIABLE)]
    misread = ((read - true) / true.std()).double().numpy()
    return float(np.polyfit(bright, misread, 1)[0])


def _brightens(run: Run, cohort: Cohort, method: str) -> float:
    """Grey levels by which an answer is brighter, far from the heart as it was and as it should be, for one standard
    deviation more of its area."""
    study, model, truth = run.study, run.model(method), Truth.of(run.study, cohort.store)
    assert truth is not None
    heart, column = list(study.structures).index(STRUCTURE), cohort.column(VARIABLE)
    radius = Grid.of(study.image).radius(study.evaluation.dilation)
    wanted, spread = lent(cohort, VARIABLE), cohort.values[:, column].std()
    changes, gains = [], []
    for samples in cohort.batches():
        asked = wanted[samples.places]
        do = model.scm.intervention(len(asked), **{VARIABLE: asked})
        answer = model.counterfactual(samples.image, samples.values, do)
        drawn = truth.counterfactuals(samples.rows, {VARIABLE: asked})
        assert drawn is not None
        either = (samples.mask[:, heart] > 0.5) | (drawn.mask[:, heart] > 0.5)
        far = ~Grid.like(samples.mask).dilate(either, radius)
        change = ((answer.image - samples.image) * GREY_LEVELS).mean(dim=1)
        gains.append((change * far).flatten(1).sum(dim=1) / far.flatten(1).sum(dim=1))
        changes.append((asked - samples.values[:, column]) / spread)
    found = np.polyfit(torch.cat(changes).double().numpy(), torch.cat(gains).double().numpy(), 1)
    return float(found[0])


def render(found: Sequence[Found], study: Study, seeds: int) -> str:
    """The page, in Markdown."""
    head = ["guides and fine-tuning", "rho", "method", "reads brightness, sd", "slope", "error, %"]
    head += ["brightens, grey levels", "locality, %", "true error"]
    body = []
    for arm in ARMS:
        for rho in RHOS:
            for method in ("regressor", "segmentor"):
                own = [one for one in found if (one.arm, one.rho, one.method) == (arm, rho, method)]
                if own:
                    body.append([arm, f"{rho:g}", method_name(method), *_cells(own)])
    return f"""\
# Does a guide take a shortcut?

`python -m benchmarks.shortcut` trains {seeds} times each on simulated people ({study.image.size[0]} x \
{study.image.size[1]} pixels) of whom films of large hearts are brighter, by a correlation rho. Nobody who judges or is
judged is confounded, so whoever reads the area off the brightness is found out. Each cell has the mean over trainings,
and the least and the largest.

{grid(head, body, labels=3)}

- Reads brightness: by how much the guide's reading of the heart rises with the brightness of the film, in standard
  deviations of both, of test people, whose hearts know nothing of it.
- Slope, error: what the judge reads of do(heart area) in answers. Locality and the true error are of the same answers.
- Brightens: by how much answers are brighter far from the heart, for one standard deviation more of its area. The true
  counterfactual is not.
"""


def _cells(own: Sequence[Found]) -> list[str]:
    columns = [
        ([one.reads_brightness for one in own], 2, 1),
        ([one.slope for one in own], 2, 1),
        ([one.error for one in own], 1, 1),
        ([one.brightens for one in own], 2, 1),
        ([one.locality for one in own], 0, 100),
        ([one.true_error for one in own], 2, 1),
    ]
    cells = []
    for values, digits, factor in columns:
        ends = [factor * min(values), factor * max(values)]
        cells.append(f"{factor * np.mean(values):.{digits}f} ({ends[0]:.{digits}f} to {ends[1]:.{digits}f})")
    return cells


if __name__ == "__main__":
    main()
