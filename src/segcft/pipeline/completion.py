r"""Training samples whose attributes are not all known, completed so that the image mechanism learns from them.

What is missing is summed over: with a the missing attributes of a sample with the image x and the known values v,
training minimises

.. math:: E_{q(a)} [-\log p(x \mid a, v)].

Steps take turns among draws. Where no predictor looks at the image, q is :math:`p(a \mid v)`, that of the attributes'
mechanisms, which are trained before. Such a sample then teaches what its known values show, and of the missing ones
that they show nothing: where a share f of the samples lacks an attribute, the best mechanism has 1 - f of its effect.
Where the study has a ``predictor``, q is :math:`p(a \mid v, o(x))` given what that says of the image
(:mod:`segcft.readers.evidence`), so that of the effect as much is kept as the predictor can tell. Of an attribute that
is known of a training sample the predictor says more than of others; what it says of the missing ones is not learnt.

Who is judged has the likeliest of what is missing by the known values: what images tell of categories
(:mod:`segcft.counterfactual.evidence`) differs from method to method, and all are judged by the same values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.causal.missing import LogLikelihood, MissingValues
from segcft.causal.scm import StructuralCausalModel
from segcft.data.batches import sequential
from segcft.data.store import Store
from segcft.errors import Code, DataError
from segcft.grey import to_unit
from segcft.pipeline.run import Run
from segcft.readers.evidence import ImageEvidence
from segcft.readers.predictor import Predictor
from segcft.utils.progress import Progress

CANDIDATES = 500
"""Draws of the SCM of which the likely ones are taken, for each sample: fewer than for an answer, as there are many."""
BATCH = 64
DRAWS = 16
"""Completions of each sample: of a category that is as likely as not, the share of draws is right within an eighth."""


def completed(
    scm: StructuralCausalModel,
    values: NDArray[np.float32],
    seed: int,
    draws: int = DRAWS,
    progress: Progress | None = None,
    shown: Callable[[int], LogLikelihood] | None = None,
) -> NDArray[np.float32]:
    """Values (N, V) of which some are NaN, completed ``draws`` times each: (N, draws, V).

    ``shown`` says, of the image of each of the N, how likely what it shows is under values.

    Raises:
        InterventionError: what is known of a sample has no likelihood.
    """
    found, generator = np.repeat(values[:, None], draws, axis=1), _generator(scm, seed)
    rows = np.flatnonzero(_lacking(scm, values))
    for row in (progress or Progress())(rows, len(rows), "Drawing what is missing"):
        seen = shown(int(row)) if shown is not None else None
        found[row] = _missing(scm, values[row], generator, seen).draw(draws, generator).cpu().numpy()
    return found


def shown_by(
    predictor: Predictor, store: Store, rows: NDArray[np.int64], device: torch.device
) -> Callable[[int], LogLikelihood]:
    """What a predictor sees in the images of ``rows``: of the k-th of them, how likely that is under values.

    How far it can be believed is learnt from the validation samples, which it has not been trained on.

    Raises:
        DataError: none of these has all values.
    """
    unseen = store.indices("validation", complete=True)
    if not len(unseen):
        why = "no validation sample has all values, so nobody knows how far a predictor can be believed"
        raise DataError(Code.EMPTY, store.folder, why)
    evidence = ImageEvidence(predictor, *_said(predictor, store, unseen, device))
    said, _ = _said(predictor, store, rows, device)
    return lambda k: functools.partial(evidence, said[k])


@torch.inference_mode()
def _said(predictor: Predictor, store: Store, rows: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
    """What the predictor says of the images of ``rows`` (N, K), and their values (N, V)."""
    batches = sequential(store, rows, BATCH)
    said = [predictor(to_unit(batch["image"].to(device))) for batch in batches]
    return torch.cat(said), torch.from_numpy(store.values()[rows]).to(device)


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


def _missing(
    scm: StructuralCausalModel,
    values: NDArray[np.float32],
    generator: torch.Generator,
    seen: LogLikelihood | None = None,
) -> MissingValues:
    """Of one sample (V,)."""
    return MissingValues(scm, torch.from_numpy(values[None]).to(generator.device), generator, CANDIDATES, seen)


def _generator(scm: StructuralCausalModel, seed: int) -> torch.Generator:
    return torch.Generator(next(scm.parameters()).device).manual_seed(seed)
