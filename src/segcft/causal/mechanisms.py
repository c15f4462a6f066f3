"""The mechanisms of the scalar variables, and the encoding of values that conditions them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
import zuko
from torch import Generator, Tensor, nn

from segcft.errors import DataError
from segcft.study import Variable


class ParentEncoder(nn.Module):
    r"""Encodes values of variables as features for a network.

    A continuous variable becomes one standardised feature :math:`z = (s(a) - \mu) / \sigma`, with
    :math:`s = \log` for ``scale: log`` and the identity otherwise; a categorical one becomes its one-hot
    code. A missing value (NaN) becomes zeros: the mean, or no category. A value <= 0 on a log scale gives NaN
    or infinite features rather than a plausible number.

    The statistics are buffers, so they travel with the weights. Until :meth:`set_statistics` they are mean 0
    and standard deviation 1.

    Args:
        variables: the V variables, in the order of the columns of the values.
    """

    mean: Tensor
    std: Tensor
    natural_std: Tensor

    def __init__(self, variables: Mapping[str, Variable]) -> None:
        super().__init__()
        self.variables = tuple(variables)
        self.definitions = dict(variables)
        self._slices: dict[str, slice] = {}
        start = 0
        for name, variable in variables.items():
            width = len(variable.categories) if variable.kind == "categorical" else 1
            self._slices[name] = slice(start, start + width)
            start += width
        self.features = start  #: number E of features
        self.register_buffer("mean", torch.zeros(len(variables)))
        self.register_buffer("std", torch.ones(len(variables)))
        self.register_buffer("natural_std", torch.ones(len(variables)))

    def columns(self, names: Iterable[str]) -> list[int]:
        """Which of the E features encode the variables ``names``."""
        return [column for name in names for column in range(self.features)[self._slices[name]]]

    @torch.no_grad()
    def set_statistics(self, values: Tensor) -> None:
        """Take mean and standard deviation from training values (B, V); NaN (missing) is ignored.

        ``mean`` and ``std`` are those of the modelled (possibly log) scale, ``natural_std`` that of the
        variable itself, in its unit.

        Raises:
            DataError: a variable is all missing or infinite, has just one value, is not positive although its
                scale is log, or is categorical and has values that are not the index of a category.
        """
        if values.ndim != 2 or values.shape[1] != len(self.variables):
            raise DataError(f"values have shape {tuple(values.shape)}, not (samples, {len(self.variables)})")
        for k, (name, variable) in enumerate(self.definitions.items()):
            column = values[:, k].detach().cpu().double()
            column = column[~column.isnan()]
            if len(column) == 0 or not column.isfinite().all():
                raise DataError(f"{name}: training values are {'infinite' if len(column) else 'all missing'}")
            if variable.kind == "categorical":
                count = len(variable.categories)
                wrong = (column != column.round()) | (column < 0) | (column >= count)
                if wrong.any():
                    raise DataError(f"{name}: {column[wrong][0]:g} is not a category's index (0 to {count - 1})")
                continue
            if variable.scale == "log" and column.min() <= 0:
                raise DataError(f"{name}: 'scale: log' needs positive values, the least is {column.min():g}")
            scaled = column.log() if variable.scale == "log" else column
            if column.min() == column.max() or scaled.std(correction=0) == 0:
                raise DataError(f"{name}: every training value is {column[0]:g}; it has no variance to model")
            self.mean[k] = scaled.mean()
            self.std[k] = scaled.std(correction=0)
            self.natural_std[k] = column.std(correction=0)

    def standardise(self, name: str, value: Tensor) -> Tensor:
        """The standardised value on the modelled scale, of one continuous variable; any shape."""
        k = self.variables.index(name)
        scaled = value.log() if self.definitions[name].scale == "log" else value
        return (scaled - self.mean[k]) / self.std[k]

    def restore(self, name: str, standardised: Tensor) -> Tensor:
        """The inverse of :meth:`standardise`."""
        k = self.variables.index(name)
        scaled = standardised * self.std[k] + self.mean[k]
        return scaled.exp() if self.definitions[name].scale == "log" else scaled

    def forward(self, values: Tensor) -> Tensor:
        """Values (B, V) to features (B, E)."""
        parts = []
        for k, (name, variable) in enumerate(self.definitions.items()):
            value = values[:, k]
            if variable.kind == "categorical":
                index = torch.arange(len(variable.categories), device=values.device)
                parts.append((value[:, None] == index).to(values.dtype))  # NaN equals no index
            else:
                missing = value.isnan()
                # 1 is a value of every scale: the discarded branch of `where` stays free of NaN gradients.
                z = self.standardise(name, torch.where(missing, 1.0, value))
                parts.append(torch.where(missing, 0.0, z)[:, None])
        return torch.cat(parts, dim=1)


class Mechanism(nn.Module, ABC):
    """A variable as a function of its exogenous noise and its parents, ``a = f(u; pa)``.

    For a batch of B samples, ``value`` is (B,), ``noise`` (B, N) and ``context``, which encodes the parents,
    (B, C), with C = 0 for a root.
    """

    noise_features: int  #: number N of noises

    @abstractmethod
    def log_prob(self, value: Tensor, context: Tensor) -> Tensor:
        """log p(a | pa), (B,)."""

    @abstractmethod
    def abduct(self, value: Tensor, context: Tensor, generator: Generator | None = None) -> Tensor:
        """Noise (B, N) from its posterior, which reproduces the value."""

    @abstractmethod
    def predict(self, noise: Tensor, context: Tensor) -> Tensor:
        """The value (B,) of this noise."""

    @abstractmethod
    def sample_noise(self, n: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        """Noise (n, N) from its prior, of the type and on the device of ``like``."""


class ConditionalSplineFlow(Mechanism):
    r"""A continuous variable as a conditional flow :math:`u = t(z; pa)`, with :math:`u \sim N(0, 1)`.

    :math:`t` is an affine map followed by monotonic rational-quadratic splines, whose parameters are networks
    of the parents; both directions are in closed form. A spline bends the line inside [-5, 5] and is the
    identity outside, where the affine map still follows the parents. The flow starts as the identity, that is
    as a standard normal on the standardised scale.

    References:
        | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
        | Deep Structural Causal Models for Tractable Counterfactual Inference (Pawlowski et al., 2020),
          https://arxiv.org/abs/2006.06485

    Args:
        context: number C of features that encode the parents (0: none).
        hidden, bins, transforms: widths of the networks, bins of a spline and number of splines.
    """

    noise_features = 1

    def __init__(self, context: int, hidden: Iterable[int], bins: int, transforms: int) -> None:
        super().__init__()
        hidden = tuple(hidden)
        network = {"hidden_features": hidden, "activation": nn.SiLU} if context else {}
        unconstrained = [(bins,), (bins,), (bins - 1,)]  # widths, heights, inner slopes
        spline = zuko.transforms.MonotonicRQSTransform
        self.context = context
        self.steps = nn.ModuleList(
            [zuko.flows.ElementWiseTransform(1, context, **network)]
            + [zuko.flows.ElementWiseTransform(1, context, spline, unconstrained, **network) for _ in range(transforms)]
        )
        for step in self.steps:
            last = list(step.parameters())[-2:] if context else step.parameters()  # weight and bias
            for parameter in last:
                nn.init.zeros_(parameter)

    def transform(self, context: Tensor) -> zuko.transforms.ComposedTransform:
        """The map from z (B, 1) to u (B, 1)."""
        # Under bfloat16 networks the abduction and the prediction would not be each other's inverse.
        with torch.autocast(context.device.type, enabled=False):
            features = context if self.context else None
            return zuko.transforms.ComposedTransform(*(step(features) for step in self.steps))

    def log_prob(self, value: Tensor, context: Tensor) -> Tensor:
        u, ladj = self.transform(context).call_and_ladj(value[:, None])
        return -0.5 * (u[:, 0] ** 2 + math.log(2 * math.pi)) + ladj

    def abduct(self, value: Tensor, context: Tensor, generator: Generator | None = None) -> Tensor:
        return self.transform(context)(value[:, None])

    def predict(self, noise: Tensor, context: Tensor) -> Tensor:
        return self.transform(context).inv(noise)[:, 0]

    def sample_noise(self, n: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        device = generator.device if generator else like.device
        return torch.randn(n, 1, generator=generator, device=device, dtype=like.dtype).to(like.device)


class CategoricalMechanism(Mechanism):
    r"""A categorical variable as a Gumbel-max model, :math:`a = \arg\max_k \, l_k(pa) + g_k`.

    The :math:`K` noises :math:`g_k` are standard Gumbel and :math:`l` are log probabilities. Abduction
    samples their posterior given the category :math:`a`, top down: the maximum is Gumbel(0) whatever the
    category, and each other :math:`l_k + g_k` is a Gumbel of location :math:`l_k` truncated at the maximum.

    References:
        | Counterfactual Off-Policy Evaluation with Gumbel-Max Structural Causal Models
          (Oberst & Sontag, 2019), https://arxiv.org/abs/1905.05824
        | A* Sampling (Maddison et al., 2014), https://arxiv.org/abs/1411.0030

    Args:
        context: number C of features that encode the parents (0: none).
        categories: number K of categories.
        hidden: widths of the network from the parents to the logits.
    """

    def __init__(self, context: int, categories: int, hidden: Iterable[int]) -> None:
        super().__init__()
        self.noise_features = categories
        self.context = context
        if context:
            self.network = zuko.nn.MLP(context, categories, tuple(hidden), activation=nn.SiLU)
        else:
            self.logits = nn.Parameter(torch.zeros(categories))

    def log_probabilities(self, context: Tensor) -> Tensor:
        """log p(a = k | pa), (B, K)."""
        with torch.autocast(context.device.type, enabled=False):
            logits = self.network(context) if self.context else self.logits.expand(len(context), -1)
            return logits.log_softmax(dim=-1)

    def log_prob(self, value: Tensor, context: Tensor) -> Tensor:
        return self.log_probabilities(context).gather(1, value.long()[:, None])[:, 0]

    def abduct(self, value: Tensor, context: Tensor, generator: Generator | None = None) -> Tensor:
        logits = self.log_probabilities(context)
        gumbels = self.sample_noise(len(value), logits, generator)
        observed = value[:, None] == torch.arange(self.noise_features, device=value.device)
        maximum = gumbels.gather(1, torch.nan_to_num(value).long()[:, None])
        truncated = -torch.logaddexp(-maximum, -(logits + gumbels))
        # Rounding could let another category tie with the observed one; the margin leaves it behind.
        truncated = torch.minimum(truncated, maximum - 1e-4)
        noise = torch.where(observed, maximum, truncated) - logits
        return torch.where(value.isnan()[:, None], math.nan, noise)

    def predict(self, noise: Tensor, context: Tensor) -> Tensor:
        category = (self.log_probabilities(context) + noise).argmax(dim=-1).to(noise.dtype)
        return torch.where(noise.isnan().any(dim=-1), math.nan, category)

    def sample_noise(self, n: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        device = generator.device if generator else like.device
        exponential = torch.empty(n, self.noise_features, device=device, dtype=like.dtype)
        exponential.exponential_(generator=generator).clamp_(min=torch.finfo(like.dtype).tiny)
        return -exponential.log().to(like.device)
