"""What a metric looks at: a batch of samples as they are, an intervention on them, and a method's answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from segcft.config.study import Study
from segcft.counterfactual.band import Band
from segcft.counterfactual.intervals import Intervals
from segcft.counterfactual.model import Abduction, CounterfactualModel
from segcft.evaluate.cohort import Cohort, SampleBatch
from segcft.evaluate.truth import Drawn
from segcft.grid import Grid
from segcft.readers.predictor import Predictor
from segcft.readers.reader import MaskReader, Reader


@dataclass(frozen=True)
class FactualBatch:
    """B samples as they are, and what the judge reads of them."""

    cohort: Cohort
    samples: SampleBatch
    judge: MaskReader
    predictor: Predictor | None = None
    """The judge of what images show of attributes, where a study has one."""
    guides: Mapping[str, Reader] = field(default_factory=dict)
    """Part -> the guide of one of the methods, where it is at hand."""

    @property
    def study(self) -> Study:
        return self.cohort.study

    @property
    def known(self) -> Tensor:
        """The measures that are known, (B, M)."""
        return self.samples.values[:, self.study.measured_columns]

    @cached_property
    def masks(self) -> Tensor:
        """The judge's masks (B, S, *size) in 0..1."""
        return self.judge.masks(self.samples.image)

    @cached_property
    def read(self) -> Tensor:
        """The measures that the judge reads, (B, M)."""
        return self.judge.measurements.read(self.masks, self.samples.image)

    @cached_property
    def said(self) -> Tensor:
        """What the predictor says of the samples, (B, K)."""
        assert self.predictor is not None
        return self.predictor(self.samples.image)

    @property
    def radius(self) -> int:
        """How near is near a structure, in pixels."""
        return Grid.of(self.study.image).radius(self.study.evaluation.dilation)


@dataclass(frozen=True)
class GuideBatch:
    """What a ``guide`` of fine-tuning reads of B samples as they are, or of another ``image`` of each."""

    factual: FactualBatch
    guide: Reader

    image: Tensor | None = None
    """Images (B, C, *size) to read in place of the samples' own."""

    @property
    def looked_at(self) -> Tensor:
        """The images that it reads, (B, C, *size)."""
        return self.factual.samples.image if self.image is None else self.image

    @cached_property
    def masks(self) -> Tensor | None:
        """The guide's masks (B, S, *size) in 0..1; None of one that sees none."""
        return self.guide.masks(self.looked_at) if isinstance(self.guide, MaskReader) else None

    @cached_property
    def read(self) -> Tensor:
        """The measures that the guide reads, (B, M)."""
        if self.masks is None:
            return self.guide.read(self.looked_at)
        return self.factual.judge.measurements.read(self.masks, self.looked_at)


@dataclass(frozen=True)
class ModelBatch:
    """What a model knows of B samples: the exogenous noise of their images, ``abduction``."""

    factual: FactualBatch
    model: CounterfactualModel
    abduction: Abduction

    @cached_property
    def unchanged(self) -> Tensor:
        """The counterfactual images (B, C, *size) under no intervention at all."""
        image, values = self.factual.samples.image, self.factual.samples.values
        return self.model.counterfactual(image, values, torch.full_like(values, torch.nan)).image


@dataclass(frozen=True)
class AskedBatch:
    """An intervention on ``variable``, which makes the samples' values ``after`` (B, V). ``truth`` is the simulator's
    own answer, where it is known. With ``held`` all measures are set too, to what they are."""

    factual: FactualBatch
    variable: str
    after: Tensor
    truth: Drawn | None
    held: bool = False

    @property
    def wanted(self) -> Tensor:
        """The measures asked for, (B, M)."""
        return self.after[:, self.factual.study.measured_columns]


class ErrorBars(NamedTuple):
    """How far a method's answers may be off, where that was calibrated on others: what is read of them, and pixels."""

    intervals: Intervals | None = None
    band: Band | None = None


@dataclass(frozen=True)
class AnsweredBatch:
    """The answer of a ``method`` or reference: ``image`` (B, C, *size) in [-1, 1] as its file would show it.

    A ``model``'s answer before it is rounded is ``exact``, and comes from an ``abduction``; references have neither.
    """

    asked: AskedBatch
    method: str
    image: Tensor
    model: CounterfactualModel | None
    exact: Tensor
    abduction: Abduction | None = None
    intervals: Intervals | None = None
    """How far what is read of the method's answers may be off, where that was calibrated."""
    band: Band | None = None
    """The same of their pixels."""

    @cached_property
    def masks(self) -> Tensor:
        """The judge's masks (B, S, *size) in 0..1."""
        return self.asked.factual.judge.masks(self.image)

    @cached_property
    def read(self) -> Tensor:
        """The measures that the judge reads, (B, M)."""
        return self.asked.factual.judge.measurements.read(self.masks, self.image)

    @cached_property
    def said(self) -> Tensor:
        """What the predictor says of the answer, (B, K)."""
        assert self.asked.factual.predictor is not None
        return self.asked.factual.predictor(self.image)


@dataclass(frozen=True)
class PairedBatch(AskedBatch):
    """A question to samples whose ``truth`` is another image of themselves; ``variable`` names the question."""

    truth: Drawn

    @cached_property
    def near(self) -> Tensor:
        """What is near a structure, where it is in the one image or the other, (B, *size) bool."""
        before, after = self.factual.samples.mask > 0.5, self.truth.mask > 0.5
        return Grid.like(before).dilate((before | after).any(dim=1), self.factual.radius)

    @cached_property
    def change(self) -> Tensor:
        """The true change, (B, C, *size) in the units of images."""
        return self.truth.image - self.factual.samples.image


@dataclass(frozen=True)
class PairedAnswer(AnsweredBatch):
    """The answer of a method or reference to a question whose answer is known."""

    asked: PairedBatch

    @property
    def change(self) -> Tensor:
        """What the answer has changed, (B, C, *size)."""
        return self.image - self.asked.factual.samples.image
