"""Are noises independent, how are confounded ones tied together, and which values are unlikely together?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from refused import refused
from segcft.api.model import Model
from segcft.causal.copula import GaussianCopula
from segcft.causal.dependence import dependences, dependent_noises
from segcft.causal.missing import MissingValues
from segcft.causal.scm import StructuralCausalModel
from segcft.config.loader import parse_study
from segcft.config.stages import SCMSpec
from segcft.config.study import Study
from segcft.config.variable import Variable
from segcft.counterfactual.joint_support import FALSE_ALARMS, JointSupport
from segcft.errors import Code, StudyError
from segcft.pipeline.run import Run
from segcft.training.artefact import read_meta
from test_causal import VARIABLES, WITH_ZEROS, small_scm, training_values

NUMBERS = {"a": Variable(kind="continuous"), "b": Variable(kind="continuous"), "c": Variable(kind="continuous")}


def plain_scm(confounded: tuple[tuple[str, str], ...] = ()) -> StructuralCausalModel:
    """Roots that are standard normal numbers: their noises."""
    return StructuralCausalModel(NUMBERS, SCMSpec(steps=1), confounded).eval()


def tied(n: int, correlation: float, seed: int = 0) -> torch.Tensor:
    """a and b with a correlation, c by itself."""
    drawn = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    drawn[:, 1] = correlation * drawn[:, 0] + math.sqrt(1 - correlation**2) * drawn[:, 1]
    return drawn


# --- noises as normal numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("variables", [VARIABLES, WITH_ZEROS])
def test_noises_of_samples_of_the_model_are_standard_normal_and_independent(variables: dict[str, Variable]) -> None:
    scm = small_scm()
    if variables is not VARIABLES:
        torch.manual_seed(0)
        scm = StructuralCausalModel(variables, SCMSpec(steps=1, hidden=(16, 16)))
    generator = torch.Generator().manual_seed(2)
    scores = scm.normal_scores(scm.sample(4000, generator), generator).double().numpy()
    for column in scores.T:
        assert kstest(column, "norm").pvalue > 1e-4
    assert not any(one.notable for one in dependences(scores, list(variables)))


def test_noises_are_unknown_where_the_variable_or_a_cause_of_it_is() -> None:
    scm, values = small_scm(), training_values(8)
    values[0, 2] = math.nan  # sex, a cause of area and of grade
    unknown = scm.normal_scores(values).isnan()
    assert unknown[0].tolist() == [True, True, True, False, False, False]
    assert not unknown[1:].any()


# --- the test of independence -------------------------------------------------------------------------------


def test_independent_noises_are_seldom_called_dependent() -> None:
    rng = np.random.default_rng(0)
    false = sum(
        any(one.p < 0.05 for one in dependences(rng.standard_t(2, size=(60, 4)), list("abcd"))) for _ in range(200)
    )
    assert false <= 20  # 10 are expected at most; 20 has a probability below 0.003


def test_trends_and_spreads_that_change_are_seen() -> None:
    rng = np.random.default_rng(0)
    a, b, c, d = rng.standard_normal((4, 400))
    found = dependences(np.stack([a, a + b, c * (0.2 + a * a), d], axis=1), list("abcd"))
    notable = {(one.first, one.second) for one in found if one.notable}
    assert {("a", "b")} <= notable <= {("a", "b"), ("a", "c"), ("b", "c")}
    assert found[0].correlation == pytest.approx(math.sqrt(0.5), abs=0.08)
    assert [one.p for one in found] == sorted(one.p for one in found)


def test_a_monotone_scale_changes_nothing_and_what_is_missing_is_left_out() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((100, 2))
    first = dependences(scores, ["a", "b"])
    assert dependences(np.exp(scores), ["a", "b"])[0].p == pytest.approx(first[0].p)
    with_missing = np.concatenate([scores, [[math.nan, 1.0]] * 50])
    assert dependences(with_missing, ["a", "b"])[0].p == pytest.approx(first[0].p)
    assert dependences(scores[:10], ["a", "b"]) == []


def test_several_samples_of_a_subject_are_no_more_evidence_than_one() -> None:
    rng = np.random.default_rng(0)
    scores = tied(80, 0.4).double().numpy()
    again = np.repeat(scores, 5, axis=0) + 1e-6 * rng.standard_normal((400, 3))
    once, falsely, rightly = (
        dependences(some, list("abc"), subjects)[0].p for some, subjects in ((scores, None), (again, None), (again, 80))
    )
    assert falsely < 1e-3 * once
    assert rightly == pytest.approx(once, rel=0.1)


# --- confounded pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [-0.6, 0.0, 0.8])
def test_a_copula_learns_how_strongly_a_pair_is_tied_and_draws_it(correlation: float) -> None:
    copula = GaussianCopula(3, [(0, 1)])
    copula.fit(tied(4000, correlation))
    assert float(copula.correlation[0, 1]) == pytest.approx(correlation, abs=0.05)
    assert copula.correlation[2].tolist() == [0, 0, 1]
    drawn = copula.sample(20_000, torch.Generator().manual_seed(0))
    assert float(drawn[:, :2].T.corrcoef()[0, 1]) == pytest.approx(float(copula.correlation[0, 1]), abs=0.03)


def test_its_density_is_that_of_a_normal_distribution_over_independent_ones() -> None:
    copula = GaussianCopula(3, [(0, 1), (1, 2)])
    copula.fit(torch.randn(300, 3, generator=torch.Generator().manual_seed(0)).cumsum(dim=1))
    u = torch.randn(50, 3)
    joint = torch.distributions.MultivariateNormal(torch.zeros(3), copula.correlation).log_prob(u)
    alone = torch.distributions.Normal(0, 1).log_prob(u).sum(dim=1)
    assert torch.allclose(copula.log_density(u), joint - alone, atol=1e-4)
    assert torch.allclose(copula.log_density(u, [0]), torch.zeros(50), atol=1e-6)


def test_pairs_that_cannot_be_together_are_shrunk_until_they_can() -> None:
    same = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    copula = GaussianCopula(3, [(0, 1), (1, 2)])  # a is b and b is c, but a is not c
    copula.fit(same + 1e-3 * torch.randn(200, 3))
    assert float(torch.linalg.eigvalsh(copula.correlation)[0]) > 0
    assert float(copula.correlation[0, 1]) == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert float(copula.correlation[0, 2]) == 0


def test_samples_of_a_confounded_model_are_tied_and_interventions_break_the_tie() -> None:
    scm = plain_scm((("a", "b"),))
    scm.fit_confounding(tied(2000, 0.8))
    generator = torch.Generator().manual_seed(0)
    assert float(scm.sample(5000, generator).T.corrcoef()[0, 1]) == pytest.approx(0.8, abs=0.05)
    do = scm.intervention(5000, a=torch.randn(5000, generator=generator))
    assert abs(float(scm.sample(5000, generator, do).T.corrcoef()[0, 1])) < 0.06
    answer = scm.counterfactual(torch.tensor([[1.0, 1.0, 0.0]]), scm.intervention(1, a=3.0))
    assert answer.tolist() == [[3.0, 1.0, 0.0]]  # b is no effect of a


def test_what_is_missing_is_inferred_from_what_it_is_confounded_with() -> None:
    scm = plain_scm((("a", "b"),))
    scm.fit_confounding(tied(2000, 0.8))
    r = float(scm.copula.correlation[0, 1]) if scm.copula else 0.0
    missing = MissingValues(scm, torch.tensor([[1.5, math.nan, math.nan]]), torch.Generator().manual_seed(0))
    filled, certainty = missing.likely()
    assert float(filled[0, 1]) == pytest.approx(1.5 * r, abs=0.1)
    assert certainty["b"] == pytest.approx(math.sqrt(1 - r * r), abs=0.1)
    assert float(filled[0, 2]) == pytest.approx(0, abs=0.15)
    both = MissingValues(scm, torch.tensor([[math.nan, math.nan, 0.0]]), torch.Generator().manual_seed(0))
    drawn = both.draw(3000, torch.Generator().manual_seed(1))
    assert float(drawn.T[:2].corrcoef()[0, 1]) == pytest.approx(r, abs=0.08)


def test_a_model_without_confounded_pairs_has_the_weights_that_it_had_before() -> None:
    assert not any(name.startswith("copula") for name in small_scm().state_dict())


@pytest.mark.parametrize(
    "pair",
    [
        ("left_lung_area", "left_lung_area"),
        ("sex", "age"),  # a category
        ("age", "heart_area"),  # a cause of it
        ("age", "weight"),
    ],
)
def test_pairs_that_cannot_be_confounded_are_refused(small_study: Study, pair: tuple[str, str]) -> None:
    raw = small_study.model_dump(mode="json") | {"confounded": [list(pair)]}
    with refused(StudyError, Code.INVALID):
        parse_study(raw, "study.yaml")


def test_a_study_without_confounded_pairs_is_written_as_before(small_study: Study) -> None:
    assert "confounded" not in small_study.model_dump()


# --- what goes together -------------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", [0, 400])
def test_one_in_a_hundred_is_called_unlikely(validation: int) -> None:
    scm = plain_scm()
    values = tied(6000, 0.8)
    joint = JointSupport.learn(scm, values[:1000], values[1000 : 1000 + validation])
    assert joint is not None
    alarms = sum(joint.surprise(scm, one) is not None for one in values[2000:])
    # Of n who calibrate, the share that is beyond has a standard deviation of 0.1 / sqrt(n), 0.005 at most.
    assert FALSE_ALARMS / 5 < alarms / 4000 < FALSE_ALARMS + 0.015


def test_values_that_nobody_has_together_are_found_and_a_rare_one_by_itself_is_not() -> None:
    scm = plain_scm()
    joint = JointSupport.learn(scm, tied(1000, 0.8), tied(500, 0.8, seed=1))
    assert joint is not None
    found = joint.surprise(scm, torch.tensor([1.8, -1.8, 0.0]))
    assert found is not None
    assert {found.first, found.second} == {"a", "b"}
    assert found.distance > joint.limit
    assert joint.surprise(scm, torch.tensor([1.8, 1.8, 0.0])) is None
    assert joint.surprise(scm, torch.tensor([0.0, 0.0, 4.5])) is None
    assert joint.surprise(scm, torch.tensor([math.nan, 0.0, 0.0])) is None


def test_of_one_number_or_of_few_subjects_nothing_goes_together() -> None:
    assert JointSupport.learn(plain_scm(), tied(10, 0.8), tied(10, 0.8)) is None
    alone = StructuralCausalModel({"a": Variable(kind="continuous")}, SCMSpec(steps=1))
    assert JointSupport.learn(alone, torch.randn(100, 1), torch.randn(100, 1)) is None


# --- in a run -----------------------------------------------------------------------------------------------


def test_a_run_records_which_noises_are_dependent_and_what_goes_together(small_run: Run) -> None:
    meta = read_meta(small_run.path("scm"))
    names = list(small_run.study.variables)
    assert {(one["first"], one["second"]) for one in meta["noises"]} == {
        (a, b) for k, a in enumerate(names) for b in names[k + 1 :]
    }
    joint = small_run.joint_support()
    assert joint is not None
    assert joint.fits(small_run.study.variables)


def test_dependent_noises_are_a_finding_unless_they_are_confounded(small_study: Study) -> None:
    scores = torch.randn(500, len(small_study.variables), generator=torch.Generator().manual_seed(0))
    names = list(small_study.variables)
    first, second, cause = (names.index(name) for name in ("left_lung_area", "right_lung_area", "age"))
    scores[:, second] = scores[:, first] + 0.3 * scores[:, second]
    tested = dependences(scores.double().numpy(), names)
    assert [one.code for one in dependent_noises(tested, small_study)] == ["dependent-noises"]
    confounded = small_study.model_copy(update={"confounded": (("right_lung_area", "left_lung_area"),)})
    assert list(dependent_noises(tested, confounded)) == []
    scores[:, cause] = scores[:, first]
    codes = [one.code for one in dependent_noises(dependences(scores.double().numpy(), names), small_study)]
    assert "mechanism-misfits" in codes


def test_an_answer_warns_of_values_that_are_unlikely_together(small_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(small_run)
    image: Any = small_run.store().images[0][0]
    known = small_run.joint_support()
    assert known is not None
    strict = known.model_copy(update={"limit": 1e-6})
    for joint, warned in ((strict, True), (None, False)):
        monkeypatch.setattr(Run, "joint_support", lambda self, joint=joint: joint)
        answer = model.counterfactual(image, do={"heart_area": "+5%"}, draws=0)
        assert any("unlikely together" in warning for warning in answer.record["warnings"]) == warned
