"""How well readers of lungs and heart read the films of hospitals that they have seen, and of one that they have not.

``python -m benchmarks.hospitals --data DIR`` trains the readers of ``hospitals.yaml`` on all its sources, and on all
but each one in turn. Those of all are tested on the people of every source who are kept for that, and the others on
everybody of the source that they have not seen. What is trained is kept in ``--out``: the same command goes on.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.data.batches import sequential
from segcft.data.store import Store
from segcft.evaluate.names import plain
from segcft.evaluate.table import grid
from segcft.grey import to_unit
from segcft.measures.measurements import Measurements
from segcft.pipeline.importing import import_samples
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.readers.segmentor import dice
from segcft.training.loop import make_fabric
from segcft.utils.progress import ConsoleProgress

STUDY = Path(__file__).with_name("hospitals.yaml")
EVERYBODY = "all"
READERS = ("segmentor", "judge")
RATIO, HEART, THORAX = "cardiothoracic_ratio", "heart_width", "thorax_width"
"""The column of a table that has references, and the variables whose quotient it is."""


class Reading(NamedTuple):
    """How some readers, which see together what they see on average, read the images of a source."""

    trained: str
    reader: str
    source: str
    people: int
    dice: NDArray[np.float64]
    """Of every structure."""
    error: NDArray[np.float64]
    """Mean absolute error of its area, in %."""
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
        run = Run(options.out / case.replace(" ", "-"), study)
        tested = sources if case == EVERYBODY else [case.removeprefix("without ")]
        for source in tested:
            store = _samples(raw, source, options)
            rows = store.indices("test" if case == EVERYBODY else None)
            found += list(
                _readings(run, case, source, store, rows, options.data / raw["data"]["folders"][source]["folder"])
            )
    print(table(found, list(studies[next(iter(studies))].masked)))


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


def _readings(
    run: Run, case: str, source: str, store: Store, rows: NDArray[np.int64], folder: Path
) -> Iterator[Reading]:
    networks = {part: Run(run.folder / part).load(part) for part in READERS}
    measurements = Measurements.of(run.study)
    names = list(run.study.measured)
    for name, parts in [(part, [part]) for part in READERS] + [("both", list(READERS))]:
        overlaps, values, truths = [], [], []
        for batch in sequential(store, rows, 16):
            with torch.inference_mode():
                image = to_unit(batch["image"])
                seen = torch.stack([networks[part].masks(image) for part in parts]).mean(dim=0)
                overlaps.append(dice((seen > 0.5).float(), (batch["mask"] >= 128).float()))
                values.append(measurements.read(seen, image))
                truths.append(batch["values"][:, run.study.measured_columns])
        value, truth = torch.cat(values), torch.cat(truths)
        areas = [names.index(run.study.structures[one].variable) for one in run.study.masked]
        error = 100 * ((value - truth).abs() / truth)[:, areas].mean(dim=0)
        ratios = value[:, names.index(HEART)] / value[:, names.index(THORAX)]
        yield Reading(
            case,
            name,
            source,
            len(rows),
            torch.cat(overlaps).nanmean(dim=0).numpy(),
            error.numpy(),
            _against(ratios.numpy(), store.table["id"].iloc[rows].tolist(), folder),
        )


def _against(ratios: NDArray[np.float32], ids: Sequence[str], folder: Path) -> tuple[float, float, int] | None:
    """Ratios beside the references in a source's table, if it has some."""
    cells = pd.read_csv(folder / "metadata.csv", dtype={"id": str})
    if RATIO not in cells:
        return None
    reference = cells.set_index("id")[RATIO].reindex([id.partition("/")[2] for id in ids]).to_numpy(dtype=float)
    known = ~np.isnan(reference)
    error = float(np.abs(ratios - reference)[known].mean())
    return error, float(np.corrcoef(ratios[known], reference[known])[0, 1]), int(known.sum())


def table(readings: Sequence[Reading], structures: Sequence[str]) -> str:
    named = " / ".join(map(plain, structures))
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
            one.reader,
            one.source,
            str(one.people),
            " / ".join(f"{value:.3f}" for value in one.dice),
            " / ".join(f"{value:.1f}" for value in one.error),
            f"{one.ratio[0]:.3f}, {one.ratio[1]:.3f} ({one.ratio[2]})" if one.ratio else "–",
        ]
        for one in readings
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
