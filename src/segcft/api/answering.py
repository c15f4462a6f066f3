"""From questions to answers: abduction, action, prediction, and what the judge reads of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from segcft.api.answer import Answer
from segcft.api.question import Question
from segcft.api.record import add_obtained, changes_of, record_of
from segcft.api.subject import Subject, infer_subject, resolve_measured
from segcft.config.study import Study
from segcft.counterfactual.band import Band
from segcft.counterfactual.contradictions import check_parts
from segcft.counterfactual.exact import corrected
from segcft.counterfactual.model import Abduction, CounterfactualModel
from segcft.counterfactual.repairs import gained_by_turning, what_happened
from segcft.counterfactual.warnings import (
    NOTABLE,
    atypical_image,
    missed_changes,
    out_of_support,
    turned_image,
    unlikely_together,
)
from segcft.errors import Code, RunError
from segcft.grey import GREY_LEVELS, to_grey_levels, to_unit
from segcft.image_models.mechanism import seeded
from segcft.pipeline.judging import is_guided_by
from segcft.pipeline.stage import training_stage

if TYPE_CHECKING:
    from segcft.api.model import Model

REACHED = 0.05
"""The share of a standard deviation up to which a corrected answer is called exact."""

BATCH = 16
"""Images that are answered for at once."""


class _Read(NamedTuple):
    """Answers uint8 (B, C, *size), and what the judge makes of them: soft masks and measures."""

    grey: Tensor
    masks: Tensor
    measures: Tensor


@torch.no_grad()
def answer_questions(
    asking: Model,
    questions: Sequence[Question],
    method: str,
    model: CounterfactualModel,
    draws: int,
    exact: bool,
    record: dict[str, Any],
) -> list[Answer]:
    """Answers to questions, in one batch.

    Args:
        asking: whose judge, run and training subjects they need.
        questions: one or more.
        method: of ``model``.
        model: answers.
        draws: further answers, each.
        exact: see :meth:`segcft.api.model.Model.counterfactual`.
        record: what all records begin with.

    Raises:
        InterventionError: see :meth:`segcft.api.model.Model.counterfactual`.
        RunError: exact answers are asked for, and the guide is not there.
    """
    study, judge, columns = asking.study, asking.judge, asking.study.measured_columns
    x = to_unit(torch.from_numpy(np.stack([question.pixels for question in questions])).to(asking.device))
    masks_before = judge.masks(x)
    read_before = judge.measurements.read(masks_before, x)
    subjects, asked, after = _understood(asking, questions, method, model, x, read_before)
    before, wanted = torch.cat([subject.values for subject in subjects]), torch.cat(after)
    abduction = model.abduct(x, before)
    lengths = model.mechanism.lengths(abduction.noise)
    typical, joint = asking.run.typical(asking.methods[method], lengths), asking.run.joint_support()
    spread = _spread(asking.people[:, columns])
    calibration = asking.calibration(method)
    # Of corrected answers nobody has calibrated them.
    intervals, band = (None, None) if exact else (calibration.intervals, calibration.band)
    found, refused = _read(asking, abduction, wanted), [""] * len(questions)
    if exact:
        found, refused = _exact(asking, method, abduction, x, before, wanted, read_before, found)
    answers = []
    for i, (question, subject) in enumerate(zip(questions, subjects, strict=True)):
        drawn = _draw(asking, model, x[i : i + 1], subject, asked[i], draws)
        own = record | record_of(study, question, subject, asked[i][0], after[i][0], draws)
        if exact:
            own["exact"] = not refused[i]
        happened = partial(what_happened, model, judge, x[i : i + 1], subject.values, columns, typical)
        gained, change = found.measures[i] - read_before[i], (after[i] - subject.values)[0, columns]
        unlike = atypical_image({name: bits[i] for name, bits in lengths.items()}, typical, happened)
        if not unlike and calibration.turned:
            gains = gained_by_turning(model, judge, x[i : i + 1], subject.values, columns)
            unlike = turned_image({name: bits[0] for name, bits in gains.items()}, calibration.turned)
        own["warnings"] = [
            *(f"image: {remark.text}" for remark in question.remarks),
            *unlike,
            *out_of_support(study, subject.source, subject.values[0], asked[i][0], after[i][0], asking.people),
            *unlikely_together(study, model.scm, after[i][0], joint),
            *filter(None, [refused[i]]),
            *missed_changes(study, gained, change, spread),
        ]
        read_spread = _spread(judge.read(to_unit(drawn))) if draws > 1 else None
        add_obtained(own, study, model.scm, after[i], found.measures[i], read_spread, intervals)
        answers.append(
            Answer(
                image=found.grey[i].cpu().numpy(),
                original=question.pixels,
                masks_before=(masks_before[i] > 0.5).cpu().numpy(),
                masks_after=(found.masks[i] > 0.5).cpu().numpy(),
                draws=drawn.cpu().numpy(),
                record=own,
                spacing=study.image.spacing,
                study=study,
                source=question.file,
                lie=question.lie,
                band=_half_width(band, x[i : i + 1], to_unit(found.grey[i : i + 1]), own, study),
            )
        )
    return answers


def _understood(
    asking: Model, questions: Sequence[Question], method: str, model: CounterfactualModel, x: Tensor, read: Tensor
) -> tuple[list[Subject], list[Tensor], list[Tensor]]:
    """Of each question the subject, what is set and the values after that, (1, V) each."""
    study, measurements = asking.study, asking.judge.measurements
    subjects, asked, after = [], [], []
    for question, image, measures in zip(questions, x.split(1), read, strict=True):
        seen = asking.evidence(method, model, image)
        subject = infer_subject(question, measures, study, measurements, model.scm, _generator(asking), seen)
        do = resolve_measured(measurements, question.do, subject.values, model.scm)
        subjects.append(subject)
        asked.append(do)
        after.append(model.scm.counterfactual(subject.values, do, _generator(asking)))
        settled = model.scm.settled(subject.values, do, _generator(asking))[0]
        check_parts(measurements, list(study.variables), settled, after[-1][0])
    return subjects, asked, after


def _read(asking: Model, abduction: Abduction, values: Tensor) -> _Read:
    grey = to_grey_levels(abduction.predict(values))
    image = to_unit(grey)
    masks = asking.judge.masks(image)
    return _Read(grey, masks, asking.judge.measurements.read(masks, image))


def _exact(
    asking: Model,
    method: str,
    abduction: Abduction,
    x: Tensor,
    before: Tensor,
    wanted: Tensor,
    read_before: Tensor,
    plain: _Read,
) -> tuple[_Read, list[str]]:
    """Answers of which the guide reads what is asked for; the plain ones, with a warning, where the judge, which took
    no part, finds these closer and the others notably off."""
    columns = asking.study.measured_columns
    spread = _spread(asking.people[:, columns])
    ratios = torch.tensor([one.measure.ratio for one in asking.judge.measurements.all], device=x.device)
    better = corrected(abduction, guide_of(asking, method), x, before, wanted, columns, spread, ratios)
    found = _read(asking, abduction, better.values)
    change = (wanted - before)[:, columns]
    misses = [((one.measures - read_before - change).abs() / spread).amax(dim=1) for one in (plain, found)]
    worse = (misses[1] > misses[0]) & (misses[1] > NOTABLE)
    kept = [torch.where(worse.reshape(-1, *(1,) * (a.dim() - 1)), a, b) for a, b in zip(plain, found, strict=True)]
    judged = "exact: refused, as the judge reads the corrected answer as further from what was asked for than this one"
    short = "exact: not reached: the guide still reads another change than the one that was asked for"
    reached = ((better.missed.abs() / spread).nan_to_num(nan=torch.inf).amax(dim=1) < REACHED).tolist()
    said = [judged if bad else "" if good else short for bad, good in zip(worse.tolist(), reached, strict=True)]
    return _Read(*kept), said


def _half_width(
    band: Band | None, x: Tensor, answer: Tensor, record: dict[str, Any], study: Study
) -> NDArray[np.float32] | None:
    """Of the band around an ``answer`` (1, C, *size) about the image ``x``, (C, *size) in grey levels, None where
    nobody knows; the ``record`` says what it is."""
    width = band.half_width(x, answer, changes_of(record, study)) if band is not None else None
    if band is None or width is None:
        return None
    record["band"] = {"level": band.level, "of": band.of}
    return (GREY_LEVELS * width[0]).cpu().numpy()


def guide_of(asking: Model, method: str) -> Any:
    """The guide by which a method's mechanism was fine-tuned.

    Raises:
        RunError: it has none, or that is not in the folder.
    """
    part, run = asking.methods[method], asking.run
    if not asking.study.measured:
        raise RunError(Code.UNSUPPORTED, run.folder, "exact: there is no measure, of which alone answers are corrected")
    guide = training_stage(part).guide
    if not guide or not run.path(guide).is_file():
        why = "there is no guide of this method to correct answers by; publish the model again with a run's guide"
        raise RunError(Code.MISSING, run.path(guide) if guide else method, f"exact: {why}")
    if not is_guided_by(run, part, guide):
        why = (
            f"exact: it was trained again since {part} was fine-tuned by it; bring the run up to date with `segcft run`"
        )
        raise RunError(Code.OTHER, run.path(guide), why)
    return run.load(guide, asking.device)


def _draw(asking: Model, model: CounterfactualModel, x: Tensor, subject: Subject, asked: Tensor, draws: int) -> Tensor:
    """Counterfactuals of the image ``x`` (1, C, H, W) from draws of all that is not known: uint8 (K, C, H, W)."""
    drawn = x.new_empty((0, *x.shape[1:]), dtype=torch.uint8)
    generator = _generator(asking)
    values = subject.missing.draw(draws, generator) if draws else subject.values[:0]
    with seeded(asking.study.evaluation.seed, asking.device):
        for part in values.split(BATCH) if draws else ():
            # A change by a share or an amount was resolved with the likely values, and is the same in all draws.
            many, do = x.expand(len(part), *x.shape[1:]), asked.expand(len(part), -1)
            answer = model.counterfactual(many, part, do, generator, sample=True)
            drawn = torch.cat([drawn, to_grey_levels(answer.image)])
    return drawn


def _generator(asking: Model) -> Generator:
    return torch.Generator(asking.device).manual_seed(asking.study.evaluation.seed)


def _spread(values: Tensor) -> Tensor:
    """The standard deviation of each column of values (N, M), (M,); of no columns PyTorch would warn."""
    return values.std(dim=0) if values.shape[1] else values.new_zeros(0)
