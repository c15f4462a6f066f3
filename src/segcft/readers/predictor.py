r"""The predictor: what an image shows of the variables that no mask tells, such as age and sex.

It guides and judges by *changes* of what it says. A person whose age is set ten years higher should not look ten years
older than the predictor can tell: its readings are drawn to the mean, and asking for the full number would exaggerate.
So it is asked for as much as people differ. With features :math:`e(a)` of all values (:class:`ParentEncoder`) and what
the predictor says of an image, :math:`o(x)`, a linear fit to people it has not seen gives

.. math:: o(x) \approx W e(a) + b,

and a counterfactual that changes a to a~ is to say :math:`o(x) + W (e(\tilde a) - e(a))`. So what was said of this very
person stays, as soft as it was, but for as much as people differ whose values differ so: who has a larger heart is said
to be a man a little more often. (Xia et al. 2024, https://arxiv.org/abs/2403.09422, have soft targets for what is not
intervened upon.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcft.causal.mechanisms import ParentEncoder
from segcft.config.stages import RegressorSpec
from segcft.config.variable import Variable
from segcft.data.augment import Augmenter
from segcft.data.batches import Batch
from segcft.grey import to_unit
from segcft.readers.regressor import resnet
from segcft.training.loop import Objective

FEWEST = 5
"""People a feature of whom a fit is worth judging by."""


class Output(NamedTuple):
    """Where an attribute is: its column of the values, and its ``columns`` of what the predictor says."""

    name: str
    column: int
    columns: slice
    categories: int


class Predictor(nn.Module):
    """ResNet from an image to all ``attributes``: log probabilities of categories, and numbers in standard deviations.

    Args:
        spec: sizes of the network.
        channels: of the images.
        dimensions: of the images, 2 or 3.
        variables: the V variables, in the order of the columns of values.
        attributes: those that are predicted.
    """

    response: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: RegressorSpec,
        channels: int,
        dimensions: int,
        variables: Mapping[str, Variable],
        attributes: Sequence[str],
    ) -> None:
        super().__init__()
        outputs, begin = [], 0
        for name in attributes:
            count = len(variables[name].categories)
            place = slice(begin, begin + max(1, count))
            outputs.append(Output(name, list(variables).index(name), place, count))
            begin = place.stop
        self.outputs = tuple(outputs)
        self.encoder = ParentEncoder(variables)
        self.resnet = resnet(spec.widths, spec.blocks, channels, dimensions, begin)
        self.register_buffer("mean", torch.zeros(len(outputs)))
        self.register_buffer("std", torch.ones(len(outputs)))
        self.register_buffer("response", torch.zeros(self.encoder.features, begin))

    @torch.no_grad()
    def set_statistics(self, values: Tensor) -> None:
        """Standardise numbers by training values (N, V); NaN is ignored."""
        self.encoder.set_statistics(values)
        for place, output in enumerate(self.outputs):
            known = values[:, output.column]
            known = known[~known.isnan()]
            if not output.categories:
                self.mean[place], self.std[place] = known.mean(), known.std(correction=0).clamp(min=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """What images (B, C, *size) in [-1, 1] show, (B, K)."""
        said = self.resnet(x).float()
        return self._normalised(said)

    def _normalised(self, said: Tensor) -> Tensor:
        """(B, K) with categories as log probabilities, whatever was added to them."""
        return torch.cat(
            [
                F.log_softmax(said[:, output.columns], dim=1) if output.categories else said[:, output.columns]
                for output in self.outputs
            ],
            dim=1,
        )

    @torch.no_grad()
    def fit_response(self, said: Tensor, values: Tensor, judges: bool) -> None:
        """Learn how readings ``said`` (N, K) of people differ with their values (N, V), of which some may be missing.

        Who guides has a penalty, that of as many people as there are features: of few people it knows little, and then
        asks for less, not for more. Who ``judges`` has none, as what is obtained would be measured against too little;
        and where a variable is known of less than :data:`FEWEST` samples a feature, nothing is expected of it, and
        nothing measured against it.
        """
        # On the CPU: some devices have no double precision.
        features, said = self.encoder(values).cpu().double(), said.cpu().double()
        features, said = features - features.mean(dim=0), said - said.mean(dim=0)
        if judges:
            fit = torch.linalg.pinv(features) @ said
            for column, name in enumerate(self.encoder.variables):
                if int((~values[:, column].isnan()).sum()) < FEWEST * self.encoder.features:
                    fit[self.encoder.columns([name])] = 0.0
            self.response.copy_(fit)
            return
        penalty = self.encoder.features * torch.eye(self.encoder.features, dtype=features.dtype)
        self.response.copy_(torch.linalg.solve(features.T @ features + penalty, features.T @ said))

    def expected(self, before: Tensor, after: Tensor) -> Tensor:
        """How much of what is said should change as values (B, V) do, (B, K)."""
        return (self.encoder(after) - self.encoder(before)) @ self.response

    def asked(self, said: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """What is to be said of a counterfactual whose values (B, V) are ``after``, of an image of which ``said``
        (B, K) was said, (B, K)."""
        return self._normalised(said + self.expected(before, after))

    def errors(self, said: Tensor, asked: Tensor) -> Iterator[tuple[Output, Tensor]]:
        """Of each attribute, how far (B,) what is ``said`` is from what was ``asked``, both (B, K): the difference of
        numbers in standard deviations, of categories the divergence of Kullback and Leibler in nats."""
        for output in self.outputs:
            one, other = said[:, output.columns], asked[:, output.columns]
            if output.categories:
                yield output, F.kl_div(one, other, reduction="none", log_target=True).sum(dim=1)
            else:
                yield output, (one - other)[:, 0]

    def misread(self, said: Tensor, values: Tensor) -> Iterator[tuple[Output, Tensor]]:
        """Of each attribute, how far (B,) what is ``said`` (B, K) is from ``values`` (B, V): of numbers the absolute
        error in their unit, of categories the probability of the wrong ones. NaN where the value is not known."""
        for place, output in enumerate(self.outputs):
            value, one = values[:, output.column], said[:, output.columns]
            if output.categories:
                right = one.exp().gather(1, value.nan_to_num().long()[:, None])[:, 0]
                yield output, torch.where(value.isnan(), torch.nan, 1 - right)
            else:
                yield output, (one[:, 0] * self.std[place] + self.mean[place] - value).abs()


class PredictorObjective(Objective):
    """Cross-entropy of categories and half the squared error of standardised numbers, mean of all attributes."""

    network: Predictor

    def __init__(self, network: Predictor, spec: RegressorSpec) -> None:
        super().__init__()
        self.network, self.augment = network, Augmenter(spec.augment)

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = to_unit(batch["image"])
        image, _ = self.augment(image, image[:, :0])
        # Of each attribute the mean of those who have it; 0 where nobody of the batch has.
        return self._loss(image, batch["values"]).nanmean(dim=0).nan_to_num(0.0).mean(), {}

    def validate(self, batch: Batch) -> Tensor:
        """The loss, without augmentation."""
        return self._loss(to_unit(batch["image"]), batch["values"]).nanmean(dim=1)

    def _loss(self, image: Tensor, values: Tensor) -> Tensor:
        """Of each attribute, (B, A); NaN where it is not known, and no gradient from there."""
        network, losses = self.network, []
        said = network(image)
        for place, output in enumerate(network.outputs):
            value, one = values[:, output.column], said[:, output.columns]
            missing = value.isnan()
            if output.categories:
                loss = F.nll_loss(one, value.nan_to_num().long(), reduction="none")
            else:
                true = (value - network.mean[place]) / network.std[place]
                loss = (one[:, 0] - torch.where(missing, 0, true)).square() / 2
            losses.append(torch.where(missing, torch.nan, loss))
        return torch.stack(losses, dim=1)
