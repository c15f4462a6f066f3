"""Which samples and which judge an evaluation may use: its guards."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcft.config.loader import parse_study
from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.data.splits import PARTS, parts_of
from segcft.data.store import Store
from segcft.errors import Code, DataError, RunError
from segcft.evaluate.answered import ErrorBars
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.evaluation import asked_values, evaluate
from segcft.evaluate.given import write_questions
from segcft.evaluate.judges import compare, render_judges
from segcft.measures.measurements import Measurements
from segcft.pipeline.calibration import read_calibration
from segcft.pipeline.completion import fill_likely
from segcft.pipeline.importing import shared_images
from segcft.pipeline.run import Run
from segcft.pipeline.stage import training_stage
from segcft.readers.foreign import ForeignSegmentor
from segcft.readers.reader import MaskReader, Reader
from segcft.readers.segmentor import Segmentor
from segcft.simulate.people import person_id, person_number
from segcft.training import artefact
from segcft.training.findings import Finding, recorded
from segcft.utils.atomic import write_text
from segcft.utils.progress import Progress

UNKNOWN_TRAINING = (
    "the image mechanism was imported, and segcft does not know its training samples: those judged may be among them, "
    "unless the run has its original split (data.split)"
)
VALIDATION = "Validation samples: to choose settings by. What was chosen is reported on test samples."

FOLD = "Fold {0.fold} of {0.folds}. The values that are asked for are those of the people of all folds."

SAME_NAMES = (
    "have the id of a training or validation subject and another image: if they are the same subjects, at another time "
    "or prepared otherwise, figures flatter the model; if only their numbers are alike, there is no harm"
)

PUBLISHED = (
    "a published model comes without its samples, so segcft cannot know whether those judged were among them; its card "
    "says what it was trained on"
)

COPY = 0.98
"""Correlation of grey levels over which two images of one name are one, at another size or with other contrast. That of
different subjects is up to 0.96 in JSRT and 0.975 in simulators; JPEG, resizing or a gamma of 0.7 leave over 0.98."""

UNKNOWN_JUDGE = (
    "Nobody knows here whom this judge was trained on: it may have seen those who are judged, or be a guide."
)

FOREIGN = (".yaml", ".yml")
"""What describes a judge from elsewhere ends so."""


def evaluate_samples(
    run: Run,
    store: Store,
    folder: Path,
    device: torch.device,
    progress: Progress,
    split: str = "test",
    judge: Path | None = None,
    answers: Mapping[str, Path] | None = None,
) -> list[dict[str, Any]]:
    """Judge every method of ``run`` on the samples of one part of ``store``; the table and figures go to ``folder``.

    Args:
        run: a run or a published model.
        store: the run's own samples, or others.
        folder: where to write.
        device: where to compute.
        progress: shows how far the work is, and what cannot be known.
        split: the part, "test" or "validation".
        judge: another judge, see :func:`load_judge` (default: the run's own).
        answers: another method -> the table of what it answered to :func:`ask_samples`.

    Raises:
        DataError: no sample of that part has all attributes; the run's samples are not those that were imported; an
            earlier stage has seen one of the subjects; or an answer is missing or cannot be read.
        RunError: a part is missing or damaged, or the judge does not fit.
    """
    rows, notes = _judged(run, store, split)
    if judge is not None and _is_own_judge(run, judge):
        judge = None
    methods = run.methods()
    parts = ["scm", *run.judges, *methods.values()]
    notes += warnings_of(run)
    if judge is not None:
        notes.append(f"Judged by {judge}, and not by the judge of {run.folder}.")
        if judge.suffix in FOREIGN:
            notes.append(UNKNOWN_JUDGE)
    for note in notes:
        progress.note(f"  {note}")
    models = {method: run.model(method, device) for method in methods}
    reader = run.judge(device) if judge is None else load_judge(run, judge, device)
    # Validation samples are those that error bars are calibrated on, and another judge reads otherwise.
    calibrated = read_calibration(run) if split == "test" else {}
    error_bars = {m: ErrorBars(one.intervals if judge is None else None, one.band) for m, one in calibrated.items()}
    return evaluate(
        run.study,
        store,
        rows,
        models,
        reader,
        folder,
        device=device,
        guides=guides_of(run, device),
        training_values=torch.from_numpy(run.training_values(parts)),
        training=None if run.published else run.samples_of(parts),
        predictor=run.load("predictor-judge", device) if run.study.predictor_judge is not None else None,
        error_bars=error_bars,
        answers=answers,
        notes=notes,
        progress=progress,
    )


def evaluate_by(
    judges: Sequence[Path],
    run: Run,
    store: Store,
    folder: Path,
    device: torch.device,
    progress: Progress,
    split: str = "test",
    answers: Mapping[str, Path] | None = None,
) -> list[dict[str, Any]]:
    """Have several ``judges`` judge the same answers, see :func:`evaluate_samples`: the table of each is in a folder of
    its name in ``folder / "by"``, and what they say beside each other in ``judges.md`` and ``judges.json``.

    Returns:
        the rows of the comparison, see :func:`segcft.evaluate.judges.compare`.

    Raises:
        RunError: one is there twice, or see :func:`evaluate_samples`.
    """
    files = [_judge_file(place.resolve()) for place in judges]
    for place, file in zip(judges, files, strict=True):  # one error, and not one after an hour
        load_judge(run, place)
        if files.count(file) > 1:
            raise RunError(Code.DUPLICATE, "--judge", f"{place} is there twice")
    names = [file.stem if file.suffix in FOREIGN else file.parent.name for file in files]
    names = [name if names.count(name) == 1 else f"{name}-{k}" for k, name in enumerate(names, start=1)]
    tables = {
        name: evaluate_samples(run, store, folder / "by" / name, device, progress, split, place, answers)
        for name, place in zip(names, judges, strict=True)
    }
    compared = compare(run.study, tables)
    write_text(folder / "judges.json", json.dumps(compared, indent=1, allow_nan=False) + "\n")
    write_text(folder / "judges.md", render_judges(run.study, compared))
    return compared


def ask_samples(
    run: Run, store: Store, folder: Path, device: torch.device, progress: Progress, split: str = "test"
) -> Path:
    """Write the questions that :func:`evaluate_samples` asks of the same samples to ``folder``, for other methods to
    answer; the table of them. Arguments and errors are as there."""
    rows, _ = _judged(run, store, split)
    cohort = Cohort.choose(run.study, store, rows, device)
    return write_questions(cohort, asked_values(cohort, run.load("scm", device)), folder, progress)


def _judged(run: Run, store: Store, split: str) -> tuple[NDArray[np.int64], list[str]]:
    """Which rows of ``store`` may be judged, and what a reader of the table must know of them; see
    :func:`evaluate_samples`."""
    inferred = fill_likely(run, store, split)
    rows = store.indices(split, complete=True)
    if len(rows) == 0:
        raise DataError(Code.EMPTY, store.folder, f"no {split} sample has all attributes, so there is none to judge")
    notes = [*inferred, *([VALIDATION] if split == "validation" else [])]
    if run.published or not _is_own(run, store, ["scm", *run.judges, *run.methods().values()]):
        notes += check_unseen(run, store)
    else:
        check_apart(store, store, rows, split)
        if run.study.splits.fold is not None:
            notes.append(FOLD.format(run.study.splits))
    return rows, notes


def found_in(run: Run) -> list[tuple[str, Finding]]:
    """What went wrong in the trainings of a run or a published model, as far as its parts are there: part, finding."""
    parts = [name for name in run.parts if run.path(name).is_file()]
    return [(name, finding) for name in parts for finding in recorded(artefact.read_meta(run.path(name)))]


def warnings_of(run: Run) -> list[str]:
    """What readers of a table must know of the parts of a run."""
    found = [f"Warning: {name}: {finding}" for name, finding in found_in(run)]
    if run.path("hvae").is_file() and "source" in artefact.read_meta(run.path("hvae")):
        return [f"Warning: {UNKNOWN_TRAINING}.", *found]
    return found


def _is_own(run: Run, store: Store, parts: Sequence[str]) -> bool:
    """Whether a store has the samples and the split of ``run``, which are those that its ``parts`` were trained on.

    Raises:
        RunError: the run's parts were trained on others than it has.
        DataError: they are not what was imported.
    """
    own = run.samples_of(parts)
    own.verify()
    return store.fingerprint == own.fingerprint and store.table["split"].equals(own.table["split"])


def guides_of(run: Run, device: torch.device | str = "cpu") -> dict[str, Reader]:
    """Part -> the guide of one of the run's methods, where it is still there: models that were published before answers
    could be exact come without."""
    found: dict[str, Reader] = {}
    for stage in map(training_stage, run.methods().values()):
        if stage.guide and run.path(stage.guide).is_file() and is_guided_by(run, stage.name, stage.guide):
            guide = run.load(stage.guide, device)
            if isinstance(guide, Reader):  # a predictor reads no measures
                found[stage.guide] = guide
    return found


def is_guided_by(run: Run, part: str, guide: str) -> bool:
    """Whether the guide that is there is the one that a fine-tuned part has learnt to please, and not trained since."""
    made_from = artefact.read_meta(run.path(part)).get("made_from", {})
    return bool(artefact.read_meta(run.path(guide))["key"] == made_from.get(guide))


def load_judge(run: Run, place: Path, device: torch.device | str = "cpu") -> MaskReader:
    """A judge from elsewhere, to read what ``run`` makes: another opinion than that of the run's own.

    Args:
        run: a run or published model.
        place: another one, whose judge it is, or the file of a judge or a segmentor; or a YAML file that describes a
            network from elsewhere, see :class:`~segcft.config.foreign.ForeignReader`.
        device: where to compute.

    Raises:
        RunError: the file is missing, damaged or another part; its study has another grid or other structures; or it is
            the guide of one of the run's methods.
        StudyError: the YAML file breaks a rule.
    """
    if place.suffix in FOREIGN:
        return ForeignSegmentor(place, run.study, device).eval()
    path = _judge_file(place)
    meta = artefact.read_meta(path)
    part = meta.get("part", "judge")
    if part not in ("judge", "segmentor"):
        raise RunError(Code.INVALID, path, f"expected a judge or a segmentor, which read masks, not the {part}")
    study = parse_study(meta.get("study", {}), source=f"{path}: its study")
    for what, ours, theirs in zip(("image", "structures"), _reads(run.study), _reads(study), strict=True):
        if ours != theirs:
            raise RunError(
                Code.OTHER, path, f"of another study: its {what} is {theirs}, and that of {run.study.name!r} is {ours}"
            )
    metas = [artefact.read_meta(run.path(method)) for method in run.methods().values()]
    guide = run.path("segmentor")
    guides = {one.get("made_from", {}).get("segmentor") for one in metas}
    if meta["key"] in guides or (guide.is_file() and artefact.same_weights(path, guide)):
        raise RunError(Code.LEAK, path, f"the guide of {run.folder}, and a judge that is the guide proves nothing")
    network = training_stage(part).build(study)
    artefact.load(path, network)
    judge: Segmentor = run.ready(network, device)
    judge.measurements = Measurements.of(run.study)  # its own study may measure the same masks otherwise
    return judge


def _is_own_judge(run: Run, place: Path) -> bool:
    """Whether the judge at ``place`` is the run's own."""
    own, other = run.path("judge"), _judge_file(place)
    return place.suffix not in FOREIGN and own.is_file() and other.is_file() and artefact.same_weights(other, own)


def _judge_file(place: Path) -> Path:
    """Of a run or published model, or of the file itself."""
    return place / "judge.safetensors" if place.is_dir() else place


def _reads(study: Study) -> tuple[dict[str, Any], list[str]]:
    """What a segmentor of a study is made for: its grid, and its structures in their order."""
    return study.image.model_dump(mode="json"), list(study.masked)


def check_unseen(run: Run, store: Store) -> list[str]:
    """Refuse subjects on whom a run or a published model was trained.

    Equal images show it. Equal names do not, as two hospitals may number their patients alike; but an image of the same
    name that is nearly the same one (:data:`COPY`) is a copy.

    Returns:
        what cannot be known, for readers of the table.

    Raises:
        DataError: an image of ``store``, or a simulated subject, is also in the training or validation part.
    """
    if run.published:
        return _check_published(run, store)
    own = run.store()
    seen = own.table["split"] != "test"
    _refuse(store, "images", shared_images(store, store.table.index, own, np.flatnonzero(seen)))
    _refuse(store, "images", _copies(store, own, np.flatnonzero(seen)), ", prepared otherwise")
    named = len(set(own.table.loc[seen, "patient"]) & set(store.table["patient"]))
    return [f"Warning: {named} of the subjects {SAME_NAMES}."] if named else []


def _check_published(run: Run, store: Store) -> list[str]:
    """:func:`check_unseen` without the samples: simulated subjects are known by their numbers, and others are not."""
    data = run.study.data
    parts = [*run.judges, "scm", *run.methods().values()]
    if store.fingerprint in {artefact.read_meta(run.path(part)).get("data") for part in parts}:
        _refuse(store, "samples", len(store))
    if isinstance(data, SimulatedData) and "person" in store.table:
        people = {person_id(data.seed, index): person_number(data.seed, index) for index in range(data.people)}
        seen = {people[id] for id, part in parts_of(people, run.study.splits).items() if part != "test"}
        _refuse(store, "subjects", len(seen & set(store.table["person"])))
        return []
    return [f"Warning: {PUBLISHED}."]


def _copies(store: Store, own: Store, seen: NDArray[np.int64]) -> int:
    """How many images of ``store`` are copies of those of the same patient among the rows ``seen`` of ``own``."""
    images: dict[str, list[int]] = defaultdict(list)
    for row in seen:
        images[own.table["patient"].iloc[row]].append(row)
    return sum(
        any(np.corrcoef(store.images[row].ravel(), own.images[other].ravel())[0, 1] > COPY for other in images[patient])
        for row, patient in zip(store.table.index.tolist(), store.table["patient"], strict=True)
        if patient in images
    )


def _refuse(store: Store, what: str, shared: int, how: str = "") -> None:
    if shared:
        raise DataError(
            Code.LEAK,
            store.folder,
            f"{shared} of the {what} were in this model's training or validation{how}; give others",
        )


def check_apart(own: Store, store: Store, rows: NDArray[np.int64], split: str) -> None:
    """Check that the subjects of one part, at ``rows`` of ``store``, are in no earlier part of a run's ``own``.

    Raises:
        DataError: some are.
    """
    earlier = PARTS[: PARTS.index(split)]
    seen = own.table.loc[own.table["split"].isin(earlier), "patient"]
    shared = len(set(seen) & set(store.table["patient"].iloc[rows]))
    if shared:
        raise DataError(
            Code.LEAK,
            store.folder,
            f"{shared} of the {split} subjects are also in {' or '.join(earlier)}, so a stage has seen them",
        )
