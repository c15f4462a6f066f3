"""Attributes that no mask tells: what a predictor reads, what it asks for, and how it guides and judges."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segcft.config.section import Augment
from segcft.config.stages import RegressorSpec
from segcft.config.study import Study
from segcft.config.variable import Variable
from segcft.counterfactual.finetune import CounterfactualObjective
from segcft.data.batches import Batches
from segcft.errors import RunError, StudyError
from segcft.evaluate.answered import AnsweredBatch, AskedBatch, FactualBatch
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.metrics.metric import METRICS
from segcft.evaluate.names import NO_CHANGE, TRUTH, directly
from segcft.evaluate.truth import Drawn
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stages.image import FinetuningStage
from segcft.readers.predictor import Predictor, PredictorObjective
from segcft.training.findings import blind_predictor, guessing
from segcft.training.loop import make_fabric
from tests.conftest import MakeOnce, MakeStudy
from tests.descent import assert_gradient_leads_down

SPEC = {"steps": 40, "batch_size": 12, "warmup_steps": 2, "learning_rate": 3e-3, "widths": [8, 8, 16, 16]}
PREDICTORS = {"predictor": SPEC | {"seed": 7}, "predictor_judge": SPEC | {"seed": 8}}
NUMBER = {"kind": "continuous"}
VARIABLES = {
    "sex": Variable(kind="categorical", categories=("F", "M")),
    "age": Variable(kind="continuous"),
    "area": Variable(kind="continuous", parents=("sex", "age")),
}


@pytest.fixture(scope="session")
def attribute_run(made_once: MakeOnce, small_run: Run, make_small_study: MakeStudy) -> Run:
    """The small run with predictors of sex and age; only to be read."""
    study = make_small_study(PREDICTORS)

    def make(folder: Path) -> None:
        shutil.copytree(small_run.folder, folder / "run")
        shutil.rmtree(folder / "run" / "evaluation")
        Pipeline(Run(folder / "run", study), make_fabric("cpu")).run_all()

    return Run(made_once("attribute-run", make) / "run", study)


def predictor() -> Predictor:
    torch.manual_seed(0)
    network = Predictor(RegressorSpec(steps=1, widths=(4, 4, 8, 8)), 1, 2, VARIABLES, ("sex", "age"))
    network.set_statistics(people(400))
    return network.eval()


def people(count: int, seed: int = 0) -> Tensor:
    """Values (N, 3): sex, age, area, which follows both."""
    g = torch.Generator().manual_seed(seed)
    sex = torch.randint(2, (count,), generator=g).float()
    age = 50 + 10 * torch.randn(count, generator=g)
    return torch.stack([sex, age, 100 + 20 * sex + age + 30 * torch.randn(count, generator=g)], dim=1)


# --- what it reads, and what it asks for ------------------------------------------------------------------


def test_categories_have_probabilities_and_numbers_their_unit() -> None:
    network = predictor()
    said = network(torch.randn(5, 1, 16, 16))
    assert said.shape == (5, 3)
    torch.testing.assert_close(said[:, :2].exp().sum(dim=1), torch.ones(5))
    certain = torch.tensor([[0.0, -40.0, 1.0]])
    values = torch.tensor([[1.0, float(network.mean[1] + network.std[1]), 0.0]])
    errors = {output.name: float(error) for output, error in network.misread(certain, values)}
    assert errors == {"sex": pytest.approx(1.0), "age": pytest.approx(0.0, abs=1e-4)}
    unknown = {output.name: float(error) for output, error in network.misread(certain, torch.full((1, 3), math.nan))}
    assert all(map(math.isnan, unknown.values()))


def test_it_asks_for_as_much_as_people_differ_and_not_for_the_number() -> None:
    """A reader of half the age, who also takes large people for men: a ten years older one is read five older."""
    network, values = predictor(), people(400)
    age = (values[:, 1] - network.mean[1]) / network.std[1]
    odds = 3 * (values[:, 0] - 0.5) + 0.02 * (values[:, 2] - 150)
    noise = 0.2 * torch.randn(400, generator=torch.Generator().manual_seed(1))
    said = torch.stack([-odds / 2, odds / 2, age / 2 + noise], dim=1)
    network.fit_response(said, values, judges=False)
    before = torch.tensor([[0.0, 50.0, 150.0]])
    older, male, larger = before.clone(), before.clone(), before.clone()
    older[0, 1], male[0, 0], larger[0, 2] = 60.0, 1.0, 200.0
    asked = network.expected(before, older)[0]
    assert float(asked[2]) == pytest.approx(0.5 * 10 / float(network.std[1]), rel=0.15)
    assert abs(float(asked[1] - asked[0])) < 0.3
    assert float(network.expected(before, male)[0] @ torch.tensor([-1.0, 1, 0])) == pytest.approx(3, rel=0.1)
    assert float(network.expected(before, larger)[0] @ torch.tensor([-1.0, 1, 0])) == pytest.approx(1, rel=0.2)
    assert network.expected(before, before).abs().max() == 0


def test_of_few_people_it_asks_for_less() -> None:
    network = predictor()
    found = []
    for count in (400, 6):
        values = people(count)
        age = (values[:, 1] - network.mean[1]) / network.std[1]
        network.fit_response(torch.stack([0 * age, 0 * age, age], dim=1), values, judges=False)
        before, older = torch.tensor([[0.0, 50.0, 150.0]]), torch.tensor([[0.0, 60.0, 150.0]])
        found.append(float(network.expected(before, older)[0, 2]))
    assert 0 < found[1] < found[0]


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_who_judges_measures_against_all_that_people_show(missing: float) -> None:
    """What is obtained as people differ is a slope of 1, also of few people and where values are missing."""
    network, values = predictor(), people(60)
    age = (values[:, 1] - network.mean[1]) / network.std[1]
    said = torch.stack([-values[:, 0], values[:, 0], age / 2], dim=1)
    gone = torch.rand(60, generator=torch.Generator().manual_seed(2)) < missing
    values[gone, 2] = math.nan  # the measure: who lacks it still tells of sex and age
    network.fit_response(said, values, judges=True)
    before = torch.tensor([[0.0, 50.0, 150.0]])
    older, male = before.clone(), before.clone()
    older[0, 1], male[0, 0] = 60.0, 1.0
    assert float(network.expected(before, older)[0, 2]) == pytest.approx(5 / float(network.std[1]), rel=1e-3)
    assert float(network.expected(before, male)[0] @ torch.tensor([-1.0, 1, 0])) == pytest.approx(2, rel=1e-3)


def test_of_a_variable_that_is_known_of_few_who_judges_says_nothing() -> None:
    network, values = predictor(), people(60)
    values[19:, 1] = math.nan  # the age of 19, of whom four features would need 20
    network.fit_response(torch.randn(60, 3), values, judges=True)
    before = torch.tensor([[0.0, 50.0, 150.0]])
    older, male = before.clone(), before.clone()
    older[0, 1], male[0, 0] = 60.0, 1.0
    assert not network.expected(before, older).any()
    assert network.expected(before, male).any()


def test_of_too_few_people_who_judges_says_nothing() -> None:
    network = predictor()
    network.fit_response(torch.randn(19, 3), people(19), judges=True)  # four features
    assert not network.response.any()
    network.fit_response(torch.randn(20, 3), people(20), judges=True)
    assert network.response.any()


def test_what_is_not_set_keeps_what_was_said_of_this_person() -> None:
    network = predictor()
    network.response.copy_(torch.randn(network.response.shape))
    said, before = network(torch.randn(4, 1, 16, 16)), people(4)
    torch.testing.assert_close(network.asked(said, before, before), said)
    assert all(error.abs().max() < 1e-5 for _, error in network.errors(said, network.asked(said, before, before)))
    asked = network.asked(said, before, people(4, seed=1))
    torch.testing.assert_close(asked[:, :2].exp().sum(dim=1), torch.ones(4))
    assert all(error.abs().max() > 0 for _, error in network.errors(said, asked))


def test_it_learns_from_what_is_known() -> None:
    network, spec = predictor().train(), RegressorSpec(steps=1)
    objective = PredictorObjective(network, spec)
    values = people(12)
    values[:4, 0], values[4:8, 1] = math.nan, math.nan
    batch = {"image": (255 * torch.rand(12, 1, 16, 16)).to(torch.uint8), "values": values}
    assert objective.validate(batch).isfinite().all()
    assert_gradient_leads_down(lambda: objective(batch, 0)[0], network.parameters())
    values[:, 0] = math.nan  # of nobody in the batch it is known: the other counts
    assert_gradient_leads_down(lambda: objective(batch, 0)[0], network.parameters())
    values[:] = math.nan
    assert objective(batch, 0)[0] == 0


# --- studies ----------------------------------------------------------------------------------------------


def test_what_is_measured_or_derived_is_no_attribute(make_small_study: MakeStudy) -> None:
    assert make_small_study().attributes == ("sex", "age")
    ratio = {"kind": "continuous", "formula": "heart_area / left_lung_area", "solve_for": "heart_area"}
    assert make_small_study({"variables.ratio": ratio}).attributes == ("sex", "age")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"predictor": SPEC}, "predictor_judge:"),
        ({"predictor": SPEC, "predictor_judge": SPEC}, "predictor_judge.seed:"),
        (PREDICTORS | {"structures.age": {"variable": "age_area"}, "variables.age_area": NUMBER}, "structures:"),
        (PREDICTORS | {"finetune.view": {"hide": 0.5}}, "view:"),
        (PREDICTORS | {"finetune.view": {"deform": {"share": 0.5}}}, "view:"),
        ({**PREDICTORS, "predictor": PREDICTORS["predictor"] | {"augment": {"deform": {"share": 0.5}}}}, "predictor"),
        (PREDICTORS | {"splits": {"train": 0.8, "validation": 0.0, "test": 0.2}}, "predictor:"),
    ],
)
def test_a_guide_of_attributes_needs_another_judge(
    make_small_study: MakeStudy, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(StudyError) as refused:
        make_small_study(changes)
    assert named in str(refused.value)


def test_a_study_without_predictors_is_what_it_was(make_small_study: MakeStudy) -> None:
    study = make_small_study()
    assert not {"predictor", "predictor_judge"} & study.model_dump(mode="json").keys()
    assert not {"predictor", "predictor-judge"} & {*Run("none", study).parts}


# --- guiding ----------------------------------------------------------------------------------------------


@pytest.fixture
def objective(attribute_run: Run) -> CounterfactualObjective:
    run, study = attribute_run, attribute_run.study
    store = run.store()
    marginal = torch.from_numpy(store.values()[store.indices("train", complete=True)])
    network = run.load("hvae").requires_grad_(True)
    guides = run.load("scm"), run.load("segmentor"), study.finetune, study, marginal, 0.0, run.load("predictor")
    return CounterfactualObjective(network, *guides).train()


def test_gradients_reach_the_image_and_nothing_frozen(attribute_run: Run, objective: CounterfactualObjective) -> None:
    store = attribute_run.store()
    batch = Batches(store, store.indices("train", complete=True), 12, seed=0).batch(0)
    assert objective.predictor is not None
    assert not any(p.requires_grad for p in objective.predictor.parameters())
    assert not objective.predictor.training

    def loss() -> Tensor:
        torch.manual_seed(0)
        return objective(batch, 0)[1]["guide"]

    assert_gradient_leads_down(loss, objective.network.parameters())


def test_an_image_that_stays_costs_nothing_where_nothing_is_asked(
    small_batch: dict[str, Tensor], objective: CounterfactualObjective
) -> None:
    assert objective.predictor is not None
    image, values = small_batch["image"], small_batch["values"]
    losses = objective.attribute_losses(objective.predictor, image, {"image": image, "values": values}, values)
    assert [float(loss) for loss in losses] == [pytest.approx(0, abs=1e-6)] * 2
    others = values.flip(0)
    asked = objective.attribute_losses(objective.predictor, image, {"image": image, "values": values}, others)
    assert all(float(loss) > 0 for loss in asked)


def test_what_is_hidden_from_the_predictor_is_hidden_in_fine_tuning(attribute_run: Run) -> None:
    study = attribute_run.study
    hides = study.predictor.model_copy(update={"augment": Augment(hide=0.5)}) if study.predictor else None
    study = study.model_copy(update={"predictor": hides})
    marginal = torch.from_numpy(attribute_run.store().values())
    parts = [attribute_run.load(name) for name in ("hvae", "scm", "segmentor", "predictor")]
    made = CounterfactualObjective(*parts[:3], study.finetune, study, marginal, 0.0, parts[3])
    assert made.view_of_attributes.spec.hide == 0.5
    assert made.view.spec.hide == 0  # measures are read whole


def test_an_attribute_may_show_anywhere(objective: CounterfactualObjective) -> None:
    do = torch.full((3, 5), math.nan)
    do[0, 1] = 60.0  # age
    do[1, 4] = 100.0  # the heart
    do[2, 0], do[2, 4] = 1.0, 100.0
    assert objective.charged(do).tolist() == [0, 1, 0]
    objective.predictor = None
    assert objective.charged(do).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("intervene", "asked"), [((), 3), (("age",), 1), (("heart_area",), 0), (("sex", "heart_area"), 2)]
)
def test_average_effects_are_asked_of_the_attributes_that_are_set(
    attribute_run: Run, intervene: tuple[str, ...], asked: int
) -> None:
    """``asked``: columns of their features, two of sex and one of age."""
    study = attribute_run.study
    study = study.model_copy(update={"finetune": study.finetune.model_copy(update={"intervene": intervene})})
    pipeline = Pipeline(Run(attribute_run.folder, study), make_fabric("cpu"))
    average = FinetuningStage("segmentor").average_effects(pipeline)
    assert (0 if average is None else len(average.effect)) == asked


# --- judging ----------------------------------------------------------------------------------------------


def test_the_table_has_every_attribute_and_the_direct_effects(attribute_run: Run) -> None:
    rows = json.loads((attribute_run.evaluation / "table.json").read_text(encoding="utf-8"))
    read = {
        (row["method"], row["intervention"], row["structure"]) for row in rows if row["metric"] == "attribute error"
    }
    assert {("judge", "", "sex"), ("judge", "", "age")} <= read
    for asked in ("heart_area", "age", directly("age"), directly("sex")):
        assert {
            (method, asked, name) for method in (NO_CHANGE, "segmentor", "regressor") for name in ("sex", "age")
        } <= read
    slopes = {(row["intervention"], row["structure"]) for row in rows if row["metric"] == "attribute slope"}
    assert slopes == {(asked, name) for name in ("sex", "age") for asked in (name, directly(name))}
    # Of the 18 validation people 30 would be needed for a fit of six features.
    assert all(row["value"] is None for row in rows if row["metric"] == "attribute slope")
    effects = {(row["method"], row["intervention"]): row["value"] for row in rows if row["metric"] == "direct effect"}
    assert effects.keys() >= {("segmentor", directly("sex")), (NO_CHANGE, directly("age"))}
    assert effects[NO_CHANGE, directly("sex")] == 0
    text = (attribute_run.evaluation / "table.md").read_text(encoding="utf-8")
    assert "measures held" in text
    assert "| sex " in text


def test_a_run_without_predictors_has_direct_effects_alone(small_run: Run) -> None:
    rows = json.loads((small_run.evaluation / "table.json").read_text(encoding="utf-8"))
    metrics = {row["metric"] for row in rows}
    assert "direct effect" in metrics
    assert "attribute slope" not in metrics


@pytest.fixture
def question(attribute_run: Run) -> Callable[[Tensor], AskedBatch]:
    """``question(change)``: an attribute's true direct effect is ``change`` times an image of ones."""
    store = attribute_run.store()
    cohort = Cohort.choose(attribute_run.study, store, store.indices("test", complete=True), torch.device("cpu"))
    samples = next(cohort.batches())
    factual = FactualBatch(cohort, samples, attribute_run.load("judge"), attribute_run.load("predictor-judge"))

    def make(change: Tensor) -> AskedBatch:
        return AskedBatch(
            factual, "age", samples.values, Drawn(samples.image + change[:, None, None, None], samples.mask), held=True
        )

    return make


def test_a_direct_effect_is_the_share_of_the_true_change(question: Any) -> None:
    asked = question(torch.zeros(1))
    count = len(asked.factual.samples.image)
    size = torch.linspace(0, 0.1, count)  # of the first nothing changes: he has no share
    asked = question(size)
    half = asked.factual.samples.image + size[:, None, None, None] / 2
    half[:, :, ::2] += 0.05
    half[:, :, 1::2] -= 0.05  # what else is changed, at right angles to the truth
    answer = AnsweredBatch(asked, "none", half, None, half)
    (share,), (rest,) = (
        list(METRICS.find(name).of_answer(answer)) for name in ("direct effect", "direct amplification")
    )
    assert share.values[0].isnan()
    assert share.weights is not None
    assert share.weights[0] == 0
    torch.testing.assert_close(share.values[1:].float(), torch.full((count - 1,), 0.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(rest.values[1:].float(), 0.05 / size[1:], rtol=1e-2, atol=0)
    truth = AnsweredBatch(asked, TRUTH, half, None, half)
    assert not list(METRICS.find("direct effect").of_answer(truth))


def test_findings_tell_of_a_predictor_that_guesses() -> None:
    values = torch.tensor([0.0, 1, 1, 1]).numpy()
    assert guessing(values, categorical=True) == pytest.approx(1 - (0.25**2 + 0.75**2))
    assert guessing(values, categorical=False) == pytest.approx(0.25)
    (finding,) = blind_predictor({"sex": 0.49, "age": 4.0}, {"sex": 0.5, "age": 10.0}, "predictor")
    assert finding.code == "blind-predictor"
    assert "sex" in finding.text
    assert "age " not in finding.text
    assert not list(blind_predictor({"sex": 0.1}, {"sex": 0.5}, "predictor"))


def test_a_judge_that_is_the_guide_is_refused(attribute_run: Run, tmp_path: Path) -> None:
    shutil.copytree(attribute_run.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    shutil.copyfile(run.path("predictor"), run.path("predictor-judge"))
    with pytest.raises(RunError):
        run.load("predictor-judge")


def test_all_of_it_can_be_published(attribute_run: Run, tmp_path: Path) -> None:
    from segcft.pipeline.publish import publish

    publish(attribute_run, tmp_path / "model")
    model = Run(tmp_path / "model")
    assert isinstance(model.study, Study)
    assert model.load("predictor-judge").outputs
