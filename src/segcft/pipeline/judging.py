"""Whom a run or a published model is judged on, and by whom: the guards of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.data.store import Store
from segcft.errors import DataError, RunError
from segcft.evaluate.evaluation import evaluate
from segcft.measures.measurements import Measurements
from segcft.pipeline.importing import check_apart, check_unseen
from segcft.pipeline.run import Run
from segcft.readers.segmentor import Segmentor
from segcft.training import artefact
from segcft.utils.progress import Progress

UNKNOWN_PEOPLE = (
    "the image mechanism was imported, and segcft does not know on whom it was trained: the people judged may be among "
    "them, unless the run has its original split (data.split)"
)
VALIDATION_PEOPLE = "Validation people: to choose settings by. What was chosen is reported on test people."


def evaluate_people(
    run: Run,
    store: Store,
    folder: Path,
    device: torch.device,
    progress: Progress,
    split: str = "test",
    judge: Path | None = None,
) -> list[dict[str, Any]]:
    """Judge every method of ``run`` on the people of one part of ``store``; the table and figures go to ``folder``.

    Args:
        run: a run or a published model.
        store: the run's own samples, or other people's.
        folder: where to write.
        device: where to compute.
        progress: is told how far the work is, and what cannot be known.
        split: the part, "test" or "validation".
        judge: another judge, see :func:`load_judge` (default: the run's own).

    Raises:
        DataError: nobody is in that part with all attributes; the run's samples are not those that were imported; or a
            person of them is one whom an earlier stage has seen.
        RunError: a part is missing or damaged, or the judge does not fit.
    """
    rows = store.indices(split, complete=True)
    if len(rows) == 0:
        raise DataError(f"{store.folder}: no {split} person has all attributes, so there is nothing to evaluate")
    methods = run.methods()
    parts = ["scm", "judge", *methods.values()]
    notes = [VALIDATION_PEOPLE] if split == "validation" else []
    if run.published or not _is_own(run, store, parts):
        notes += check_unseen(run, store)
    else:
        check_apart(store, store, rows, split)
    if run.path("hvae").is_file() and "source" in artefact.read_meta(run.path("hvae")):
        notes.append(f"Warning: {UNKNOWN_PEOPLE}.")
    if judge is not None:
        notes.append(f"Judged by {judge}, and not by the judge of {run.folder}.")
    for note in notes:
        progress.note(f"  {note}")
    return evaluate(
        run.study,
        store,
        rows,
        {method: run.model(method, device) for method in methods},
        run.load("judge", device) if judge is None else load_judge(run, judge, device),
        folder,
        device=device,
        training_values=torch.from_numpy(run.people(parts)),
        notes=notes,
        progress=progress,
    )


def _is_own(run: Run, store: Store, parts: Sequence[str]) -> bool:
    """Whether a store has the samples and the split of ``run``, which are those that its ``parts`` were trained on.

    Raises:
        RunError: the run's parts were trained on others than it has.
        DataError: they are not what was imported.
    """
    own = run.samples_of(parts)
    own.verify()
    return store.fingerprint == own.fingerprint and store.table["split"].equals(own.table["split"])


def load_judge(run: Run, place: Path, device: torch.device | str = "cpu") -> Segmentor:
    """A judge from elsewhere, to read what ``run`` makes: another opinion than that of the run's own.

    Args:
        run: a run or published model.
        place: another one, whose judge it is, or the file of a judge or a segmentor.
        device: where to compute.

    Raises:
        RunError: the file is missing, damaged or another part; its study has another grid or other structures; or it is
            the guide of one of the run's methods.
    """
    path = place / "judge.safetensors" if place.is_dir() else place
    meta = artefact.read_meta(path)
    part = meta.get("part", "judge")
    if part not in ("judge", "segmentor"):
        raise RunError(f"{path}: holds the {part}; a judge reads masks, as a judge or a segmentor does")
    study = parse_study(meta.get("study", {}), source=f"{path}: its study")
    for what, ours, theirs in zip(("image", "structures"), _reads(run.study), _reads(study), strict=True):
        if ours != theirs:
            raise RunError(
                f"{path}: of another study: its {what} is {theirs}, that of {run.study.name!r} is {ours}; a judge "
                "reads the same structures on the same grid"
            )
    metas = [artefact.read_meta(run.path(method)) for method in run.methods().values()]
    guide = run.path("segmentor")
    guides = {one.get("made_from", {}).get("segmentor") for one in metas}
    if meta["key"] in guides or (guide.is_file() and artefact.same_weights(path, guide)):
        raise RunError(f"{path}: is the guide of {run.folder}, and a judge that is the guide proves nothing")
    network = Segmentor(getattr(study, part), study.image.channels, Measurements.of(study))
    artefact.load(path, network)
    return run.ready(network, device)


def _reads(study: Study) -> tuple[dict[str, Any], list[str]]:
    """What a segmentor of a study is made for: its grid, and its structures in their order."""
    return study.image.model_dump(mode="json"), list(study.structures)
