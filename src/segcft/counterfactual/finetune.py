"""Counterfactual fine-tuning (CFT): one algorithm, the guide is its argument.

The image mechanism is trained on its own counterfactuals so that a frozen guide reads from them the values that
were asked for, while its likelihood (its evidence lower bound, where that is what it has) stays what pre-training had
reached:

    minimise   L_guide(x~, pa~)   subject to   -ELBO(x, pa) <= eps

With a regressor as the guide this is Reg-CFT, with a segmentor Seg-CFT (Xia et al.); the constraint is held by a
damped Lagrange multiplier (Platt & Barr 1987; De Sousa Ribeiro et al. 2023). Three things are here that the paper has
not: changed pixels have a price (:mod:`segcft.counterfactual.price`); where pre-training has learnt from subjects' own
other images, the constraint is of these too: -ELBO(x', pa' | x), of counterfactuals that are known; and with a
predictor, attributes that no mask tells are guided beside the measures (:mod:`segcft.readers.predictor`), and what they
do to images on average is asked for (:mod:`segcft.counterfactual.average`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.causal.scm import StructuralCausalModel
from segcft.config.section import Augment, LocalDeformation, Training
from segcft.config.stages import FinetuneSpec
from segcft.config.study import Study
from segcft.counterfactual.average import AverageEffects
from segcft.counterfactual.price import price_of
from segcft.counterfactual.scale import scales
from segcft.data.augment import Augmenter
from segcft.data.batches import Batch, Batches
from segcft.image_models.mechanism import ImageMechanism, Known
from segcft.image_models.objective import PairedSamples
from segcft.readers.predictor import Predictor
from segcft.readers.reader import Reader
from segcft.training.loop import Objective, freeze, parts

if TYPE_CHECKING:
    from lightning.fabric import Fabric


DRAWS = 4096
"""Interventions from which it is learnt how changes of variables go together."""

NONE = LocalDeformation()
"""No deformations. Pre-training has learnt from them that a structure can be larger; what is around it moves with it
there, and fine-tuning must be free to unlearn that."""


class Intervened(NamedTuple):
    """Counterfactuals ``image`` (B, C, *size) under a drawn intervention ``do`` (B, V), the guides' error of them, how
    much of the average effects is ``missed``, on the same scale, and by how much the constraint is violated; these are
    numbers, shape ()."""

    image: Tensor
    do: Tensor
    guided: Tensor
    missed: Tensor
    violation: Tensor


class CounterfactualObjective(Objective):
    """The damped Lagrangian of the constrained problem above.

    Args:
        network: the pre-trained image mechanism, which is changed.
        scm: the attributes' mechanisms, frozen.
        guide: a segmentor or a regressor, frozen; gradients flow through it to the image. None where there are no
            structures.
        predictor: guides what the image shows of attributes, frozen; None where nothing does.
        average: what attributes do to images on average, which guides beside the predictor; None without one.
        marginal: training values (N, V) from which interventions are drawn.
        bound: eps, the largest value of the mechanism's constraint allowed, in nats per pixel.
    """

    network: ImageMechanism
    marginal: Tensor
    area_scale: Tensor

    def __init__(
        self,
        network: ImageMechanism,
        scm: StructuralCausalModel,
        guide: Reader | None,
        spec: FinetuneSpec,
        study: Study,
        marginal: Tensor,
        bound: float,
        predictor: Predictor | None = None,
        average: AverageEffects | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.scm, self.guide = freeze(scm), freeze(guide) if guide is not None else None
        self.predictor = freeze(predictor) if predictor is not None else None
        self.spec, self.bound = spec, bound
        self.samples, self.view = PairedSamples(study, spec.augment, NONE), Augmenter(spec.view)
        # What hides parts of an image from the predictor hides them here: an attribute is to show wherever it does.
        hide = study.predictor.augment.hide if study.predictor is not None else 0.0
        self.view_of_attributes = Augmenter(spec.view.model_copy(update={"hide": hide}))
        self.plain = PairedSamples(study, Augment(), NONE)
        names = list(study.variables)
        self.measured = study.measured_columns
        drawn = [name for name in names if name not in study.derived]
        self.targets = [names.index(name) for name in spec.intervene or drawn]
        self.attributes = [names.index(name) for name in study.attributes]
        self.average = average
        self.multiplier = nn.Parameter(torch.tensor(float(spec.multiplier)))
        readings = len(self.measured) if guide is not None else 0
        self.price = price_of(spec, readings + (len(predictor.outputs) if predictor is not None else 0))
        self.register_buffer("marginal", marginal)
        self.register_buffer("area_scale", scales(study, marginal, spec.area_scale))
        if average is not None:
            cuda = [marginal.device] if marginal.device.type == "cuda" else []
            with torch.no_grad(), torch.random.fork_rng(cuda):
                torch.manual_seed(spec.seed)  # the same however many devices share the work
                values = marginal[torch.randint(len(marginal), (DRAWS,), device=marginal.device)]
                average.fit_draws(values, self.scm.counterfactual(values, self.draw_intervention(values)))

    def train(self, mode: bool = True) -> CounterfactualObjective:
        """Training mode for the network only: the guide's batch statistics are frozen with it."""
        super().train(mode)
        for frozen in (self.scm, self.guide, self.predictor):
            if frozen is not None:
                frozen.eval()
        return self

    def parameter_groups(self, spec: Training) -> list[dict[str, Any]]:
        ascent = {
            "params": [self.multiplier],
            "lr": self.spec.multiplier_learning_rate,
            "maximize": True,
            "weight_decay": 0.0,
            "scheduled": False,
        }
        return [*super().parameter_groups(spec), ascent]

    def after_step(self) -> None:
        with torch.no_grad():
            self.multiplier.clamp_(min=0)
        if self.average is not None:
            self.average.accept()

    def draw_intervention(self, values: Tensor) -> Tensor:
        """do (B, V): of each sample one variable, uniformly, and each other one with probability ``spec.also``.

        Every value is that of another sample of the training marginal, one for each value.
        """
        batch = torch.arange(len(values), device=values.device)
        targets = torch.tensor(self.targets, device=values.device)
        shape = (len(batch), len(targets))
        chosen = torch.rand(shape, device=values.device) < self.spec.also
        chosen[batch, torch.randint(len(targets), batch.shape, device=values.device)] = True
        donors = torch.randint(len(self.marginal), shape, device=values.device)
        do = torch.full_like(values, torch.nan)
        do[:, targets] = torch.where(chosen, self.marginal[donors, targets], torch.nan)
        return do

    def guide_loss(self, image: Tensor, values: Tensor) -> Tensor:
        """Error of what the guide reads, in units of ``area_scale``, mean of all measured variables."""
        assert self.guide is not None
        seen, _ = self.view(image, image[:, :0])
        return self._size((self.guide.estimate(seen) - values[:, self.measured]) / self.area_scale)

    def attribute_losses(self, predictor: Predictor, image: Tensor, before: Batch, after: Tensor) -> list[Tensor]:
        """Of each attribute, how far the predictor's reading of counterfactuals ``image`` (B, C, *size) is from what
        it should be under the values ``after`` (B, V); ``before`` has the image and the values of the samples.

        Both images are seen through one view, so that what differs is the counterfactual's.
        """
        both, _ = self.view_of_attributes(torch.cat([image, before["image"]], dim=1), image[:, :0], images=2)
        seen, original = both.chunk(2, dim=1)
        with torch.no_grad():
            asked = predictor.asked(predictor(original), before["values"], after)
        errors = predictor.errors(predictor(seen), asked)
        return [error.mean() if output.categories else self._size(error) for output, error in errors]

    def _size(self, error: Tensor) -> Tensor:
        """What errors of any shape count, their mean."""
        if self.spec.guide_loss == "absolute":
            # Its slope does not vanish at the end, so the last bit of a change is worth the price of its pixels.
            return F.smooth_l1_loss(error, torch.zeros_like(error), beta=self.spec.rounding)
        return error.square().mean()

    def changed_share(self, difference: Tensor) -> Tensor:
        """The share of pixels that each ``difference`` (B, C, *size) changes, (B,); a change counts whole if it is
        visible.

        The count, and not the size: a price on grey levels would have outlines move where contrast is low.
        """
        size = difference.abs()
        return (size / (size + self.spec.change_scale)).flatten(1).mean(dim=1)

    def charged(self, do: Tensor) -> Tensor:
        """Whether changed pixels have a price under each intervention ``do`` (B, V), 1 or 0, (B,): an attribute that is
        guided may show anywhere."""
        if self.predictor is None:
            return torch.ones(len(do), device=do.device)
        return do[:, self.attributes].isnan().all(dim=1).float()

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, values, known = self.samples.pairs(batch)
        counterfactual, do, guided, missed, violation = self._intervene(image, values, known, step)
        charged = self.charged(do)
        change = (self.changed_share(counterfactual - image) * charged).sum() / charged.sum().clamp(min=1)
        price = self.price(guided, step)
        # Damping stiffens the multiplier where the constraint is violated, so that it does not oscillate.
        weight = (self.multiplier + self.spec.damping * violation.detach()).clamp(min=0)
        loss = guided + missed + price * change + weight.detach() * violation + self.multiplier * violation.detach()
        # The last term is there for the multiplier's ascent only; its value is not part of what is minimised.
        loss = loss - (self.multiplier * violation).detach()
        figures = {
            "guide": guided,
            "change": change,
            "violation": violation,
            "multiplier": self.multiplier.detach().clone(),
        }
        figures |= {"missed": missed} if self.average is not None else {}
        return loss, figures | ({"price": price} if self.spec.price != "fixed" else {})

    def validate(self, batch: Batch) -> Tensor:
        """The guide's error and by how much the constraint is violated, of the batch, without augmentation; and what
        the training's counterfactuals miss of average effects."""
        found = self._intervene(*self.plain.pairs(batch))
        return (found.guided + found.missed + found.violation.clamp(min=0)).expand(len(batch["values"]))

    def _intervene(self, image: Tensor, values: Tensor, known: Known | None, step: int = 0) -> Intervened:
        do = self.draw_intervention(values)
        after = self.scm.counterfactual(values, do)
        counterfactual, held = self.network.counterfactual_and_constraint(
            image, values, after, self.spec.abduction == "sample", known
        )
        total, count, missed = counterfactual.new_zeros(()), 0, counterfactual.new_zeros(())
        if self.guide is not None:
            count = len(self.measured)
            total = count * self.guide_loss(counterfactual, after)
        if self.predictor is not None:
            before = {"image": image, "values": values}
            losses = self.attribute_losses(self.predictor, counterfactual, before, after)
            total, count = total + torch.stack(losses).sum(), count + len(losses)
        if self.average is not None:
            missed = self.average(counterfactual - image, values, after, step).sum()
        return Intervened(counterfactual, do, total / count, missed / count, held.mean() - self.bound)


@torch.no_grad()
def constraint_level(network: ImageMechanism, study: Study, batches: Batches, fabric: Fabric) -> float:
    """The pre-trained mechanism's constraint on training data, nats per pixel: averaged over batches and devices."""
    spec = study.finetune
    samples, sample = PairedSamples(study, spec.augment, NONE), spec.abduction == "sample"
    total = torch.zeros((), device=fabric.device)
    for step, batch in enumerate(batches.from_step(0, spec.bound_batches, fabric.device)):
        for part in parts(batch, step, spec, fabric.global_rank):
            with torch.autocast(fabric.device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
                total += network.constraint_of_pairs(*samples.pairs(part), sample).mean()
    # Every device has measured its share of the batches; the constraint is one.
    return float(fabric.all_reduce(total / (spec.bound_batches * spec.accumulate), reduce_op="mean"))
