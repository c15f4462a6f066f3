"""What every counterfactual must obey, measured in grey levels (0 to 255).

Composition: without an intervention the image stays as it is. Reversibility: undoing an intervention gives the image
back. Reference: Monteiro et al. 2023, "Measuring axiomatic soundness of counterfactual image models".
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from segcft.config.study import Study
from segcft.counterfactual.model import CounterfactualModel
from segcft.evaluate.answered import AnsweredBatch, ModelBatch
from segcft.evaluate.metrics.metric import GREY, METRICS, Metric, Result, Words
from segcft.grey import GREY_LEVELS


def grey_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of images (B, C, *size) in [-1, 1], in grey levels, (B,)."""
    return (a - b).abs().flatten(1).mean(dim=1) * GREY_LEVELS


@torch.no_grad()
def undo(model: CounterfactualModel, changed: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """From the counterfactual image and values ``after`` back to the values ``before``, all abducted anew."""
    return model.abduct(changed, after).predict(before)


class Composition(Metric):
    """Change of the image under no intervention, mean over pixels."""

    name = "composition"
    digits = 4
    axiom = True
    brief = False

    def words(self, study: Study) -> Words:
        text = "change of the image where nothing was asked, mean over pixels; and at worst. It should be 0."
        return Words("composition", GREY, text)

    def of_model(self, batch: ModelBatch) -> Iterator[Result]:
        yield Result(grey_difference(batch.unchanged, batch.factual.samples.image))


class WorstComposition(Metric):
    """Change of the image under no intervention, at the worst pixel of the worst sample."""

    name = "composition max"
    digits = 4
    axiom = True
    brief = False
    worst = True

    def words(self, study: Study) -> Words:
        return Words("composition, worst pixel", GREY)

    def of_model(self, batch: ModelBatch) -> Iterator[Result]:
        change = (batch.unchanged - batch.factual.samples.image).abs()
        yield Result(change.flatten(1).amax(dim=1) * GREY_LEVELS)


class Reconstruction(Metric):
    """Distance of the image from what the latents alone give of it."""

    name = "reconstruction"
    axiom = True
    brief = False

    def words(self, study: Study) -> Words:
        text = "distance of the image from what the latents alone give of it; small: the model explains it."
        return Words("reconstruction", GREY, text, of_image="reconstruction error")

    def of_model(self, batch: ModelBatch) -> Iterator[Result]:
        rebuilt = batch.model.mechanism.reconstruction(batch.abduction.noise)
        if rebuilt is not None:
            yield Result(grey_difference(rebuilt, batch.factual.samples.image))


class Reversibility(Metric):
    """Distance from the image after an intervention and its undoing."""

    name = "reversibility"
    axiom = True

    def words(self, study: Study) -> Words:
        return Words("reversibility", GREY, "distance from the image after an intervention and its undoing.")

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        if answer.model is not None:
            samples = answer.asked.factual.samples
            back = undo(answer.model, answer.exact, answer.asked.after, samples.values)
            yield Result(grey_difference(back, samples.image))


for metric in (Composition(), WorstComposition(), Reconstruction(), Reversibility()):
    METRICS.add(metric.name, metric)
