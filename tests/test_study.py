"""Study files: what is accepted, and that every error names the file and the key."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from refused import refused
from segcft.config.loader import load_study, parse_study
from segcft.config.study import Study
from segcft.errors import Code, StudyError

OUTLINES = {"hippocampus.yaml"}  # whose sections are planned
CONFIGS = [p for p in sorted((Path(__file__).parent.parent / "configs").glob("*.yaml")) if p.name not in OUTLINES]


def valid() -> dict[str, Any]:
    """A complete study, as a mapping that each test may spoil."""
    return {
        "name": "chest",
        "image": {"size": [64, 48], "field_of_view": [320, 240], "length_unit": "mm"},
        "variables": {
            "sex": {"kind": "categorical", "categories": ["F", "M"]},
            "age": {"kind": "continuous", "unit": "years"},
            "lung_area": {"kind": "continuous", "scale": "log", "parents": ["sex", "age"]},
            "heart_area": {"kind": "continuous", "scale": "log", "parents": ["sex", "age"]},
        },
        "structures": {
            "lung": {"variable": "lung_area", "label": 1},
            "heart": {"variable": "heart_area", "label": 2},
        },
        "data": {"source": "folder", "table": "people.csv"},
        "segmentor": {"steps": 10},
        "judge": {"steps": 10, "seed": 1},
        "regressor": {"steps": 10},
        "scm": {"steps": 10},
        "hvae": {"steps": 10, "levels": [{"width": 8}, {"width": 16}, {"width": 16, "down": 1}]},
        "finetune": {"steps": 10},
    }


def write(tmp_path: Path, raw: Any) -> Path:
    path = tmp_path / "chest.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return path


def spoil(raw: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Set a dotted key; the value ``...`` deletes it."""
    *sections, last = key.split(".")
    section = raw
    for name in sections:
        section = section.setdefault(name, {})
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return raw


def test_a_valid_study(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, valid()))
    assert study == parse_study(valid())
    assert tuple(study.variables) == ("sex", "age", "lung_area", "heart_area")  # in the order of the file
    assert study.measured == ("lung_area", "heart_area")
    assert study.image.cell_size == pytest.approx(25)
    assert study.image.cell_unit == "mm²"
    assert study.splits.train + study.splits.validation + study.splits.test == pytest.approx(1)


def test_a_regressor_that_guides_nothing_may_be_left_out() -> None:
    raw = spoil(valid(), "regressor", ...)
    with refused(StudyError, Code.INVALID, "study: regressor"):
        parse_study(raw)
    study = parse_study(spoil(raw, "finetune.guides", ["segmentor"]))
    assert study.regressor is None
    assert Study.model_validate(study.model_dump(mode="json")) == study


def test_area_is_in_pixels_without_a_field_of_view() -> None:
    study = parse_study(spoil(valid(), "image", {"size": [64, 48]}))
    assert (study.image.cell_size, study.image.cell_unit) == (1, "px")


def test_a_study_is_written_and_read_back() -> None:
    study = parse_study(valid())
    assert Study.model_validate(study.model_dump(mode="json")) == study


def test_a_variable_that_may_be_zero_is_written_and_read_back() -> None:
    study = parse_study(spoil(valid(), "variables.lung_area.zero_inflated", True) | {"evaluation": {"metric": "mae"}})
    assert study.variables["lung_area"].zero_inflated
    assert Study.model_validate(study.model_dump(mode="json")) == study


def test_a_field_that_is_not_used_does_not_change_what_older_parts_were_made_from() -> None:
    raw = spoil(valid(), "variables.lung_area.zero_inflated", False)
    for variable in parse_study(raw).model_dump(mode="json")["variables"].values():
        assert set(variable) == {"kind", "parents", "categories", "scale", "unit"}


def test_numbers_that_a_variable_allows() -> None:
    study = parse_study(spoil(valid(), "variables.lung_area.zero_inflated", True) | {"evaluation": {"metric": "mae"}})
    allowed = {name: [study.variables[name].allows(x) for x in (-1.0, 0.0, 1.0)] for name in list(study.variables)[1:]}
    assert allowed == {
        "age": [True, True, True],
        "lung_area": [False, True, True],
        "heart_area": [False, False, True],
    }


def test_underscore_keys_hold_yaml_anchors(tmp_path: Path) -> None:
    raw = "_shared: &shared {steps: 7, learning_rate: 0.001}\n" + yaml.safe_dump(
        spoil(valid(), "scm", ...), sort_keys=False
    )
    study = load_study(write(tmp_path, raw + "scm: {<<: *shared, steps: 9}\n"))
    assert (study.scm.steps, study.scm.learning_rate) == (9, 0.001)


@pytest.mark.parametrize(
    ("key", "value", "where", "what"),
    [
        # unknown keys, with the one that was probably meant
        ("descripton", "x", "descripton", "unknown key; did you mean 'description'?"),
        ("scm.learning_rat", 0.1, "scm.learning_rat", "did you mean 'learning_rate'?"),
        ("variables.age.parent", ["sex"], "variables.age.parent", "did you mean 'parents'?"),
        ("data.tabel", "x.csv", "data.tabel", "did you mean 'table'?"),
        ("segmentor.augment.rotat", 3, "segmentor.augment.rotat", "did you mean 'rotate'?"),
        ("qqq", 1, "qqq", "unknown key"),
        # missing keys
        ("name", ..., "name", "required"),
        ("judge", ..., "judge", "required"),
        ("scm.steps", ..., "scm.steps", "required"),
        ("image.size", ..., "image.size", "required"),
        ("structures.heart.variable", ..., "structures.heart.variable", "required"),
        ("data.source", ..., "data", "source"),
        # wrong types and values
        ("scm.steps", "many", "scm.steps", "got 'many'"),
        ("scm.steps", 0, "scm.steps", "got 0"),
        ("scm.steps", 1.5, "scm.steps", "got 1.5"),
        ("scm.hidden", 32, "scm.hidden", "got 32"),
        ("scm.precision", "fp8", "scm.precision", "got 'fp8'"),
        ("scm", 3, "scm", "got 3"),
        ("name", "../chest", "name", "got '../chest'"),
        ("image.size", [64], "image.size", "at least 2 items"),
        ("image.field_of_view", [1.0, 1.0, 1.0], "image", "'field_of_view' has 3 axes, and 'size' 2"),
        ("hvae.architecture", "transformer", "hvae.architecture", "no image mechanism (two-stream, causal-gen"),
        ("hvae.architecture", ["two-stream"], "hvae.architecture", "no image mechanism"),
        ("hvae", 3, "hvae", "got 3"),
        ("hvae.level", [], "hvae.level", "did you mean 'levels'?"),
        ("hvae.levels", [{"width": 8, "down": [2, 2, 2]}, {"width": 8}], "hvae.levels", "'down' has 3 factors"),
        ("hvae.levels", [{"width": 8}, {"width": 8, "down": [2, 2, 2]}], "hvae.levels", "'down' has 3 factors"),
        ("hvae.levels", [], "hvae.levels", "got []"),
        ("variables", {}, "variables", "at least 1"),
        ("variables.age.kind", "ordinal", "variables.age.kind", "got 'ordinal'"),
        ("data.source", "cloud", "data", "cloud"),
        ("finetune.guides", ["oracle"], "finetune.guides.0", "got 'oracle'"),
        ("splits", {"train": 0.5, "test": 0.2}, "splits", "add up to 1, not 0.78"),
        ("splits", {"train": 0.9, "validation": 0.1, "test": 0}, "splits", "must not be empty"),
        # the graph
        ("variables.sex.parents", ["lung_area"], "variables", "cycle: "),
        ("variables.age.parents", ["age"], "variables", "age -> age"),
        ("variables.age.parents", ["height"], "variables.age.parents", "'height' is not a variable"),
        ("variables.sex.categories", ["F"], "variables.sex", "two different 'categories'"),
        ("variables.sex.categories", ["F", "F"], "variables.sex", "two different 'categories'"),
        ("variables.age.categories", ["a", "b"], "variables.age", "only a categorical variable"),
        ("variables.age.zero_inflated", True, "variables.age", "of a continuous variable with 'scale: log'"),
        ("variables.sex.zero_inflated", True, "variables.sex", "of a continuous variable with 'scale: log'"),
        ("variables.lung_area.zero_inflated", "some", "variables.lung_area.zero_inflated", "got 'some'"),
        # structures
        ("structures.lung.variable", "sex", "structures.lung.variable", "'sex' is not a continuous variable"),
        ("structures.lung.variable", "liver", "structures.lung.variable", "'liver' is not a continuous"),
        ("structures.lung.variable", "heart_area", "structures.heart.variable", "already that of 'lung'"),
        ("structures.lung.bit", 4, "structures.lung", "give one of 'bit' and 'label'"),
        ("structures.lung", {"variable": "lung_area", "bit": 3}, "structures.lung", "power of two"),
        ("structures.lung", {"variable": "lung_area", "file": "m.png"}, "structures.lung", "{id}"),
        ("structures.lung", {"variable": "lung_area"}, "structures.lung", "how masks show it"),
        # parts that must agree
        ("judge.seed", 0, "judge.seed", "must differ from segmentor.seed"),
        ("image.size", [64, 50], "hvae.levels", "shrink the width 4 times, which does not divide"),
        ("image.size", [62, 48], "hvae.levels", "shrink the height 4 times"),
        ("hvae.patch", 5, "hvae.levels", "shrink the height 20 times"),
        ("finetune.intervene", ["liver"], "finetune.intervene", "'liver' is not a variable"),
        ("variables.lung_area.zero_inflated", True, "evaluation.metric", "lung_area may be 0; use 'mae'"),
        ("evaluation.interventions", ["liver"], "evaluation.interventions", "'liver' is not a variable"),
        ("evaluation.progression", ["liver"], "evaluation.progression", "'liver' is not a variable"),
        ("evaluation.progression", ["sex"], "evaluation.progression", "'sex' is categorical, so nothing rises"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, key: str, value: Any, where: str, what: str) -> None:
    path = write(tmp_path, spoil(valid(), key, value))
    with pytest.raises(StudyError) as caught:
        load_study(path)
    error = caught.value
    assert (error.code, error.field) == (Code.INVALID, f"{path}: {error.problems[0][0]}")
    assert any(key.startswith(where) and what in text for key, text in error.problems), error.problems
    assert str(error).splitlines() == [f"{path}: {key}: {text}" for key, text in error.problems]
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


def test_every_error_is_listed(tmp_path: Path) -> None:
    raw = spoil(spoil(spoil(valid(), "scm.steps", "many"), "judge", ...), "colour", "red")
    with pytest.raises(StudyError) as caught:
        load_study(write(tmp_path, raw))
    assert {key for key, _ in caught.value.problems} == {"scm.steps", "judge", "colour"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "mapping of keys to values, not NoneType"),
        ("- a\n- b\n", "mapping of keys to values, not list"),
        ("chest", "mapping of keys to values, not str"),
        ("name: [", "not valid YAML"),
        ("name: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("name: a\nname: b\n", "key 'name' is given twice"),
        ("scm:\n  steps: 1\n  hidden: [8]\n  steps: 2\n", "key 'steps' is given twice"),
    ],
)
def test_files_that_are_no_study(tmp_path: Path, text: str, what: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(StudyError) as caught:
        load_study(path)
    assert (caught.value.code, caught.value.field) == (Code.INVALID, str(path))
    assert what in caught.value.text


def test_no_key_is_suggested_in_place_of_itself() -> None:
    """Where other sections have it."""
    with pytest.raises(StudyError) as caught:
        parse_study(valid() | {"learning_rate": 1})
    assert caught.value.code == Code.INVALID
    assert str(caught.value.field).endswith("learning_rate")
    assert "'learning_rate'" not in caught.value.text


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\xff")
    for path in (tmp_path / "absent.yaml", tmp_path, binary):
        with refused(StudyError, Code.UNREADABLE, path):
            load_study(path)


def test_a_study_does_not_change_after_reading() -> None:
    raw = valid()
    before = copy.deepcopy(raw)
    study = parse_study(raw)
    assert raw == before
    with pytest.raises(ValueError, match="frozen"):
        study.scm.steps = 3


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_studies_load(path: Path) -> None:
    assert load_study(path).name
