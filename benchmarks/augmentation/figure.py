"""What the classifiers see: people with hearts that are rare in people of their sex."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.augmentation.people import SIZE, VARIABLE, read_table
from segcft.data.store import Store
from segcft.io.provenance import SYNTHETIC
from segcft.simulate.chest import ChestSimulator

PER_SEX = 2


def draw(path: Path, augmented: Mapping[str, Path], confounded: Path, store: Store) -> None:
    """Write a figure: rows are people, columns the image, each method's counterfactual and the simulator's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tables = {name: read_table(folder).query("kind == 'counterfactual'") for name, folder in augmented.items()}
    indexed = {name: table.set_index(["source", "do"]) for name, table in tables.items()}
    shared = list(indexed.values())[-1]
    for table in indexed.values():
        shared = shared[shared.index.isin(table.index)]
    shared = shared[~shared.index.duplicated()]
    if shared["sex"].nunique() < 2:
        return  # nothing that every method was asked and answered
    before = store.table.set_index("id")[VARIABLE].loc[shared.index.get_level_values("source")].to_numpy()
    # The largest changes would flatter the eye: take the median ones of those that are notable.
    change = np.abs(shared[VARIABLE].to_numpy() - before)
    shared = shared.assign(before=before, change=change)[change > np.median(change)].sort_values("change")
    middle = [one.iloc[len(one) // 2 :].head(PER_SEX) for _, one in shared.groupby("sex")]
    chosen = pd.concat(middle).reset_index()
    simulator, numbers = ChestSimulator((SIZE, SIZE)), read_table(confounded).set_index("id")["person"]
    columns = ["image", *augmented, "truth"]
    figure, axes = pyplot.subplots(
        len(chosen), len(columns), figsize=(2.1 * len(columns), 2.35 * len(chosen)), squeeze=False
    )
    for line, row in zip(axes, chosen.to_dict("records"), strict=True):
        person, key = int(numbers[row["source"]]), (row["source"], row["do"])
        truth = simulator.attributes(person, {VARIABLE: float(row[VARIABLE])})
        place = int(np.flatnonzero(store.table["id"] == row["source"])[0])
        pictures = [np.asarray(store.images[place])[0]]
        for name, folder in augmented.items():
            found = indexed[name].loc[[key]].iloc[0]["id"]
            pictures.append(np.asarray(Image.open(folder / "images" / f"{found}.png")))
        pictures.append(simulator.render(person, truth)[0])
        for axis, pixels, column in zip(line, pictures, columns, strict=True):
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
            axis.set_xticks([])
            axis.set_yticks([])
            area = row["before"] if column == "image" else row[VARIABLE]
            axis.set_title(f"{column}, {area:.0f} px" if column == "image" else column, fontsize=9)
        line[0].set_ylabel(f"{'woman' if row['sex'] == 'F' else 'man'}\ndo(heart = {row[VARIABLE]:.0f} px)", fontsize=9)
    figure.suptitle(SYNTHETIC, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Description": SYNTHETIC})
    pyplot.close(figure)
