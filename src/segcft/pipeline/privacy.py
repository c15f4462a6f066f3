"""The people and images that privacy is judged by: training people of a run, as many held-out ones, what it draws."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.counterfactual.model import CounterfactualModel
from segcft.data.store import Store
from segcft.errors import Code, DataError, RunError
from segcft.evaluate.privacy import DATA, TEXT, Row, Scored, distances, figures, write
from segcft.grey import to_grey_levels, to_unit
from segcft.pipeline.completion import fill_likely
from segcft.pipeline.run import READERS, Run
from segcft.readers.reader import MaskReader
from segcft.training import artefact
from segcft.utils.progress import Progress

FOLDER = "privacy"
"""In the run."""
FEWEST = 12
"""Training and held-out people, below which nothing can be said."""
LIKELIHOOD, DRAWN = "likelihood", "drawn images"


def judge_privacy(
    run: Run, folder: Path, device: torch.device, progress: Progress, *, people: int = 500, method: str | None = None
) -> list[Row]:
    """Judge what ``run`` would give away of its training people, and write it to ``folder``.

    Args:
        run: with training and test people.
        folder: where to write ``privacy.md`` and ``privacy.json``.
        device: where to compute.
        progress: what the user sees.
        people: training people at most, as many held-out ones, and images to draw.
        method: whose image mechanism; None: the last that is trained.

    Raises:
        RunError: parts are missing or damaged, or it is a published model.
        DataError: there are too few people.
    """
    method = method or list(run.methods())[-1]
    readers = [part for part in READERS if part in run.parts and run.path(part).is_file()]
    store = run.samples_of([*run.asked, run.mechanism(method)])
    for part in ("train", "test"):
        fill_likely(run, store, part)
    random = np.random.default_rng(run.study.evaluation.seed)
    each = {part: _one_each(store, store.indices(part, complete=True), random) for part in ("train", "test")}
    count = min(people, *map(len, each.values()))
    if count < FEWEST:
        shown = ", ".join(f"{len(rows)} in {part}" for part, rows in each.items())
        raise DataError(Code.EMPTY, run.folder, f"too few people to tell anything: {shown}; expected {FEWEST} or more")
    rows = {part: np.sort(random.permutation(own)[:count]) for part, own in each.items()}
    size = run.study.evaluation.batch_size
    model = run.model(method, device)
    with progress.task("Looking for training people", 3 * count) as task:
        scored: dict[str, Scored] = {}
        found: dict[str, dict[str, list[float]]] = {}
        networks: dict[str, MaskReader] = {part: run.load(part, device) for part in readers}
        for part, own in rows.items():
            for batch in np.array_split(own, -(-len(own) // size)):
                for by, scores in _scores(store, batch, model, networks, device):
                    found.setdefault(by, {}).setdefault(part, []).extend(scores)
                task.advance(len(batch))
        for by, sides in found.items():
            one = Scored(np.array(sides["train"]), np.array(sides["test"]))
            if min(len(one.known.train), len(one.known.held_out)) >= FEWEST:
                scored[by] = one
        images = {part: torch.from_numpy(np.stack([store.images[row] for row in own])) for part, own in rows.items()}
        drawn = _drawn(model, count, size, run.study.evaluation.seed, task.advance)
    apart = {DRAWN: distances(drawn, images["train"], images["test"])}
    result = figures(apart, scored, run.study.evaluation.seed)
    write(result, run.study.name, count, count, folder, _keys(run, [run.mechanism(method), *readers]))
    return result


def privacy_in_words(run: Run, mechanisms: Sequence[str]) -> str:
    """What was found of a run, without its title; "" where nothing was.

    Args:
        run: of which it was found.
        mechanisms: parts that are published.

    Raises:
        RunError: it is of other parts than the run has now.
    """
    folder = run.folder / FOLDER
    if not (folder / DATA).is_file():
        return ""
    keys = json.loads((folder / DATA).read_text(encoding="utf-8"))["keys"]
    if not set(keys) & set(mechanisms) or keys != _keys(run, list(keys)):
        why = f"it is of other parts than are published now: `segcft privacy {run.folder}` again, or remove it"
        raise RunError(Code.OTHER, folder / DATA, why)
    return (folder / TEXT).read_text(encoding="utf-8").split("\n", 1)[1].strip()


def _keys(run: Run, parts: Sequence[str]) -> dict[str, str]:
    return {part: str(artefact.read_meta(run.path(part))["key"]) for part in parts}


def _one_each(store: Store, rows: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """One image at random of each patient."""
    patients = store.table["patient"].iloc[rows].astype(str).to_numpy()
    order = random.permutation(len(rows))
    return rows[sorted({patients[k]: k for k in order}.values())]


@torch.no_grad()
def _scores(
    store: Store,
    rows: NDArray[np.int64],
    model: CounterfactualModel,
    readers: dict[str, MaskReader],
    device: torch.device,
) -> Iterator[tuple[str, list[float]]]:
    """What each image scores: by its likelihood, and by how well readers' masks overlap with its own."""
    images = to_unit(torch.from_numpy(np.stack([store.images[row] for row in rows])).to(device))
    values = torch.from_numpy(store.values()[rows]).to(device)
    density = model.mechanism.log_density(images, values, sample=False)
    if density is not None:
        yield LIKELIHOOD, density.double().cpu().tolist()
    own = torch.from_numpy(np.stack([store.masks[row] for row in rows])).to(device) >= 128
    for part, reader in readers.items():
        yield f"{part}'s masks", _dice(reader.masks(images) >= 0.5, own).tolist()


def _dice(seen: Tensor, own: Tensor) -> NDArray[np.float64]:
    """The mean Dice of the structures (B, S, *size) that a person's own masks show, (B,); NaN where they show none."""
    shared, total = ((seen & own).flatten(2).sum(2).double(), (seen.flatten(2).sum(2) + own.flatten(2).sum(2)).double())
    dice = torch.where(own.flatten(2).any(2), 2 * shared / total.clamp(min=1), torch.nan)
    return np.asarray(dice.nanmean(dim=1).cpu().numpy())


@torch.no_grad()
def _drawn(model: CounterfactualModel, count: int, size: int, seed: int, advance: Callable[[int], object]) -> Tensor:
    """Images that the model draws of nobody, (count, C, *size) in grey levels."""
    images = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for begin in range(0, count, size):
            some = min(size, count - begin)
            values = model.scm.sample(some)
            images.append(to_grey_levels(model.mechanism.predict(model.mechanism.sample(some), values)).cpu())
            advance(some)
    return torch.cat(images)
