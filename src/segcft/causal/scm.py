"""The structural causal model of the scalar variables: sample, abduct, act, predict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Generator, Tensor, nn

from segcft.causal.copula import GaussianCopula
from segcft.causal.derived import Derived
from segcft.causal.intervention import unknown_variable
from segcft.causal.mechanisms import CategoricalMechanism, ConditionalSplineFlow, HurdleFlow, Mechanism, ParentEncoder
from segcft.config.graph import Graph
from segcft.config.stages import SCMSpec
from segcft.config.variable import Variable, solving_order


class StructuralCausalModel(nn.Module):
    r"""An SCM: every variable is :math:`a_k = f_k(u_k; pa_k)` with independent noises :math:`u_k`, but for those of
    ``confounded`` pairs, which a Gaussian copula ties together (:mod:`segcft.causal.copula`).

    A batch of values is one float32 tensor (B, V), columns in the order of ``variables``, each in its own
    unit; a category is its index as a float; NaN is a missing value. In ``do`` NaN means "not intervened on",
    so every sample can have its own intervention. All randomness goes through the optional ``generator``.

    Train with the loss ``-scm.log_prob(values).sum(1).mean()``, then :meth:`fit_confounding`; everything else answers
    questions and records no gradients.

    Continuous variables are flows, behind a hurdle if they are ``zero_inflated``, and categorical ones Gumbel-max
    models; see :mod:`segcft.causal.mechanisms`.

    References:
        | Deep Structural Causal Models for Tractable Counterfactual Inference (Pawlowski et al., 2020),
          https://arxiv.org/abs/2006.06485

    Args:
        variables: the variables and their parents, as in the study.
        spec: sizes of the mechanisms.
        confounded: pairs of variables that have an unknown cause in common.
    """

    def __init__(
        self, variables: Mapping[str, Variable], spec: SCMSpec, confounded: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__()
        self.variables = tuple(variables)
        self.definitions = dict(variables)
        self.graph = Graph.of(variables)
        self.encoder = ParentEncoder(variables)
        # A list, in the order of the variables: a name may be anything, also what is no name of a module.
        self.mechanisms = nn.ModuleList()
        self._parents = [[self.variables.index(p) for p in v.parents] for v in variables.values()]
        self._contexts: list[list[int]] = []  # which features encode the parents
        self._noises: list[slice] = []  # which of the noises are the variable's
        start = 0
        for variable in variables.values():
            context = self.encoder.columns(variable.parents)
            mechanism: Mechanism
            if variable.derived:
                mechanism = Derived()
            elif variable.kind == "categorical":
                mechanism = CategoricalMechanism(len(context), len(variable.categories), spec.hidden)
            else:
                flow = HurdleFlow if variable.zero_inflated else ConditionalSplineFlow
                mechanism = flow(len(context), spec.hidden, spec.bins, spec.transforms)
            self.mechanisms.append(mechanism)
            self._contexts.append(context)
            self._noises.append(slice(start, start + mechanism.noise_features))
            start += mechanism.noise_features
        self.noise_features = start
        self._derived = [k for k, variable in enumerate(variables.values()) if variable.derived]
        pairs = [(self.variables.index(first), self.variables.index(second)) for first, second in confounded]
        self.copula = GaussianCopula(len(variables), pairs) if pairs else None

    @property
    def natural_std(self) -> Tensor:
        """Standard deviation of each variable's training values, in its unit (1 for a categorical), (V,)."""
        return self.encoder.natural_std

    def set_statistics(self, values: Tensor) -> None:
        """Standardise by training values (B, V); NaN is ignored.

        Raises:
            DataError: a variable cannot be standardised; see :meth:`ParentEncoder.set_statistics`.
        """
        self.encoder.set_statistics(values)

    def log_prob(self, values: Tensor) -> Tensor:
        r"""Each variable's :math:`\log p(a_k \mid pa_k)`, in nats per unit of the variable, (B, V) -> (B, V).

        Terms whose variable or one of whose parents is missing are 0 and carry no gradient: the likelihood is
        that of the mechanisms which were seen whole. The term of a ``zero_inflated`` variable that is 0 is the log
        probability of that, in nats.
        """
        missing = values.isnan()
        # 1 is a value of every scale (and an index of every categorical), to be discarded below.
        values_or_one = torch.where(missing, 1.0, values)
        features = self.encoder(values)
        terms = []
        for k, (name, variable) in enumerate(self.definitions.items()):
            value, context = values_or_one[:, k], features[:, self._contexts[k]]
            if variable.kind == "categorical" or variable.derived:
                term = self._mechanism(k).log_prob(value, context)
            else:
                term = self._mechanism(k).log_prob(self.encoder.standardise(name, value), context)
                term = term + self.encoder.log_slope(name, value)
            terms.append(torch.where(missing[:, [k, *self._parents[k]]].any(dim=1), 0.0, term))
        return torch.stack(terms, dim=1)

    @torch.no_grad()
    def fit_confounding(self, values: Tensor) -> None:
        """Learn how strongly the confounded pairs are tied together, from training values (B, V)."""
        if self.copula:
            self.copula.fit(self.normal_scores(values, columns=self.copula.members))

    @torch.no_grad()
    def confounding(self, values: Tensor, columns: Sequence[int] | None = None) -> Tensor:
        """What confounded pairs add to the log density of values (B, V), in nats, (B,); see
        :meth:`segcft.causal.copula.GaussianCopula.log_density`. 0 without such pairs."""
        if self.copula is None:
            return values.new_zeros(len(values))
        return self.copula.log_density(self.normal_scores(values, columns=self.copula.members), columns)

    @torch.no_grad()
    def sample(self, n: int, generator: Generator | None = None, do: Tensor | None = None) -> Tensor:
        """``n`` samples of all variables, (n, V), from the observational distribution, or under ``do`` (n, V)."""
        like = self.encoder.mean
        noise = [self._mechanism(k).sample_noise(n, like, generator) for k in range(len(self.variables))]
        if self.copula:
            tied = self.copula.sample(n, generator)
            for k in self.copula.members:  # continuous variables, whose noise is one normal number
                noise[k] = tied[:, k : k + 1]
        return self.predict(torch.cat(noise, dim=1), do)

    @torch.no_grad()
    def abduct(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        """The exogenous noise (B, N) of values (B, V): exact for flows, a posterior sample for categoricals and zeros.

        It is NaN (unknown) where the variable or one of its parents is missing.
        """
        features = self.encoder(values)
        noises = []
        for k, (name, variable) in enumerate(self.definitions.items()):
            value, context = values[:, k], features[:, self._contexts[k]]
            if variable.kind == "continuous":
                value = self.encoder.standardise(name, value)
            noise = self._mechanism(k).abduct(value, context, generator)
            unknown = values[:, [k, *self._parents[k]]].isnan().any(dim=1, keepdim=True)
            noises.append(torch.where(unknown, math.nan, noise))
        return torch.cat(noises, dim=1)

    @torch.no_grad()
    def normal_scores(
        self, values: Tensor, generator: Generator | None = None, columns: Sequence[int] | None = None
    ) -> Tensor:
        """The noise of values (B, V) as standard normal numbers (B, V), a variable each: independent of each other if
        the causal model is right. NaN (unknown) where the variable or one of its parents is missing, and of variables
        other than ``columns`` (default: all).

        Those of categories and of zeros, which several noises explain, are drawn.
        """
        features, scores = self.encoder(values), []
        for k, (name, variable) in enumerate(self.definitions.items()):
            if columns is not None and k not in columns:
                scores.append(values.new_full((len(values),), math.nan))
                continue
            value, context = values[:, k], features[:, self._contexts[k]]
            if variable.kind == "continuous":
                value = self.encoder.standardise(name, value)
            unknown = values[:, [k, *self._parents[k]]].isnan().any(dim=1)
            scores.append(torch.where(unknown, math.nan, self._mechanism(k).normal_score(value, context, generator)))
        return torch.stack(scores, dim=1)

    @torch.no_grad()
    def predict(self, noise: Tensor, do: Tensor | None = None) -> Tensor:
        """Values (B, V) of the noise (B, N), under the intervention ``do`` (B, V), NaN: none."""
        do = noise.new_full((len(noise), len(self.variables)), math.nan) if do is None else do
        return self._act(do, lambda do: self._predict(noise, do))

    def _predict(self, noise: Tensor, do: Tensor) -> Tensor:
        values = torch.full_like(do, math.nan)
        for name in self.graph.order:
            k = self.variables.index(name)
            values[:, k] = torch.where(do[:, k].isnan(), self._predict_one(k, noise, values), do[:, k])
        return values

    @torch.no_grad()
    def counterfactual(self, values: Tensor, do: Tensor, generator: Generator | None = None) -> Tensor:
        """What ``values`` (B, V) would have been under ``do`` (B, V): abduction, action, prediction.

        Intervened variables are exactly their ``do``. A variable that is not intervened on and whose parents
        kept their values keeps its own, bit for bit; else it is predicted from its abducted noise. A missing
        variable stays missing, and one below a change whose noise is unknown (as a parent is missing) becomes
        missing. An intervention on a derived variable is one on the variable that it is solved for.
        """
        noise = self.abduct(values, generator)
        return self._act(do, lambda do: self._counterfactual(values, noise, do))

    @torch.no_grad()
    def settled(self, values: Tensor, do: Tensor, generator: Generator | None = None) -> Tensor:
        """The intervention ``do`` (B, V) on ``values`` (B, V) with what derived variables are solved for."""
        if not self._derived:
            return do
        noise = self.abduct(values, generator)
        return self._settled(do, lambda do: self._counterfactual(values, noise, do))

    @torch.no_grad()
    def derive(self, values: Tensor) -> Tensor:
        """Values (B, V) with the derived ones as they follow from the others: NaN where one of these is missing, or the
        formula has no value."""
        values = values.clone()
        for k, name in enumerate(self.variables):
            if self.definitions[name].derived:
                values[:, k] = self._follows(name, values)
        return values

    def _act(self, do: Tensor, answer: Callable[[Tensor], Tensor]) -> Tensor:
        """What ``answer`` makes of an intervention that may be on derived variables, of one that is not."""
        settled = self._settled(do, answer)
        values = answer(self._plain(settled))
        for k in self._derived:  # to the last digit, where there was anything to solve it by
            unsolved = do[:, k].isnan() | values[:, k].isnan()
            values[:, k] = torch.where(unsolved, values[:, k], do[:, k])
        return values

    def _settled(self, do: Tensor, answer: Callable[[Tensor], Tensor]) -> Tensor:
        asked = [self.variables[k] for k in self._derived if not do[:, k].isnan().all()]
        for name in solving_order(self.definitions, asked):
            wanted = do[:, self.variables.index(name)]
            variable, values = self.definitions[name], answer(self._plain(do))
            formula, k = variable.derived, self.variables.index(variable.solve_for)
            assert formula is not None
            known = {parent: values[:, self.variables.index(parent)] for parent in variable.parents}
            do = do.clone()
            do[:, k] = torch.where(wanted.isnan(), do[:, k], formula.solve(variable.solve_for, wanted, known))
        return do

    def _plain(self, do: Tensor) -> Tensor:
        """An intervention without what it says of derived variables."""
        if not self._derived:
            return do
        do = do.clone()
        do[:, self._derived] = math.nan
        return do

    def _follows(self, name: str, values: Tensor) -> Tensor:
        """A derived variable of values (B, V), (B,)."""
        variable = self.definitions[name]
        assert variable.derived is not None
        known = {parent: values[:, self.variables.index(parent)] for parent in variable.parents}
        found: Tensor = variable.derived.value(known)
        return torch.where(found.isfinite(), found, math.nan)

    def _counterfactual(self, values: Tensor, noise: Tensor, do: Tensor) -> Tensor:
        acted = (~do.isnan()).any(dim=0).tolist()
        below = self.graph.descendants(name for name, any_do in zip(self.variables, acted, strict=True) if any_do)
        result = torch.where(do.isnan(), values, do)
        for name in self.graph.order:
            if name not in below:
                continue
            k = self.variables.index(name)
            before, after = values[:, self._parents[k]], result[:, self._parents[k]]
            moved = ((before != after) & ~(before.isnan() & after.isnan())).any(dim=1)
            predicted = self._predict_one(k, noise, result)
            result[:, k] = torch.where(moved & do[:, k].isnan(), predicted, result[:, k])
        return result

    def intervention(self, batch: int, /, **do: float | Tensor) -> Tensor:
        """A ``do`` tensor (batch, V): NaN but for the named variables, each a number or a tensor (batch,).

        Raises:
            InterventionError: a name is not a variable.
        """
        matrix = self.encoder.mean.new_full((batch, len(self.variables)), math.nan)
        for name, value in do.items():
            if name not in self.definitions:
                raise unknown_variable(name, self.variables)
            matrix[:, self.variables.index(name)] = torch.as_tensor(value).to(matrix)
        return matrix

    def _mechanism(self, k: int) -> Mechanism:
        return cast(Mechanism, self.mechanisms[k])

    def _predict_one(self, k: int, noise: Tensor, values: Tensor) -> Tensor:
        """The k-th variable from its noise and its parents' values, (B,); NaN where one of these is."""
        name = self.variables[k]
        if self.definitions[name].derived:
            return self._follows(name, values)
        context = self.encoder(values)[:, self._contexts[k]]
        value = self._mechanism(k).predict(noise[:, self._noises[k]], context)
        if self.definitions[name].kind == "continuous":
            value = self.encoder.restore(name, value)
        return torch.where(values[:, self._parents[k]].isnan().any(dim=1), math.nan, value)
