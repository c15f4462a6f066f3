"""Models in three lines: opened from a run or published, asked, and what they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

import segcft
from refused import refused
from segcft.api.model import Model
from segcft.cli import main
from segcft.errors import Code, DataError, InterventionError, RunError
from segcft.evaluate import names
from segcft.grey import to_unit
from segcft.io.provenance import inspect
from segcft.pipeline.publish import MADE_UP, publish
from segcft.pipeline.run import Run, read_subjects
from tests.conftest import Brighter

SHIPPED = sorted(path.parent for path in (Path(__file__).parents[1] / "models").glob("*/people.csv"))


@pytest.fixture(scope="module")
def published(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    publish(small_run, folder, ["none", "segmentor"])
    return folder


@pytest.fixture
def picture(small_run: Run) -> np.ndarray:
    store = small_run.store()
    return np.array(store.images[store.indices("test")[0], 0])


def as_real(run: Run, folder: Path) -> Run:
    """The run as if a folder of images had been its data."""
    shutil.copytree(run.folder, folder)
    raw = yaml.safe_load((folder / "study.yaml").read_text())
    raw["data"] = {"source": "folder"}
    raw["structures"] = {name: value | {"bit": 2**k} for k, (name, value) in enumerate(raw["structures"].items())}
    (folder / "study.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return Run(folder)


def test_a_published_model_answers_as_its_run(small_run: Run, published: Path, picture: np.ndarray) -> None:
    question: dict[str, Any] = {"attributes": {"age": 60, "sex": "F"}, "do": {"heart_area": "+20%"}}
    ours, theirs = (segcft.load(folder).counterfactual(picture, **question) for folder in (published, small_run.folder))
    assert np.array_equal(ours.image, theirs.image)
    assert ours.record["variables"] == theirs.record["variables"]
    assert np.array_equal(ours.original, picture[None])
    assert np.array_equal(ours.difference, ours.image.astype(int) - ours.original)
    assert ours.attributes["heart_area"] == pytest.approx(1.2 * ours.record["variables"]["heart_area"]["before"])
    assert set(ours.areas) == set(small_run.study.measured)
    assert "heart_area" in repr(ours)
    assert "Seg-CFT" in repr(segcft.load(published))


def test_an_image_may_be_a_file_an_array_or_a_picture(published: Path, picture: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(picture).save(tmp_path / "chest.png")
    model = segcft.load(published)
    images = (tmp_path / "chest.png", str(tmp_path / "chest.png"), picture, picture / 255, Image.fromarray(picture))
    answers = [model.counterfactual(image, do=["age=70"], method="none") for image in images]
    for answer in answers[1:]:
        assert np.array_equal(answer.image, answers[0].image)
    answers[0].save(tmp_path / "answer")
    with Image.open(tmp_path / "answer" / "counterfactual.png") as file:
        assert np.array_equal(np.asarray(file), answers[0].image[0])
    before = (tmp_path / "chest.png").read_bytes()
    with pytest.raises(DataError):
        answers[0].save(tmp_path / "chest.png")
    assert (tmp_path / "chest.png").read_bytes() == before


def test_an_image_that_shows_hardly_anything_is_warned_of(published: Path, picture: np.ndarray, tmp_path: Path) -> None:
    """8 or 12 bits in a file of 16, of which nobody says what is white."""
    model, wide = segcft.load(published), picture.astype(np.uint16)
    for image, told in ((wide, True), (wide * 16, True), (wide * 257, False)):
        Image.fromarray(image).save(tmp_path / "chest.png")
        for given in (image, Image.fromarray(image), tmp_path / "chest.png"):
            warnings = model.counterfactual(given, do=["age=70"], method="none").warnings
            assert any("its largest value" in warning for warning in warnings) == told


def test_what_follows_from_others_is_matched_too() -> None:
    """As the judge reads the others."""
    (folder,) = [path for path in SHIPPED if path.name == "chest-sim-borders"]
    model, pictures = segcft.load(folder), [folder / "examples" / f"{number}.png" for number in (1, 2)]
    ratio = "cardiothoracic_ratio"
    other = model.answer([model.question(pictures[1])])[0].record["variables"][ratio]["before"]
    answer = model.counterfactual(pictures[0], do={ratio: segcft.Match(pictures[1])}, draws=0)
    assert answer.attributes[ratio] == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize(
    ("image", "do", "error"),
    [
        (np.zeros((4, 4, 2)), {"age": 60}, DataError),
        (np.full((8, 8), 0.5), {"age": 60}, DataError),
        (np.linspace(0, 2, 64).reshape(8, 8), {"age": 60}, DataError),
        (np.full((8, 8), np.nan), {"age": 60}, DataError),
        (None, {}, InterventionError),
        (None, {"height": 3}, InterventionError),
        (None, {"sex": "X"}, InterventionError),
    ],
)
def test_what_is_not_understood(
    published: Path, picture: np.ndarray, image: Any, do: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        segcft.load(published).counterfactual(picture if image is None else image, do=do)


def test_a_published_model_has_what_it_needs_and_no_more(small_run: Run, published: Path) -> None:
    files = {path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()}
    parts = {f"{part}.safetensors" for part in ("judge", "scm", "hvae", "cft-segmentor", "segmentor")}
    examples = {f"examples/{name}" for name in ("1.png", "2.png", "3.png", "attributes.csv")}
    table = {"evaluation/table.json", "evaluation/table.md"}
    assert files == parts | examples | table | {
        "README.md",
        "study.yaml",
        "people.csv",
        "samples.json",
        "calibration.json",
    }
    card = (published / "README.md").read_text()
    for text in ("not for clinical use", "Simulated", small_run.store().fingerprint, "Effectiveness", "Seg-CFT"):
        assert text in card


def test_made_up_people_are_within_the_range_of_the_real_ones(small_run: Run, published: Path) -> None:
    store = small_run.store()
    known = store.values()[store.indices("train", complete=True)]
    people = read_subjects(published / "people.csv", small_run.study)
    assert MADE_UP / 2 < len(people) <= MADE_UP
    assert (people >= known.min(0) * (1 - 1e-5)).all()
    assert (people <= known.max(0) * (1 + 1e-5)).all()
    rows = {tuple(np.round(row[1:], 3)) for row in known}
    assert not rows & {tuple(np.round(row[1:], 3)) for row in people}


def test_real_data_need_a_card_and_leave_nobody_behind(small_run: Run, tmp_path: Path) -> None:
    real = as_real(small_run, tmp_path / "real")
    with refused(RunError, Code.MISSING, "--card"):
        publish(real, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    publish(real, tmp_path / "model", card="Of people who agreed.")
    assert "Of people who agreed." in (tmp_path / "model" / "README.md").read_text()
    assert not list((tmp_path / "model").rglob("*.png"))


def test_real_images_are_given_away_where_they_are_named(small_run: Run, tmp_path: Path) -> None:
    real = as_real(small_run, tmp_path / "real")
    store = real.store()
    row, other = store.indices("test")[[5, 2]]
    ids = [str(store.table["id"].iloc[one]) for one in (row, other)]
    publish(real, tmp_path / "model", card="Of people who agreed.", examples=ids)
    examples = tmp_path / "model" / "examples"
    assert sorted(path.name for path in examples.iterdir()) == ["1.png", "2.png", "attributes.csv"]
    assert (np.array(Image.open(examples / "1.png")) == store.images[row, 0]).all()
    assert inspect(examples / "1.png") is None  # it is not synthetic
    table = pd.read_csv(examples / "attributes.csv")
    assert table["age"].tolist() == pytest.approx(store.table["age"].iloc[[row, other]].tolist(), rel=1e-5)
    trained = str(store.table["id"].iloc[store.indices("train")[0]])
    for wrong, code in ((["nobody"], Code.UNKNOWN), ([trained], Code.UNKNOWN), ([ids[0], ids[0]], Code.DUPLICATE)):
        with refused(DataError, code, "--example"):
            publish(real, tmp_path / "other", card="Of people who agreed.", examples=wrong)
    assert not (tmp_path / "other").exists()


def test_publishing_refuses_what_it_should(small_run: Run, published: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "letter.txt").touch()
    with refused(RunError, Code.EXISTS, taken):
        publish(small_run, taken)
    assert (taken / "letter.txt").is_file()
    shutil.copytree(small_run.folder, tmp_path / "run")
    (tmp_path / "run" / "evaluation" / "table.json").unlink()
    with refused(RunError, Code.MISSING, "evaluation"):
        publish(Run(tmp_path / "run"), tmp_path / "model")
    with refused(RunError, Code.MISSING, published):
        publish(Run(published), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["judge.safetensors", "cft-segmentor.safetensors", "people.csv"])
def test_a_damaged_file_is_named(published: Path, picture: np.ndarray, tmp_path: Path, name: str) -> None:
    shutil.copytree(published, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(b"nothing")
    with refused(RunError, Code.DAMAGED, tmp_path / "model" / name):
        Model(tmp_path / "model").counterfactual(picture, do={"age": 60})


def test_the_command_line_asks_and_publishes(
    small_run: Run, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = published / "examples" / "1.png"
    ask = ["counterfactual", published, example, "--do", "heart_area=+10%", "--out", tmp_path / "answer"]
    assert main([str(part) for part in [*ask, "--device", "cpu"]]) == 0
    assert (tmp_path / "answer" / "counterfactual.png").is_file()
    assert main(["publish", str(small_run.folder), str(tmp_path / "model"), "--method", "regressor"]) == 0
    assert Model(tmp_path / "model").methods == {"regressor": "cft-regressor"}


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_shipped_models_answer(folder: Path, picture: np.ndarray) -> None:
    model = segcft.load(folder)
    examples = folder / "examples"
    image: Any = picture
    known = {}
    if examples.is_dir():
        person = pd.read_csv(examples / "attributes.csv").iloc[0].to_dict()
        image = examples / person["image"]
        known = {name: person[name] for name in ("sex", "age") if name in person}
    largest = max(
        model.study.measured, key=lambda area: model.people[:, list(model.study.variables).index(area)].mean()
    )
    answer = model.counterfactual(image, known, {largest: "-10%"})
    assert answer.image.shape == answer.original.shape == (model.study.image.channels, *model.study.image.size)
    if examples.is_dir():
        row = answer.record["variables"][largest]
        assert row["obtained"] == pytest.approx(row["after"], rel=0.05)
        assert answer.warnings == []
    assert "not for clinical use" in (folder / "README.md").read_text()
    assert not [path for path in folder.rglob("*") if path.suffix in (".pt", ".pkl", ".ckpt")]


# --- structures that may be absent ---


def person_with(run: Run, plaque: bool) -> np.ndarray:
    """The image of a test person with or without plaque."""
    store = run.store()
    areas = store.values()[:, run.study.measured_columns[1]]
    row = next(row for row in store.indices("test") if (areas[row] > 0) == plaque)
    return np.array(store.images[row, 0])


def test_what_is_absent_in_an_image_is_exactly_zero(plaque_run: Run, tmp_path: Path) -> None:
    publish(plaque_run, tmp_path / "model", ["segmentor"], card="Drawn.")
    model = segcft.load(tmp_path / "model")
    model.judge = Brighter(plaque_run.study)  # which sees what is there, as no short training makes one
    people = read_subjects(tmp_path / "model" / "people.csv", plaque_run.study)
    assert 0.2 < (people[:, 2] == 0).mean() < 0.6
    answer = model.counterfactual(person_with(plaque_run, False), {"age": 60}, {"vessel_area": "+10%"})
    assert answer.record["variables"]["plaque_area"]["before"] == 0
    assert answer.attributes["plaque_area"] == 0
    with refused(InterventionError, Code.CONFLICT, "plaque_area"):
        model.counterfactual(person_with(plaque_run, False), do={"plaque_area": "+20%"})
    with refused(InterventionError, Code.OUT_OF_RANGE, "plaque_area"):
        model.counterfactual(person_with(plaque_run, False), do=["plaque_area=-20"])
    grown = model.counterfactual(person_with(plaque_run, False), do=["plaque_area=+30"])
    assert grown.attributes["plaque_area"] == 30
    gone = model.counterfactual(person_with(plaque_run, True), do={"plaque_area": 0})
    assert gone.record["variables"]["plaque_area"]["before"] > 0
    assert gone.attributes["plaque_area"] == 0
    assert not [text for text in gone.warnings if "asked for" in text]  # 0 is within the training range


def test_the_table_and_an_answer_read_the_same_number_of_what_is_absent(plaque_run: Run) -> None:
    """One rule says what is absent: the judge's error in the evaluation is that of what an answer says it reads."""
    scores = pd.read_parquet(plaque_run.evaluation / "scores.parquet")
    judged = scores[(scores["method"] == names.JUDGE) & (scores["structure"] == "plaque") & (scores["metric"] == "mae")]
    errors = judged.set_index("id")["value"]
    store, model = plaque_run.store(), Model(plaque_run)
    rows = store.indices("test")
    answers = list(model.counterfactuals(store.images[rows, 0], do={"vessel_area": "+5%"}))
    read = [answer.record["variables"]["plaque_area"]["before"] for answer in answers]
    known = store.values()[rows, 2]
    assert 0 in read
    assert any(number > 0 for number in read)
    for row, number, true in zip(rows, read, known, strict=True):
        assert errors[store.table.loc[row, "id"]] == pytest.approx(abs(number - true), abs=1e-3)
    for answer in answers:
        image = to_unit(torch.from_numpy(answer.image[None]))
        obtained = [answer.record["variables"][name]["obtained"] for name in plaque_run.study.measured]
        assert model.judge.read(image)[0].tolist() == pytest.approx(obtained, abs=1e-3)


def test_an_unknown_age_is_inferred_from_an_absent_structure_too(plaque_run: Run) -> None:
    model = Model(plaque_run)
    model.judge = Brighter(plaque_run.study)
    answer = model.counterfactual(person_with(plaque_run, False), do={"vessel_area": "+5%"})
    assert answer.record["variables"]["age"]["source"] == "inferred"
    assert 40 <= answer.attributes["age"] <= 80
