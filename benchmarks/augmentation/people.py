"""The people of the demonstration: who there is, and the sets of images that classifiers are trained on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from segcft.data.store import Store
from segcft.simulate.chest import ChestSimulator
from segcft.simulate.files import write_people
from segcft.simulate.people import Confounding, Population
from segcft.utils.progress import Progress

SEEDS = {"confounded": 101, "test": 202, "unbiased": 303}
SIZE = 64
VARIABLE, LABEL = "heart_area", "sex"


@dataclass(frozen=True)
class Set:
    """Images uint8 (N, H, W), whether they are of men (N,), the heart's area (N,), and how likely each is drawn."""

    images: NDArray[np.uint8]
    male: NDArray[np.bool_]
    heart: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, images: NDArray[np.uint8], table: pd.DataFrame) -> Set:
        male, heart = (table[LABEL] == "M").to_numpy(dtype=bool), table[VARIABLE].to_numpy(dtype=np.float64)
        return cls(images, male, heart, np.ones(len(male)))

    def cells(self, median: float) -> NDArray[np.int64]:
        """0 women with small hearts, 1 with large ones, 2 men with small hearts, 3 with large ones, (N,)."""
        return 2 * self.male + (self.heart > median).astype(np.int64)

    def reweighted(self, median: float) -> Set:
        """The same images, drawn such that the four cells are equally frequent."""
        cells = self.cells(median)
        return Set(self.images, self.male, self.heart, 1 / np.bincount(cells, minlength=4)[cells])


def joined(first: Set, second: Set) -> Set:
    """Both, one after the other."""
    arrays = [
        np.concatenate([getattr(first, field.name), getattr(second, field.name)]) for field in dataclasses.fields(Set)
    ]
    return Set(*arrays)


def simulate(folder: Path, kind: str, people: int, share: float, progress: Progress) -> Path:
    """The data set ``kind`` of :data:`SEEDS` in ``folder``, unless it is there already; returns its folder."""
    out = folder / kind
    if not out.exists():
        confounded = kind == "confounded"
        chosen = Confounding(VARIABLE, share) if confounded else None
        whom = Population(SEEDS[kind], chosen, randomise=None if confounded else VARIABLE)
        simulator = ChestSimulator((SIZE, SIZE))
        write_people(out, simulator, people, source="chest-simulator", population=whom, progress=progress)
    return out


def read_table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metadata.csv", dtype={"id": str, "source": str}, keep_default_na=False)


def read_set(folder: Path) -> Set:
    """The images of a folder with ``images/ID.png`` and ``metadata.csv``."""
    table = read_table(folder)
    return Set.of(np.stack([np.asarray(Image.open(folder / "images" / f"{id}.png")) for id in table["id"]]), table)


def part(store: Store, split: str) -> Set:
    """The people of one part of a run."""
    rows = store.indices(split)
    return Set.of(np.asarray(store.images[rows])[:, 0], store.table.iloc[rows])


def truth(augmented: Path, confounded: Path) -> Set:
    """The set ``augmented``, each counterfactual drawn by the simulator in place of the model."""
    table, numbers = read_table(augmented), read_table(confounded).set_index("id")["person"]
    simulator, drawn = ChestSimulator((SIZE, SIZE)), []
    for row in table.to_dict("records"):
        person = int(numbers[row["source"]])
        do = {VARIABLE: float(row[VARIABLE])} if row["kind"] == "counterfactual" else {}
        drawn.append(simulator.render(person, simulator.attributes(person, do))[0])
    return Set.of(np.stack(drawn), table)
