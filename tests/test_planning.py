"""Planning: a plan is always a study, what is given wins, every value has a reason, and a run is planned once."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segcft.cli.entry import main
from segcft.config.loader import load_study
from segcft.config.outline import PLANNED, Outline, leaves_out, read_study
from segcft.config.study import Study
from segcft.data.splits import assign
from segcft.errors import Code, DataError, StudyError
from segcft.measures.measurements import Measurements
from segcft.planning import record, timing
from segcft.planning.fingerprint import Fingerprint, StructureFacts, expected, take_fingerprint
from segcft.planning.grid import RESOLVED, SMALLEST_SIDE
from segcft.planning.plan import Plan, make_plan, usual_study
from segcft.planning.planned import Machine
from segcft.planning.record import RECORD, Request, plan_text, planned_study, write_plan
from segcft.planning.sections import FEW, MANY, SECTIONS
from segcft.utils.progress import Progress
from tests.conftest import small_mapping

ROOT = Path(__file__).parents[1]
VOLUMES = ROOT / "configs" / "hippocampus.yaml"
"""An outline among studies."""
CPU = Machine("cpu", cores=2, memory=8 * 2**30, jobs=2)
SECONDS = {"segmentor": 0.08, "judge": 0.15, "regressor": 0.05, "scm": 0.01, "hvae": 0.25, "finetune": 1.0}
"""Of a step at 128 x 128 pixels, as a small machine has them."""
OF_ATTRIBUTES = {"predictor": 0.05, "predictor_judge": 0.06}
"""The same of sections that studies have which name them."""

OUTLINE: dict[str, Any] = {
    "name": "chest",
    "variables": {
        "sex": {"kind": "categorical", "categories": ["F", "M"]},
        "age": {"kind": "continuous", "unit": "years"},
        "lung_area": {"kind": "continuous", "parents": ["sex", "age"]},
        "heart_area": {"kind": "continuous", "parents": ["sex", "age"]},
    },
    "structures": {"lung": {"variable": "lung_area", "bit": 1}, "heart": {"variable": "heart_area", "bit": 2}},
    "data": {"source": "folder"},
}


def outline(**sections: Any) -> Outline:
    return Outline(copy.deepcopy(OUTLINE) | sections, "study.yaml")


def timed(study: Study) -> Mapping[str, float]:
    """Steps whose time is that of the pixels, of the sections that the study has."""
    scale = math.prod(study.image.size) / 128**2
    return {name: scale * one for name, one in (SECONDS | OF_ATTRIBUTES).items() if getattr(study, name) is not None}


def planned(given: Outline, fingerprint: Fingerprint | None = None, hours: float = 1.5, machine: Machine = CPU) -> Plan:
    return make_plan(given, fingerprint or expected(given), machine, hours, timed)


def like(**changes: Any) -> Fingerprint:
    """The expected fingerprint of :data:`OUTLINE` with changes."""
    from dataclasses import replace

    return replace(expected(outline()), **changes)


def shape(**changes: float) -> StructureFacts:
    return StructureFacts(**{"share": 0.1, "thickness": 0.2, "variation": 0.2, "absent": 0.0, "skew": 0.0} | changes)


shares = st.floats(0, 1)
structures = st.builds(
    StructureFacts,
    share=shares,
    thickness=st.floats(0, 0.5),
    variation=st.floats(0, 3),
    absent=shares,
    skew=st.floats(-5, 20),
)


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    height, width = draw(st.integers(16, 4000)), draw(st.integers(16, 4000))
    if not 1 / 8 <= width / height <= 8:
        width = height
    subjects = draw(st.integers(4, 10**6))
    extent = draw(st.none() | st.just((0.3 * height, 0.3 * width)))
    parts = draw(st.just({}) | st.just({"train": subjects - 2, "test": 2}))
    return Fingerprint(
        subjects=subjects,
        images=subjects * draw(st.integers(1, 20)),
        parts=parts,
        size=(height, width),
        aspect=width / height,
        odd=draw(shares),
        extent=extent,
        exposure=draw(st.floats(0, 1)),
        contrast=draw(st.floats(0, 3)),
        structures={"lung": draw(structures), "heart": draw(structures)},
        skews={"age": draw(st.floats(-5, 20))},
    )


machines = st.builds(
    Machine,
    device=st.sampled_from(["cpu", "cuda", "mps"]),
    cores=st.integers(1, 256),
    memory=st.integers(2**30, 2**40),
    jobs=st.integers(1, 2),
)


@settings(max_examples=60)
@given(fingerprints(), machines, st.floats(0.01, 1000))
def test_a_plan_is_a_study_whatever_the_data(fingerprint: Fingerprint, machine: Machine, hours: float) -> None:
    plan = planned(outline(), fingerprint, hours, machine)
    side, native = math.sqrt(math.prod(plan.study.image.size)), math.sqrt(math.prod(fingerprint.size))
    assert side <= 1.4 * max(native, SMALLEST_SIDE)
    assert all(getattr(plan.study, name).steps >= 1 for name in SECONDS)
    assert plan.study.judge.seed != plan.study.segmentor.seed
    assert plan == planned(outline(), fingerprint, hours, machine)


def keys_of(study: Study) -> set[str]:
    """The dotted keys of all sections that are planned."""
    whole = study.model_dump(mode="json")
    return {f"{section}.{key}" for section in PLANNED for key in whole.get(section) or {}}


def test_every_planned_value_has_its_reason() -> None:
    plan = planned(outline())
    assert {section for key in plan.reasons if (section := key.split(".")[0]) != "variables"} >= SECONDS.keys()
    assert all(plan.reasons.values())
    assert plan.reasons.keys() <= keys_of(plan.study)
    for section in SECONDS:
        spec = getattr(plan.study, section)
        usual = type(spec).model_fields
        changed = [key for key in usual if key != "architecture" and getattr(spec, key) != usual[key].default]
        assert {f"{section}.{key}" for key in changed} <= plan.reasons.keys()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("image", "size", [96, 64]),
        ("splits", "train", 0.75),
        ("segmentor", "steps", 7),
        ("segmentor", "augment", {}),
        ("judge", "width", 24),
        ("judge", "widths", [8, 16]),
        ("regressor", "learning_rate", 0.5),
        ("scm", "hidden", [3]),
        ("hvae", "patch", 1),
        ("hvae", "beta", 2.5),
        ("hvae", "levels", [{"width": 8, "z": 2}, {"width": 8, "z": 2}]),
        ("finetune", "least_change", 3.0),
        ("evaluation", "metric", "mae"),
        ("evaluation", "people", 9),
    ],
)
def test_what_is_given_wins(section: str, key: str, value: Any) -> None:
    more = {"validation": 0.05} if section == "splits" else {}
    plan = planned(outline(**{section: {key: value, **more}}))
    found = plan.study.model_dump(mode="json")[section][key]
    given = Study.model_validate(plan.study.model_dump() | {}).model_dump(mode="json")[section][key]
    assert found == given
    if not isinstance(value, dict | list) or not value or not isinstance(value[0] if value else 0, dict):
        assert found == value or value == {}
    assert plan.reasons[f"{section}.{key}"] == "given"


def test_a_whole_section_that_is_given_wins() -> None:
    spec = small_mapping()["scm"]
    found = planned(outline(scm=spec)).study.scm.model_dump(mode="json")
    assert found | spec == found


def test_what_follows_from_a_key_follows_from_the_given_one() -> None:
    found = planned(outline(hvae={"steps": 700, "beta": 3, "batch_size": 6})).study.hvae.model_dump()
    assert (found["beta_warmup_steps"], found["beta_start"]) == (350, 30)
    assert 6 % found["accumulate"] == 0


def test_the_judge_has_another_seed_than_a_given_one() -> None:
    study = planned(outline(segmentor={"seed": 2})).study
    assert study.judge.seed != study.segmentor.seed == 2


def test_a_regressor_that_guides_nothing_is_not_planned() -> None:
    assert planned(outline(finetune={"guides": ["segmentor"]})).study.regressor is None


def test_attributes_are_guided_where_the_file_says_so() -> None:
    without, both = planned(outline()), planned(outline(predictor=None))
    assert without.study.predictor is without.study.predictor_judge is None
    assert both.study.predictor is not None
    assert both.study.predictor_judge is not None
    assert both.study.predictor.seed != both.study.predictor_judge.seed
    assert both.reasons.keys() <= keys_of(both.study)
    assert {"predictor.steps", "predictor_judge.steps"} <= both.reasons.keys()
    assert both.study.finetune.steps < without.study.finetune.steps
    given = planned(outline(predictor={"seed": 8})).study.predictor_judge
    assert given is not None
    assert given.seed != 8
    alone = planned(outline(predictor_judge={"steps": 9}))
    assert alone.study.predictor is None
    assert alone.study.predictor_judge is not None
    assert alone.study.predictor_judge.steps == 9


def test_another_architecture_is_given_what_all_have() -> None:
    spec = {
        "architecture": "causal-gen",
        "enc_arch": "64b1d2,32b1d2,16b1d2,8b1d8,1b1",
        "dec_arch": "1b1,8b1,16b1,32b1,64b1",
        "widths": [8, 8, 8, 8, 8],
        "block": "light",
    }
    plan = planned(outline(hvae=spec))
    assert plan.study.image.size == (64, 64)
    assert "hvae.learning_rate" in plan.reasons
    assert "hvae.patch" not in plan.reasons


def test_more_hours_never_make_the_grid_smaller() -> None:
    sides = [math.prod(planned(outline(), hours=hours).study.image.size) for hours in (0.1, 0.5, 1.5, 5, 50)]
    assert sides == sorted(sides)
    assert sides[0] < sides[-1] == 256**2


def test_hours_that_are_too_few_are_said() -> None:
    plan = planned(outline(), hours=0.01)
    assert any(note.startswith("warning") for note in plan.notes)
    assert not any(note.startswith("warning") for note in planned(outline()).notes)


def test_a_thin_structure_keeps_the_grid_large() -> None:
    thin = like(structures={"lung": shape(), "heart": shape(thickness=0.03)})
    size = planned(outline(), thin, hours=0.01).study.image.size
    assert 0.03 * math.sqrt(math.prod(size)) >= 0.9 * RESOLVED
    assert math.prod(planned(outline(), hours=0.01).study.image.size) < math.prod(size)


def test_the_grid_has_the_aspect_of_the_images() -> None:
    height, width = planned(outline(), like(size=(400, 1600), aspect=4.0)).study.image.size
    assert width / height == pytest.approx(4, rel=0.15)


def test_a_given_field_of_view_gives_the_grid_its_aspect() -> None:
    study = planned(outline(image={"field_of_view": [10, 20], "length_unit": "mm"})).study
    assert study.image.size[1] == 2 * study.image.size[0]


def test_an_extent_that_headers_agree_on_gives_areas_in_millimetres() -> None:
    study = planned(outline(), like(extent=(100.0, 100.0))).study
    assert study.image.cell_unit == "mm²"
    assert study.image.field_of_view == pytest.approx((100, 100))
    pixels = {"lung_area": OUTLINE["variables"]["lung_area"] | {"unit": "px"}}
    given = outline(variables=OUTLINE["variables"] | pixels)
    assert planned(given, like(extent=(100.0, 100.0))).study.image.field_of_view is None


@pytest.mark.parametrize(("subjects", "deforms"), [(FEW, True), (MANY, True), (10 * MANY, False)])
def test_few_subjects_are_deformed(subjects: int, deforms: bool) -> None:
    study = planned(outline(), like(subjects=subjects, images=subjects)).study
    assert all(one.augment.deforms == deforms for one in (study.segmentor, study.judge, study.hvae, study.finetune))
    assert study.segmentor.augment.noise > 0


def test_readers_of_measures_see_structures_change_one_by_one() -> None:
    """Or they guess the one from the other, and read too little of a change of one alone."""
    given = outline(predictor=None)
    few, some, many = (planned(given, like(subjects=n, images=n)).study for n in (100, 1500, 10 * MANY))
    for study, share in ((few, 0.7), (some, 0.35), (many, 0.0)):
        readers = (study.segmentor, study.judge, study.regressor)
        assert [one.augment.deform.share for one in readers if one is not None] == [share] * 3
        others = (study.hvae, study.finetune, study.predictor, study.predictor_judge)
        assert [one.augment.deform.share for one in others if one is not None] == [0.0] * 4


def test_fewer_subjects_are_deformed_more() -> None:
    rotations = [planned(outline(), like(subjects=n)).study.segmentor.augment.rotate for n in (100, 1500, 10**5)]
    assert rotations[0] > rotations[1] > rotations[2] == 0


def test_a_structure_that_may_be_absent_has_no_percentage() -> None:
    study = planned(outline(), like(structures={"lung": shape(), "heart": shape(absent=0.3)})).study
    assert (study.variables["heart_area"].scale, study.variables["heart_area"].zero_inflated) == ("log", True)
    assert not study.variables["lung_area"].zero_inflated
    assert study.evaluation.metric == "mae"
    assert planned(outline()).study.evaluation.metric == "mape"
    allowed = outline(data={"source": "folder", "may_be_absent": ["heart"]})
    assert planned(allowed).study.evaluation.metric == "mae"


def test_a_skewed_variable_is_modelled_by_its_logarithm() -> None:
    skewed = like(structures={"lung": shape(), "heart": shape(skew=3.0)}, skews={"age": 2.0})
    study = planned(outline(), skewed).study
    assert [study.variables[name].scale for name in ("age", "lung_area", "heart_area")] == ["log", "linear", "log"]
    linear = {"heart_area": OUTLINE["variables"]["heart_area"] | {"scale": "linear"}}
    given = outline(variables=OUTLINE["variables"] | linear)
    assert planned(given, skewed).study.variables["heart_area"].scale == "linear"


def test_few_subjects_have_more_of_them_to_validate() -> None:
    few, many = (planned(outline(), like(subjects=n)).study.splits for n in (100, 5000))
    assert few.validation > many.validation == 0.08
    column = like(parts={"train": 80, "test": 20})
    assert planned(outline(), column).study.splits.validation == 0


def test_the_judge_learns_from_deformed_images_where_its_own_subjects_are_few() -> None:
    study = planned(outline(), like(subjects=6000, images=6000)).study
    assert study.splits.judge * 6000 < 2000 < study.splits.train * 6000
    assert study.judge.augment.deforms
    assert not study.segmentor.augment.deforms


def test_views_leave_places_where_they_are() -> None:
    heart = OUTLINE["structures"]["heart"] | {"measure": "bottom"}
    study = planned(outline(structures=OUTLINE["structures"] | {"heart": heart}), like(subjects=100)).study
    assert not study.finetune.view.deforms
    assert study.finetune.view.noise
    assert planned(outline(), like(subjects=100)).study.finetune.view.deforms


def test_the_judge_has_subjects_of_its_own_where_there_are_enough() -> None:
    found = {n: planned(outline(), like(subjects=n, images=n)).study for n in (2000, 10_000)}
    assert (found[2000].splits.train, found[2000].splits.judge) == (0.72, 0)
    assert (found[10_000].splits.train, found[10_000].splits.judge) == (0.52, 0.2)
    assert found[2000].splits.test == found[10_000].splits.test
    given = {"train": 0.8, "validation": 0.0, "test": 0.2}
    assert planned(outline(splits=given), like(subjects=10_000)).study.splits.judge == 0
    column = like(subjects=10_000, parts={"train": 8000, "validation": 500, "test": 1500})
    assert planned(outline(), column).study.splits.judge == 0


def test_of_a_place_nothing_is_planned_that_holds_for_areas() -> None:
    structures = OUTLINE["structures"]
    heart = structures["heart"] | {"measure": "bottom"}
    seen = like(structures={"lung": shape(), "heart": shape(skew=3.0, absent=0.5)})
    study = planned(outline(structures=structures | {"heart": heart}), seen).study
    assert (study.variables["heart_area"].scale, study.evaluation.metric) == ("linear", "mae")
    assert planned(outline(), like()).study.evaluation.metric == "mape"


def test_a_mechanism_learns_from_pairs_where_there_are_any() -> None:
    assert planned(outline()).study.hvae.pairs == 0
    phase = {"phase": {"kind": "categorical", "categories": ["ED", "ES"]}}
    paired = outline(
        variables=OUTLINE["variables"] | phase,
        data={"source": "folder", "patient": "patient"},
        evaluation={"pairs": {"condition": "phase"}},
    )
    assert planned(paired).study.hvae.pairs > 0


def test_little_memory_splits_batches() -> None:
    small = Machine("cpu", cores=2, memory=2**30, jobs=2)
    assert planned(outline(), machine=small).study.hvae.accumulate > planned(outline()).study.hvae.accumulate


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"segmentor": {"stepps": 3}}, "segmentor.stepps"),
        ({"segmentor": {"steps": 0}}, "segmentor.steps"),
        ({"hvae": {"architecture": "none"}}, "hvae.architecture"),
        ({"hvae": {"architecture": []}}, "hvae.architecture"),
        ({"hvae": {"patch": "four"}}, "hvae.patch"),
        ({"image": {"size": [0, 64]}}, "image.size.0"),
        ({"image": {"size": [50, 50]}}, "hvae.levels"),
        ({"splits": {"train": 0.9}}, "splits"),
        ({"unknown": {}}, "unknown"),
        ({"data": {"source": "nowhere"}}, "data"),
    ],
)
def test_what_is_wrong_is_named_before_data_are_read(wrong: dict[str, Any], field: str) -> None:
    def checked() -> None:
        given = outline(**wrong)
        usual_study(given)

    with pytest.raises(StudyError) as raised:
        checked()
    assert raised.value.field == f"study.yaml: {field}"


def test_levels_that_fit_no_grid_are_an_error() -> None:
    with pytest.raises(StudyError) as raised:
        planned(outline(hvae={"patch": 257}))
    assert (raised.value.code, raised.value.field) == (Code.CONFLICT, "study.yaml: hvae")


def test_a_predictor_of_which_nothing_is_said_is_planned() -> None:
    assert leaves_out(small_mapping() | {"predictor": None})
    assert leaves_out(small_mapping() | {"predictor": {"steps": 3}})  # its judge is
    assert not leaves_out(small_mapping())


@pytest.mark.parametrize("section", ["segmentor", "judge"])
def test_what_is_given_and_not_wanted_is_told(section: str) -> None:
    raw = {key: value for key, value in OUTLINE.items() if key != "structures"} | {section: {"steps": 3}}
    with pytest.raises(StudyError) as wrong:
        usual_study(Outline(raw, "study.yaml"))
    assert section in str(wrong.value)


@pytest.mark.parametrize("path", sorted({*(ROOT / "configs").glob("*.yaml")} - {VOLUMES}), ids=lambda path: path.stem)
def test_a_study_that_has_all_is_no_outline(path: Path) -> None:
    assert read_study(path) == load_study(path)


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "configs" / "planned").glob("*.yaml")), VOLUMES], ids=lambda path: path.stem
)
def test_the_shipped_outlines_can_be_planned(path: Path) -> None:
    given = read_study(path)
    assert isinstance(given, Outline)
    assert given.given.keys() & set(PLANNED) <= {"evaluation", "image"}, "pairs and grids of volumes cannot be planned"
    assert planned(given).study.name == path.stem


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "anatomy").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_anatomies_can_be_planned(path: Path) -> None:
    given = read_study(path)
    assert isinstance(given, Outline)
    study = planned(given).study
    assert study.name == f"anatomy-{path.stem}"
    assert len(study.measured) > len(study.masked)
    assert study.finetune.area_scale == "given others"
    assert study.hvae.model_dump()["diffeomorphic"]
    assert study.hvae.model_dump()["steepest"] > 0.5
    assert Measurements.of(study).masks == tuple(study.masked)


def test_a_file_of_a_plan_is_the_study_with_its_reasons(tmp_path: Path) -> None:
    plan = planned(outline(), like(structures={"lung": shape(), "heart": shape(absent=0.3)}))
    path = tmp_path / "plan.yaml"
    path.write_text(write_plan(plan, ["head"], {"study": {}, "hours": 1}), encoding="utf-8")
    assert read_study(path) == plan.study
    words = " ".join(path.read_text(encoding="utf-8").replace("#", "").split())
    assert all(" ".join(reason.split()) in words for reason in plan.reasons.values())


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take what :func:`timed` says."""
    monkeypatch.setattr(timing, "measure", lambda study, machine, progress: timed(study))


def simulated(**sections: Any) -> Outline:
    raw = {key: one for key, one in small_mapping().items() if key in ("name", "variables", "structures", "data")}
    return Outline(raw | sections, "small.yaml")


@pytest.mark.slow
@pytest.mark.usefixtures("untimed")
def test_a_run_is_planned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = planned_study(Request(simulated(), device="cpu"), tmp_path, Progress())
    written = (tmp_path / RECORD).read_text(encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(record, "take_fingerprint", None)  # a call would fail
        assert planned_study(Request(simulated(), device="cpu"), tmp_path, Progress()) == first
    assert (tmp_path / RECORD).read_text(encoding="utf-8") == written
    (tmp_path / RECORD).write_text(written.replace(f"steps: {first.scm.steps}", "steps: 17", 1), encoding="utf-8")
    assert planned_study(Request(simulated(), device="cpu"), tmp_path, Progress()) != first  # the record is what counts


@pytest.mark.slow
@pytest.mark.usefixtures("untimed")
def test_a_study_that_changed_is_planned_again_only_when_asked(tmp_path: Path) -> None:
    planned_study(Request(simulated(), device="cpu"), tmp_path, Progress())
    changed = Request(simulated(scm={"steps": 5}), device="cpu")
    with pytest.raises(StudyError) as raised:
        planned_study(changed, tmp_path, Progress())
    assert (raised.value.code, raised.value.field) == (Code.OTHER, "small.yaml: scm")
    assert planned_study(changed, tmp_path, Progress(), again=True).scm.steps == 5
    assert planned_study(changed, tmp_path, Progress()).scm.steps == 5


@pytest.mark.slow
@pytest.mark.usefixtures("untimed")
def test_other_hours_are_planned_only_when_asked(tmp_path: Path) -> None:
    planned_study(Request(simulated(), device="cpu", hours=2), tmp_path, Progress())
    planned_study(Request(simulated(), device="cpu"), tmp_path, Progress())
    with pytest.raises(StudyError) as raised:
        planned_study(Request(simulated(), device="cpu", hours=3), tmp_path, Progress())
    assert (raised.value.code, raised.value.field) == (Code.CONFLICT, "--hours")


def test_a_plan_that_does_not_say_of_what_it_is_is_an_error(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("name: small\n", encoding="utf-8")
    with pytest.raises(StudyError) as raised:
        planned_study(Request(simulated()), tmp_path, Progress())
    assert (raised.value.code, raised.value.field) == (Code.DAMAGED, str(tmp_path / RECORD))


@pytest.mark.usefixtures("untimed")
def test_a_simulator_draws_some_subjects() -> None:
    study = yaml.safe_load(plan_text(Request(simulated(), device="cpu"), Progress()))
    assert study["data"]["people"] == 90
    assert study["_made_from"]["study"] == simulated().given


def folder(path: Path, count: int = 20) -> Path:
    """Squares of 8 pixels in images of 40 x 80 pixels; every fourth image has no heart; a column of patients."""
    (path / "images").mkdir(parents=True)
    (path / "masks").mkdir()
    rows = ["id,patient,sex,age"]
    for number in range(count):
        grey = np.full((40, 80), 100 + 5 * (number % 2), dtype=np.uint8)
        mask = np.zeros((40, 80), dtype=np.uint8)
        mask[4:12, 4:12] = 1
        if number % 4:
            mask[20:28, 40:48] = 2
        grey[mask > 0] = 200
        Image.fromarray(grey).save(path / "images" / f"{number}.png")
        Image.fromarray(mask).save(path / "masks" / f"{number}.png")
        rows.append(f"{number},p{number // 2},{'FM'[number % 2]},{50 + number}")
    (path / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    return path


def test_a_fingerprint_is_what_the_files_show(tmp_path: Path) -> None:
    given = outline(data={"source": "folder", "patient": "patient"})
    study = usual_study(given)
    found = take_fingerprint(study, given, folder(tmp_path / "data"), Progress())
    assert (found.subjects, found.images, found.size, found.aspect, found.odd) == (10, 20, (40, 80), 2.0, 0)
    assert found.extent is None
    lung, heart = found.structures["lung"], found.structures["heart"]
    assert lung.share == pytest.approx(64 / 3200)
    looked_at = [number for number in range(20) if assign(f"p{number // 2}", study.splits) != "test"]
    without = sum(number % 4 == 0 for number in looked_at)
    assert (lung.absent, heart.absent) == (0, pytest.approx(without / len(looked_at)))
    assert (lung.variation, lung.skew) == (pytest.approx(0), 0)
    assert lung.thickness * found.side == pytest.approx(8, abs=1)
    assert 0 < found.exposure < 0.1


def test_a_folder_of_which_nothing_can_be_used_is_an_error(tmp_path: Path) -> None:
    given, data = outline(data={"source": "folder", "patient": "patient"}), folder(tmp_path / "data")
    for mask in (data / "masks").iterdir():
        mask.unlink()
    with pytest.raises(DataError) as raised:
        take_fingerprint(usual_study(given), given, data, Progress())
    assert raised.value.code == Code.EMPTY


def test_a_folder_that_is_not_given_is_an_error() -> None:
    with pytest.raises(DataError) as raised:
        plan_text(Request(outline(), device="cpu"), Progress())
    assert (raised.value.code, raised.value.field) == (Code.MISSING, "--data")


def test_a_study_that_has_all_leaves_nothing_to_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(ROOT / "configs" / "small.yaml")]) == 1
    assert main(["run", str(ROOT / "configs" / "small.yaml"), "--again", "plan"]) == 1
    assert capsys.readouterr().out == ""


TINY = {
    "image": {"size": [32, 32]},
    "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
    "evaluation": {"bootstrap": 50, "figure_people": 1, "figure_changes": [0.2]},
    **{name: {"steps": 3, "batch_size": 8} for name in SECONDS},
}
"""Keys that make a planned study small enough for a test."""


@pytest.mark.slow
def test_each_section_that_trains_is_timed() -> None:
    given = simulated(**TINY, **{name: {"steps": 3, "batch_size": 8} for name in OF_ATTRIBUTES})
    study = usual_study(given)
    assert timing.measure(study, CPU, Progress()).keys() == (SECONDS | OF_ATTRIBUTES).keys()


@pytest.mark.slow
def test_run_plans_and_goes_on_with_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, run = tmp_path / "small.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(simulated(**TINY).given, sort_keys=False), encoding="utf-8")
    words = ["run", str(path), "--out", str(run), "--jobs", "1", "--device", "cpu"]
    assert main(words) == 0
    kept = (run / RECORD).read_bytes()
    assert load_study(run / RECORD) == load_study(run / "study.yaml")
    assert main(words) == 0
    assert "evaluate: up to date" in capsys.readouterr().err
    assert (run / RECORD).read_bytes() == kept


def test_sections_that_are_planned_are_those_that_may_be_left_out() -> None:
    assert SECTIONS.keys() == set(PLANNED)
