"""The images that realism is judged by: test people of a run, or of all its folds, and answers about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.config.study import Study
from segcft.data.store import Store
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.identity import Photographs, Seen, Verification, summed, train_verifier, verify
from segcft.evaluate.realism import Row, Shown, realism, write_realism
from segcft.evaluate.two_sample import Classifier
from segcft.grey import to_grey_levels
from segcft.pipeline.completion import fill_likely
from segcft.pipeline.folds import runs_of
from segcft.pipeline.run import Run
from segcft.utils.progress import Progress

MOST_TAUGHT = 3000
"""Training images that a verifier learns from, at most."""
WITHIN = 1.0
"""Standard deviations by which values are changed, at most."""


def judge_realism(
    run: Run,
    folder: Path,
    device: torch.device,
    progress: Progress,
    *,
    people: int = 1000,
    within: float = WITHIN,
    classifier: Classifier | None = None,
    verification: Verification | None = None,
) -> list[Row]:
    """Judge how real the answers of every method of ``run`` look, and whether they still show their person.

    What is found is in ``realism.json`` and ``realism.md``.

    Args:
        run: a run, or one in folds, of which all are judged together.
        folder: where to write.
        device: where answers are computed.
        progress: what the user sees.
        people: test images at most.
        within: standard deviations of a variable by which it is changed at most.
        classifier: how those who tell answers from real images are trained.
        verification: how those who tell people are trained.

    Raises:
        RunError: parts are missing or damaged, or it is a published model, which has no samples.
        DataError: there are too few test people.
    """
    runs, seed = runs_of(run), run.study.evaluation.seed
    each = -(-people // len(runs))
    parts = [shown_by(one, device, progress, each, within) for one in runs]
    shown = Shown.joined(parts)
    rows = realism(shown, progress, classifier=classifier, seed=seed)
    verified = summed(
        [_seen(one, part, verification or Verification(), progress) for one, part in zip(runs, parts, strict=True)]
    )
    write_realism(rows, verified, run.study.name, len(set(shown.people)), within, folder)
    return rows


def _seen(run: Run, shown: Shown, spec: Verification, progress: Progress) -> list[Seen]:
    """What a verifier that has learnt from a run's training people makes of what is shown."""
    store, seed = run.store(), run.study.evaluation.seed
    rows = np.random.default_rng(seed).permutation(store.indices("train"))[:MOST_TAUGHT]
    with progress.task("Learning who is who", spec.steps) as task:
        verifier = train_verifier(_photographs(store, np.sort(rows)), spec, seed, task.advance)
    return verify(verifier, _photographs(store, shown.rows), shown.answers, seed)


def _photographs(store: Store, rows: NDArray[np.int64]) -> Photographs:
    images, masks = (torch.from_numpy(np.stack([part[row] for row in rows])) for part in (store.images, store.masks))
    return Photographs(images, masks, store.table["patient"].iloc[rows].astype(str).tolist())


@torch.no_grad()
def shown_by(run: Run, device: torch.device, progress: Progress, people: int, within: float) -> Shown:
    """Test images of a run and an answer of every method about each: to a change of one variable, in turn those that
    its evaluation asks about."""
    study, store = run.study, run.store()
    fill_likely(run, store, "test")
    models = {method: run.model(method, device) for method in run.methods()}
    judge = run.judge(device)
    rows = np.random.default_rng(study.evaluation.seed).permutation(store.indices("test", complete=True))[:people]
    cohort = Cohort(study, store, np.sort(rows), device)
    wanted = _asked(cohort, within)
    generator = torch.Generator(device).manual_seed(study.evaluation.seed)
    real: list[Tensor] = []
    answers: dict[str, list[Tensor]] = {method: [] for method in models}
    for samples in progress(cohort.batches(), -(-len(cohort) // study.evaluation.batch_size), f"Asking {study.name}"):
        do = wanted[samples.places]
        real.append(to_grey_levels(samples.image).cpu())
        for method, model in models.items():
            after = model.scm.counterfactual(samples.values, do, generator)
            answers[method].append(to_grey_levels(model.abduct(samples.image, samples.values).predict(after)).cpu())
    joined = {method: torch.cat(parts) for method, parts in answers.items()}
    return Shown.read(torch.cat(real), joined, cohort.named("patient"), judge.cpu(), cohort.rows)


def _asked(cohort: Cohort, within: float) -> Tensor:
    """What each sample is asked for, (N, V), NaN but for one variable: the value of another one at random that is up to
    ``within`` standard deviations from its own."""
    study: Study = cohort.study
    values, random = cohort.values.cpu().numpy(), np.random.default_rng(study.evaluation.seed)
    do = np.full_like(values, np.nan)
    columns = [cohort.column(variable) for variable in study.asked]
    for place, order in enumerate(random.permutation(len(values))):
        column = columns[place % len(columns)]
        own = values[:, column]
        near = np.flatnonzero(np.abs(own - own[order]) <= within * own.std())
        do[order, column] = own[random.choice(near[near != order])] if len(near) > 1 else own[order]
    return torch.from_numpy(do).to(cohort.device)
