"""The causal graph, the mechanisms and the structural causal model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from refused import refused
from segcft.causal.mechanisms import CategoricalMechanism, ConditionalSplineFlow, HurdleFlow, ParentEncoder
from segcft.causal.scm import StructuralCausalModel
from segcft.config.graph import CycleError, Graph
from segcft.config.stages import SCMSpec
from segcft.config.variable import Variable
from segcft.errors import Code, DataError, InterventionError

# sex, age -> area -> grade; age -> volume; alone. Declared out of causal order, on purpose.
VARIABLES = {
    "grade": Variable(kind="categorical", categories=("a", "b", "c"), parents=("area", "sex")),
    "area": Variable(kind="continuous", parents=("sex", "age"), scale="log"),
    "sex": Variable(kind="categorical", categories=("F", "M")),
    "age": Variable(kind="continuous"),
    "volume": Variable(kind="continuous", parents=("age",)),
    "alone": Variable(kind="continuous"),
}
GRADE, AREA, SEX, AGE, VOLUME, ALONE = range(6)


def training_values(n: int = 512) -> Tensor:
    generator = torch.Generator().manual_seed(1)

    def noise() -> Tensor:
        return torch.randn(n, generator=generator)

    sex = (noise() > 0).float()
    age = 50 + 15 * noise()
    area = torch.exp(9 + 0.2 * sex - 0.004 * (age - 50) + 0.1 * noise())
    grade = (noise() > 0).float() + (noise() > 0.5).float()
    return torch.stack([grade, area, sex, age, 3 * age + 20 * noise(), 5 + noise()], dim=1)


def small_scm(**spec: object) -> StructuralCausalModel:
    """An SCM with random, not trained, yet far from trivial mechanisms."""
    torch.manual_seed(0)
    scm = StructuralCausalModel(VARIABLES, SCMSpec.model_validate({"steps": 1, "hidden": (16, 16), **spec}))
    scm.set_statistics(training_values())
    for parameter in scm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return scm


@pytest.fixture(scope="module")
def scm() -> StructuralCausalModel:
    return small_scm()


# --- graph --------------------------------------------------------------------------------------------------


@st.composite
def random_dags(draw: st.DrawFn) -> dict[str, list[str]]:
    """Parents of up to 8 variables, which are declared in any order."""
    names = draw(st.permutations([f"v{i}" for i in range(draw(st.integers(1, 8)))]))
    parents = {name: [other for other in names[:i] if draw(st.booleans())] for i, name in enumerate(names)}
    return {name: parents[name] for name in draw(st.permutations(names))}


@given(random_dags(), st.data())
def test_graph_of_any_dag(parents: dict[str, list[str]], data: st.DataObject) -> None:
    graph = Graph(parents)
    assert sorted(graph.order) == sorted(parents)
    for name, causes in parents.items():
        assert all(graph.order.index(cause) < graph.order.index(name) for cause in causes)
    sources = data.draw(st.sets(st.sampled_from(sorted(parents))))
    below: set[str] = set()
    for _ in parents:  # walk down one generation at a time
        below |= {name for name, causes in parents.items() if (sources | below) & set(causes)}
    assert graph.descendants(sources) == below


@given(random_dags(), st.data())
def test_graph_refuses_any_cycle(parents: dict[str, list[str]], data: st.DataObject) -> None:
    order = Graph(parents).order
    top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, len(order) - 1)] * 2)))
    path = order[top : bottom + 1]
    cyclic = {name: list(causes) for name, causes in parents.items()}
    for cause, effect in [*pairwise(path), (path[-1], path[0])]:
        cyclic[effect].append(cause)
    with pytest.raises(CycleError) as caught:
        Graph(cyclic)
    shown = str(caught.value).split(": ")[1].split(" -> ")
    assert shown[0] == shown[-1]
    assert all(cause in cyclic[effect] for cause, effect in pairwise(shown))


def test_graph_refuses_a_parent_that_is_no_variable() -> None:
    with pytest.raises(ValueError, match="'height', a parent of 'age'"):
        Graph({"age": ["height"]})


# --- encoder ------------------------------------------------------------------------------------------------


def test_encoder_standardises_and_codes(scm: StructuralCausalModel) -> None:
    values = training_values()
    features = scm.encoder(values)
    assert features.shape == (len(values), scm.encoder.features) == (len(values), 3 + 1 + 2 + 3)
    continuous = features[:, scm.encoder.columns(["area", "age", "volume", "alone"])]
    torch.testing.assert_close(continuous.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(continuous.std(0, correction=0), torch.ones(4), atol=1e-4, rtol=0)
    assert torch.equal(features[:, scm.encoder.columns(["grade"])].argmax(1).float(), values[:, GRADE])
    assert torch.equal(features[:, scm.encoder.columns(["sex"])].sum(1), torch.ones(len(values)))
    natural = values[:, AREA].double().std(correction=0).item()
    assert scm.natural_std[AREA].item() == pytest.approx(natural, rel=1e-4)


def test_encoder_of_missing_values_is_zero(scm: StructuralCausalModel) -> None:
    assert torch.equal(scm.encoder(torch.full((2, 6), math.nan)), torch.zeros(2, scm.encoder.features))


def test_encoder_ignores_missing_values_in_statistics() -> None:
    values = training_values()
    with_gaps = torch.cat([values, torch.full((100, 6), math.nan)])
    encoders = [ParentEncoder(VARIABLES), ParentEncoder(VARIABLES)]
    for encoder, given_values in zip(encoders, [values, with_gaps], strict=True):
        encoder.set_statistics(given_values)
    assert torch.equal(encoders[0].mean, encoders[1].mean)
    assert torch.equal(encoders[0].std, encoders[1].std)


@pytest.mark.parametrize(
    ("column", "values", "code"),
    [
        (AGE, 40.0, Code.EMPTY),
        (AGE, math.nan, Code.MISSING),
        (AGE, math.inf, Code.OUT_OF_RANGE),
        (AREA, -1.0, Code.OUT_OF_RANGE),
        (AREA, 0.0, Code.OUT_OF_RANGE),
        (GRADE, 3.0, Code.INVALID),
        (GRADE, 0.5, Code.INVALID),
    ],
)
def test_statistics_refuse_what_cannot_be_modelled(column: int, values: float, code: Code) -> None:
    training = training_values()
    training[:, column] = values
    with refused(DataError, code, list(VARIABLES)[column]):
        small_scm().set_statistics(training)


def test_statistics_refuse_another_shape() -> None:
    with refused(DataError, Code.INVALID, "values"):
        small_scm().set_statistics(torch.zeros(3, 5))


# --- mechanisms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context_features", [0, 3])
@pytest.mark.parametrize("transforms", [1, 2])
def test_flow_is_inverted_exactly(context_features: int, transforms: int) -> None:
    torch.manual_seed(0)
    flow = ConditionalSplineFlow(context_features, (16, 16), bins=8, transforms=transforms)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    context = torch.randn(1000, context_features)
    value = torch.linspace(-12, 12, 1000)  # also outside of the spline's box
    noise = flow.abduct(value, context)
    assert noise.shape == (1000, 1)
    torch.testing.assert_close(flow.predict(noise, context), value, atol=1e-4, rtol=0)
    torch.testing.assert_close(flow.abduct(flow.predict(noise, context), context), noise, atol=1e-4, rtol=0)
    flow.double()
    noise = flow.abduct(value.double(), context.double())
    restored = flow.predict(noise, context.double())
    torch.testing.assert_close(restored, value.double(), atol=1e-10, rtol=0)


def test_flow_starts_as_the_standard_normal() -> None:
    value = torch.linspace(-8, 8, 50)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(value)
    for context_features in (0, 2):
        flow = ConditionalSplineFlow(context_features, (8,), bins=4, transforms=1)
        log_prob = flow.log_prob(value, torch.randn(50, context_features))
        torch.testing.assert_close(log_prob, normal, atol=1e-4, rtol=0)


def test_flow_does_not_lose_digits_under_autocast(scm: StructuralCausalModel) -> None:
    values = training_values(64)
    with torch.autocast("cpu", torch.bfloat16):
        noise = scm.abduct(values)
    torch.testing.assert_close(scm.predict(noise), values, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("spread", [0.5, 5.0, 30.0])
def test_abducted_gumbels_give_the_observed_category(spread: float) -> None:
    torch.manual_seed(0)
    mechanism = CategoricalMechanism(4, 4, (8,))
    context = torch.eye(4).repeat(5000, 1)
    for parameter in mechanism.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    value = torch.randint(4, (len(context),)).float()  # also categories that are all but impossible
    noise = mechanism.abduct(value, context)
    assert noise.isfinite().all()
    assert torch.equal(mechanism.predict(noise, context), value)


def test_abducted_gumbels_of_sampled_categories_are_gumbels() -> None:
    """Averaged over categories from the model, the posterior of the noise is its prior."""
    torch.manual_seed(0)
    mechanism = CategoricalMechanism(0, 3, ())
    with torch.no_grad():
        mechanism.logits.copy_(torch.tensor([0.0, 1.0, -1.5]))
    context = torch.zeros(40_000, 0)
    value = mechanism.predict(mechanism.sample_noise(len(context), context), context)
    frequencies = torch.bincount(value.long(), minlength=3) / len(value)
    torch.testing.assert_close(frequencies, mechanism.logits.softmax(0), atol=0.01, rtol=0)
    noise = mechanism.abduct(value, context)
    levels = torch.linspace(0.05, 0.95, 10)
    quantiles = -torch.log(-torch.log(levels))  # of the standard Gumbel
    shares = (noise[:, :, None] <= quantiles).float().mean(0)
    torch.testing.assert_close(shares, levels.expand(3, -1), atol=0.015, rtol=0)
    assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 0.03


def test_gumbel_max_is_counterfactually_stable() -> None:
    """If just the observed category grows more likely, it stays (Oberst & Sontag 2019)."""
    torch.manual_seed(0)
    mechanism = CategoricalMechanism(1, 3, ())
    with torch.no_grad():
        mechanism.network[0].weight.copy_(torch.tensor([[2.0], [0.0], [0.0]]))
    factual, changed = torch.zeros(5000, 1), torch.ones(5000, 1)
    noise = mechanism.abduct(torch.zeros(5000), factual)
    assert (mechanism.predict(noise, changed) == 0).all()
    other = mechanism.predict(mechanism.abduct(torch.ones(5000), factual), changed)
    assert set(other.tolist()) == {0.0, 1.0}  # from category 1 some move to 0, none to 2


# --- the whole model ----------------------------------------------------------------------------------------


def test_prediction_inverts_abduction(scm: StructuralCausalModel) -> None:
    values = training_values()
    noise = scm.abduct(values)
    assert noise.shape == (len(values), scm.noise_features)
    restored = scm.predict(noise)
    assert torch.equal(restored[:, [GRADE, SEX]], values[:, [GRADE, SEX]])
    assert ((restored - values).abs() / scm.natural_std).max() < 1e-4


def test_null_intervention_returns_the_same_bits(scm: StructuralCausalModel) -> None:
    values = training_values()
    assert torch.equal(scm.counterfactual(values, scm.intervention(len(values))), values)
    same = values.clone()  # do() of every value that is already there
    assert torch.equal(scm.counterfactual(values, same), values)
    assert torch.equal(scm.counterfactual(values, scm.intervention(len(values), age=values[:, AGE])), values)


@pytest.mark.parametrize(
    ("do", "may_change"),
    [
        ({"alone": 7.0}, set()),
        ({"grade": 1.0}, set()),
        ({"volume": 100.0}, set()),
        ({"area": 9000.0}, {GRADE}),
        ({"age": 95.0}, {AREA, VOLUME, GRADE}),
        ({"sex": 1.0}, {AREA, GRADE}),
        ({"age": 95.0, "area": 9000.0}, {VOLUME, GRADE}),
        ({"age": 20.0, "sex": 0.0, "alone": 1.0}, {AREA, VOLUME, GRADE}),
    ],
)
def test_intervention_moves_descendants_only(
    scm: StructuralCausalModel, do: dict[str, float], may_change: set[int]
) -> None:
    values = training_values()
    result = scm.counterfactual(values, scm.intervention(len(values), **do))
    assert result.isfinite().all()
    for k, name in enumerate(scm.variables):
        if name in do:
            assert (result[:, k] == do[name]).all()
        elif k in may_change:
            assert not torch.equal(result[:, k], values[:, k])
        else:
            assert torch.equal(result[:, k], values[:, k])


def test_each_sample_has_its_own_intervention(scm: StructuralCausalModel) -> None:
    values = training_values(4)
    do = scm.intervention(4)
    do[0, AGE], do[1, SEX], do[2, ALONE] = 80.0, 1 - values[1, SEX], 0.0
    together = scm.counterfactual(values, do)
    for i in range(4):
        alone = scm.counterfactual(values[i : i + 1], do[i : i + 1])
        # grade is Gumbel-max, whose abduction is random: not compared
        torch.testing.assert_close(together[i : i + 1, 1:], alone[:, 1:], rtol=1e-5, atol=1e-4)
    assert torch.equal(together[3], values[3])
    assert torch.equal(together[1, [AGE, VOLUME, ALONE]], values[1, [AGE, VOLUME, ALONE]])
    assert together[2, ALONE] == 0
    assert torch.equal(together[2, :ALONE], values[2, :ALONE])


def test_counterfactual_is_abduction_action_prediction(scm: StructuralCausalModel) -> None:
    values = training_values()
    do = scm.intervention(len(values), age=70.0)
    result = scm.counterfactual(values, do, torch.Generator().manual_seed(3))
    by_hand = scm.predict(scm.abduct(values, torch.Generator().manual_seed(3)), do)
    assert torch.equal(result[:, [GRADE, SEX]], by_hand[:, [GRADE, SEX]])
    assert ((result - by_hand).abs() / scm.natural_std).max() < 1e-4


def test_counterfactuals_can_be_undone(scm: StructuralCausalModel) -> None:
    values = training_values()
    there = scm.counterfactual(values, scm.intervention(len(values), age=values[:, AGE] + 10))
    back = scm.counterfactual(there, scm.intervention(len(values), age=values[:, AGE]))
    continuous = [AREA, AGE, VOLUME, ALONE]
    assert ((back - values).abs() / scm.natural_std)[:, continuous].max() < 1e-3


def test_intervention_on_a_variable_cuts_its_parents(scm: StructuralCausalModel) -> None:
    values = training_values()
    fixed = scm.counterfactual(values, scm.intervention(len(values), age=90.0, area=values[:, AREA]), torch.Generator())
    assert torch.equal(fixed[:, GRADE], values[:, GRADE])  # below age only through the area, which is held


def test_randomness_is_the_generators(scm: StructuralCausalModel) -> None:
    values = training_values()
    do = scm.intervention(len(values), sex=1 - values[:, SEX])

    def draw(seed: int) -> list[Tensor]:
        torch.manual_seed(int(torch.randint(1000, ()).item()))  # must not matter
        generator = torch.Generator().manual_seed(seed)
        return [
            scm.sample(100, generator),
            scm.abduct(values, generator),
            scm.counterfactual(values, do, generator),
        ]

    assert all(torch.equal(a, b) for a, b in zip(draw(0), draw(0), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(draw(0), draw(1), strict=True))


def test_intervention_helper(scm: StructuralCausalModel) -> None:
    do = scm.intervention(3, age=torch.tensor([1.0, 2.0, 3.0]), sex=1)
    assert do.shape == (3, 6)
    assert do[:, AGE].tolist() == [1, 2, 3]
    assert do[:, SEX].tolist() == [1, 1, 1]
    assert do.isnan().sum() == 3 * 4
    with refused(InterventionError, Code.UNKNOWN, "agee"):
        scm.intervention(3, agee=1.0)


# --- missing values -----------------------------------------------------------------------------------------


def test_missing_values_leave_the_likelihood() -> None:
    scm = small_scm()
    values = training_values(8)
    whole = scm.log_prob(values)
    gaps = values.clone()
    gaps[0, AGE] = math.nan  # age, and the terms below it: area, volume
    gaps[1, GRADE] = math.nan
    gaps[2] = math.nan
    log_prob = scm.log_prob(gaps)
    expected = whole.clone()
    expected[0, [AGE, AREA, VOLUME]] = 0
    expected[1, GRADE] = 0
    expected[2] = 0
    torch.testing.assert_close(log_prob, expected)
    log_prob[2].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in scm.parameters())
    log_prob = scm.log_prob(gaps)
    log_prob.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in scm.parameters())


def test_missing_values_in_counterfactuals(scm: StructuralCausalModel) -> None:
    values = training_values(4)
    values[0, AREA] = math.nan  # its value is unknown, so is what it would have been
    values[1, AGE] = math.nan
    values[2, ALONE] = math.nan
    result = scm.counterfactual(values, scm.intervention(4, sex=1 - values[:, SEX]))
    assert result[0].isnan().tolist() == [name in ("grade", "area") for name in scm.variables]
    assert result[1].isnan().tolist() == [name in ("grade", "area", "age") for name in scm.variables]
    assert result[2].isnan().tolist() == [name == "alone" for name in scm.variables]
    assert not result[3].isnan().any()
    filled = scm.counterfactual(values, scm.intervention(4, alone=3.0))
    assert filled[2, ALONE] == 3
    assert torch.equal(filled[:, :ALONE].nan_to_num(), values[:, :ALONE].nan_to_num())


# --- densities and training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["area", "age", "volume"])
def test_densities_integrate_to_one(scm: StructuralCausalModel, name: str) -> None:
    k = scm.variables.index(name)
    z = torch.linspace(-30, 30, 60_001)
    grid = scm.encoder.restore(name, z)
    values = training_values(1).repeat(len(grid), 1)
    values[:, k] = grid
    with torch.no_grad():
        density = scm.log_prob(values)[:, k].double().exp()
    assert torch.trapezoid(density, grid.double()).item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", ["grade", "sex"])
def test_probabilities_sum_to_one(scm: StructuralCausalModel, name: str) -> None:
    k = scm.variables.index(name)
    count = len(VARIABLES[name].categories)
    values = training_values(1).repeat(count, 1)
    values[:, k] = torch.arange(count)
    assert scm.log_prob(values)[:, k].exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_samples_follow_the_density(scm: StructuralCausalModel) -> None:
    """The noise of samples is standard normal: sampling and log_prob are one model."""
    samples = scm.sample(4000, torch.Generator().manual_seed(0))
    assert samples.shape == (4000, 6)
    noise = scm.abduct(samples)[:, [scm._noises[k].start for k in (AREA, AGE, VOLUME, ALONE)]]
    torch.testing.assert_close(noise.mean(0), torch.zeros(4), atol=0.07, rtol=0)
    torch.testing.assert_close(noise.std(0), torch.ones(4), atol=0.07, rtol=0)


def test_state_dict_carries_everything() -> None:
    scm, other = small_scm(), StructuralCausalModel(VARIABLES, SCMSpec(steps=1, hidden=(16, 16)))
    other.load_state_dict(scm.state_dict())
    values = training_values(16)
    assert torch.equal(scm.log_prob(values), other.log_prob(values))
    assert torch.equal(scm.natural_std, other.natural_std)


def test_one_variable_without_parents() -> None:
    scm = StructuralCausalModel({"age": Variable(kind="continuous")}, SCMSpec(steps=1))
    scm.set_statistics(torch.tensor([[1.0], [3.0]]))
    assert scm.log_prob(torch.tensor([[2.0]])).item() == pytest.approx(-0.5 * math.log(2 * math.pi), abs=1e-5)
    assert scm.counterfactual(torch.tensor([[2.0]]), scm.intervention(1, age=5.0)).item() == 5


def fitted(variables: Mapping[str, Variable], values: Tensor) -> StructuralCausalModel:
    """The SCM that is likeliest for ``values``: of few parameters, with all values at once and in double precision, so
    that the same is found on every machine, which stochastic steps of float32 do not promise."""
    torch.manual_seed(0)
    scm = StructuralCausalModel(variables, SCMSpec(steps=1, hidden=(), bins=4))
    scm.set_statistics(values)
    scm, values = scm.double(), values.double()
    optimiser = torch.optim.LBFGS(scm.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = -scm.log_prob(values).sum(1).mean()
        found.backward()
        return found

    optimiser.step(loss)
    return scm.float()


def test_a_known_truth_is_recovered() -> None:
    """Fitted to samples of a known SCM, the model answers counterfactuals as that SCM does.

    The truth has a linear-Gaussian variable, and a heteroscedastic one on a log scale, both monotonic in
    their noise, which is what makes their counterfactuals identifiable.
    """
    variables = {
        "sex": Variable(kind="categorical", categories=("F", "M")),
        "age": Variable(kind="continuous"),
        "heart": Variable(kind="continuous", parents=("sex", "age")),
        "lung": Variable(kind="continuous", parents=("sex", "age"), scale="log"),
    }

    def truth(sex: Tensor, age: Tensor, e: Tensor) -> Tensor:
        heart = 9000 + 1500 * sex + 40 * (age - 50) + 300 * e[:, 0]
        lung = torch.exp(9 + 0.2 * sex - 0.004 * (age - 50) + 0.1 * e[:, 1] * (1 + 0.5 * sex))
        return torch.stack([sex, age, heart, lung], dim=1)

    generator = torch.Generator().manual_seed(0)

    def people(n: int) -> tuple[Tensor, Tensor, Tensor]:
        e = torch.randn(n, 4, generator=generator)
        return (e[:, 2] > 0).float(), 50 + 15 * e[:, 3], e

    scm = fitted(variables, truth(*people(4000)))
    sex, age, e = people(1000)
    factual = truth(sex, age, e)
    for do, expected in (
        ({"age": age + 10}, truth(sex, age + 10, e)),
        ({"sex": 1 - sex}, truth(1 - sex, age, e)),
        ({"sex": 1 - sex, "age": age - 10}, truth(1 - sex, age - 10, e)),
    ):
        result = scm.counterfactual(factual, scm.intervention(1000, **do))
        error = ((result - expected).abs() / expected.abs().clamp(min=1)).mean(0)
        naive = ((factual - expected).abs() / expected.abs().clamp(min=1)).mean(0)
        assert error[2:].max() < 0.02
        assert (error[2:] < 0.35 * naive[2:]).all()
    do_95 = scm.counterfactual(factual, scm.intervention(1000, age=95.0))  # 3 sd from the mean
    expected = truth(sex, torch.full_like(age, 95), e)
    assert ((do_95 - expected).abs() / expected.abs().clamp(min=1)).mean(0)[2:].max() < 0.06


# --- variables that may be exactly 0 --------------------------------------------------------------------------

# age -> plaque -> grade: the plaque is absent in some.
WITH_ZEROS = {
    "age": Variable(kind="continuous"),
    "plaque": Variable(kind="continuous", parents=("age",), scale="log", zero_inflated=True),
    "grade": Variable(kind="continuous", parents=("plaque",)),
}


def people_with_zeros(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Values (n, 3) and the uniform noise of the plaque (n,). Its true quantile function is :func:`true_plaque`."""
    generator = torch.Generator().manual_seed(seed)
    age = 60 + 10 * torch.randn(n, generator=generator)
    uniform = torch.rand(n, generator=generator)
    plaque = true_plaque(age, uniform)
    return torch.stack([age, plaque, plaque + torch.randn(n, generator=generator)], dim=1), uniform


def true_absence(age: Tensor) -> Tensor:
    return torch.sigmoid(-(age - 57) / 8)


def true_plaque(age: Tensor, uniform: Tensor) -> Tensor:
    absence = true_absence(age)
    u = torch.special.ndtri(((uniform - absence) / (1 - absence)).clamp(1e-6, 1 - 1e-6))
    return torch.where(uniform <= absence, 0.0, torch.exp(2.5 + 0.02 * (age - 60) + 0.5 * u))


def scm_with_zeros() -> StructuralCausalModel:
    """Not trained, but far from trivial."""
    torch.manual_seed(0)
    scm = StructuralCausalModel(WITH_ZEROS, SCMSpec(steps=1, hidden=(16, 16)))
    scm.set_statistics(people_with_zeros(512)[0])
    for parameter in scm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return scm


def hurdle(absence: float) -> HurdleFlow:
    """Without parents, with this probability of absence, and a flow that bends."""
    torch.manual_seed(0)
    mechanism = HurdleFlow(0, (), bins=8, transforms=1)
    for parameter in mechanism.flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        mechanism.logit.fill_(math.log(absence / (1 - absence)))
    return mechanism


@given(absence=st.floats(1e-6, 0.999), z=st.lists(st.floats(-9, 9), min_size=1), absent=st.integers(0, 3))
def test_hurdle_is_inverted_exactly(absence: float, z: list[float], absent: int) -> None:
    """Also far below and above the middle, where what is left beyond the hurdle is no digit of the noise."""
    mechanism = hurdle(absence)
    value = torch.tensor(z + [-math.inf] * absent)
    context = torch.zeros(len(value), 0)
    restored = mechanism.predict(mechanism.abduct(value, context), context)
    torch.testing.assert_close(restored, value, atol=1e-4, rtol=0)


@pytest.mark.parametrize("absence", [0.01, 0.5, 0.99])
def test_hurdle_samples_follow_its_probabilities(absence: float) -> None:
    mechanism, context = hurdle(absence), torch.zeros(40_000, 0)
    value = mechanism.predict(mechanism.sample_noise(len(context), context), context)
    absent = value.isneginf()
    assert absent.float().mean().item() == pytest.approx(absence, abs=0.01)
    assert mechanism.log_prob(value, context)[absent].exp().mean().item() == pytest.approx(absence, abs=1e-4)
    normal = mechanism.flow.abduct(value[~absent], context[~absent])
    assert (normal.mean().item(), normal.std().item()) == pytest.approx((0, 1), abs=4 / math.sqrt(len(normal)))
    # Averaged over values from the model, the posterior of the noise is its prior.
    noise = mechanism.abduct(value, context).sum(dim=1)
    levels = torch.linspace(0.05, 0.95, 10)
    shares = (noise[:, None] <= -torch.log1p(-levels)).float().mean(0)
    torch.testing.assert_close(shares, levels, atol=0.015, rtol=0)


def test_mass_and_density_of_a_hurdle_make_one() -> None:
    scm = scm_with_zeros()
    grid = torch.cat([torch.zeros(1), scm.encoder.restore("plaque", torch.linspace(-12, 12, 40_001))])
    values = torch.stack([torch.full_like(grid, 65.0), grid, torch.zeros_like(grid)], dim=1)
    with torch.no_grad():
        probability = scm.log_prob(values)[:, 1].double().exp()
    assert 0.05 < probability[0] < 0.95
    density = torch.trapezoid(probability[1:], grid[1:].double())
    assert (probability[0] + density).item() == pytest.approx(1, abs=2e-3)


@settings(max_examples=50)
@given(ages=st.tuples(st.floats(20, 100), st.floats(20, 100)), seed=st.integers(0, 1000))
def test_more_noise_never_gives_less(ages: tuple[float, float], seed: int) -> None:
    """The order of people of one age is the same at any other age."""
    scm = scm_with_zeros()
    generator = torch.Generator().manual_seed(seed)
    values = scm.predict(_noise(scm, 64, generator), scm.intervention(64, age=ages[0]))
    noise = scm.abduct(values, generator)
    order = noise[:, 1:3].sum(dim=1).argsort()
    for age in ages:
        plaque = scm.predict(noise, scm.intervention(64, age=age))[order, 1]
        assert (plaque.diff() >= -1e-4 * plaque[1:]).all()


def test_zeros_in_counterfactuals() -> None:
    scm, (values, _) = scm_with_zeros(), people_with_zeros(512)
    absent = values[:, 1] == 0
    assert 0.1 < absent.float().mean() < 0.9
    assert torch.equal(scm.counterfactual(values, scm.intervention(512)), values)
    restored = scm.predict(scm.abduct(values))
    assert torch.equal(restored[:, 1] == 0, absent)
    torch.testing.assert_close(restored, values, rtol=1e-4, atol=1e-3)
    gone = scm.counterfactual(values, scm.intervention(512, plaque=0.0))
    assert (gone[:, 1] == 0).all()
    assert torch.equal(gone[absent], values[absent])
    assert gone[~absent, 2].isfinite().all()
    assert not torch.equal(gone[~absent, 2], values[~absent, 2])  # what plaque causes follows
    assert (scm.counterfactual(values, scm.intervention(512, age=80.0))[:, 1] >= 0).all()


def test_a_variable_with_zeros_is_conditioned_on_by_presence_and_amount() -> None:
    scm, (values, _) = scm_with_zeros(), people_with_zeros(512)
    assert scm.encoder.features == 1 + 2 + 1
    presence, amount = scm.encoder(values)[:, scm.encoder.columns(["plaque"])].T
    assert torch.equal(presence, torch.where(values[:, 1] > 0, 1.0, -1.0))
    assert amount.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    slope = amount.diff() / values[:, 1].diff()
    assert slope[slope.isfinite()].std() < 1e-3 * slope[slope.isfinite()].mean()  # linear, through 0
    positive = values[values[:, 1] > 0, 1].double().log()
    assert scm.encoder.mean[1].item() == pytest.approx(positive.mean().item(), rel=1e-5)
    assert scm.encoder.std[1].item() == pytest.approx(positive.std(correction=0).item(), rel=1e-5)
    missing, negative = values[:2].clone(), values[:2].clone()
    missing[:, 1], negative[:, 1] = math.nan, -1.0
    assert (scm.encoder(missing)[:, 1:3] == 0).all()
    assert scm.encoder(negative)[:, 1:3].isnan().any(dim=1).all()


@pytest.mark.parametrize(
    ("plaque", "code"),
    [
        ([-1.0, 0.0, 3.0], Code.OUT_OF_RANGE),
        ([0.0, 0.0, 0.0], Code.EMPTY),
        ([0.0, 3.0, 3.0], Code.EMPTY),
    ],
)
def test_statistics_refuse_zeros_and_nothing_else(plaque: list[float], code: Code) -> None:
    values = torch.stack([torch.tensor([40.0, 50.0, 60.0]), torch.tensor(plaque), torch.tensor([1.0, 2.0, 3.0])], dim=1)
    with refused(DataError, code, "plaque"):
        scm_with_zeros().set_statistics(values)


def test_a_missing_value_with_zeros_stays_missing() -> None:
    scm, (values, _) = scm_with_zeros(), people_with_zeros(8)
    values[0, 1], values[1, 0] = math.nan, math.nan
    log_prob = scm.log_prob(values)
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in scm.parameters())
    result = scm.counterfactual(values, scm.intervention(8, age=70.0))
    assert result.isnan().tolist()[:2] == [[False, True, False], [False, True, True]]
    assert not result[2:].isnan().any()


def test_a_known_truth_with_zeros_is_recovered() -> None:
    """Probability of absence, quantiles of what is there, and the counterfactuals of both, as functions of age."""
    values, uniform = people_with_zeros(6000)
    scm = fitted(WITH_ZEROS, values)
    levels = torch.tensor([0.1, 0.5, 0.9])
    for age in (45.0, 60.0, 75.0):
        absence = true_absence(torch.tensor(age))
        drawn = scm.predict(_noise(scm, 20_000, None), scm.intervention(20_000, age=age))[:, 1]
        assert (drawn == 0).float().mean().item() == pytest.approx(absence.item(), abs=0.05)
        quantiles = drawn[drawn > 0].quantile(levels)
        torch.testing.assert_close(
            quantiles, true_plaque(torch.tensor(age), absence + (1 - absence) * levels), rtol=0.15, atol=0
        )

    older = scm.counterfactual(values, scm.intervention(len(values), age=values[:, 0] + 10))[:, 1]
    expected, before = true_plaque(values[:, 0] + 10, uniform), values[:, 1]
    assert (older[before > 0] > 0).all()  # nobody loses it by what makes it likelier
    appeared, truly = (older > 0)[before == 0], (expected > 0)[before == 0]
    assert appeared.float().mean().item() == pytest.approx(truly.float().mean().item(), abs=0.05)
    assert older[(before == 0) & (older > 0)].median() < older[before > 0].median()  # who just gets it has little
    there = before > 0
    assert ((older - expected).abs() / expected)[there].mean() < 0.25 * ((before - expected).abs() / expected)[
        there
    ].mean()


def _noise(scm: StructuralCausalModel, n: int, generator: torch.Generator | None) -> Tensor:
    return torch.cat([scm._mechanism(k).sample_noise(n, scm.encoder.mean, generator) for k in range(3)], dim=1)
