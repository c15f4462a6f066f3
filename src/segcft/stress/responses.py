"""The pass over all subjects: what a classifier says of every image, of answers under every dose and of their shams."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.config.study import Study
from segcft.counterfactual.intervals import Intervals
from segcft.grey import GREY_LEVELS
from segcft.readers.classifier import Audited
from segcft.stress.doses import Doses, exposed
from segcft.stress.sham import Shams, boards, motions, shams
from segcft.stress.source import Answered, LeftOut, Opened, Seen, Source
from segcft.utils.progress import Progress

Floats = NDArray[np.float64]

SHAMS = 3
SHOWN = 2
"""Subjects with the largest responses whose pictures are kept, of every variable and output."""


@dataclass(frozen=True)
class Response:
    """Of one variable. N subjects, D doses, K outputs, S shams.

    Attributes:
        doses: of the variable.
        own: values of the subjects as they are, (N,), 0 where it is how the image was taken.
        supported: whether the answer is within the support of the training subjects, (N, D).
        output: of answers, (N, D, K).
        sham: of their shams, (N, D, S, K).
        kept: whether a sham changes the image about as much as the answer does, (N, D, S).
        size: how large the change of the image is, the root of its mean square in grey levels, (N, D).
        sham_size: the same of shams that are kept, on average, (N, D); NaN where there is none.
        overlap: of these shams with the answer, on average, (N, D); NaN of how images are taken, too.
        obtained: by how much the variable has changed as the judge reads it, in its unit, (N, D); NaN where it reads
            none.
        half_width: in 90 % of answers what was asked for is within this of what is read, in its unit, (N, D); NaN where
            nobody knows.
    """

    doses: Doses
    own: Floats
    supported: NDArray[np.bool_]
    output: Floats
    sham: Floats
    kept: NDArray[np.bool_]
    size: Floats
    sham_size: Floats
    overlap: Floats
    obtained: Floats
    half_width: Floats


class Example(NamedTuple):
    """A subject with a large response. Images (C, *size) are in [-1, 1]."""

    id: str
    variable: str
    output: str
    own: str
    value: str
    before: float
    after: float
    sham_after: float
    image: Tensor
    answer: Tensor
    sham: Tensor


@dataclass(frozen=True)
class Responses:
    """Of all variables, N images and K outputs."""

    ids: Sequence[str]
    """Of the images."""
    patients: NDArray[np.str_]
    """Who each is of, (N,)."""
    labels: Mapping[str, NDArray[np.str_]]
    """What is grouped by -> the group of each, (N,), "" where nobody knows."""
    outputs: Sequence[str]
    """Their names."""
    decides: bool
    """Whether they are probabilities."""
    plain: Floats
    """Outputs of the images as they are, (N, K)."""
    null: Floats
    """Outputs of the answers to no question, (N, K)."""
    of: Mapping[str, Response]
    """Variable -> what is found of it."""
    left_out: Sequence[LeftOut]
    """Who was not asked about."""
    examples: Sequence[Example]
    """Some of every variable and output, the largest responses first."""
    taught: int | None = None
    """See :attr:`segcft.stress.source.Source.taught`."""


def among(found: Responses, ids: Collection[str]) -> Responses:
    """The responses about some of the images, in their order; pictures and who was left out stay."""
    rows = np.array([k for k, one in enumerate(found.ids) if one in ids], dtype=np.int64)
    of = {
        name: replace(
            one,
            **{part.name: getattr(one, part.name)[rows] for part in fields(Response) if part.name != "doses"},
        )
        for name, one in found.of.items()
    }
    labels = {name: texts[rows] for name, texts in found.labels.items()}
    own = [found.ids[k] for k in rows.tolist()]
    return replace(
        found,
        ids=own,
        patients=found.patients[rows],
        labels=labels,
        plain=found.plain[rows],
        null=found.null[rows],
        of=of,
    )


@torch.no_grad()
def respond(
    source: Source, audited: Audited, doses: Sequence[Doses], progress: Progress | None = None, count: int = SHAMS
) -> Responses:
    """What ``audited`` says of everybody under every dose.

    Args:
        source: who is asked about, and who answers.
        audited: the classifier, regressor or segmentor.
        doses: of every variable that is set.
        progress: shows how many subjects are done.
        count: shams of every answer, one or more.

    Raises:
        RunError: the classifier cannot read the images.
    """
    parts = [_Kept(one) for one in doses]
    ids, patients, labels, plain, null = list[str](), list[str](), list[Mapping[str, Sequence[str]]](), [], []
    sizes = []
    with (progress or Progress()).task("Subjects", len(source)) as task:
        for opened in source.batches():
            seen = source.see(opened.null)
            plain.append(audited(opened.image, source.see(opened.image).masks))
            null.append(audited(opened.null, seen.masks))
            for part in parts:
                part.add(source, audited, opened, seen, null[-1], count)
            ids += opened.ids
            patients += opened.patients
            labels.append(opened.labels)
            sizes.append(len(opened.ids))
            task.advance(len(opened.ids))
    names = sorted({name for one in labels for name in one})
    groups = {
        name: np.array(
            [text for one, n in zip(labels, sizes, strict=True) for text in one.get(name, [""] * n)], dtype=str
        )
        for name in names
    }
    examples = [
        example for part in parts for heap in part.largest.values() for *_, example in sorted(heap, reverse=True)
    ]
    k = len(audited.names)
    return Responses(
        ids,
        np.array(patients, dtype=str),
        groups,
        tuple(audited.names),
        audited.decides,
        _joined(plain, (0, k)),
        _joined(null, (0, k)),
        {part.doses.variable: part.response(k) for part in parts} if ids else {},
        list(source.left_out),
        examples,
        source.taught,
    )


@dataclass
class _Kept:
    """What is gathered of one variable, batch by batch."""

    doses: Doses
    own: list[Tensor] = field(default_factory=list)
    rows: list[dict[str, Tensor]] = field(default_factory=list)
    largest: dict[str, list[tuple[float, str, Example]]] = field(default_factory=dict)

    def add(self, source: Source, audited: Audited, opened: Opened, before: Seen, null: Tensor, count: int) -> None:
        doses, study = self.doses, source.study
        column = None if doses.acquired else list(study.variables).index(doses.variable)
        own = opened.values.new_zeros(len(opened.ids)) if column is None else opened.values[:, column]
        start = _reading(study, doses.variable, before.measures, opened.values)
        found: list[dict[str, Tensor]] = []
        answers = [answer_to(opened, doses, value) for value in doses.values]
        chosen = None if doses.acquired else motions(opened.null, [one.image for one in answers], count)
        for value, answered in zip(doses.values, answers, strict=True):
            moved = (
                boards(opened.null, answered.image, count)
                if chosen is None
                else shams(opened.null, answered.image, chosen)
            )
            seen = source.see(answered.image)
            output = audited(answered.image, seen.masks)
            row = _sizes(opened.null, answered.image, "size") | {
                "supported": torch.from_numpy(answered.supported).to(output.device),
                "output": output,
                "obtained": torch.full_like(own, torch.nan),
                "half_width": torch.full_like(own, torch.nan),
            }
            if start is not None:
                read = _reading(study, doses.variable, seen.measures, answered.values)
                assert read is not None
                row["obtained"] = read - start
                row["half_width"] = _half_widths(source.intervals, doses.variable, read, value - own)
            row |= _said(audited, opened, moved, before.masks)
            found.append(row)
            self._keep(audited, opened, answered, own, null, value, row)
        self.own.append(own)
        self.rows.append({name: torch.stack([row[name] for row in found], dim=1) for name in found[0]})

    def _keep(
        self,
        audited: Audited,
        opened: Opened,
        answered: Answered,
        own: Tensor,
        null: Tensor,
        value: float,
        row: dict[str, Tensor],
    ) -> None:
        """Keep the subjects with the largest responses."""
        picture, said = row.pop("picture"), row.pop("said")
        for k, name in enumerate(audited.names):
            heap = self.largest.setdefault(name, [])
            for i in np.flatnonzero(answered.supported).tolist():
                gain = abs(float(row["output"][i, k] - null[i, k]))
                mine = [at for at, one in enumerate(heap) if one[1] == opened.ids[i]]
                least = heap[mine[0]][0] if mine else heap[0][0] if len(heap) >= SHOWN else 0.0
                if gain <= least:
                    continue
                example = Example(
                    opened.ids[i],
                    self.doses.variable,
                    name,
                    self.doses.shown(float(own[i])),
                    self.doses.shown(value),
                    float(null[i, k]),
                    float(row["output"][i, k]),
                    float(said[i, k]),
                    opened.image[i].cpu(),
                    answered.image[i].cpu(),
                    picture[i].cpu(),
                )
                if mine:
                    heap[mine[0]] = (gain, opened.ids[i], example)
                    heapq.heapify(heap)
                elif len(heap) >= SHOWN:
                    heapq.heapreplace(heap, (gain, opened.ids[i], example))
                else:
                    heapq.heappush(heap, (gain, opened.ids[i], example))

    def response(self, outputs: int) -> Response:
        joined = {name: _joined([row[name] for row in self.rows], ()) for name in self.rows[0]}
        return Response(
            doses=self.doses,
            own=_joined(self.own, ()),
            supported=joined.pop("supported") > 0,
            kept=joined.pop("kept") > 0,
            **joined,
        )


def answer_to(opened: Opened, doses: Doses, value: float) -> Answered:
    """The answers to a dose, be it of a variable or of the film's exposure."""
    if not doses.acquired:
        return opened.under(doses.variable, value)
    return Answered(exposed(opened.null, value), opened.values, np.full(len(opened.ids), True))


def _said(audited: Audited, opened: Opened, moved: Shams, masks: Tensor) -> dict[str, Tensor]:
    """What is said of shams, and what they are; the picture is that of the first one that is kept, or of the first."""
    # Nothing has happened to the anatomy: the judge's masks are those of the image as it is.
    said = torch.stack([audited(one, masks) for one in moved.image.unbind(1)], dim=1)
    sizes = [_sizes(opened.null, one, "sham_size")["sham_size"] for one in moved.image.unbind(1)]
    missing = moved.overlap.new_full((), torch.nan)
    first = moved.kept.int().argmax(dim=1)
    rows = torch.arange(len(first), device=first.device)
    return {
        "sham": said,
        "kept": moved.kept,
        "sham_size": torch.where(moved.kept, torch.stack(sizes, dim=1), missing).nanmean(dim=1),
        "overlap": torch.where(moved.kept, moved.overlap, missing).nanmean(dim=1),
        "picture": moved.image[rows, first],
        "said": said[rows, first],
    }


def _joined(parts: Sequence[Tensor], empty: tuple[int, ...]) -> Floats:
    return torch.cat(list(parts)).double().cpu().numpy() if parts else np.zeros(empty)


def _sizes(null: Tensor, image: Tensor, name: str) -> dict[str, Tensor]:
    return {name: GREY_LEVELS * (image - null).square().flatten(1).mean(dim=1).sqrt()}


def _reading(study: Study, variable: str, read: Tensor, values: Tensor) -> Tensor | None:
    """A variable as the judge reads it, (B,): measured, or derived from what is; None of others."""
    if not read.shape[1]:
        return None
    if variable in study.measured:
        return read[:, study.measured.index(variable)]
    if variable not in study.variables or (formula := study.variables[variable].derived) is None:
        return None
    seen = values.clone()
    seen[:, study.measured_columns] = read
    names = list(study.variables)
    found: Tensor = formula.value({name: seen[:, names.index(name)] for name in formula.names})
    return found


def _half_widths(intervals: Intervals | None, variable: str, read: Tensor, change: Tensor) -> Tensor:
    """How far what was asked for may be from what is read, (B,), NaN where nobody knows."""
    found = torch.full_like(read, torch.nan)
    if intervals is not None:
        for i, (one, size) in enumerate(zip(read.tolist(), change.abs().tolist(), strict=True)):
            width = intervals.around(variable, one, {variable: size})
            found[i] = torch.nan if width is None else width
    return found
