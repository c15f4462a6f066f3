"""The mechanisms of the scalar variables, and the encoding of values that conditions them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
import zuko
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from segcft.config.variable import Variable
from segcft.errors import Code, DataError


class ParentEncoder(nn.Module):
    r"""Encodes values of variables as features for a network.

    A continuous variable becomes one standardised feature :math:`z = (s(a) - \mu) / \sigma`, with
    :math:`s = \log` for ``scale: log`` and the identity otherwise; a categorical one becomes its one-hot
    code. A missing value (NaN) becomes zeros: the mean, or no category. A value <= 0 on a log scale gives NaN
    or infinite features rather than a plausible number.

    A ``zero_inflated`` variable becomes two features: 1 where there is something, -1 where it is 0; and
    :math:`(a - e^\mu) / \sigma_a`, with :math:`\sigma_a` the standard deviation of all values, zeros included. That
    is linear in :math:`a`, about the middle :math:`e^\mu` of the positive values: what is counted in pixels changes
    an image by its amount, and on a log scale a vanishing structure would go to minus infinity before it is gone.

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
            # What is derived says nothing that its parents do not say.
            width = 0 if variable.derived else len(variable.categories) or (2 if variable.zero_inflated else 1)
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

        ``mean`` and ``std`` are those of the modelled (possibly log) scale, of a ``zero_inflated`` variable those of
        its positive values; ``natural_std`` is that of the variable itself, in its unit, zeros included.

        Raises:
            DataError: a variable is all missing or infinite, has just one value (or one that is not 0), is negative or
                0 where it cannot be, or is categorical and has values that are not the index of a category.
        """
        if values.ndim != 2 or values.shape[1] != len(self.variables):
            expected = f"(samples, {len(self.variables)})"
            raise DataError(Code.INVALID, "values", f"expected shape {expected}, not {tuple(values.shape)}")
        for k, (name, variable) in enumerate(self.definitions.items()):
            column = values[:, k].detach().cpu().double()
            column = column[~column.isnan()]
            if len(column) == 0:
                raise DataError(Code.MISSING, name, "no training sample has a value")
            if not column.isfinite().all():
                raise DataError(Code.OUT_OF_RANGE, name, "a training value is infinite")
            if variable.kind == "categorical":
                count = len(variable.categories)
                wrong = (column != column.round()) | (column < 0) | (column >= count)
                if wrong.any():
                    raise DataError(
                        Code.INVALID, name, f"{column[wrong][0]:g} is not a category's index (0 to {count - 1})"
                    )
                continue
            if not variable.allows(float(column.min())):
                needs = "values that are not negative" if variable.zero_inflated else "positive values"
                raise DataError(Code.OUT_OF_RANGE, name, f"'scale: log' needs {needs}, not {column.min():g}")
            modelled = column[column > 0] if variable.zero_inflated else column
            scaled = modelled.log() if variable.scale == "log" else modelled
            if len(modelled) == 0 or modelled.min() == modelled.max() or scaled.std(correction=0) == 0:
                what = "every training value" + (" that is not 0" if 0 < len(modelled) < len(column) else "")
                one = modelled[0] if len(modelled) else 0.0
                raise DataError(Code.EMPTY, name, f"{what} is {one:g}; there is no variance to model")
            self.mean[k] = scaled.mean()
            self.std[k] = scaled.std(correction=0)
            self.natural_std[k] = column.std(correction=0)

    def standardise(self, name: str, value: Tensor) -> Tensor:
        """The standardised value on the modelled scale, of one continuous variable; any shape. 0 on a log scale is
        -inf."""
        k = self.variables.index(name)
        scaled = value.log() if self.definitions[name].scale == "log" else value
        return (scaled - self.mean[k]) / self.std[k]

    def restore(self, name: str, standardised: Tensor) -> Tensor:
        """The inverse of :meth:`standardise`."""
        k = self.variables.index(name)
        scaled = standardised * self.std[k] + self.mean[k]
        return scaled.exp() if self.definitions[name].scale == "log" else scaled

    def log_slope(self, name: str, value: Tensor) -> Tensor:
        """The log derivative of :meth:`standardise`, which turns a density on the modelled scale into one of the
        variable; 0 where a ``zero_inflated`` one is 0, which has a probability and no density."""
        variable, slope = self.definitions[name], -self.std[self.variables.index(name)].log()
        if variable.scale == "linear":
            return slope.expand_as(value)
        absent = (value == 0) & variable.zero_inflated
        return torch.where(absent, 0.0, slope - torch.where(absent, 1.0, value).log())

    def forward(self, values: Tensor) -> Tensor:
        """Values (B, V) to features (B, E)."""
        parts = []
        for k, (name, variable) in enumerate(self.definitions.items()):
            value = values[:, k]
            if variable.derived:
                continue
            if variable.kind == "categorical":
                index = torch.arange(len(variable.categories), device=values.device)
                parts.append((value[:, None] == index).to(values.dtype))  # NaN equals no index
            elif variable.zero_inflated:
                presence = torch.where(value > 0, 1.0, torch.where(value == 0, -1.0, math.nan))
                amount = (value - self.mean[k].exp()) / self.natural_std[k]
                features = torch.stack([presence, amount], dim=1)
                parts.append(torch.where(value.isnan()[:, None], 0.0, features))
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

    @abstractmethod
    def normal_score(self, value: Tensor, context: Tensor, generator: Generator | None = None) -> Tensor:
        """Where the value is among those of the same parents, as a standard normal number (B,); drawn from where it may
        be if the value has a probability (randomised quantile residuals, Dunn and Smyth 1996)."""


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

    def normal_score(self, value: Tensor, context: Tensor, generator: Generator | None = None) -> Tensor:
        return self.abduct(value, context)[:, 0]


class HurdleFlow(Mechanism):
    r"""A variable that may be absent: a hurdle, and behind it a :class:`ConditionalSplineFlow` of how much there is.

    One noise :math:`h \sim \mathrm{Exp}(1)` decides both, so that a sample with more of it never has less of
    the variable, under any parents; and a sample just below the hurdle has little where absence is less likely.
    With :math:`p_0(pa)` the probability of absence, the value is absent where :math:`h` stays below the hurdle
    :math:`c = -\log(1 - p_0)`. What is left beyond it is exponential again, and the flow's normal noise :math:`u`
    follows from it by :math:`\Phi(-u) = e^{-(h - c)}`. In terms of the uniform :math:`U = 1 - e^{-h}` this is the
    quantile function: absent where :math:`U \le p_0`, else :math:`\Phi(u) = (U - p_0) / (1 - p_0)`.

    Abduction is exact where the value is there; where it is absent :math:`h` is drawn from its posterior, the
    exponential below the hurdle. The noise is held as two numbers, of which only the sum matters: the hurdle that was
    passed, and what is left beyond it, which may be far too small to be a digit of the sum. Under the same parents
    values up to 12 standard deviations from the middle come back to the accuracy of the flow.

    An absent value is -inf, which is what a 0 becomes on a standardised log scale. ``log_prob`` mixes the two
    measures of such a variable: it is the log probability of an absent value and the log density of any other.

    References:
        | Some Statistical Models for Limited Dependent Variables (Cragg, 1971), https://doi.org/10.2307/1909582

    Args:
        context, hidden, bins, transforms: as in :class:`ConditionalSplineFlow`; the hurdle's network has the same
            ``hidden`` widths.
    """

    noise_features = 2

    def __init__(self, context: int, hidden: Iterable[int], bins: int, transforms: int) -> None:
        super().__init__()
        hidden = tuple(hidden)
        self.context = context
        self.flow = ConditionalSplineFlow(context, hidden, bins, transforms)
        if context:
            self.network = zuko.nn.MLP(context, 1, hidden, activation=nn.SiLU)
        else:
            self.logit = nn.Parameter(torch.zeros(1))

    def absence(self, context: Tensor) -> Tensor:
        """The logit of the probability of absence, (B,)."""
        with torch.autocast(context.device.type, enabled=False):
            return self.network(context)[:, 0] if self.context else self.logit.expand(len(context))

    def log_prob(self, value: Tensor, context: Tensor) -> Tensor:
        absent, logit = value.isneginf(), self.absence(context)
        # The discarded branch of `where` is given a value that leaves its gradient a number.
        density = self.flow.log_prob(torch.where(absent, 0.0, value), context)
        return torch.where(absent, F.logsigmoid(logit), F.logsigmoid(-logit) + density)

    def abduct(self, value: Tensor, context: Tensor, generator: Generator | None = None) -> Tensor:
        absent, logit = value.isneginf(), self.absence(context)
        hurdle = F.softplus(logit)
        beyond = _excess(self.flow.abduct(torch.where(absent, 0.0, value), context)[:, 0])
        device = generator.device if generator else value.device
        uniform = torch.rand(len(value), generator=generator, device=device, dtype=value.dtype).to(value.device)
        below = torch.minimum(-torch.log1p(-uniform * logit.sigmoid()), hurdle)
        return torch.stack([torch.where(absent, 0.0, hurdle), torch.where(absent, below, beyond)], dim=1)

    def predict(self, noise: Tensor, context: Tensor) -> Tensor:
        passed, beyond = noise.unbind(dim=1)
        # In this order the hurdle that was passed is gone without a trace under the same parents.
        excess = (passed - F.softplus(self.absence(context))) + beyond
        absent = excess <= 0
        value = self.flow.predict(_normal(torch.where(absent, 1.0, excess))[:, None], context)
        return torch.where(absent, -math.inf, value)

    def sample_noise(self, n: int, like: Tensor, generator: Generator | None = None) -> Tensor:
        device = generator.device if generator else like.device
        exponential = torch.empty(n, device=device, dtype=like.dtype).exponential_(generator=generator)
        return torch.stack([torch.zeros_like(exponential), exponential], dim=1).to(like.device)

    def normal_score(self, value: Tensor, context: Tensor, generator: Generator | None = None) -> Tensor:
        return _normal(self.abduct(value, context, generator).sum(dim=1))


def _excess(normal: Tensor) -> Tensor:
    r""":math:`-\log \Phi(-u)`, exponential where :math:`u` is normal; positive, however small."""
    excess = -torch.special.log_ndtr(-_double(normal))
    return excess.to(normal).clamp(min=torch.finfo(normal.dtype).tiny)


def _normal(excess: Tensor) -> Tensor:
    """The inverse of :func:`_excess`."""
    wide = _double(excess)
    low, high = torch.special.ndtri(-torch.expm1(-wide)), -torch.special.ndtri(torch.exp(-wide.clamp(max=700)))
    return torch.where(wide < math.log(2), low, high).to(excess)


def _double(x: Tensor) -> Tensor:
    """In double precision, which the tails need; on the CPU where the device has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


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

    def normal_score(self, value: Tensor, context: Tensor, generator: Generator | None = None) -> Tensor:
        index = torch.nan_to_num(value).long()[:, None]
        shares = self.log_probabilities(context).exp()
        device = generator.device if generator else value.device
        uniform = torch.rand(len(value), generator=generator, device=device, dtype=value.dtype).to(value.device)
        before = (shares.cumsum(dim=1) - shares).gather(1, index)[:, 0]
        least = torch.finfo(value.dtype).eps  # a normal number is finite
        return torch.special.ndtri((before + uniform * shares.gather(1, index)[:, 0]).clamp(least, 1 - least))
