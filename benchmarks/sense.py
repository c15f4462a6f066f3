"""Do masks that nobody drew make sense? ``python -m benchmarks.sense MASKED``.

MASKED is a folder of `segcft segment`, of radiographs whose reports were searched for findings (NIH ChestX-ray14). An
enlarged heart is called cardiomegaly: the cardiothoracic ratio of the masks should tell those of whom the report says
so. The area under the curve is the share of pairs, one with and one without, in which the one with has the larger
ratio; 0.5 is chance. Pairs are of the same view only, as a heart looks larger from the front. Intervals are over
patients.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from segcft.config.loader import parse_study
from segcft.evaluate.auc import auc
from segcft.evaluate.table import grid
from segcft.measures.measurements import Measurements
from segcft.utils.progress import ConsoleProgress, Progress

STUDY = Path(__file__).parent.parent / "configs/chest-segmentor.yaml"
HEART, THORAX, FINDING = "heart_width", "thorax_width", "Cardiomegaly"
DRAWS = 1000


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sense", description=__doc__)
    parser.add_argument("masked", metavar="MASKED", type=Path, help="folder that `segcft segment` wrote")
    folder = parser.parse_args(arguments).masked
    table = pd.read_csv(folder / "metadata.csv", dtype={"id": str, "patient": str})
    table["ratio"] = ratios(folder, table["id"].tolist(), ConsoleProgress())
    print(render(table))


def ratios(folder: Path, ids: list[str], progress: Progress) -> NDArray[np.float64]:
    """The cardiothoracic ratio of every mask of lungs and heart, (N,)."""
    raw = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    study = parse_study(raw)
    names, bits = list(study.measured), np.array([structure.bit for structure in study.masked.values()])

    @functools.cache
    def measurements(size: tuple[int, int]) -> Measurements:
        return Measurements.of(parse_study(raw | {"image": {"size": size}}))

    found = []
    for id in progress(ids, len(ids), "Measuring masks"):
        flags = np.asarray(Image.open(folder / "masks" / f"{id}.png"))
        masks = torch.from_numpy((flags & bits[:, None, None] > 0).astype(np.float32))
        measured = measurements(flags.shape).read(masks[None])[0]
        found.append(float(measured[names.index(HEART)] / measured[names.index(THORAX)]))
    return np.array(found)


def render(table: pd.DataFrame) -> str:
    """A row a view, and one of all, in Markdown; of columns ratio, view, findings and patient."""
    ill = table["findings"].fillna("").str.split("|").map(lambda some: FINDING in some).to_numpy(dtype=bool)
    views, ratio = table["view"].to_numpy(dtype=str), table["ratio"].to_numpy(dtype=float)
    patients = table["patient"].to_numpy(dtype=str)
    body = []
    for name in [*sorted(set(views)), "all"]:
        chosen = np.full(len(table), True) if name == "all" else views == name
        own = ratio[chosen], ill[chosen], views[chosen]
        low, high = _interval(*own, patients[chosen])
        with_it, without = (f"{own[0][own[1] == has].mean():.3f}" for has in (True, False))
        counts = f"{own[1].sum()} / {(~own[1]).sum()}"
        body.append([name, counts, with_it, without, f"{auc_within_views(*own):.2f} ({low:.2f} to {high:.2f})"])
    head = ["view", f"{FINDING.lower()} / none", "ratio with", "without", "area under the curve"]
    return grid(head, body)


def auc_within_views(ratio: NDArray[np.float64], ill: NDArray[np.bool_], views: NDArray[np.str_]) -> float:
    """Of pairs of the same view, one ill and one not, the share in which the ill one has the larger ratio; NaN without
    any."""
    both = [(ratio[(views == view) & ill], ratio[(views == view) & ~ill]) for view in sorted(set(views))]
    both = [(one, other) for one, other in both if one.size and other.size]
    if not both:
        return float("nan")
    pairs = [one.size * other.size for one, other in both]
    return float(np.average([auc(one, other) for one, other in both], weights=pairs))


def _interval(
    ratio: NDArray[np.float64], ill: NDArray[np.bool_], views: NDArray[np.str_], patients: NDArray[np.str_]
) -> tuple[float, float]:
    """95 % of the areas when patients are drawn anew."""
    random = np.random.default_rng(0)
    _, codes = np.unique(patients, return_inverse=True)
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    drawn = []
    for _ in range(DRAWS):
        rows = np.concatenate([members[k] for k in random.integers(len(members), size=len(members))])
        drawn.append(auc_within_views(ratio[rows], ill[rows], views[rows]))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
