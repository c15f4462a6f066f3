"""Counterfactual data augmentation: the set is balanced, honest about what was left out, and the same every time."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.augmentation import __main__ as demonstration
from benchmarks.augmentation.people import read_set, read_table, truth
from benchmarks.augmentation.people import simulate as simulate_people
from benchmarks.augmentation.table import accuracies
from refused import refused
from segcft.api.balance import SubjectSampler, correlation_ratio, requests
from segcft.api.balanced import Recipe, augment
from segcft.cli import main
from segcft.counterfactual.warnings import NOTABLE
from segcft.data.store import Store
from segcft.errors import Code, DataError, InterventionError
from segcft.io.provenance import inspect
from segcft.io.scan import read_array
from segcft.pipeline.run import Run, write_subjects
from segcft.utils.atomic import link
from segcft.utils.progress import Progress
from tests.conftest import MakeStudy

RECIPE = Recipe("heart_area", "sex", threshold=float("inf"))  # tiny networks miss what they are asked for

Labels = st.lists(st.integers(0, 3), min_size=2, max_size=40).filter(lambda labels: len(set(labels)) > 1)


@given(Labels, st.integers(1, 3), st.booleans(), st.integers(0, 9))
def test_every_label_gets_every_value_equally_often(labels: list[int], draws: int, originals: bool, seed: int) -> None:
    label = np.array(labels)
    values = np.random.default_rng(seed).normal(size=len(label)) + 10 * label
    got = Counter((request.label, request.donor) for request in requests(label, draws, originals))
    if originals:
        got.update((own, person) for person, own in enumerate(labels))
    assert set(got) == {(own, donor) for own in set(labels) for donor in range(len(labels))}
    assert set(got.values()) == {draws}
    pairs = list(got)
    assert correlation_ratio([own for own, _ in pairs], values[[donor for _, donor in pairs]]) == pytest.approx(0)


@given(Labels, st.integers(0, 9))
def test_people_take_turns_within_their_label(labels: list[int], seed: int) -> None:
    turns = SubjectSampler(np.array(labels), seed)
    for label in set(labels):
        own = [person for person, one in enumerate(labels) if one == label]
        for _ in range(2):
            assert sorted(turns.next(label) for _ in own) == own


def test_the_correlation_ratio_is_the_share_of_variance_explained() -> None:
    assert correlation_ratio(["F", "F", "M", "M"], [1, 1, 3, 3]) == pytest.approx(1)
    assert correlation_ratio(["F", "F", "M", "M"], [1, 3, 1, 3]) == pytest.approx(0)
    assert correlation_ratio(["F", "F", "M", "M"], [0, 2, 2, 4]) == pytest.approx(1 / 2)
    assert np.isnan(correlation_ratio(["F", "M"], [1, 1]))


@pytest.fixture(scope="module")
def balanced(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("augment") / "balanced"
    augment(small_run, folder, RECIPE)
    return folder


def read(folder: Path, name: str = "metadata.csv") -> pd.DataFrame:
    return pd.read_csv(folder / name, dtype={"id": str, "source": str, "patient": str}, keep_default_na=False)


def test_the_set_is_balanced_and_only_the_variable_has_changed(balanced: Path, small_run: Run) -> None:
    store, table = small_run.store(), read(balanced)
    people = store.table.iloc[store.indices("train", complete=True)].set_index("id")
    assert set(table["source"]) == set(people.index)  # training people, and all of them
    by_label = [np.sort(part["heart_area"]) for _, part in table.groupby("sex")]
    for areas in by_label:
        assert areas == pytest.approx(np.sort(people["heart_area"]), abs=1e-3)
    report = json.loads((balanced / "augmentation.json").read_text())
    assert report["correlation ratio after"] == pytest.approx(0, abs=1e-6)
    assert report["correlation ratio before"] > 0.01
    assert report["images"] == {"original": len(people), "counterfactual": len(people)}
    before = people.loc[table["source"]]
    for name in ("sex", "patient"):
        assert (table[name].to_numpy() == before[name].to_numpy()).all()
    for name in ("age", "left_lung_area", "right_lung_area"):
        assert table[name].to_numpy() == pytest.approx(before[name].to_numpy(), rel=1e-4)
    original = (table["kind"] == "original").to_numpy()
    assert table["heart_area"][original].to_numpy() == pytest.approx(before["heart_area"][original], rel=1e-4)
    asked = table["do"][~original].str.removeprefix("heart_area=").astype(float)
    assert asked.to_numpy() == pytest.approx(table["heart_area"][~original], abs=2e-3)
    assert table["heart_area"].between(people["heart_area"].min() - 1e-3, people["heart_area"].max() + 1e-3).all()


def test_images_are_the_people_or_say_that_they_are_synthetic(balanced: Path, small_run: Run) -> None:
    store = small_run.store()
    rows = {id: row for row, id in enumerate(store.table["id"])}
    table = read(balanced)
    assert sorted(path.stem for path in (balanced / "images").iterdir()) == sorted(table["id"])
    for row in table.to_dict("records"):
        with Image.open(balanced / "images" / f"{row['id']}.png") as picture:
            if row["kind"] == "original":
                assert np.array_equal(np.asarray(picture), store.images[rows[row["source"]]][0])
                continue
            assert "Synthetic" in picture.text["Description"]
            record = json.loads(picture.text["segcft"])
            assert record["do"] == [row["do"]]
            assert row["source"] not in picture.text["segcft"]  # who it is of stays in the table


def test_the_same_seed_gives_the_same_files(balanced: Path, small_run: Run, tmp_path: Path) -> None:
    augment(small_run, tmp_path / "again", RECIPE)
    augment(small_run, tmp_path / "other", Recipe("heart_area", "sex", threshold=float("inf"), seed=1))
    files = sorted(path.relative_to(balanced) for path in balanced.rglob("*") if path.is_file())
    assert all((balanced / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    assert not read(tmp_path / "other").equals(read(balanced))


def test_what_misses_is_rejected_and_listed_and_somebody_else_is_asked(small_run: Run, tmp_path: Path) -> None:
    report = augment(small_run, tmp_path / "set", Recipe("heart_area", "sex", threshold=0.5, tries=2, originals=False))
    table, rejected = read(tmp_path / "set"), read(tmp_path / "set", "rejected.csv")
    assert report["answers rejected"] == len(rejected) > 0
    assert report["values given up"] > 0
    people = report["people"]
    assert report["images"] == {"counterfactual": len(table)}
    assert (
        len(table) == report["values asked for"] - report["values given up"] == 2 * people - report["values given up"]
    )
    assert rejected["reason"].str.contains("the segmentor reads a change of").all()
    assert rejected["do"].str.startswith("heart_area=").all()
    # What was kept is within the threshold.
    store = small_run.store()
    known = store.values()[store.indices("train", complete=True)][:, small_run.study.measured_columns]
    original = augment(small_run, tmp_path / "all", RECIPE) and read(tmp_path / "all").query("kind == 'original'")
    before = original.set_index("source").loc[table["source"]]
    people_before = store.table.set_index("id").loc[table["source"]]
    for name, spread in zip(small_run.study.measured, known.std(axis=0), strict=True):
        gained = table[f"read_{name}"].to_numpy() - before[f"read_{name}"].to_numpy()
        wanted = table[name].to_numpy() - people_before[name].to_numpy()
        assert (np.abs(gained - wanted) <= 0.5 * spread + 0.01).all()


def test_a_published_model_augments_training_people_of_given_data(small_run: Run, tmp_path: Path) -> None:
    # The parts of a published model; its card and figures are another test's.
    model = Run(tmp_path / "model", small_run.study)
    model.write_study()
    for part in ("judge", "scm", "hvae", "cft-segmentor"):
        link(small_run.path(part), model.path(part))
    store = small_run.store()
    known = store.values()[store.indices("train", complete=True)]
    narrow = known[known[:, 1] < np.quantile(known[:, 1], 0.8)]  # without the old
    write_subjects(model.subjects_file, small_run.study, narrow)
    with refused(DataError, Code.MISSING, "--data"):
        augment(Run(model.folder), tmp_path / "set", RECIPE)
    report = augment(Run(model.folder), tmp_path / "set", RECIPE, data=store.folder)
    assert report["read by"] == "judge"
    table, rejected = read(tmp_path / "set"), read(tmp_path / "set", "rejected.csv")
    assert table["age"].max() <= narrow[:, 1].max() + 1e-3
    assert rejected["reason"].str.contains("not in the training range").any()
    train = set(store.table["id"][store.indices("train")])
    assert set(table["source"]) | set(rejected["source"]) <= train
    with refused(DataError, Code.CONFLICT, "--data"):
        augment(small_run, tmp_path / "other", RECIPE, data=store.folder)


@pytest.mark.parametrize(
    ("recipe", "code", "field"),
    [
        (Recipe("heart", "sex"), Code.UNKNOWN, "variable"),
        (Recipe("sex", "sex"), Code.INVALID, "variable"),
        (Recipe("heart_area", "age"), Code.INVALID, "label"),
    ],
)
def test_wrong_variables_are_told(small_run: Run, tmp_path: Path, recipe: Recipe, code: Code, field: str) -> None:
    with refused(InterventionError, code, field):
        augment(small_run, tmp_path / "set", recipe)
    assert not list(tmp_path.iterdir())


def test_a_set_without_images_is_an_error(small_run: Run, tmp_path: Path) -> None:
    with refused(DataError, Code.EMPTY, small_run.folder):
        augment(small_run, tmp_path / "set", Recipe("heart_area", "sex", threshold=1e-6, tries=1, originals=False))


def test_a_label_that_the_variable_causes_is_refused(make_small_study: MakeStudy, tmp_path: Path) -> None:
    sex = {"kind": "categorical", "categories": ["F", "M"], "parents": ["age"]}
    with refused(InterventionError, Code.CONFLICT, "label"):
        augment(Run(tmp_path, make_small_study({"variables.sex": sex})), tmp_path / "set", Recipe("age", "sex"))


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with refused(DataError, Code.EXISTS, out):
        augment(small_run, out, RECIPE)
    shutil.rmtree(out)

    def interrupt(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("segcft.api.balanced.correlation_ratio", interrupt)
    with pytest.raises(KeyboardInterrupt):
        augment(small_run, out, RECIPE)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_set_and_says_what_it_did(
    small_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["augment", str(small_run.folder), str(tmp_path / "set"), "--variable", "heart_area", "--label", "sex"]
    assert main([*words, "--threshold", "inf", "--method", "No CFT", "--draws", "2", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    people = len(small_run.store().indices("train", complete=True))
    assert f"{people} originals and {3 * people} counterfactuals of {people} training subjects" in out
    assert "sex explains 0.0%" in out
    assert "read by the segmentor" in out
    assert json.loads((tmp_path / "set" / "augmentation.json").read_text())["method"] == "none"
    assert main([*words[:2], str(tmp_path / "x"), "--variable", "hart", "--label", "sex"]) == 1
    assert "variable: " in capsys.readouterr().err


def test_the_usual_threshold_is_that_of_answers() -> None:
    assert Recipe("heart_area", "sex").threshold == NOTABLE


def simulate(folder: Path, *options: str) -> pd.DataFrame:
    assert main(["simulate", "chest", str(folder), "--size", "32", "--people", "60", "--seed", "4", *options]) == 0
    return pd.read_csv(folder / "metadata.csv")


def test_simulated_files_are_confounded_or_randomised_as_asked(tmp_path: Path) -> None:
    natural = simulate(tmp_path / "natural")
    confounded = simulate(tmp_path / "confounded", "--confound", "heart_area=0")
    randomised = simulate(tmp_path / "randomised", "--randomise", "heart_area")
    men = confounded["sex"] == "M"
    assert confounded["heart_area"][men].min() > confounded["heart_area"][~men].max()
    # The same people; only the heart is another's, and its areas are the natural ones.
    assert randomised.drop(columns="heart_area").equals(natural.drop(columns="heart_area"))
    assert not np.allclose(randomised["heart_area"], natural["heart_area"])
    assert randomised["heart_area"].std() == pytest.approx(natural["heart_area"].std(), rel=0.4)
    assert abs(correlation_ratio(randomised["sex"], randomised["heart_area"])) < 0.1
    with (tmp_path / "natural" / "metadata.csv").open() as file:
        first = next(csv.DictReader(file))
    record = inspect(tmp_path / "natural" / "images" / f"{first['id']}.png")
    assert record is not None
    assert record["sex"] == first["sex"]
    mask = np.asarray(Image.open(tmp_path / "natural" / "masks" / f"{first['id']}_heart.png"))
    assert mask.sum() / 255 == pytest.approx(float(first["heart_area"]), rel=0.01)


def test_simulated_files_are_a_folder_data_set(
    tmp_path: Path, make_small_study: MakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    from segcft.importers.folder import import_folder

    table = simulate(tmp_path / "people").set_index("id")
    study = make_small_study(yaml.safe_load(capsys.readouterr().err.partition("has the lines")[2]))
    store: Store = import_folder(study, tmp_path / "people", tmp_path / "store")
    assert len(store) == len(table)
    for name in ("sex", "age"):
        assert (store.table.set_index("id").loc[table.index, name] == table[name]).all()
    assert store.table["heart_area"].to_numpy() == pytest.approx(table["heart_area"].to_numpy(), rel=0.01)


@pytest.mark.parametrize("option", ["heart_area", "heart_area=2", "heart_area=x", "=0.5"])
def test_a_share_is_one(tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["simulate", "chest", str(tmp_path / "people"), "--confound", option])
    assert "VARIABLE=SHARE" in capsys.readouterr().err


def test_only_numbers_are_confounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "chest", str(tmp_path / "people"), "--randomise", "sex"]) == 1
    assert "sex: " in capsys.readouterr().err
    assert not (tmp_path / "people").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_demonstration_goes_from_people_to_the_table_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = yaml.safe_load(Path(demonstration.__file__).with_name("study.yaml").read_text(encoding="utf-8"))
    for part in ("segmentor", "judge", "regressor", "scm", "hvae", "finetune"):
        study[part] |= {"steps": 2}
    study["evaluation"] |= {"people": 8, "bootstrap": 40, "figure_people": 1, "figure_changes": [0.1]}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    options = ["--study", str(file), "--out", str(tmp_path / "demo"), "--people", "80", "--test-people", "60"]
    options += ["--seeds", "2", "--steps", "3", "--share", "0.3", "--device", "cpu"]
    demonstration.main(options)
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "demo" / "table.json").read_text())
    assert record["correlation ratio"]["training"] > 0.2 > record["correlation ratio"]["test"]
    # The tables of all methods are of training people, and none of the test people is among them.
    train = set(Store(tmp_path / "demo" / "run" / "store").table.query("split == 'train'")["id"])
    for folder in ("augmented-none", "augmented-regressor", "augmented-segmentor", "augmented-segmentor-alone"):
        assert set(read(tmp_path / "demo" / folder)["source"]) <= train
    assert not train & set(read_table(tmp_path / "demo" / "test")["id"])

    monkeypatch.setattr("benchmarks.augmentation.classifier.train", None)  # all is there
    demonstration.main(options)
    assert capsys.readouterr().out == printed


def test_the_truth_draws_the_people_themselves_where_nothing_was_done(tmp_path: Path) -> None:
    folder = simulate_people(tmp_path, "confounded", 12, 0.5, Progress())
    table = read_table(folder)
    table = table.assign(source=table["id"], kind=["original", "counterfactual"] * 6)
    table.loc[table["kind"] == "counterfactual", "heart_area"] *= 0.9
    (tmp_path / "set").mkdir()
    table.to_csv(tmp_path / "set" / "metadata.csv", index=False)
    same = (truth(tmp_path / "set", folder).images == read_set(folder).images).all(axis=(1, 2))
    assert same.tolist() == [True, False] * 6


def test_reweighting_makes_the_four_cells_equally_likely(tmp_path: Path) -> None:
    people = read_set(simulate_people(tmp_path, "confounded", 40, 0.3, Progress()))
    median = float(np.median(people.heart))
    drawn = np.bincount(people.cells(median), people.reweighted(median).weights)
    assert drawn == pytest.approx(np.full(4, drawn[0]))


def test_accuracies_are_means_and_differences_are_paired() -> None:
    random = np.random.default_rng(0)
    good = random.random((4, 200)) < 0.8
    worse = good & (random.random((4, 200)) < 0.9)
    half = np.arange(200) < 100
    rows = accuracies({"good": good, "worse": worse}, {"half": half}, {"gain": ("good", "worse"), "no": ("good",) * 2})
    assert rows["good"]["half"].value == pytest.approx(100 * good[:, :100].mean())
    assert rows["gain"]["half"].value == pytest.approx(rows["good"]["half"].value - rows["worse"]["half"].value)
    assert rows["no"]["half"] == (0, 0, 0)
    for row in rows.values():
        assert row["half"].low <= row["half"].value <= row["half"].high
    # Paired: what both get wrong does not count.
    assert rows["gain"]["half"].high - rows["gain"]["half"].low < rows["good"]["half"].high - rows["good"]["half"].low


def test_volumes_are_balanced_too(volumes: Run, tmp_path: Path) -> None:
    words = ["--variable", "anterior_volume", "--label", "sex", "--threshold", "inf", "--device", "cpu"]
    assert main(["augment", str(volumes.folder), str(tmp_path / "set"), *words]) == 0
    store, table = volumes.store(), read(tmp_path / "set")
    assert sorted(path.name for path in (tmp_path / "set/images").iterdir()) == sorted(table["id"] + ".nii.gz")
    assert set(table["kind"]) == {"original", "counterfactual"}
    rows = {id: row for row, id in enumerate(store.table["id"])}
    for row in table.to_dict("records"):
        path = tmp_path / "set/images" / f"{row['id']}.nii.gz"
        values, lie, _ = read_array(path)
        assert lie.said
        assert lie.spacing == (1.0, 1.0, 1.0)
        if row["kind"] == "original":
            assert np.array_equal(np.moveaxis(values, -1, 0), store.images[rows[row["source"]]])
            assert inspect(path) is None
            continue
        record = inspect(path)
        assert record is not None
        assert record["do"] == [row["do"]]
        assert row["source"] not in json.dumps(record)
    for _, part in table.groupby("sex"):
        own = store.table.iloc[store.indices("train", complete=True)]["anterior_volume"]
        assert np.sort(part["anterior_volume"]) == pytest.approx(np.sort(own), rel=1e-4)
