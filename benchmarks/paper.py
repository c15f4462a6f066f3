"""The paper's studies at their full sizes, for some steps: ``python -m benchmarks.paper``.

``configs/paper/chest-224.yaml`` and ``coronary-64x384.yaml`` need data that nobody may pass on and days on a GPU. Here
simulated people of the same size take the place of the data. The segmentor, the likelihood training and fine-tuning by
the segmentor run for some steps of a small batch, and the means of the first and the last tenth of their losses are
printed: whether each falls.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segcft.config.loader import parse_study, read_mapping
from segcft.config.study import Study
from segcft.evaluate.table import grid
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.report.charts import read_history
from segcft.training.loop import make_fabric
from segcft.utils.progress import ConsoleProgress

CONFIGS = Path(__file__).parents[1] / "configs" / "paper"
STUDIES = {"chest-224": "chest-simulator", "coronary-64x384": "coronary-simulator"}
"""Study -> the simulator of its people."""
TRAININGS = {"segmentor": "loss", "hvae": "loss", "cft-segmentor": "guide"}
"""Part -> the figure that is to fall; of fine-tuning the guide's error, as its loss has a multiplier that rises."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("--only", choices=STUDIES, help="one of them")
    parser.add_argument("--steps", type=int, default=300, help="of each training (default: 300)")
    parser.add_argument("--batch", type=int, default=4, help="images of a batch (default: 4)")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    options = parser.parse_args(arguments)
    body = []
    for name in [options.only] if options.only else STUDIES:
        study = simulated(name, options.people, options.steps, options.batch)
        run = Run(options.out / name, study)
        pipeline = Pipeline(run, make_fabric(options.device), progress=ConsoleProgress())
        pipeline.run_stage("cft-segmentor")  # and what it needs
        body += [[name, *row] for row in falls(run)]
    print(grid(["study", "training", "steps", "first tenth", "last tenth"], body, labels=2))


def simulated(name: str, people: int, steps: int, batch: int) -> Study:
    """One of :data:`STUDIES` on simulated people, in so many steps of each training."""
    raw = read_mapping(CONFIGS / f"{name}.yaml")
    raw["data"] = {"source": STUDIES[name], "people": people, "seed": 1}
    for structure in raw["structures"].values():
        structure.pop("bit")
    for section in ("segmentor", "judge", "regressor", "scm", "hvae", "finetune"):
        raw[section] |= {"steps": steps, "batch_size": batch, "accumulate": 1}
    raw["finetune"] |= {"guides": ["segmentor"]}
    return parse_study(raw, name)


def falls(run: Run) -> Iterator[list[str]]:
    """Of each training its steps, and the means of its figure in the first and the last tenth of them."""
    for part, figure in TRAININGS.items():
        values = read_history(run.training / f"{part}.jsonl")[figure]
        tenth = max(1, len(values) // 10)
        ends = np.mean(values[:tenth]), np.mean(values[-tenth:])
        yield [part, str(len(values)), *(f"{end:.3f}" for end in ends)]


if __name__ == "__main__":
    main()
