"""The people and images that privacy is judged by: training people of a run, as many held-out ones, what it draws."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.counterfactual.model import CounterfactualModel
from segcft.data.store import Store
from segcft.errors import Code, DataError, RunError
from segcft.evaluate.cohort import one_each
from segcft.evaluate.names import method_name
from segcft.evaluate.privacy import DATA, TEXT, Row, Scored, distances, figures, render, write
from segcft.grey import to_grey_levels, to_unit
from segcft.pipeline.completion import fill_likely
from segcft.pipeline.run import READERS, Run
from segcft.pipeline.stage import training_stage
from segcft.readers.reader import MaskReader
from segcft.training import artefact
from segcft.utils.progress import Progress, Task

FOLDER = "privacy"
"""In the run."""
FEWEST = 12
"""Training and held-out people, below which nothing can be said."""
LIKELIHOOD, DRAWN = "likelihood", "drawn images"
INSIDE = 128
"""The byte of a mask in the store from which on a pixel is inside."""

Score = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images (B, C, *size), values (B, V) and masks (B, S, *size) -> scores (B,)."""


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
    method = run.meant(method)
    mechanism = run.mechanism(method)
    readers = [part for part in READERS if part in run.parts and run.path(part).is_file()]
    store = run.samples_of([*run.asked, mechanism])
    for split in ("train", "test"):
        fill_likely(run, store, split)
    random = np.random.default_rng(run.study.evaluation.seed)
    held_out = store.indices("test", complete=True)
    trained = {part: training_stage(part).rows(run.study, store) for part in (mechanism, *readers)}
    asked = {part: _chosen(store, rows, held_out, people, random) for part, rows in trained.items()}
    model = run.model(method, device)
    drawn_by, count = asked[mechanism], len(asked[mechanism][0])
    scored: dict[str, Scored] = {}
    size = run.study.evaluation.batch_size
    with progress.task("Looking for training people", count + sum(2 * len(rows) for rows, _ in asked.values())) as task:
        for part, sides in asked.items():
            score = _likelihood(model) if part == mechanism else _overlap(run.load(part, device))
            one = Scored(*(_scores(store, rows, score, size, device, task) for rows in sides))
            if min(len(one.known.train), len(one.known.held_out)) >= FEWEST:
                scored[LIKELIHOOD if part == mechanism else f"{part}'s masks"] = one
        drawn = _drawn(model, count, size, run.study.evaluation.seed, task.advance)
    real = [torch.from_numpy(np.stack([store.images[row] for row in rows])) for rows in drawn_by]
    result = figures({DRAWN: distances(drawn, *real)}, scored, run.study.evaluation.seed)
    text = render(result, run.study.name, method_name(method), count, count)
    write(result, text, folder, _keys(run, [mechanism, *readers]))
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
    if not set(mechanisms) <= set(keys) or keys != _keys(run, list(keys)):
        why = f"it is of other parts than are published now: `segcft privacy {run.folder}` again, or remove it"
        raise RunError(Code.OTHER, folder / DATA, why)
    return (folder / TEXT).read_text(encoding="utf-8").split("\n", 1)[1].strip()


def _keys(run: Run, parts: Sequence[str]) -> dict[str, str]:
    return {part: str(artefact.read_meta(run.path(part))["key"]) for part in parts}


def _chosen(
    store: Store, trained: NDArray[np.int64], held_out: NDArray[np.int64], people: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of some training people and of as many held-out ones, an image at random of each.

    Raises:
        DataError: there are too few.
    """
    complete = np.intersect1d(trained, store.indices(complete=True))
    sides = [one_each(store, rows, random) for rows in (complete, held_out)]
    count = min(people, *map(len, sides))
    if count < FEWEST:
        shown = f"{len(sides[0])} training people and {len(sides[1])} held-out ones"
        raise DataError(Code.EMPTY, store.folder, f"too few to tell anything: {shown}; expected {FEWEST} or more")
    first, second = (np.sort(random.permutation(own)[:count]) for own in sides)
    return first, second


@torch.no_grad()
def _scores(
    store: Store, rows: NDArray[np.int64], score: Score, size: int, device: torch.device, task: Task
) -> NDArray[np.float64]:
    """What each sample scores, (N,)."""
    found = []
    for batch in np.array_split(rows, -(-len(rows) // size)):
        images = to_unit(torch.from_numpy(np.stack([store.images[row] for row in batch])).to(device))
        masks = torch.from_numpy(np.stack([store.masks[row] for row in batch])).to(device) >= INSIDE
        values = torch.from_numpy(store.values()[batch]).to(device)
        found.append(score(images, values, masks).double().cpu().numpy())
        task.advance(len(batch))
    return np.concatenate(found)


def _likelihood(model: CounterfactualModel) -> Score:
    """How likely the mechanism finds an image, given its values; of one that does not say, not a number."""

    def score(images: Tensor, values: Tensor, masks: Tensor) -> Tensor:
        found = model.mechanism.log_density(images, values, sample=False)
        return torch.full((len(images),), torch.nan) if found is None else found

    return score


def _overlap(reader: MaskReader) -> Score:
    """How well a reader's masks overlap with those of the sample."""
    return lambda images, values, masks: _dice(reader.masks(images) >= 0.5, masks)


def _dice(seen: Tensor, own: Tensor) -> Tensor:
    """The mean Dice of the structures (B, S, *size) that a sample's own masks show, (B,); NaN where they show none."""
    shared, total = ((seen & own).flatten(2).sum(2).double(), (seen.flatten(2).sum(2) + own.flatten(2).sum(2)).double())
    return torch.where(own.flatten(2).any(2), 2 * shared / total.clamp(min=1), torch.nan).nanmean(dim=1)


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
