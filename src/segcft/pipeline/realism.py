"""The images that realism is judged by: test people of a run, or of all its folds, and answers about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.config.study import Study
from segcft.data.store import Store
from segcft.errors import Code, RunError
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.identity import Photographs, Seen, Verification, summed, train_verifier, verify
from segcft.evaluate.realism import Row, Shown, left_out, realism, require_people, write_realism
from segcft.evaluate.two_sample import Classifier
from segcft.grey import to_grey_levels
from segcft.pipeline.completion import fill_likely
from segcft.pipeline.folds import runs_of
from segcft.pipeline.judging import check_apart
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
        RunError: parts are missing or damaged, folds have other methods than the first, or it is a published model,
            which has no samples.
        DataError: there are too few test people, or a stage has seen one of them.
    """
    runs, seed = runs_of(run), run.study.evaluation.seed
    methods = [set(one.methods()) for one in runs]
    for one, own in zip(runs, methods, strict=True):
        if not own or own != methods[0]:
            why = f"its methods are {', '.join(sorted(own)) or 'none'}; bring the run up to date with `segcft run`"
            raise RunError(Code.MISSING, one.folder, why)
    each = -(-people // len(runs))
    chosen = [chosen_of(one, each) for one in runs]
    require_people(sum(len(set(store.table["patient"].iloc[rows])) for store, rows in chosen))
    parts = [shown_by(one, *some, device, progress, within) for one, some in zip(runs, chosen, strict=True)]
    shown = Shown.joined(parts)
    rows = realism(shown, progress, classifier=classifier, seed=seed, device=device)
    spec = verification or Verification()
    verified = summed(
        [_seen(store, part, spec, seed, device, progress) for (store, _), part in zip(chosen, parts, strict=True)]
    )
    write_realism(rows, verified, run.study.name, len(set(shown.people)), within, folder, left_out(shown))
    return rows


def chosen_of(run: Run, people: int) -> tuple[Store, NDArray[np.int64]]:
    """The samples of a run, and up to so many test images among them, on which no part was trained."""
    store = run.samples_of([*run.asked, *map(run.mechanism, run.methods())])
    fill_likely(run, store, "test")
    rows = store.indices("test", complete=True)
    check_apart(store, store, rows, "test")
    return store, np.sort(np.random.default_rng(run.study.evaluation.seed).permutation(rows)[:people])


def _seen(
    store: Store, shown: Shown, spec: Verification, seed: int, device: torch.device, progress: Progress
) -> list[Seen]:
    """What a verifier that has learnt from the training people of ``store`` makes of what is shown."""
    rows = np.random.default_rng(seed).permutation(store.indices("train"))[:MOST_TAUGHT]
    with progress.task("Learning who is who", spec.steps) as task:
        verifier = train_verifier(_photographs(store, np.sort(rows)), spec, seed, task.advance, device)
    return verify(verifier, _photographs(store, shown.rows), shown.answers, seed)


def _photographs(store: Store, rows: NDArray[np.int64]) -> Photographs:
    images, masks = (torch.from_numpy(np.stack([part[row] for row in rows])) for part in (store.images, store.masks))
    return Photographs(images, masks, store.table["patient"].iloc[rows].astype(str).tolist())


@torch.no_grad()
def shown_by(
    run: Run, store: Store, rows: NDArray[np.int64], device: torch.device, progress: Progress, within: float = WITHIN
) -> Shown:
    """Images at ``rows`` of a run's ``store``, ascending, and an answer of every method about each: to a change of one
    variable, in turn those that its evaluation asks about."""
    study = run.study
    models = {method: run.model(method, device) for method in run.methods()}
    judge = run.judge(device)
    cohort = Cohort(study, store, rows, device)
    wanted = asked_of(cohort, within)
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
    return Shown.read(torch.cat(real), joined, cohort.named("patient"), judge, cohort.rows)


def asked_of(cohort: Cohort, within: float) -> Tensor:
    """What each sample is asked for, (N, V), NaN but for one variable: another value, that of another sample at random
    which is up to ``within`` standard deviations from its own; of categories any other one. Who has no value of the
    variable, or whom nobody is near, is asked nothing."""
    study: Study = cohort.study
    values, random = cohort.values.cpu().numpy(), np.random.default_rng(study.evaluation.seed)
    do = np.full_like(values, np.nan)
    for place, order in enumerate(random.permutation(len(values))):
        variable = study.asked[place % len(study.asked)]
        column = cohort.column(variable)
        own = values[:, column]
        reach = np.inf if study.variables[variable].categories else within * np.nanstd(own)
        near = own[(np.abs(own - own[order]) <= reach) & (own != own[order])]
        if len(near):
            do[order, column] = random.choice(near)
    return torch.from_numpy(do).to(cohort.device)
