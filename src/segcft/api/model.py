"""A trained model, to be asked for counterfactuals in three lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

import segcft
from segcft.api import arguments
from segcft.api.answer import Answer
from segcft.api.answering import BATCH, answer_questions
from segcft.api.likelihood import LogLikelihood
from segcft.api.question import (
    ImageLike,
    Match,
    Question,
    Values,
    is_file,
    is_one,
    name_of,
    parse_values,
    prepare_image,
)
from segcft.api.samples import Samples
from segcft.api.subject import infer_subject, resolve_measured
from segcft.api.trajectory import Trajectory, steps_of
from segcft.causal.intervention import Intervention
from segcft.counterfactual.evidence import LikelihoodEvidence
from segcft.counterfactual.model import CounterfactualModel
from segcft.counterfactual.support import limits
from segcft.errors import Code, DataError, InterventionError, RunError
from segcft.evaluate.names import METHODS, method_name
from segcft.grey import to_grey_levels, to_unit
from segcft.image_models.mechanism import seeded
from segcft.pipeline.calibration import Calibration, read_calibration
from segcft.pipeline.run import Run, to_table
from segcft.training import artefact

DRAWS = 8
"""Further answers of one image, unless another number is asked for; of many images there are none."""


class Model:
    """What a run or a published model knows, to be asked about images.

    Args:
        folder: of the run or published model, or an open :class:`Run`.
        device: where to compute.

    Raises:
        RunError: the folder is neither, or a part, or a published model's card, is missing or damaged, or there is no
            such device.
    """

    def __init__(self, folder: str | Path | Run, device: str | torch.device = "cpu") -> None:
        self.device = arguments.hardware("device", device)
        self.run = folder if isinstance(folder, Run) else Run(arguments.place("folder", folder, RunError))
        self.study = self.run.study
        self.methods = self.run.methods()
        """Method -> the part that is its image mechanism."""
        if not self.methods:
            raise RunError(Code.MISSING, self.run.folder, "no image mechanism is trained yet; see `segcft run --help`")
        self.run.require_card()
        self.judge = self.run.judge(self.device)
        self._calibration = read_calibration(self.run)
        self._models: dict[str, CounterfactualModel] = {}
        people = self.run.training_values([*self.run.asked, *self.methods.values()])
        self.people = torch.from_numpy(people).to(self.device)
        """Values of the training subjects, or of made-up ones that stand for them, (N, V)."""

    def __repr__(self) -> str:
        lines = [f"Model {self.study.name!r}: {', '.join(map(method_name, self.methods))}"]
        for k, (name, variable) in enumerate(self.study.variables.items()):
            low, high = limits(variable, self.people[:, k].cpu().numpy())
            known = ", ".join(variable.categories) or f"{low:.4g} to {high:.4g} {variable.unit}".rstrip()
            lines.append(f"  {name}: {known}")
        return "\n".join(lines)

    def counterfactual(
        self,
        image: ImageLike,
        attributes: Values = (),
        do: Values = (),
        method: str | None = None,
        draws: int = DRAWS,
        exact: bool = False,
    ) -> Answer:
        """What ``image`` would have looked like under ``do``.

        Areas, before and after, are read by the judge, which no fine-tuning has learnt to please. What ``attributes``
        do not give is read from the header, if ``image`` is a DICOM file that says age or sex, and else inferred from
        the areas by the SCM, categories from the image, too (:mod:`segcft.counterfactual.evidence`).

        Args:
            image: a file, or pixels; see :data:`segcft.api.question.ImageLike`.
            attributes: what is known of the subject; values alone, no changes. None and NaN: not known.
            do: interventions: numbers set (``0.8`` is an area of 0.8 px); texts are as
                :func:`segcft.causal.intervention.parse_intervention` reads them, so that those with a sign change
                (``"+20%"``, ``"-500"``); and :class:`segcft.api.question.Match` takes the value from another image.
            method: none, regressor or segmentor, or as tables call them (default: the last of these that is there).
            draws: how many more answers to draw from the posterior of what is not known, the image's latents and
                attributes, for :attr:`segcft.api.answer.Answer.spread`; each takes about as long as the answer.
            exact: correct what the mechanism is asked for until the guide reads what was asked for
                (:mod:`segcft.counterfactual.exact`). The judge takes no part; where it finds the plain answer closer,
                that is given, with a warning. ``record["exact"]`` says which. Draws are not corrected.

        Raises:
            InterventionError: ``do`` or ``attributes`` are not understood.
            DataError: the image cannot be read.
            RunError: the model lacks a part, as the guide of an exact answer.
        """
        if not (do := arguments.values("do", do)):
            raise InterventionError(Code.MISSING, "do", "nothing is asked for, e.g. {'heart_area': '+20%'}")
        return self.answer([self.question(image, attributes, do)], method, draws, exact)[0]

    def counterfactuals(
        self,
        images: Iterable[ImageLike],
        attributes: Values | Iterable[Values] = (),
        do: Values | Iterable[Values] = (),
        method: str | None = None,
        draws: int = 0,
        exact: bool = False,
    ) -> Iterator[Answer]:
        """Answers for many images, one after the other, computed in batches as they are asked for.

        Args:
            images: any number; an array or tensor has one in each of its rows. An iterator is read as it goes.
            attributes: of all of them, or an iterable with those of each.
            do: of all of them, or an iterable with those of each.
            method: see :meth:`counterfactual`.
            draws: see :meth:`counterfactual`.
            exact: see :meth:`counterfactual`.

        Raises:
            InterventionError: as :meth:`counterfactual`; or ``attributes`` or ``do`` end before the images do.
            DataError: ``images`` is only one, or an image cannot be read.
            RunError: the model lacks a part.
        """
        expected = "several, e.g. a list or an array (N, H, W); `counterfactual` is about one"
        if is_one(images, len(self.study.image.size)):
            arguments.refuse("images", expected, images)
        images = arguments.stream("images", images, expected, DataError)
        draws, exact = arguments.whole("draws", draws, 0), arguments.flag("exact", exact)
        asked = self._questions(images, self._each("attributes", attributes), self._each("do", do))
        return self._answers(asked, method, draws, exact)

    def _answers(
        self, questions: Iterable[Question], method: str | None, draws: int = 0, exact: bool = False
    ) -> Iterator[Answer]:
        questions = iter(questions)
        while chunk := list(itertools.islice(questions, BATCH)):
            yield from self.answer(chunk, method, draws, exact)

    def _questions(
        self, images: Iterable[ImageLike], attributes: Iterator[Values], do: Iterator[Values]
    ) -> Iterator[Question]:
        for number, image in enumerate(images, start=1):
            known, asked = next(attributes, None), next(do, None)
            if known is None or asked is None:
                name = "attributes" if known is None else "do"
                raise InterventionError(
                    Code.MISSING, name, f"ends before image {number}; give one for all, or one for each"
                )
            yield self.question(image, known, asked)

    def question(self, image: ImageLike, attributes: Values = (), do: Values = ()) -> Question:
        """A question, checked as far as it can be without looking at the picture; see :meth:`counterfactual`.

        ``do`` may be empty: the answer is then the image as it is, with what is known and inferred.
        """
        known = parse_values(self.study, arguments.values("attributes", attributes), known=True)
        for name, fact in known.items():
            if isinstance(fact, Match) or fact.kind != "set":
                raise InterventionError(Code.INVALID, name, "what is known is a value, not a change")
            if self.study.variables[name].derived:
                parts = ", ".join(self.study.variables[name].parents)
                raise InterventionError(Code.INVALID, name, f"it follows from {parts}; give these")
        given = {name: fact for name, fact in known.items() if isinstance(fact, Intervention)}
        asked = parse_values(self.study, arguments.values("do", do))
        prepared = prepare_image(self.study, image)
        return Question(
            name=name_of(image),
            pixels=prepared.pixels,
            known=(*given.values(), *(fact for fact in prepared.facts if fact.variable not in given)),
            given=frozenset(given),
            do=tuple(self._matched(name, one) for name, one in asked.items()),
            asked=tuple(_text(name, one) for name, one in asked.items()),
            remarks=prepared.remarks,
            file=image if is_file(image) else None,
            lie=prepared.lie,
        )

    @torch.no_grad()
    def answer(
        self, questions: Sequence[Question], method: str | None = None, draws: int = 0, exact: bool = False
    ) -> list[Answer]:
        """Answers to questions of :meth:`question`, in one batch; see :meth:`counterfactual`.

        An answer does not depend on the questions beside it.
        """
        draws, exact = arguments.whole("draws", draws, 0), arguments.flag("exact", exact)
        for question in (questions := arguments.several("questions", questions, "a list of questions")):
            if not isinstance(question, Question):
                arguments.refuse("questions", "what `question` gives", question)
        if not questions:
            return []
        method, model = self.model_of(method)
        return answer_questions(self, questions, method, model, draws, exact, self._origin(method))

    def trajectory(
        self,
        image: ImageLike,
        variable: str,
        values: Sequence[float | str] | int = 7,
        attributes: Values = (),
        do: Values = (),
        method: str | None = None,
    ) -> Trajectory:
        """``image`` under each of several values of one variable.

        Args:
            image: see :meth:`counterfactual`.
            variable: the one that changes.
            values: what it is set to; or how many values from the 5th to the 95th percentile of the training subjects
                (of a categorical variable: all categories).
            attributes: see :meth:`counterfactual`.
            do: interventions on other variables, the same throughout.
            method: see :meth:`counterfactual`.

        Raises:
            InterventionError: as :meth:`counterfactual`; or there is no value.
            DataError: the image cannot be read.
            RunError: the model lacks a part.
        """
        variable, values = steps_of(self.study, variable, values, self.people)
        others = parse_values(self.study, arguments.values("do", do))
        if variable in others:
            raise InterventionError(Code.CONFLICT, f"do[{variable!r}]", "the trajectory sets this variable")
        set_to = [parse_values(self.study, {variable: value})[variable] for value in values]
        first = self.question(image, attributes, others)
        questions = (
            replace(first, do=(*first.do, self._matched(variable, one)), asked=(*first.asked, _text(variable, one)))
            for one in set_to
        )
        return Trajectory(variable, values, list(self._answers(questions, method)))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        do: Mapping[str, float | str] | None = None,
        seed: int = 0,
        method: str | None = None,
        pixel_noise: bool = False,
    ) -> Samples:
        """Subjects and their images, drawn from the model.

        Args:
            n: how many.
            do: values that variables are set to, in all of them: samples of the interventional distribution.
            seed: the same seed draws the same subjects, whatever is done to them.
            method: see :meth:`counterfactual`.
            pixel_noise: draw the noise of each pixel by itself, too (default: left out).

        Raises:
            InterventionError: ``do`` is not understood, or changes a value instead of setting it.
            RunError: the model lacks a part.
        """
        n, seed = arguments.whole("n", n, 1), arguments.whole("seed", seed, *arguments.SEEDS)
        pixel_noise = arguments.flag("pixel_noise", pixel_noise)
        method, model = self.model_of(method)
        parsed = parse_values(self.study, arguments.values("do", do))
        interventions = [self._set(name, one) for name, one in parsed.items()]
        generator = self._generator(seed)
        missing = torch.full((n, len(self.study.variables)), torch.nan, device=self.device)
        asked = resolve_measured(self.judge.measurements, interventions, missing, model.scm)
        values = model.scm.sample(n, generator, asked)
        images = []
        with seeded(seed, self.device):
            for part in values.split(BATCH):
                noise = model.mechanism.sample(len(part), pixel_noise)
                images.append(to_grey_levels(model.mechanism.predict(noise, part)).cpu().numpy())
        record = self._origin(method) | {"do": [str(one) for one in interventions], "sample": True, "seed": seed}
        return Samples(
            np.concatenate(images), to_table(self.study, values.cpu().numpy()), record, self.study.image.spacing
        )

    @torch.no_grad()
    def log_likelihood(
        self, image: ImageLike, attributes: Values = (), method: str | None = None, draws: int = 8
    ) -> LogLikelihood:
        """How likely an image and its attributes are to the model.

        The image's term is a lower bound, the mean over ``draws`` of its noise. Attributes that are not given are as
        in :meth:`counterfactual`.

        Raises:
            InterventionError: ``attributes`` are not understood, or have no likelihood.
            DataError: the image cannot be read, or there is no draw.
            RunError: the model lacks a part, or its image mechanism has no likelihood.
        """
        draws = arguments.whole("draws", draws, 1)
        method, model = self.model_of(method)
        question = self.question(image, attributes)
        x = to_unit(torch.from_numpy(question.pixels)[None].to(self.device))
        read = self.judge.read(x)[0]
        seen = self.evidence(method, model, x)
        subject = infer_subject(question, read, self.study, self.judge.measurements, model.scm, self._generator(), seen)
        with seeded(self.study.evaluation.seed, self.device):
            density = model.mechanism.log_density(x.expand(draws, *x.shape[1:]), subject.values.expand(draws, -1))
        if density is None:
            raise RunError(Code.UNSUPPORTED, "hvae.architecture", f"{self.study.hvae.architecture!r} has no likelihood")
        nats = -float(density.mean())
        terms = model.scm.log_prob(subject.values)[0]
        attributes_terms = {name: float(terms[k]) for k, name in enumerate(self.study.variables)}
        tied = float(model.scm.confounding(subject.values)[0])
        return LogLikelihood(-nats * model.mechanism.pixels, nats / float(np.log(2)), attributes_terms, tied)

    def model_of(self, method: str | None) -> tuple[str, CounterfactualModel]:
        """A method's name and what answers by it; ``method`` is as in :meth:`counterfactual`.

        Raises:
            RunError: there is no such method.
        """
        method = None if method is None else arguments.text("method", method, list(self.methods)[-1], RunError)
        method = {shown: name for name, shown in METHODS.items()}.get(method or "", method) or list(self.methods)[-1]
        if method not in self._models:
            self._models[method] = self.run.model(method, self.device)
        return method, self._models[method]

    def calibration(self, method: str) -> Calibration:
        """How far the answers of a method can be believed; of models from before it was learnt nothing is known."""
        return self._calibration.get(method, Calibration())

    def evidence(self, method: str, model: CounterfactualModel, image: Tensor) -> LikelihoodEvidence | None:
        """What ``image`` (1, C, *size) in [-1, 1] says of categories that nobody gives, where it can be asked."""
        believed = self.calibration(method).categories
        return None if believed is None else LikelihoodEvidence(model, image, believed)

    def _each(self, name: str, values: Values | Iterable[Values]) -> Iterator[Values]:
        """One for all, or each one's own."""
        texts = isinstance(values, Sequence) and all(isinstance(value, str | Intervention) for value in values)
        if texts or values is None or isinstance(values, Mapping):
            return itertools.repeat(arguments.values(name, values))
        return arguments.stream(name, values, "values, or those of each image", InterventionError)

    def _matched(self, name: str, match: Intervention | Match) -> Intervention:
        """The value of a variable in another image, as an intervention that sets it; others are what they are."""
        if isinstance(match, Intervention):
            return match
        other = self.question(match.image)
        facts = {fact.variable: fact for fact in other.known}
        if name in {*self.study.measured, *self.study.derived}:
            with torch.no_grad():
                x = to_unit(torch.from_numpy(other.pixels)[None].to(self.device))
                values = torch.full((1, len(self.study.variables)), torch.nan)
                values[0, self.study.measured_columns] = self.judge.read(x)[0].cpu()
            read = self.model_of(None)[1].scm.derive(values)[0, list(self.study.variables).index(name)]
            if not read.isnan():  # a formula may ask for what no image shows
                return Intervention(name, float(read))
        if name not in facts:
            raise InterventionError(Code.MISSING, name, f"{name_of(match.image)} does not say it; set a value")
        return facts[name]

    def _set(self, name: str, intervention: Intervention | Match) -> Intervention:
        intervention = self._matched(name, intervention)
        if intervention.kind != "set":
            raise InterventionError(Code.INVALID, name, "a new sample has no value to change; set a value")
        return intervention

    def _origin(self, method: str) -> dict[str, Any]:
        key = artefact.read_meta(self.run.path(self.methods[method]))["key"]
        return {"segcft": segcft.__version__, "study": self.study.name, "method": method, "model": key}

    def _generator(self, seed: int | None = None) -> Generator:
        return torch.Generator(self.device).manual_seed(self.study.evaluation.seed if seed is None else seed)


def _text(name: str, one: Intervention | Match) -> str:
    return f"{name}={one}" if isinstance(one, Match) else str(one)
