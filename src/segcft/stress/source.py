"""Who is asked about, and who answers: subjects in batches, and their images had a variable had another value."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.api.answering import BATCH
from segcft.api.model import Model
from segcft.api.question import Question
from segcft.api.subject import infer_subject
from segcft.config.graph import Graph
from segcft.config.study import Study
from segcft.counterfactual.intervals import Intervals
from segcft.counterfactual.support import all_limits
from segcft.errors import RunError, SegcftError
from segcft.grey import rounded, to_unit
from segcft.io.reject import Rejected
from segcft.pipeline.run import Run
from segcft.stress.people import Person

TOLERANCE = 1e-4
"""Of the training range, as a share of it: quantiles and values are rounded."""


class LeftOut(NamedTuple):
    """A subject who was not asked about, and why."""

    id: str
    reason: str


class Answered(NamedTuple):
    """Images (B, C, *size) in [-1, 1] of subjects under a dose, their values (B, V), and for whom that is within the
    support of the training subjects, (B,)."""

    image: Tensor
    values: Tensor
    supported: NDArray[np.bool_]


class Seen(NamedTuple):
    """Soft masks (B, S, *size) of images, and what is measured by them, (B, M); of a source without a judge S and M are
    0."""

    masks: Tensor
    measures: Tensor


class Opened(ABC):
    """A batch of subjects.

    Attributes:
        ids: of their images, (B,).
        patients: who each is of, (B,).
        labels: groups that they are in: what is grouped by -> (B,), "" where nobody knows.
        image: as it is, (B, C, *size) in [-1, 1].
        null: the answer to no question at all.
        values: of every variable, (B, V).
    """

    ids: Sequence[str]
    patients: Sequence[str]
    labels: Mapping[str, Sequence[str]]
    image: Tensor
    null: Tensor
    values: Tensor

    @abstractmethod
    def under(self, variable: str, value: float) -> Answered:
        """The answers to do(variable := value)."""


class Source(ABC):
    """Who is asked about, and who answers.

    Attributes:
        study: has the variables.
        people: values of the training subjects, (N, V).
        intervals: how far answers may be off, where that is known.
        left_out: who was not asked about, once all batches are through.
        taught: how many of the images that are asked about are, pixel by pixel, among those that the model has learnt
            from or was set by, once all batches are through; None where these are not there.
    """

    study: Study
    people: Tensor
    taught: int | None = None
    intervals: Intervals | None = None
    left_out: list[LeftOut]

    @property
    def told(self) -> dict[str, str]:
        """Which model answers, for records."""
        return {"study": self.study.name}

    @abstractmethod
    def __len__(self) -> int:
        """Subjects, those who will be left out included."""

    @abstractmethod
    def batches(self) -> Iterator[Opened]:
        """All once, in order."""

    @abstractmethod
    def see(self, image: Tensor) -> Seen:
        """What the judge makes of images or answers (B, C, *size) in [-1, 1]."""


class ModelSource(Source):
    """The answers of a model.

    Args:
        model: answers.
        persons: who is asked about.
        method: see :meth:`segcft.api.model.Model.counterfactual`.
        held: whether what a variable causes stays as it is: its direct effect on the image alone.
    """

    def __init__(self, model: Model, persons: Sequence[Person], method: str | None = None, held: bool = False) -> None:
        self.model, self.persons, self.held = model, persons, held
        self.study, self.people, self.judge = model.study, model.people, model.judge
        self.method, self.answers = model.model_of(method)
        self.intervals = model.calibration(self.method).intervals
        self.joint = model.run.joint_support()
        self.known = _pictures(model.run)
        self.low, self.high = all_limits(self.study.variables, self.people.cpu().numpy())
        self.left_out, self.taught = [], None if self.known is None else 0

    @property
    def told(self) -> dict[str, str]:
        found = super().told | {"model": self.model.run.folder.name, "method": self.method}
        return found if self.taught is None else found | {"images that taught it": str(self.taught)}

    def __len__(self) -> int:
        return len(self.persons)

    def batches(self) -> Iterator[Opened]:
        self.left_out, self.taught = [], None if self.known is None else 0
        for start in range(0, len(self.persons), BATCH):
            asked = self._asked(self.persons[start : start + BATCH])
            if asked and (opened := self._opened(asked)) is not None:
                yield opened

    def see(self, image: Tensor) -> Seen:
        masks = self.judge.masks(image)
        return Seen(masks, self.judge.measurements.read(masks, image))

    def generator(self) -> torch.Generator:
        """Draws what is not known exactly, the same every time."""
        return torch.Generator(self.model.device).manual_seed(self.study.evaluation.seed)

    def supported(self, values: Tensor) -> NDArray[np.bool_]:
        """Whether values (B, V) are among those of the training subjects, each by itself and all together."""
        found = values.cpu().numpy()
        slack = TOLERANCE * (self.high - self.low)
        inside = (found >= self.low - slack) & (found <= self.high + slack)  # NaN is not
        within = np.array(inside.all(axis=1))
        if self.joint is not None and within.any():
            within[within] = ~self.joint.unlikely(self.answers.scm, values[torch.from_numpy(within)])
        return within

    def _asked(self, persons: Sequence[Person]) -> list[tuple[Person, Question]]:
        asked = []
        for person in persons:
            try:
                asked.append((person, self.model.question(person.image, person.known)))
            except RunError:
                raise
            except (SegcftError, Rejected) as error:
                self.left_out.append(LeftOut(person.id, str(error)))
        return asked

    @torch.no_grad()
    def _opened(self, asked: Sequence[tuple[Person, Question]]) -> Opened | None:
        """Those of whom the model knows something: their values are in its support, and their image is typical."""
        model, judge = self.model, self.judge
        x = to_unit(torch.from_numpy(np.stack([question.pixels for _, question in asked])).to(model.device))
        read, values, labels = judge.read(x), [], []
        for (person, question), image, measures in zip(asked, x.split(1), read, strict=True):
            seen = model.evidence(self.method, self.answers, image)
            subject = infer_subject(
                question, measures, self.study, judge.measurements, self.answers.scm, self.generator(), seen
            )
            values.append(subject.values)
            labels.append(_labels(self.study, subject.values[0], subject.source) | person.labels)
        known = torch.cat(values)
        lengths = self.answers.mechanism.lengths(self.answers.abduct(x, known).noise)
        ranges = self.model.run.typical(self.model.methods[self.method], lengths)
        kept, inside = [], self.supported(known)
        for k, (person, _) in enumerate(asked):
            bits = {name: float(length[k]) for name, length in lengths.items()}
            odd = [
                name for name, (low, high) in (ranges.ranges if ranges else {}).items() if not low <= bits[name] <= high
            ]
            if odd or not inside[k]:
                why = "its image is unlike the training images" if odd else "its values are out of the training support"
                self.left_out.append(LeftOut(person.id, why))
            else:
                kept.append(k)
        if not kept:
            return None
        if self.known is not None:
            self.taught = (self.taught or 0) + sum(_digest(asked[k][1].pixels) in self.known for k in kept)
        names = sorted({name for one in labels for name in one})
        groups = {name: [labels[k].get(name, "") for k in kept] for name in names}
        return _OfModel(self, [asked[k][0] for k in kept], x[kept], known[kept], groups)


class _OfModel(Opened):
    def __init__(
        self,
        source: ModelSource,
        persons: Sequence[Person],
        image: Tensor,
        values: Tensor,
        labels: Mapping[str, Sequence[str]],
    ) -> None:
        self.source, self.image, self.values, self.labels = source, image, values, labels
        self.ids, self.patients = [one.id for one in persons], [one.patient for one in persons]
        self.abduction = source.answers.abduct(image, values)
        self.null = rounded(self.abduction.predict(values))

    @torch.no_grad()
    def under(self, variable: str, value: float) -> Answered:
        source = self.source
        scm, variables = source.answers.scm, source.study.variables
        do = scm.intervention(len(self.values), **{variable: value})
        if source.held:
            moved = variables[variable].solve_for or variable
            for name in Graph.of(variables).descendants([moved]) - {variable, moved}:
                if not variables[name].derived:
                    column = scm.variables.index(name)
                    do[:, column] = self.values[:, column]
        after = scm.counterfactual(self.values, do, source.generator())
        # Where there is no such value nobody is shown anything: the values as they are stand in.
        supported = source.supported(after)
        drawn = torch.where(torch.from_numpy(supported).to(after.device)[:, None], after, self.values)
        return Answered(rounded(self.abduction.predict(drawn)), after, supported)


def _pictures(run: Run) -> frozenset[bytes] | None:
    """What is compared of the images that a run learns from or is set by, all but the test images; None where they
    are not there, as of a published model."""
    try:
        store = run.store()
    except SegcftError:
        return None
    rows = np.setdiff1d(np.arange(len(store)), store.indices("test"))
    return frozenset(_digest(store.images[row]) for row in rows)


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()


def _labels(study: Study, values: Tensor, source: Mapping[str, str]) -> dict[str, str]:
    """What of a subject is known that groups are of: categories, and numbers that are no measures, as texts of them."""
    found = {}
    for k, (name, variable) in enumerate(study.variables.items()):
        if source[name] != "inferred" and name not in study.measured and not variable.derived:
            value = float(values[k])
            found[name] = variable.categories[int(value)] if variable.categories else repr(value)
    return found
