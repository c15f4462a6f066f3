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
from segcft.api.likelihood import LogLikelihood
from segcft.api.question import ImageLike, Match, Question, Values, is_one, name_of, parse_values, prepare_image
from segcft.api.record import add_obtained, record_of
from segcft.api.samples import Samples
from segcft.api.subject import Subject, infer_subject, resolve_measured
from segcft.api.trajectory import Trajectory, steps_of
from segcft.causal.intervention import Intervention
from segcft.counterfactual.contradictions import check_parts
from segcft.counterfactual.model import CounterfactualModel
from segcft.counterfactual.support import limits
from segcft.counterfactual.warnings import atypical_image, missed_changes, out_of_support, unlikely_together
from segcft.data.grey import to_grey_levels, to_unit
from segcft.errors import Code, DataError, InterventionError, RunError
from segcft.evaluate.names import METHODS, method_name
from segcft.image_models.mechanism import seeded
from segcft.pipeline.run import Run, to_table
from segcft.training import artefact

BATCH = 16
"""Images that are answered for at once."""

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
        self.judge = self.run.load("judge", self.device)
        self._models: dict[str, CounterfactualModel] = {}
        people = self.run.training_values(["scm", "judge", *self.methods.values()])
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
        self, image: ImageLike, attributes: Values = (), do: Values = (), method: str | None = None, draws: int = DRAWS
    ) -> Answer:
        """What ``image`` would have looked like under ``do``.

        Areas, before and after, are read by the judge, which no fine-tuning has learnt to please. What ``attributes``
        do not give is read from the header, if ``image`` is a DICOM file that says age or sex, and else inferred from
        the areas by the SCM.

        Args:
            image: a file, or pixels; see :data:`segcft.api.question.ImageLike`.
            attributes: what is known of the subject; values alone, no changes. None and NaN: not known.
            do: interventions: numbers set (``0.8`` is an area of 0.8 px); texts are as
                :func:`segcft.causal.intervention.parse_intervention` reads them, so that those with a sign change
                (``"+20%"``, ``"-500"``); and :class:`segcft.api.question.Match` takes the value from another image.
            method: none, regressor or segmentor, or as tables call them (default: the last of these that is there).
            draws: how many more answers to draw from the posterior of what is not known, the image's latents and
                attributes, for :attr:`segcft.api.answer.Answer.uncertainty`; each takes about as long as the answer.

        Raises:
            InterventionError: ``do`` or ``attributes`` are not understood.
            DataError: the image cannot be read.
            RunError: the model lacks a part.
        """
        if not (do := arguments.values("do", do)):
            raise InterventionError(Code.MISSING, "do", "nothing is asked for, e.g. {'heart_area': '+20%'}")
        return self.answer([self.question(image, attributes, do)], method, draws)[0]

    def counterfactuals(
        self,
        images: Iterable[ImageLike],
        attributes: Values | Iterable[Values] = (),
        do: Values | Iterable[Values] = (),
        method: str | None = None,
        draws: int = 0,
    ) -> Iterator[Answer]:
        """Answers for many images, one after the other, computed in batches as they are asked for.

        Args:
            images: any number; an array or tensor has one in each of its rows. An iterator is read as it goes.
            attributes: of all of them, or an iterable with those of each.
            do: of all of them, or an iterable with those of each.
            method: see :meth:`counterfactual`.
            draws: see :meth:`counterfactual`.

        Raises:
            InterventionError: as :meth:`counterfactual`; or ``attributes`` or ``do`` end before the images do.
            DataError: ``images`` is only one, or an image cannot be read.
            RunError: the model lacks a part.
        """
        expected = "several, e.g. a list or an array (N, H, W); `counterfactual` is about one"
        if is_one(images):
            arguments.refuse("images", expected, images)
        images = arguments.stream("images", images, expected, DataError)
        draws = arguments.whole("draws", draws, 0)
        asked = self._questions(images, self._each("attributes", attributes), self._each("do", do))
        return self._answers(asked, method, draws)

    def _answers(self, questions: Iterable[Question], method: str | None, draws: int = 0) -> Iterator[Answer]:
        questions = iter(questions)
        while chunk := list(itertools.islice(questions, BATCH)):
            yield from self.answer(chunk, method, draws)

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
        )

    @torch.no_grad()
    def answer(self, questions: Sequence[Question], method: str | None = None, draws: int = 0) -> list[Answer]:
        """Answers to questions of :meth:`question`, in one batch; see :meth:`counterfactual`.

        An answer does not depend on the questions beside it.
        """
        draws = arguments.whole("draws", draws, 0)
        for question in (questions := arguments.several("questions", questions, "a list of questions")):
            if not isinstance(question, Question):
                arguments.refuse("questions", "what `question` gives", question)
        if not questions:
            return []
        method, model = self._model(method)
        study, areas = self.study, self.study.measured_columns
        x = to_unit(torch.from_numpy(np.stack([question.pixels for question in questions])).to(self.device))
        masks_before = self.judge.masks(x)
        read_before = self.judge.measurements.read(masks_before)
        subjects, asked, after = [], [], []
        for question, read in zip(questions, read_before, strict=True):
            subject = infer_subject(question, read, study, self.judge.measurements, model.scm, self._generator())
            do = resolve_measured(self.judge.measurements, question.do, subject.values, model.scm)
            subjects.append(subject)
            asked.append(do)
            after.append(model.scm.counterfactual(subject.values, do, self._generator()))
            check_parts(self.judge.measurements, list(study.variables), subject.values[0], after[-1][0])
        abduction = model.abduct(x, torch.cat([subject.values for subject in subjects]))
        lengths = model.mechanism.lengths(abduction.noise)
        typical, joint = self.run.typical(self.methods[method], lengths), self.run.joint_support()
        grey = to_grey_levels(abduction.predict(torch.cat(after)))
        masks_after = self.judge.masks(to_unit(grey))
        read_after = self.judge.measurements.read(masks_after)
        answers = []
        for i, (question, subject) in enumerate(zip(questions, subjects, strict=True)):
            drawn = self._draw(model, x[i : i + 1], subject, asked[i], draws)
            record = self._origin(method) | record_of(study, question, subject, asked[i][0], after[i][0], draws)
            gained, wanted = read_after[i] - read_before[i], (after[i] - subject.values)[0, areas]
            record["warnings"] = [
                *(f"image: {remark.text}" for remark in question.remarks),
                *atypical_image({name: bits[i] for name, bits in lengths.items()}, typical),
                *out_of_support(study, subject.source, subject.values[0], asked[i][0], after[i][0], self.people),
                *unlikely_together(study, model.scm, after[i][0], joint),
                *missed_changes(study, gained, wanted, self.people[:, areas].std(dim=0)),
            ]
            spread = self.judge.read(to_unit(drawn)).std(dim=0) if draws > 1 else None
            add_obtained(record, study, model.scm, after[i], read_after[i], spread)
            answers.append(
                Answer(
                    image=grey[i].cpu().numpy(),
                    original=question.pixels,
                    masks_before=(masks_before[i] > 0.5).cpu().numpy(),
                    masks_after=(masks_after[i] > 0.5).cpu().numpy(),
                    draws=drawn.cpu().numpy(),
                    record=record,
                    spacing=study.image.spacing,
                )
            )
        return answers

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
        method, model = self._model(method)
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
        return Samples(np.concatenate(images), to_table(self.study, values.cpu().numpy()), record)

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
        _, model = self._model(method)
        question = self.question(image, attributes)
        x = to_unit(torch.from_numpy(question.pixels)[None].to(self.device))
        read = self.judge.read(x)[0]
        subject = infer_subject(question, read, self.study, self.judge.measurements, model.scm, self._generator())
        with seeded(self.study.evaluation.seed, self.device):
            density = model.mechanism.log_density(x.expand(draws, *x.shape[1:]), subject.values.expand(draws, -1))
        if density is None:
            raise RunError(Code.UNSUPPORTED, "hvae.architecture", f"{self.study.hvae.architecture!r} has no likelihood")
        nats = -float(density.mean())
        terms = model.scm.log_prob(subject.values)[0]
        attributes_terms = {name: float(terms[k]) for k, name in enumerate(self.study.variables)}
        tied = float(model.scm.confounding(subject.values)[0])
        return LogLikelihood(-nats * model.mechanism.pixels, nats / float(np.log(2)), attributes_terms, tied)

    def _model(self, method: str | None) -> tuple[str, CounterfactualModel]:
        method = None if method is None else arguments.text("method", method, list(self.methods)[-1], RunError)
        method = {shown: name for name, shown in METHODS.items()}.get(method or "", method) or list(self.methods)[-1]
        if method not in self._models:
            self._models[method] = self.run.model(method, self.device)
        return method, self._models[method]

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
        if name in self.study.measured:
            with torch.no_grad():
                x = to_unit(torch.from_numpy(other.pixels)[None].to(self.device))
                areas = self.judge.read(x)[0]
            return Intervention(name, float(areas[self.study.measured.index(name)]))
        if name not in facts:
            raise InterventionError(Code.MISSING, name, f"{name_of(match.image)} does not say it; set a value")
        return facts[name]

    def _set(self, name: str, intervention: Intervention | Match) -> Intervention:
        intervention = self._matched(name, intervention)
        if intervention.kind != "set":
            raise InterventionError(Code.INVALID, name, "a new sample has no value to change; set a value")
        return intervention

    def _draw(self, model: CounterfactualModel, x: Tensor, subject: Subject, asked: Tensor, draws: int) -> Tensor:
        """Counterfactuals of the image ``x`` (1, C, H, W) from draws of all that is not known: uint8 (K, C, H, W)."""
        drawn = x.new_empty((0, *x.shape[1:]), dtype=torch.uint8)
        generator = self._generator()
        values = subject.missing.draw(draws, generator) if draws else subject.values[:0]
        with seeded(self.study.evaluation.seed, self.device):
            for part in values.split(BATCH) if draws else ():
                # A change by a share or an amount was resolved with the likely values, and is the same in all draws.
                many, do = x.expand(len(part), *x.shape[1:]), asked.expand(len(part), -1)
                answer = model.counterfactual(many, part, do, generator, sample=True)
                drawn = torch.cat([drawn, to_grey_levels(answer.image)])
        return drawn

    def _origin(self, method: str) -> dict[str, Any]:
        key = artefact.read_meta(self.run.path(self.methods[method]))["key"]
        return {"segcft": segcft.__version__, "study": self.study.name, "method": method, "model": key}

    def _generator(self, seed: int | None = None) -> Generator:
        return torch.Generator(self.device).manual_seed(self.study.evaluation.seed if seed is None else seed)


def _text(name: str, one: Intervention | Match) -> str:
    return f"{name}={one}" if isinstance(one, Match) else str(one)
