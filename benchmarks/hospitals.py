"""How well readers of lungs and heart read the films of hospitals that they have seen, and of one that they have not.

``python -m benchmarks.hospitals --data DIR`` trains the readers of ``configs/chest-segmentor.yaml`` on all its sources,
and on all but each one in turn. Those of all are tested on the people of every source who are kept for that, and the
others on everybody of the source that they have not seen. What is trained is kept in ``--out``: the same command goes
on, and ``segcft publish OUT/all FOLDER --readers`` makes readers to give away.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.data.store import Store
from segcft.evaluate.names import plain
from segcft.evaluate.reading import Reading, readings
from segcft.evaluate.table import grid
from segcft.pipeline.importing import import_samples
from segcft.pipeline.run import READERS, Run
from segcft.pipeline.runner import Pipeline
from segcft.training.loop import make_fabric
from segcft.utils.atomic import link
from segcft.utils.progress import ConsoleProgress

STUDY = Path(__file__).parent.parent / "configs/chest-segmentor.yaml"
EVERYBODY = "all"
RATIO, HEART, THORAX = "cardiothoracic_ratio", "heart_width", "thorax_width"
"""The column of a table that has references, and the variables whose quotient it is."""


class Read(NamedTuple):
    """How a reader that was trained on some sources reads the images of one."""

    trained: str
    source: str
    reading: Reading
    ratio: tuple[float, float, int] | None
    """Mean absolute error and correlation of the ratio with the references, and of how many."""


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    raw = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    sources = list(raw["data"]["folders"])
    without = {EVERYBODY: sources} | {f"without {one}": [s for s in sources if s != one] for one in sources}
    studies = {
        case: _study(raw, kept, options.share) for case, kept in without.items() if case in (options.cases or without)
    }
    jobs = [
        (options.out / case.replace(" ", "-"), study, part, options)
        for case, study in studies.items()
        for part in READERS
    ]
    with concurrent.futures.ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_train, *zip(*jobs, strict=True)))
    found = []
    for case, study in studies.items():
        run = _gathered(Run(options.out / case.replace(" ", "-"), study), options)
        networks = {part: run.load(part) for part in READERS}
        tested = sources if case == EVERYBODY else [case.removeprefix("without ")]
        for source in tested:
            store = _samples(raw, source, options)
            rows = store.indices("test" if case == EVERYBODY else None)
            for one in readings(study, networks, store, rows):
                folder = options.data / raw["data"]["folders"][source]["folder"]
                found.append(Read(case, source, one, _against(one, store, folder)))
    print(table(found))


def _study(raw: dict, sources: Sequence[str], share: float) -> Study:
    """The study of some sources; ``share`` of its steps."""
    folders = {name: raw["data"]["folders"][name] for name in sources}
    trained = {part: raw[part] | {"steps": max(1, round(raw[part]["steps"] * share))} for part in READERS}
    return parse_study(raw | trained | {"data": raw["data"] | {"folders": folders}})


def _train(folder: Path, study: Study, part: str, options: argparse.Namespace) -> None:
    """One reader, in a process of its own with its share of the cores."""
    torch.set_num_threads(options.threads)
    # A folder for each reader, as one process at a time works in a run.
    Pipeline(Run(folder / part, study), make_fabric("cpu"), options.data, ConsoleProgress()).run_stage(part)


def _samples(raw: dict, source: str, options: argparse.Namespace) -> Store:
    """Everybody of one source, in the parts of the whole study."""
    study = _study(raw, [source], 1)
    run = Run(options.out / f"store-{source}", study)
    import_samples(run, options.data, ConsoleProgress())  # again, where the study or its files have changed
    return run.store()


def _gathered(run: Run, options: argparse.Namespace) -> Run:
    """A run with both readers, which were trained in folders of their own."""
    import_samples(run, options.data, ConsoleProgress())
    for part in READERS:
        link(Run(run.folder / part, run.study).path(part), run.path(part))
    return run


def _against(reading: Reading, store: Store, folder: Path) -> tuple[float, float, int] | None:
    """Ratios beside the references in a source's table, if it has some."""
    cells = pd.read_csv(folder / "metadata.csv", dtype={"id": str})
    if RATIO not in cells:
        return None
    ratios = reading.of(HEART) / reading.of(THORAX)
    ids = store.table["id"].iloc[reading.rows].tolist()
    reference = cells.set_index("id")[RATIO].reindex([id.partition("/")[2] for id in ids]).to_numpy(dtype=float)
    known = ~np.isnan(reference)
    error = float(np.abs(ratios - reference)[known].mean())
    return error, float(np.corrcoef(ratios[known], reference[known])[0, 1]), int(known.sum())


def table(found: Sequence[Read]) -> str:
    named = " / ".join(map(plain, found[0].reading.overlap))
    head = [
        "trained on",
        "reader",
        "read",
        "people",
        f"Dice of {named}",
        "error of the area, %",
        "ratio: error, r (people)",
    ]
    body = [
        [
            one.trained,
            one.reading.reader,
            one.source,
            str(len(one.reading.rows)),
            " / ".join(f"{value:.3f}" for value in one.reading.overlap.values()),
            " / ".join(f"{value:.1f}" for value in one.reading.misread.values()),
            f"{one.ratio[0]:.3f}, {one.ratio[1]:.3f} ({one.ratio[2]})" if one.ratio else "–",
        ]
        for one in found
    ]
    return grid(head, body, labels=3)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hospitals", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets' folders")
    parser.add_argument("--cases", nargs="+", help="'all' or 'without SOURCE' (default: every one)")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps (default: 1)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="of each (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/hospitals"))
    return parser


if __name__ == "__main__":
    main()
