r"""Training samples whose attributes are not all known, completed so that the image mechanism learns from them.

What is missing is summed over: with a the missing attributes of a sample with the image x and the known values v,
training minimises

.. math:: E_{p(a \mid v)} [-\log p(x \mid a, v)] \ge -\log p(x \mid v),

where :math:`p(a \mid v)` is that of the attributes' mechanisms, which are trained before. Steps take turns among draws.
The draws do not look at the image. So such a sample teaches what its known values show, and of the missing ones that
they show nothing: where a share f of the samples lacks an attribute, the best mechanism of this bound has 1 - f of its
effect.

Who is judged has the likeliest of what is missing, as an answer about an image has.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from segcft.causal.missing import MissingValues
from segcft.causal.scm import StructuralCausalModel
from segcft.data.store import Store
from segcft.pipeline.run import Run
from segcft.utils.progress import Progress

CANDIDATES = 500
"""Draws of the SCM of which the likely ones are taken, for each sample: fewer than for an answer, as there are many."""
DRAWS = 16
"""Completions of each sample: of a category that is as likely as not, the share of draws is right within an eighth."""


def completed(
    scm: StructuralCausalModel,
    values: NDArray[np.float32],
    seed: int,
    draws: int = DRAWS,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Values (N, V) of which some are NaN, completed ``draws`` times each: (N, draws, V).

    Raises:
        InterventionError: what is known of a sample has no likelihood.
    """
    found, generator = np.repeat(values[:, None], draws, axis=1), _generator(scm, seed)
    rows = np.flatnonzero(_lacking(scm, values))
    for row in (progress or Progress())(rows, len(rows), "Drawing what is missing"):
        found[row] = _missing(scm, values[row], generator).draw(draws, generator).cpu().numpy()
    return found


def fill_likely(run: Run, store: Store, split: str) -> list[str]:
    """Fill in, for a study whose image mechanism learns from who lacks attributes, the likeliest of what the samples of
    a part lack, so that they are judged too; see :meth:`segcft.data.store.Store.fill`.

    Not of studies with a judge of attributes: what is inferred says nothing of what images show. In a fold all samples
    are filled in, since those of all folds lend each other their values.

    Returns:
        What a reader of the table must know of it; nothing where nothing was filled in.
    """
    if run.study.hvae.missing == "leave out" or run.study.predictor_judge is not None:
        return []
    scm, values = run.load("scm"), store.values()
    rows = store.indices(split if run.study.splits.fold is None else None, masked=True)
    rows = rows[_lacking(scm, values[rows]) & ~np.isnan(values[rows][:, run.study.measured_columns]).any(axis=1)]
    if not len(rows):
        return []
    generator = _generator(scm, run.study.evaluation.seed)
    likely = [_missing(scm, values[row], generator).likely()[0].numpy() for row in rows]
    store.fill(rows, np.concatenate(likely))
    judged = np.isin(rows, store.indices(split)).sum()
    return [f"{judged} of the samples lack attributes: they are judged with the likeliest ones."]


def _lacking(scm: StructuralCausalModel, values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of values (N, V) are not all known, but for what follows from others."""
    derived = np.array([bool(one.derived) for one in scm.definitions.values()])
    lacking: NDArray[np.bool_] = (np.isnan(values) & ~derived).any(axis=1)
    return lacking


def _missing(scm: StructuralCausalModel, values: NDArray[np.float32], generator: torch.Generator) -> MissingValues:
    """Of one sample (V,)."""
    return MissingValues(scm, torch.from_numpy(values[None]).to(generator.device), generator, CANDIDATES)


def _generator(scm: StructuralCausalModel, seed: int) -> torch.Generator:
    return torch.Generator(next(scm.parameters()).device).manual_seed(seed)
