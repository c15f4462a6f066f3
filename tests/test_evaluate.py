"""The evaluation: its numbers against ones worked out by hand, on simulated people and small networks."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from refused import refused
from segcft.causal.scm import StructuralCausalModel
from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.counterfactual.model import CounterfactualModel
from segcft.data.store import Store
from segcft.errors import Code, DataError
from segcft.evaluate import names
from segcft.evaluate.answers import FigureQueries
from segcft.evaluate.bootstrap import bootstrap_means
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.evaluation import asked_values, evaluate, from_marginal, judge_models
from segcft.evaluate.figures import draw_progression
from segcft.evaluate.locality import changed_region, mean_inside, share_inside, share_near
from segcft.evaluate.metrics.effectiveness import AbsoluteError, PercentageError
from segcft.evaluate.page import Page
from segcft.evaluate.scores import Row, Scores
from segcft.evaluate.table import render_table
from segcft.evaluate.truth import Truth
from segcft.grey import rounded, to_grey_levels, to_unit
from segcft.grid import Grid
from segcft.image_models.hvae import HVAE
from segcft.importers.simulated import import_simulated, make_simulator
from segcft.measures.measurements import Measurements
from segcft.measures.slope import slopes
from segcft.pipeline.run import Run
from segcft.readers.segmentor import Segmentor
from segcft.readers.unet import UNet
from segcft.utils.progress import Progress
from tests.conftest import Recalled

CPU = torch.device("cpu")
SIZE, PEOPLE = 48, 40
TRUE_ERROR = "true counterfactual error"
FIELDS = ["method", "intervention", "structure", "metric", "intervened", "value", "ci_low", "ci_high", "n"]


def make_study(**evaluation: Any) -> Study:
    area = {"kind": "continuous", "parents": ["sex", "age"]}
    return parse_study(
        {
            "name": "small",
            "image": {"size": [SIZE, SIZE]},
            "variables": {
                "sex": {"kind": "categorical", "categories": ["M", "F"]},  # not the simulator's order
                "age": {"kind": "continuous"},
                "left_lung_area": area,
                "right_lung_area": area,
                "heart_area": area,
            },
            # Not the simulator's order either.
            "structures": {
                "heart": {"variable": "heart_area"},
                "left_lung": {"variable": "left_lung_area"},
                "right_lung": {"variable": "right_lung_area"},
            },
            "data": {"source": "chest-simulator", "people": PEOPLE},
            "segmentor": {"steps": 1, "seed": 1},
            "judge": {"steps": 1, "seed": 2, "widths": [8, 16, 32]},
            "regressor": {"steps": 1},
            "scm": {"steps": 1, "hidden": [8]},
            "hvae": {
                "steps": 1,
                "context": 8,
                "levels": [
                    {"width": 8, "z": 2, "down": 4},
                    {"width": 16, "z": 4, "down": 4},
                    {"width": 16, "z": 4},
                ],
            },
            "finetune": {"steps": 1},
            "evaluation": {
                "batch_size": 16,
                "bootstrap": 200,
                "figure_people": 2,
                "figure_changes": [-0.2, 0.2],
            }
            | evaluation,
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return import_simulated(make_study(), tmp_path_factory.mktemp("data") / "store", split="test")


@pytest.fixture(scope="module")
def models(store: Store) -> dict[str, CounterfactualModel]:
    """Untrained models with the same SCM; trained or not, they must obey the axioms that hold by design."""
    study, values = make_study(), torch.from_numpy(store.values())
    torch.manual_seed(0)
    scm = StructuralCausalModel(study.variables, study.scm)
    scm.set_statistics(values)
    made = {}
    for method in ("none", "segmentor"):
        hvae = HVAE(study.hvae, study.image, study.variables)
        hvae.parents.set_statistics(values)
        # The head starts near zero; let the parents be seen.
        for parameter in hvae.head.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        made[method] = CounterfactualModel(scm, hvae).eval()
    return made


@pytest.fixture(scope="module")
def judge() -> Segmentor:
    """A judge that has learnt nothing: what is tested of it is that it is asked, and how its readings are used."""
    study = make_study()
    torch.manual_seed(1)
    return UNet(study.judge, study.image.channels, Measurements.of(study)).eval()


class Exact:
    """A judge that knows the masks of some images, as the simulator has drawn them; others are all structure."""

    def __init__(self) -> None:
        self.measurements = Measurements.of(make_study())
        self.known: dict[bytes, Tensor] = {}

    def learn(self, images: Tensor, masks: Tensor) -> None:
        """``images`` (B, C, H, W) in [-1, 1] have these ``masks`` (B, S, H, W); none that could not be drawn."""
        self.known |= {_bytes(x): mask for x, mask in zip(images, masks, strict=True) if x.isfinite().all()}

    def masks(self, x: Tensor) -> Tensor:
        structures = len(next(iter(self.known.values())))
        nothing, everything = (torch.full((structures, *x.shape[2:]), value) for value in (math.nan, 1.0))
        return torch.stack([self.known.get(_bytes(one), everything) if one.isfinite().all() else nothing for one in x])

    def read(self, x: Tensor) -> Tensor:
        return self.measurements.read(self.masks(x))


def _bytes(image: Tensor) -> bytes:
    return to_grey_levels(image).numpy().tobytes()


def exact_judge(cohort: Cohort, scm: StructuralCausalModel) -> Exact:
    """One that knows the cohort's images and their true counterfactuals."""
    judge, truth = Exact(), Truth.of(cohort.study, cohort.store)
    assert truth is not None
    for samples, asked in zip(cohort.batches(), asked_values(cohort, scm), strict=True):
        judge.learn(samples.image, samples.mask)
        for variable in cohort.study.measured:
            do = {variable: asked[variable][:, cohort.column(variable)]}
            drawn = truth.counterfactuals(samples.rows, do)
            judge.learn(drawn.image, drawn.mask)
    return judge


@pytest.fixture(scope="module")
def deaf(models: dict[str, CounterfactualModel]) -> CounterfactualModel:
    """A model whose images ignore their parents."""
    copied = copy.deepcopy(models["none"])
    with torch.no_grad():
        copied.mechanism.embed[-1].weight.zero_()  # type: ignore[union-attr, operator, index]
    return copied


@pytest.fixture(scope="module")
def cohort(store: Store) -> Cohort:
    return Cohort.choose(make_study(), store, store.indices("test", complete=True), CPU)


@pytest.fixture(scope="module")
def exact(cohort: Cohort, deaf: CounterfactualModel) -> Any:
    return exact_judge(cohort, deaf.scm)


@pytest.fixture(scope="module")
def exact_rows(cohort: Cohort, deaf: CounterfactualModel, exact: Any) -> list[Row]:
    """The results of the deaf model and the truth, by the judge that is never wrong."""
    return judged(cohort, {"none": deaf}, exact)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation") / "run" / "evaluation"


@pytest.fixture(scope="module")
def rows(store: Store, models: dict[str, CounterfactualModel], judge: Segmentor, folder: Path) -> list[Row]:
    return evaluate(make_study(), store, store.indices("test"), models, judge, folder, device=CPU)


def judged(cohort: Cohort, models: dict[str, CounterfactualModel], judge: Any) -> list[Row]:
    spec = cohort.study.evaluation
    return judge_models(cohort, models, judge, Progress()).rows(cohort.named("patient"), spec.bootstrap, spec.seed)


def only(rows: list[Row], **fields: Any) -> Row:
    (row,) = [row for row in rows if fields.items() <= row.items()]
    return row


def everybody(store: Store) -> tuple[Tensor, Tensor]:
    return to_unit(torch.from_numpy(np.array(store.images))), torch.from_numpy(store.values())


# ---- the whole --------------------------------------------------------------------------------


def test_rows_have_the_schema_and_are_the_json_on_disk(rows: list[Row], folder: Path) -> None:
    assert json.loads((folder / "table.json").read_text()) == rows
    for row in rows:
        assert list(row) == FIELDS
        # The untrained attributes' mechanisms move no area.
        nothing_asked = row["metric"] == "slope" and row["intervention"] in ("sex", "age")
        assert 0 < row["n"] <= PEOPLE or nothing_asked
        assert math.isfinite(row["value"]) if row["n"] else row["value"] is None
        if row["ci_low"] is not None:
            assert row["ci_low"] <= row["value"] <= row["ci_high"]
    keys = [tuple(row[field] for field in FIELDS[:4]) for row in rows]
    assert len(set(keys)) == len(keys)


def test_every_method_has_every_metric(rows: list[Row]) -> None:
    study = make_study()
    for variable in study.measured:
        for method in ("no change", "none", "segmentor", "truth"):
            found = [r for r in rows if (r["method"], r["intervention"], r["metric"]) == (method, variable, "mape")]
            assert {r["structure"]: r["intervened"] for r in found} == {
                name: structure.variable == variable for name, structure in study.structures.items()
            }
        for method in ("none", "segmentor"):
            for metric in ("reversibility", "locality", TRUE_ERROR, f"{TRUE_ERROR}, whole image"):
                only(rows, method=method, intervention=variable, metric=metric, structure="")
    for metric in ("mape", "dice"):
        assert {r["structure"] for r in rows if (r["method"], r["metric"]) == ("judge", metric)} == set(
            study.structures
        )


def test_nothing_asked_is_nothing_changed(rows: list[Row]) -> None:
    for method in ("none", "segmentor"):
        worst = only(rows, method=method, metric="composition max")
        assert worst["value"] < 1e-2
        assert only(rows, method=method, metric="composition")["value"] <= worst["value"]
        assert only(rows, method=method, metric="reconstruction")["value"] > 1


def test_the_truth_is_local_and_beats_no_change(exact_rows: list[Row]) -> None:
    for structure, variable in zip(make_study().structures, make_study().measured, strict=True):
        assert only(exact_rows, method="truth", metric="locality", intervention=variable)["value"] > 0.9
        true, idle = (
            only(exact_rows, method=m, metric="mape", intervention=variable, structure=structure)["value"]
            for m in ("truth", "no change")
        )
        assert true < 1 < idle  # in %; areas are asked for in numbers and drawn in pixels


def test_the_answer_is_the_same_every_time(
    store: Store, models: dict[str, CounterfactualModel], judge: Segmentor, rows: list[Row]
) -> None:
    torch.manual_seed(99)
    cohort = Cohort.choose(make_study(), store, store.indices("test"), CPU)
    assert judged(cohort, models, judge) == rows


def test_batches_do_not_matter(
    store: Store, models: dict[str, CounterfactualModel], judge: Segmentor, rows: list[Row]
) -> None:
    cohort = Cohort.choose(make_study(batch_size=7), store, store.indices("test"), CPU)
    for ours, theirs in zip(judged(cohort, models, judge), rows, strict=True):
        assert ours["n"] == theirs["n"]
        # A pixel on the edge between two grey levels may go either way.
        assert not ours["n"] or ours["value"] == pytest.approx(theirs["value"], rel=1e-2, abs=1e-2)


def test_no_change_and_judge_are_as_worked_out_by_hand(store: Store, judge: Segmentor, rows: list[Row]) -> None:
    study = make_study()
    image, values = everybody(store)
    with torch.no_grad():
        read = judge.read(image).numpy().astype(float)
    for s, (structure, variable) in enumerate(zip(study.structures, study.measured, strict=True)):
        column = list(study.variables).index(variable)
        own = values[:, column]
        asked = from_marginal(values, study.evaluation.seed, column)
        assert sorted(asked.tolist()) == sorted(own.tolist())
        assert asked.tolist() != own.tolist()
        for target, row in (
            (
                asked,
                only(rows, method="no change", metric="mape", intervention=variable, structure=structure),
            ),
            (own, only(rows, method="judge", metric="mape", structure=structure)),
        ):
            expected = np.mean(100 * np.abs(read[:, s] - target.numpy()) / target.numpy())
            assert row["value"] == pytest.approx(expected, rel=1e-5)
            assert row["n"] == PEOPLE


def test_a_patient_with_several_images_counts_once() -> None:
    scores = Scores()
    scores.add("none", "mape", torch.tensor([1.0, 1.0, 1.0, 2.0]))
    alone, paired = (scores.rows(p, 2000, 0)[0] for p in (["a", "b", "c", "d"], ["a", "a", "a", "d"]))
    assert alone["value"] == paired["value"] == 1.25
    assert (paired["ci_low"], paired["ci_high"]) == (1.0, 2.0)
    assert alone["ci_high"] < 2.0


def test_methods_are_compared_person_by_person() -> None:
    """A small difference that everybody shows is certain, however unlike the people are."""
    scores, random = Scores(), np.random.default_rng(0)
    regressor = torch.from_numpy(random.uniform(0, 30, 200))
    segmentor = regressor - torch.from_numpy(random.uniform(0, 1, 200))
    for method, error in (("regressor", regressor), ("segmentor", segmentor)):
        scores.add(method, "mape", error[:50], intervention="a", structure="s", intervened=True)
        scores.add(method, "mape", error[50:], intervention="a", structure="s", intervened=True)
    scores.add_differences(names.SEG_LESS_REG, "segmentor", "regressor")
    rows = scores.rows([str(i) for i in range(200)], 500, 0)
    difference = only(rows, method=names.SEG_LESS_REG)
    assert difference["value"] == pytest.approx(float((segmentor - regressor).mean()))
    assert difference["ci_low"] < difference["value"] < difference["ci_high"] < 0
    assert only(rows, method="segmentor")["ci_high"] > only(rows, method="regressor")["ci_low"]
    assert (difference["intervened"], difference["structure"]) == (True, "s")


def test_methods_are_compared_by_all_that_is_a_mean(small_run: Run) -> None:
    """Where Reg-CFT is the better one the table says so, as where Seg-CFT is."""
    table = json.loads((small_run.evaluation / "table.json").read_text())
    value = {(row["method"], row["metric"], row["intervention"], row["structure"]): row["value"] for row in table}
    compared = [key[1:] for key in value if key[0] == names.SEG_LESS_REG]
    everywhere = {"mape", "locality", "reversibility", "true counterfactual error"}
    asked = {key[1:] for key in value if key[0] == "segmentor" and key[1] in everywhere}
    assert everywhere == {metric for metric, _, _ in asked}
    assert asked <= set(compared)
    for metric, *rest in compared:
        seg, reg, less = (value[m, metric, *rest] for m in ("segmentor", "regressor", names.SEG_LESS_REG))
        if metric == "reversibility":  # of every sample, each of which counts as much
            assert less == pytest.approx(seg - reg, abs=1e-9)


def test_a_difference_needs_both_methods() -> None:
    scores = Scores()
    scores.add("segmentor", "mape", torch.ones(3), intervention="a", structure="s")
    scores.add_differences(names.SEG_LESS_REG, "segmentor", "regressor")
    assert {row["method"] for row in scores.rows(["a", "b", "c"], 10, 0)} == {"segmentor"}


def test_files_are_written(rows: list[Row], folder: Path) -> None:
    assert (folder / "table.md").read_text() == render_table(rows, make_study())
    expected = {f"{kind}-{s}.png" for kind in ("counterfactuals", "differences") for s in make_study().structures}
    assert {path.name for path in (folder / "figures").iterdir()} == expected | {"asked-obtained.png"}
    for path in (folder / "figures").iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 300
        assert pixels.std() > 5


def test_the_result_of_every_sample_is_kept(rows: list[Row], folder: Path, store: Store) -> None:
    scores = pd.read_parquet(folder / "scores.parquet")
    fields = ["method", "intervention", "structure", "metric", "intervened"]
    assert list(scores.columns) == [*fields, "id", "patient", "value", "weight"]
    by_key = {key: group for key, group in scores.groupby(fields)}
    assert len(by_key) == len(rows)
    people = store.table.iloc[store.indices("test")]
    for row in rows:
        group = by_key[tuple(row[field] for field in fields)]
        assert group["id"].tolist() == people["id"].tolist()
        assert group["patient"].tolist() == people["patient"].tolist()
        if row["metric"] != "composition max" and row["value"] is not None:
            counts = group[group["value"].notna()]
            assert np.average(counts["value"], weights=counts["weight"]) == pytest.approx(row["value"])


def test_table_says_what_matters(rows: list[Row]) -> None:
    text = render_table(rows, make_study())
    for expected in (
        "No CFT",
        "Seg-CFT",
        "No change",
        "Truth",
        "**",
        "in %",
        "Dice",
        "locality",
        f"{PEOPLE} simulated",
    ):
        assert expected in text
    assert "Reg-CFT" not in text
    assert "Only" not in text
    millimetres = render_table(
        [r | {"metric": r["metric"].replace("mape", "mae")} for r in rows], make_study(metric="mae")
    )
    assert "(MAE) of the area in px" in millimetres


def test_attributes_may_be_intervened_on(
    store: Store, models: dict[str, CounterfactualModel], judge: Segmentor
) -> None:
    study = make_study(interventions=["sex", "age"], metric="mae", people=12)
    cohort = Cohort.choose(study, store, store.indices("test"), CPU)
    assert len(cohort) == 12
    rows = judged(cohort, models, judge)
    direct = {names.directly("sex"), names.directly("age")}
    assert {row["intervention"] for row in rows} == {"", "sex", "age"} | direct
    assert {row["metric"] for row in rows if row["intervention"] in direct} == {"direct effect", "direct amplification"}
    assert not any(row["intervened"] for row in rows)
    assert not any(row["metric"] == "locality" for row in rows)
    assert only(rows, method="none", intervention="sex", metric=TRUE_ERROR)["n"] < 12  # some keep their sex
    assert "mae" in {row["metric"] for row in rows}
    render_table(rows, study)


def test_data_without_a_simulator(store: Store, models: dict[str, CounterfactualModel]) -> None:
    raw = make_study(people=10).model_dump()
    raw["data"] = {"source": "folder"}
    for bit, structure in enumerate(raw["structures"].values()):
        structure["bit"] = 1 << bit
    study = parse_study(raw)
    judge = Recalled(store, Measurements.of(study))
    rows = judged(Cohort.choose(study, store, store.indices("test"), CPU), models, judge)
    assert not any(row["method"] == "truth" or row["metric"].startswith("true") for row in rows)
    for variable in study.measured:
        locality = only(rows, method="none", metric="locality", intervention=variable)
        assert 0 <= locality["value"] < 1
    text = render_table(rows, study)
    assert "simula" not in text
    assert "true error" not in text


def test_nobody_is_an_error(store: Store) -> None:
    with refused(DataError, Code.EMPTY, store.folder):
        Cohort.choose(make_study(), store, np.array([], dtype=np.int64), CPU)


# ---- the parts --------------------------------------------------------------------------------


def test_abduction_answers_as_the_model_does(store: Store, models: dict[str, CounterfactualModel]) -> None:
    image, values = (field[:6] for field in everybody(store))
    model = models["none"]
    do = model.scm.intervention(6, heart_area=values[:, 4] * 1.2)
    expected = model.counterfactual(image, values, do)
    answer = model.abduct(image, values).predict(expected.values)
    torch.testing.assert_close(answer, expected.image)
    assert not torch.allclose(answer, image, atol=1e-3)


def test_truth_is_the_simulators_own(store: Store) -> None:
    study = make_study()
    truth = Truth.of(study, store)
    assert truth is not None
    _, values = everybody(store)
    rows = torch.tensor([3, 5])
    heart = values[rows, 4] * torch.tensor([1.1, 100.0])  # the second one would leave the thorax
    drawn = truth.counterfactuals(rows, {"heart_area": heart})
    image, masks = _simulate(study, store, 3, {"heart_area": float(heart[0])})
    assert torch.equal(rounded(drawn.image[0]), to_unit(image)[None])
    assert torch.equal(drawn.mask[0], masks[[2, 0, 1]] / 255)  # heart, left, right
    assert drawn.image[1].isnan().all()
    assert drawn.mask[1].isnan().all()
    drawn = truth.counterfactuals(rows[:1], {"sex": torch.tensor([1.0])})  # the study's second category: F
    assert torch.equal(rounded(drawn.image[0, 0]), to_unit(_simulate(study, store, 3, {"sex": "F"})[0]))


def _simulate(study: Study, store: Store, row: int, do: dict[str, Any]) -> tuple[Tensor, Tensor]:
    simulator, person = make_simulator(study), int(store.table["person"][row])
    image, masks = simulator.render(person, simulator.attributes(person, do))
    return torch.from_numpy(image), torch.from_numpy(masks)


def test_figures_ask_within_the_range_of_training(
    store: Store, models: dict[str, CounterfactualModel], judge: Segmentor
) -> None:
    cohort = Cohort.choose(make_study(), store, store.indices("test"), CPU)
    heart = cohort.values[:, cohort.column("heart_area")]
    training = cohort.values.clone()
    training[0] = torch.nan  # a missing value is no limit
    obtained = FigureQueries(cohort, models, judge, training).obtained("heart", 10, (-0.9, 0.01))
    assert set(obtained) == set(models)
    assert obtained["none"].shape == (10, 2, 3)
    assert obtained["none"][:, 0].isnan().all()
    assert not obtained["none"][:, 1].isnan().all()
    answers = FigureQueries(cohort, models, judge, training).answers("heart", 3, (-0.2, 0.2))
    torch.testing.assert_close(
        answers.measured[..., 0], answers.samples.values[:, [4]] * torch.tensor([0.8, 1.2]), rtol=1e-6, atol=0
    )
    assert (answers.measured[..., 0] >= heart.min() * 0.8).all()
    assert set(answers.images) == {*models, names.TRUTH}


def test_a_progression_raises_its_variables_together_and_holds_the_others(
    store: Store, models: dict[str, CounterfactualModel], judge: Segmentor
) -> None:
    rising = ("left_lung_area", "right_lung_area")
    study = make_study(progression=list(rising), progression_quantiles=[0.1, 0.5, 0.9])
    cohort = Cohort.choose(study, store, store.indices("test"), CPU)
    training = torch.from_numpy(store.values())
    progression = FigureQueries(cohort, models, judge, training).progression(rising, 2, (0.1, 0.5, 0.9))
    heart, left, right = progression.measured.unbind(dim=2)
    torch.testing.assert_close(heart, progression.samples.values[:, [4]].expand(2, 3))
    for areas, column in ((left, 2), (right, 3)):
        expected = torch.from_numpy(np.quantile(training[:, column].numpy(), (0.1, 0.5, 0.9))).float()
        torch.testing.assert_close(areas, expected.expand(2, 3))
    assert set(progression.images) == {*models, names.TRUTH}
    assert all(images.shape == (2, 3, 1, SIZE, SIZE) for images in progression.images.values())
    assert not torch.equal(progression.images["none"][:, 0], progression.images["none"][:, 2])
    figure = draw_progression(progression, study)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert sum(label.count(" / ") == 3 for label in labels) >= 2 * (1 + 3 * len(models))


def test_wide_images_are_stacked() -> None:
    tall, wide = (Page(2, ["none", "segmentor"], ["a", "b", "c"], size, "") for size in ((32, 32), (16, 96)))
    place = {}
    for name, page in (("tall", tall), ("wide", wide)):
        first, right = (page.panel(0, "none", change).get_position() for change in (0, 2))
        place[name] = (right.x0 > first.x0, right.y0 < first.y0)
    assert place == {"tall": (True, False), "wide": (False, True)}


def test_pictures_ask_for_shares_of_what_is_there(plaque_run: Run) -> None:
    store, study = plaque_run.store(), plaque_run.study
    cohort = Cohort.choose(study, store, store.indices("test"), CPU)
    plaque = cohort.values[:, study.measured_columns[1]]
    have = int((plaque > 0).sum())
    assert 3 <= have < len(cohort) - 1
    models = {"none": plaque_run.model("none")}
    queries = FigureQueries(cohort, models, plaque_run.load("judge"), torch.from_numpy(store.values()))
    changes = (-0.2, 0.2)
    answers = queries.answers("plaque", 3, changes)
    assert (answers.measured[..., 1] > 0).all()
    everybody = queries.answers("plaque", have + 1, changes)  # one of whom a share is nothing
    assert (everybody.measured[..., 1] == 0).any(dim=1).tolist() == [False] * have + [True]
    obtained = queries.obtained("plaque", have, (-0.2, 0.01))["none"]
    assert (~obtained[..., 1].isnan()).any(dim=1).sum() > have / 2
    others = queries.obtained("vessel", len(cohort), (0.01,))["none"]
    assert int(others[..., 1].isnan().sum()) >= len(cohort) - have  # nor does what is absent change by a share
    assert others[..., 0].isfinite().any()
    # The judge of so short a training may see none of a plaque; it is the known area that changes are shares of.
    assert obtained.nan_to_num().abs().max() < 100


def test_the_slope_is_that_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    asked = torch.randn(200, generator=generator, dtype=torch.float64)
    obtained = 0.7 * asked + 0.1 * torch.randn(200, generator=generator, dtype=torch.float64)
    asked[0] = 0.0
    values, weights = slopes(obtained, asked)
    assert values[0].isnan()
    scores = Scores()
    scores.add("none", "slope", values, weights=weights)
    row = scores.rows([str(i) for i in range(200)], 500, 0)[0]
    fitted = np.linalg.lstsq(asked.numpy()[1:, None], obtained.numpy()[1:], rcond=None)[0][0]
    assert row["value"] == pytest.approx(fitted)
    assert row["ci_low"] < 0.7 < row["ci_high"]
    assert row["ci_high"] - row["ci_low"] < 0.1
    assert row["n"] == 199


def test_areas_move_as_they_should_or_not_at_all(
    cohort: Cohort, models: dict[str, CounterfactualModel], exact: Any, exact_rows: list[Row]
) -> None:
    """What ignores its parents has slopes of 0, and the truth has slopes of 1, to a judge that is never wrong."""
    slopes = [row for row in exact_rows if row["metric"] == "slope"]
    areas = list(cohort.study.measured)
    own = [(row["intervention"], row["structure"]) for row in slopes if row["intervened"] and row["method"] == "none"]
    assert own == [(area, area.removesuffix("_area")) for area in areas]
    assert {row["intervention"] for row in slopes} == {*areas, "sex", "age"}
    assert all(row["value"] == pytest.approx(0, abs=1e-6) for row in slopes if row["method"] == "none" and row["n"])
    true = [row for row in slopes if row["method"] == names.TRUTH]
    assert [row["intervention"] for row in true] == areas
    assert all(row["value"] == pytest.approx(1, abs=0.02) for row in true), true
    # A mechanism that hears its parents makes other images, which this judge notices.
    heard = judged(cohort, {"none": models["none"]}, exact)
    assert any(abs(row["value"]) > 0.1 for row in heard if row["metric"] == "slope" and row["method"] == "none")


def test_a_percentage_of_nothing_is_none() -> None:
    read, asked = torch.tensor([[110.0, 5.0]]), torch.tensor([[100.0, 0.0]])
    error = PercentageError().error(read, asked)
    assert error[0, 0] == pytest.approx(10)
    assert error[0, 1].isnan()
    assert AbsoluteError().error(read, asked).tolist() == [[10.0, 5.0]]


def test_bootstrap_covers_the_mean() -> None:
    """95 % intervals of 400 experiments with 60 people each hold the true mean about 95 % of the time."""
    samples = np.random.default_rng(0).exponential(2.0, size=(60, 400))
    means = bootstrap_means(samples, np.arange(60), draws=1000, seed=1)
    covered = np.mean((means.low <= 2.0) & (means.high >= 2.0))
    assert 0.90 <= covered <= 0.98
    theory = 1.96 * samples.std(axis=0) / np.sqrt(60)
    assert np.mean((means.high - means.low) / 2 / theory) == pytest.approx(1.0, abs=0.05)


@settings(max_examples=40)
@given(st.lists(st.one_of(st.just(math.nan), st.floats(-1e3, 1e3)), min_size=1, max_size=12), st.integers(0, 5))
def test_bootstrap_ignores_gaps(values: list[float], seed: int) -> None:
    column = np.array(values)[:, None]
    means = bootstrap_means(column, np.arange(len(values)), draws=50, seed=seed)
    known = [value for value in values if not math.isnan(value)]
    assert means.n[0] == len(known)
    if not known:
        assert np.isnan(means.value[0])
        return
    assert means.value[0] == pytest.approx(np.mean(known), abs=1e-6)
    assert np.isnan(means.low[0]) == (len(known) < 2)
    if len(known) >= 2:
        assert min(known) - 1e-6 <= means.low[0] <= means.high[0] <= max(known) + 1e-6


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.2))
def test_locality_is_a_share(seed: int, dilation: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    difference = torch.randn(3, 2, 10, 14, generator=generator)
    grid = Grid((10, 14))
    region = grid.dilate(torch.rand(3, 10, 14, generator=generator) > 0.9, grid.radius(dilation))
    share = share_inside(difference, region)
    assert ((share >= 0) & (share <= 1 + 1e-6)).all()
    torch.testing.assert_close(share + share_inside(difference, ~region), torch.ones(3), rtol=0, atol=1e-5)


def test_locality_of_constructed_changes() -> None:
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, 8:12, 8:12] = True
    inside, beside, nothing = (torch.zeros(1, 1, 20, 20) for _ in range(3))
    inside[0, 0, 9, 9] = -0.3
    beside[0, 0, 9, 13] = 0.3  # two pixels from the edge
    assert share_inside(inside, mask).tolist() == [1.0]
    assert share_inside(beside, Grid(tuple(mask.shape[1:])).dilate(mask, 1)).tolist() == [0.0]
    assert share_inside(beside, Grid(tuple(mask.shape[1:])).dilate(mask, 2)).tolist() == [1.0]
    assert share_inside(inside + beside, mask).item() == pytest.approx(0.5)
    assert share_inside(nothing, mask).isnan().all()  # whoever did not change has no locality
    assert mean_inside(inside, mask).item() == pytest.approx(0.3 / 16)


def test_locality_of_a_structure_that_comes_or_goes_and_of_none() -> None:
    there, none = torch.zeros(1, 20, 20, dtype=torch.bool), torch.zeros(1, 20, 20, dtype=torch.bool)
    there[0, 8:12, 8:12] = True
    difference = torch.zeros(1, 1, 20, 20)
    difference[0, 0, 9, [9, 19]] = 0.2
    for before, after in ((there, none), (none, there), (there, there)):
        assert share_near(difference, before, after, 1).tolist() == [0.5]
    assert share_near(difference, none, none, 1).isnan().all()  # nothing is near what is not there
    assert share_near(0 * difference, there, there, 1).isnan().all()


def test_changed_region_holds_what_changed_alone() -> None:
    before = torch.zeros(2, 2, 9, 9, dtype=torch.bool)
    before[:, 0, 1, 1] = before[:, 1, 7, 7] = True
    after = before.clone()
    after[0, 0, 1, 2] = True
    region = changed_region(before, after, 1)
    assert region[0].nonzero().tolist() == [[0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [1, 3], [2, 1], [2, 2]]
    assert not region[1].any()
