"""Answers beside a subject's own other image: a world in which both the mechanism and the judge are exactly right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Generator, Tensor

from refused import refused
from segcft.causal.scm import StructuralCausalModel
from segcft.config.loader import load_study, parse_study
from segcft.config.study import Study
from segcft.counterfactual.model import CounterfactualModel
from segcft.data.pairs import Direction, Pairs, elsewhere_equal
from segcft.data.store import Store
from segcft.data.writer import StoreWriter
from segcft.errors import Code, StudyError
from segcft.evaluate import names
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.evaluation import evaluate, judge_models
from segcft.evaluate.metrics.metric import METRICS, PairMetric
from segcft.evaluate.metrics.pair_change import along
from segcft.evaluate.pair_figures import draw_pairs, one_each
from segcft.evaluate.pairs import MeanChange, PairQueries
from segcft.evaluate.scores import Row
from segcft.evaluate.table import NO_PAIRS, render_table
from segcft.grey import to_grey_levels, to_unit
from segcft.image_models.mechanism import ImageMechanism
from segcft.importers.folder import import_folder
from segcft.measures.measurements import Measurements
from segcft.readers.reader import MaskReader
from segcft.utils.progress import Progress
from tests.conftest import Recalled, changed, small_mapping

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[1] / "configs"
HEARTS = Path(__file__).parents[2] / "shared" / "data" / "acdc128"
"""Slices of ACDC, where somebody has put them beside the repository; its terms do not let it be in there."""
SIDE = 16
BRIGHT = 140
"""What the heart adds to the grey levels behind it, all of which are darker."""
CONTRACTION, CONTRACTED = Direction("ED", "ES"), Direction("ES", "ED")
QUESTIONS = [f"{name}: {way}" for name in ("areas", "phase") for way in ("ED to ES", "ES to ED")]


def mapping(**changes: Any) -> dict[str, Any]:
    area = {"kind": "continuous", "parents": ["phase"], "unit": "px"}
    world = {
        "name": "hearts",
        "image.size": [SIDE, SIDE],
        "variables": {
            "position": {"kind": "categorical", "categories": ["base", "apex"]},
            "phase": {"kind": "categorical", "categories": ["ED", "ES"]},
            "heart_area": area,
        },
        "structures": {"heart": {"variable": "heart_area", "bit": 1}},
        "data": {"source": "folder", "patient": "patient"},
        "hvae.levels": [{"width": 4, "z": 2}],
        "evaluation": {
            "bootstrap": 50,
            "batch_size": 5,
            "figure_people": 2,
            "figure_changes": [0.1],
            "pairs": {"condition": "phase", "place": ["position"]},
        },
    }
    return changed(small_mapping(), world | changes)


@pytest.fixture(scope="module")
def study() -> Study:
    return parse_study(mapping())


def disc(area: int) -> np.ndarray:
    """A disc of exactly so many pixels, bool (H, W)."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    inside = np.zeros(SIDE * SIDE, dtype=bool)
    inside[np.argsort((x**2 + y**2).ravel(), kind="stable")[:area]] = True
    return inside.reshape(SIDE, SIDE)


def write_store(folder: Path, study: Study, images: list[tuple[str, str, str | None, str, int]]) -> Store:
    """Images of (patient, split, position, phase, area); behind the heart each patient is other than all others."""
    with StoreWriter(folder, study) as writer:
        for number, (patient, split, position, phase, area) in enumerate(images):
            behind = np.random.default_rng([*patient.encode(), *(position or "").encode()]).integers(
                0, 100, (SIDE, SIDE)
            )
            heart = disc(area)
            image, known = (behind + BRIGHT * heart).astype(np.uint8), {"position": position, "phase": phase}
            writer.append(f"i{number}", patient, split, image[None], 255 * heart[None].astype(np.uint8), known)
    return Store(folder)


@pytest.fixture(scope="module")
def store(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Hearts that contract to one half, four in training and five in test, of whom one is seen at one phase only."""
    hearts = [
        (f"p{k}", "train" if k < 4 else "test", position, phase, area // contracted)
        for k in range(8)
        for position, area in (("base", 60 + 8 * k), ("apex", 40 + 4 * k))
        for phase, contracted in (("ED", 1), ("ES", 2))
    ]
    hearts.insert(20, ("alone", "test", "base", "ED", 70))
    return write_store(tmp_path_factory.mktemp("hearts") / "store", study, hearts)


class Halving(StructuralCausalModel):
    """The law of these hearts: at ES the area is one half of that at ED."""

    def counterfactual(self, values: Tensor, do: Tensor, generator: Generator | None = None) -> Tensor:
        after = torch.where(do.isnan(), values, do)
        factor = (1 + values[:, 1]) / (1 + after[:, 1])
        after[:, 2] = torch.where(do[:, 2].isnan(), values[:, 2] * factor, do[:, 2])
        return after


class Redrawn(ImageMechanism):
    """The mechanism of these images: what is behind the heart is the noise."""

    def abduct(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor:
        grey = to_grey_levels(x).int()
        return grey - BRIGHT * (grey >= BRIGHT)

    def predict(self, noise: Tensor, values: Tensor) -> Tensor:
        hearts = torch.stack([torch.from_numpy(disc(round(area))) for area in values[:, 2].tolist()])
        return to_unit(noise + BRIGHT * hearts[:, None].int())

    def sample(self, n: int, pixel_noise: bool = True) -> Tensor:
        raise NotImplementedError

    def loss(self, x: Tensor, values: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def constraint(self, x: Tensor, values: Tensor, sample: bool = True) -> Tensor:
        raise NotImplementedError


class Brighter(MaskReader):
    """A judge that is never wrong."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.measurements = Measurements.of(study)

    def forward(self, x: Tensor) -> Tensor:
        return 1000 * (x - float(to_unit(torch.tensor(BRIGHT - 1))))


@pytest.fixture(scope="module")
def models(study: Study) -> dict[str, CounterfactualModel]:
    mechanism = Redrawn(study.hvae, study.image, study.variables)
    return {"none": CounterfactualModel(Halving(study.variables, study.scm), mechanism)}


@pytest.fixture(scope="module")
def cohort(study: Study, store: Store) -> Cohort:
    return Cohort.choose(study, store, store.indices("test", complete=True), CPU)


@pytest.fixture(scope="module")
def queries(cohort: Cohort, models: dict[str, CounterfactualModel], study: Study, store: Store) -> PairQueries:
    return PairQueries(cohort, models, Brighter(study), store)


@pytest.fixture(scope="module")
def rows(cohort: Cohort, models: dict[str, CounterfactualModel], study: Study, store: Store) -> list[Row]:
    scores = judge_models(cohort, models, Brighter(study), Progress(), training=store)
    return scores.rows(cohort.named("patient"), 50, 0)


def value(rows: list[Row], method: str, metric: str, question: str, structure: str = "") -> float | None:
    (row,) = [
        r
        for r in rows
        if (r["method"], r["metric"], r["intervention"], r["structure"]) == (method, metric, question, structure)
    ]
    assert row["n"] == 8  # four subjects at two places; who has no other image does not count
    found: float | None = row["value"]
    return found


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_exact_answer_is_the_other_image(rows: list[Row], question: str) -> None:
    assert value(rows, "none", "pair dice", question, "heart") == 1
    assert value(rows, "none", "pair error", question) == 0
    assert value(rows, "none", "pair error, away", question) == 0
    assert value(rows, "none", "pair effectiveness", question) == pytest.approx(1)
    assert value(rows, "none", "pair slope", question, "heart") == pytest.approx(1, abs=1e-4)
    assert value(rows, "none", "pair amplification", question) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_change_obtains_nothing(rows: list[Row], question: str) -> None:
    assert value(rows, names.NO_CHANGE, "pair effectiveness", question) == 0
    assert not [r for r in rows if r["method"] == names.NO_CHANGE and r["metric"] == "pair slope"]  # 0, as all know
    assert value(rows, names.NO_CHANGE, "pair amplification", question) == 0
    assert value(rows, names.NO_CHANGE, "pair error, away", question) == 0  # these images change in the heart alone
    # A disc of n pixels in one of 2 n has a Dice of 2 n / 3 n, and the other way round.
    assert value(rows, names.NO_CHANGE, "pair dice", question, "heart") == pytest.approx(2 / 3)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_truth_is_as_the_judge_reads_it(rows: list[Row], question: str) -> None:
    assert value(rows, names.TRUTH, "pair dice", question, "heart") == 1
    assert value(rows, names.TRUTH, "pair slope", question, "heart") == pytest.approx(1, abs=1e-4)
    assert not [r for r in rows if r["method"] == names.TRUTH and r["metric"] == "pair error"]


def test_a_direction_has_rows_of_its_own(rows: list[Row]) -> None:
    asked = {r["intervention"] for r in rows if isinstance(METRICS[r["metric"]], PairMetric)}
    assert asked == set(QUESTIONS)


def test_errors_are_in_grey_levels_near_the_hearts(queries: PairQueries) -> None:
    (answer, *_) = queries.answers(queries.places(CONTRACTION), CONTRACTION)
    (found,) = METRICS["pair error"].of_pair(answer)
    areas = answer.asked.factual.known[:, 0]
    near = answer.asked.near.flatten(1).sum(dim=1)
    assert torch.allclose(found.values, BRIGHT * (areas / 2) / near)


vectors = st.lists(st.floats(-3, 3).filter(lambda x: abs(x) > 1e-3), min_size=3, max_size=3)


@given(vectors, vectors, st.floats(-2, 2))
def test_a_change_is_along_the_true_one_and_across(true: list[float], other: list[float], share: float) -> None:
    t, o = torch.tensor([true]).double(), torch.tensor([other]).double()
    across = o - (o * t).sum() / t.square().sum() * t
    found, rest = along(share * t + across, t)
    assert float(found) == pytest.approx(share, abs=1e-9)
    assert float(rest) == pytest.approx(float(across.norm() / t.norm()), abs=1e-6)


def test_where_nothing_truly_changes_there_is_no_share() -> None:
    assert all(bool(found.isnan()) for found in along(torch.ones(1, 3), torch.zeros(1, 3)))


def test_pairs_are_of_one_subject_and_place(study: Study, tmp_path: Path) -> None:
    store = write_store(
        tmp_path / "store",
        study,
        [
            ("a", "test", "base", "ED", 60),
            ("a", "test", "base", "ES", 30),
            ("a", "test", "apex", "ED", 60),  # without another
            ("b", "test", "base", "ES", 30),  # of somebody else
            ("c", "test", "base", "ED", 60),
            ("c", "test", "base", "ES", 30),
            ("c", "test", "base", "ES", 28),  # one of two
            ("d", "test", None, "ED", 60),  # nobody knows where
            ("d", "test", None, "ES", 30),
        ],
    )
    pairs, everybody = Pairs(study, store), np.arange(9)
    assert pairs.directions == [CONTRACTION, CONTRACTED]
    assert pairs.others(everybody, CONTRACTION).tolist() == [1, -1, -1, -1, -1, -1, -1, -1, -1]
    assert pairs.others(everybody, CONTRACTED).tolist() == [-1, 0, -1, -1, -1, 4, 4, -1, -1]
    assert pairs.all_others(np.array([0, 1, 5])).tolist() == [[1, -1], [-1, 0], [-1, -1]]  # 4 is not among them


@pytest.mark.parametrize("size", [(48, 64), (32, 40, 48)])
def test_what_is_learnt_from_a_pair_is_the_other_image_near_and_the_image_elsewhere(size: tuple[int, ...]) -> None:
    image, other = torch.zeros(2, 1, *size), torch.ones(2, 1, *size)
    masks = torch.zeros(2, 2, *size)
    masks[0, 1][(slice(18, 22),) * len(size)] = 1.0
    found = elsewhere_equal(image, other, masks)
    assert bool((found[0, 0][masks[0, 1] > 0] == 1).all())
    assert bool(((found >= 0) & (found <= 1)).all())
    assert found[0, 0, *(0,) * len(size)] == 0
    assert found[1].sum() == 0  # without a structure nothing is near one
    steps = [found[0, 0].diff(dim=axis).abs().max() for axis in range(len(size))]
    assert max(steps) <= 0.5  # no seam


def test_the_mean_change_is_that_of_training_pairs_at_the_place(queries: PairQueries, store: Store) -> None:
    assert queries.mean is not None
    table, images = store.table, to_unit(torch.from_numpy(store.images.copy()))
    of = {
        (position, phase): images[
            np.flatnonzero((table["split"] == "train") & (table["position"] == position) & (table["phase"] == phase))
        ]
        for position in ("base", "apex")
        for phase in ("ED", "ES")
    }
    nothing = torch.zeros(1, 1, SIDE, SIDE)
    at_base = (of["base", "ES"] - of["base", "ED"]).mean(dim=0)
    at_apex = (of["apex", "ES"] - of["apex", "ED"]).mean(dim=0)
    close = {"atol": 1e-6, "rtol": 0.0}
    assert torch.allclose(queries.mean.answer(nothing, [("base",)], CONTRACTION)[0], at_base, **close)
    assert torch.allclose(queries.mean.answer(nothing, [("base",)], CONTRACTED)[0], -at_base, **close)
    anywhere = queries.mean.answer(nothing, [("elsewhere",)], CONTRACTION)[0]
    assert torch.allclose(anywhere, (at_base + at_apex) / 2, **close)


def test_without_training_pairs_there_is_no_mean_change(study: Study, tmp_path: Path, queries: PairQueries) -> None:
    alone = write_store(tmp_path / "store", study, [("a", "train", "base", "ED", 60), ("a", "test", "base", "ES", 30)])
    answer = MeanChange(Pairs(study, alone)).answer(torch.zeros(1, 1, SIDE, SIDE), [("base",)], CONTRACTION)
    assert bool(answer.isnan().all())
    asked = PairQueries(queries.cohort, queries.models, queries.judge)
    methods = {answer.method for answer in asked.answers(asked.places(CONTRACTION), CONTRACTION)}
    assert methods == {names.NO_CHANGE, "none", names.TRUTH}


def test_a_table_has_a_section_of_pairs(rows: list[Row], study: Study) -> None:
    text = render_table(rows, study)
    section = text.partition("## Beside the subject's own other image")[2]
    for words in ("areas: ED to ES", "phase: ES to ED", "Mean change", "Truth", "true error, near", "amplification"):
        assert words in section
    without = parse_study(mapping(**{"evaluation.pairs": None}))
    assert "other image" not in render_table(rows, without)


def test_an_evaluation_writes_rows_scores_and_figures(
    study: Study, store: Store, models: dict[str, CounterfactualModel], tmp_path: Path
) -> None:
    chosen = store.indices("test", complete=True)
    evaluate(study, store, chosen, models, Brighter(study), tmp_path, device=CPU, training=store)
    figures = {path.stem for path in (tmp_path / "figures").glob("pairs-*.png")}
    assert figures == {f"pairs-{name}-{way}" for name in ("areas", "phase") for way in ("ED-to-ES", "ES-to-ED")}
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    own = scores[(scores["metric"] == "pair dice") & (scores["intervention"] == QUESTIONS[0])]
    seen = own[own["method"] == "none"].set_index("id")["value"]
    table = store.table.set_index("id").loc[seen.index]
    assert (seen.notna() == ((table["phase"] == "ED") & (table["patient"] != "alone"))).all()
    rows = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert {r["method"] for r in rows if r["metric"] == "pair error"} == {names.NO_CHANGE, names.MEAN_CHANGE, "none"}


def test_a_figure_shows_every_subject_once(queries: PairQueries) -> None:
    places = one_each(queries, CONTRACTION, 3)
    assert len({queries.cohort.named("patient")[k] for k in places}) == 3
    for _, figure in draw_pairs(queries, 3):
        # Of each of three: four answers and what they miss, the truth without that; and the bar.
        assert len([axes for axes in figure.axes if axes.images]) == 3 * 7


def test_samples_without_pairs_are_evaluated(
    study: Study, models: dict[str, CounterfactualModel], tmp_path: Path
) -> None:
    hearts = [(f"p{k}", "test", "base", "ED", 60 + k) for k in range(3)]
    store = write_store(tmp_path / "store", study, [(*heart,) for heart in hearts])
    rows = evaluate(study, store, np.arange(3), models, Brighter(study), tmp_path / "out", device=CPU)
    assert not [row for row in rows if isinstance(METRICS[row["metric"]], PairMetric)]
    assert NO_PAIRS in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"evaluation.pairs": {"condition": "heart_area"}}, "evaluation.pairs.condition"),
        ({"evaluation.pairs": {"condition": "nothing"}}, "evaluation.pairs.condition"),
        ({"evaluation.pairs": {"condition": "phase", "place": ["slice"]}}, "evaluation.pairs.place"),
        ({"evaluation.pairs": {"condition": "phase", "place": ["phase"]}}, "evaluation.pairs.place"),
        ({"data": {"source": "folder"}}, "evaluation.pairs"),
        ({"hvae.pairs": 0.5, "evaluation.pairs": None}, "hvae.pairs"),
        ({"data.keep": ["phase"]}, "data.keep"),
        ({"data.keep": ["split"]}, "data.keep"),
    ],
)
def test_pairs_that_cannot_be_are_refused(changes: dict[str, Any], field: str) -> None:
    with refused(StudyError, Code.INVALID, field):
        parse_study(mapping(**changes))


def test_a_study_without_pairs_is_written_as_before() -> None:
    written = parse_study(small_mapping()).model_dump(mode="json")
    assert "pairs" not in written["evaluation"]
    raw = changed(mapping(), {"evaluation.pairs": None})
    assert "keep" not in parse_study(raw).model_dump(mode="json")["data"]


def test_columns_that_are_kept_tell_places_apart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    lines = ["id,patient,phase,position,slice"]
    for patient in range(12):
        for k, phase in ((k, phase) for k in (3, 7) for phase in ("ED", "ES")):
            id, heart = f"p{patient}_{k}_{phase}", disc(80 if phase == "ED" else 40)
            for name, pixels in (("images", BRIGHT * heart), ("masks", heart)):
                (data / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(data / name / f"{id}.png")
            lines.append(f"{id},p{patient},{phase},base,{k}")
    (data / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    kept = mapping(**{"data.keep": ["slice"], "evaluation.pairs.place": ["position", "slice"]})
    study = parse_study(kept)
    store = import_folder(study, data, tmp_path / "store")
    assert store.table["slice"].tolist() == ["3", "3", "7", "7"] * 12
    pairs = Pairs(study, store)
    ed = np.flatnonzero(store.table["phase"] == "ED")
    assert pairs.others(ed, CONTRACTION).tolist() == (ed + 1).tolist()
    by_position = Pairs(parse_study(mapping(**{"data.keep": ["slice"]})), store)
    assert set(by_position.others(ed, CONTRACTION).tolist()) == {-1}  # two slices are at the base


@pytest.mark.slow
@pytest.mark.skipif(not HEARTS.is_dir(), reason="the slices of ACDC are not there")
def test_real_hearts_change_as_much_as_is_known_of_them(tmp_path: Path) -> None:
    """Of all 75 patients: how far ED and ES are apart, by whoever made the slices."""
    study = load_study(CONFIGS / "acdc.yaml")
    store = import_folder(study, HEARTS, tmp_path / "store", split="test")
    cohort = Cohort.choose(study, store, store.indices(complete=True), CPU)
    queries = PairQueries(cohort, {"none": unmoved(study)}, Recalled(store, Measurements.of(study)))
    places = queries.places(CONTRACTION)
    assert len(places) == 210
    answer = next(iter(queries.answers(places, CONTRACTION)))
    found = {
        (name, result.structure): float(result.values.nanmean())
        for name in ("pair dice", "pair error", "pair error, away")
        for result in METRICS[name].of_pair(answer)
    }
    for structure, overlap in {"lv": 0.67, "myocardium": 0.55, "rv": 0.70}.items():
        assert found["pair dice", structure] == pytest.approx(overlap, abs=0.02)
    assert found["pair error", ""] == pytest.approx(36.1, abs=2)
    assert found["pair error, away", ""] == pytest.approx(8.4, abs=1)


def unmoved(study: Study) -> CounterfactualModel:
    """A model that is not to be asked anything about its images."""
    return CounterfactualModel(Unmoved(study.variables, study.scm), Redrawn(study.hvae, study.image, study.variables))


class Unmoved(StructuralCausalModel):
    """Variables that follow nothing."""

    def counterfactual(self, values: Tensor, do: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.where(do.isnan(), values, do)
