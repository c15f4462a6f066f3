"""Whom models are judged on, and by whom: people of other hospitals, published models, and other judges."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from refused import refused
from segcft.cli import main
from segcft.data.store import Store
from segcft.data.writer import StoreWriter
from segcft.errors import Code, DataError, RunError
from segcft.evaluate import names
from segcft.evaluate.names import PEOPLE
from segcft.measures.measure import MEASURES
from segcft.pipeline.importing import new_samples
from segcft.pipeline.judging import check_unseen, evaluate_samples, load_judge
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from segcft.pipeline.stages.evaluation import RECORD
from segcft.readers.reader import MaskReader
from segcft.training import artefact
from segcft.utils.progress import Progress
from tests.conftest import MODELS, MakeStudy
from tests.test_measures import Width
from tests.test_model import as_real
from tests.test_pipeline import Notes

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def published(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("models") / "small"
    publish(small_run, folder, ["none", "segmentor"])
    return Run(folder)


@pytest.fixture(scope="module")
def real(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A published model of images that, as it says, were a folder's."""
    folder = tmp_path_factory.mktemp("real")
    publish(as_real(small_run, folder / "run"), folder / "model", ["segmentor"], card="People who agreed.")
    return Run(folder / "model")


def write_people(run: Run, folder: Path, rows: Sequence[int], prefix: str = "", turned: bool = True) -> Store:
    """Test people at ``rows`` of the run's store, with its ids behind ``prefix``, their images upside down."""
    own = run.store()
    with StoreWriter(folder, run.study) as writer:
        for row in rows:
            known = {name: own.table[name][row] for name in own.variables}
            image, masks = own.images[row], own.masks[row]
            if turned:
                image, masks = image[:, ::-1], masks[:, ::-1]
            id, patient = (f"{prefix}{own.table[column][row]}" for column in ("id", "patient"))
            writer.append(id, patient, "test", image, masks, known)
    return Store(folder)


# --- names and images ---


def test_other_people_with_the_same_ids_are_judged_and_told(small_run: Run, tmp_path: Path) -> None:
    taught = small_run.store().indices("train")[:6]
    notes = Notes()
    rows = evaluate_samples(small_run, write_people(small_run, tmp_path / "s", taught), tmp_path / "o", CPU, notes)
    assert max(row["n"] for row in rows if row["method"] != PEOPLE) == 6
    assert any("6 of the subjects have the id" in line for line in notes.lines)
    assert "6 of the subjects have the id" in (tmp_path / "o" / "table.md").read_text()


@pytest.mark.parametrize("prefix", ["", "new-"])
def test_the_same_images_are_refused_whatever_they_are_called(small_run: Run, tmp_path: Path, prefix: str) -> None:
    own = small_run.store()
    rows = [*own.indices("test")[:3], *own.indices("train")[:2]]
    with refused(DataError, Code.LEAK, "s"):
        check_unseen(small_run, write_people(small_run, tmp_path / "s", rows, prefix, turned=False))


def test_a_training_image_that_was_prepared_otherwise_is_refused_under_its_name(small_run: Run, tmp_path: Path) -> None:
    own = small_run.store()
    for prefix, found in (("", True), ("new-", False)):  # under another name nothing tells it
        with StoreWriter(tmp_path / "s", small_run.study) as writer:
            for row in own.indices("train")[:2]:
                brighter = (255 * (own.images[row] / 255.0) ** 0.9).astype(np.uint8)
                known = {name: own.table[name][row] for name in own.variables}
                name = f"{prefix}{own.table['patient'][row]}"
                writer.append(name, name, "test", brighter, own.masks[row], known)
        store = Store(tmp_path / "s")
        if not found:
            assert check_unseen(small_run, store) == []
            continue
        with refused(DataError, Code.LEAK, "s"):
            check_unseen(small_run, store)


def test_people_who_share_nothing_are_judged_without_a_word(small_run: Run, tmp_path: Path) -> None:
    store = write_people(small_run, tmp_path / "s", small_run.store().indices("train")[:3], "new-")
    assert check_unseen(small_run, store) == []


# --- published models ---


@pytest.mark.slow
def test_a_published_model_is_judged_as_its_run_is(small_run: Run, published: Run, tmp_path: Path) -> None:
    people = new_samples(published.study, None, 7, tmp_path / "store", Progress())
    runs = (small_run, published)
    ours, theirs = (evaluate_samples(run, people, tmp_path / run.folder.name, CPU, Progress()) for run in runs)
    assert {row["method"] for row in theirs} >= {"none", "segmentor", names.JUDGE, names.TRUTH}
    for row in theirs:
        same = [r for r in ours if all(r[k] == row[k] for k in ("method", "metric", "intervention", "structure"))]
        assert [r["value"] for r in same] == [pytest.approx(row["value"], nan_ok=True)]


@pytest.mark.slow
def test_a_published_model_on_the_command_line(
    published: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(published.folder.rglob("*"))
    monkeypatch.chdir(tmp_path)
    judged = ["evaluate", str(published.folder), "--device", "cpu"]
    for wrong in ([], ["--split", "validation"]):
        assert main([*judged, *wrong]) == 1
        assert "--data: " in capsys.readouterr().err
    assert main([*judged, "--seed", "3"]) == 1  # the study's own people
    assert main([*judged, "--seed", "7", "--json"]) == 0
    told = capsys.readouterr()
    folder = Path("runs") / "evaluation-small"
    assert json.loads(told.out) == json.loads((folder / "table.json").read_text())
    assert str(folder) in told.err
    assert sorted(published.folder.rglob("*")) == before  # nothing is written into the model


def test_the_card_of_a_published_model_is_needed_here_too(published: Run, tmp_path: Path) -> None:
    shutil.copytree(published.folder, tmp_path / "model")
    (tmp_path / "model" / "README.md").unlink()
    assert main(["evaluate", str(tmp_path / "model"), "--seed", "7", "--out", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_known_of_a_published_model_is_told(
    small_run: Run, real: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its samples are not in it: real people may have been among them."""
    write_people(small_run, tmp_path / "store", small_run.store().indices("test")[:4])
    out = tmp_path / "out"
    words = ["evaluate", str(real.folder), "--data", str(tmp_path / "store"), "--out", str(out), "--device", "cpu"]
    assert main(words) == 0
    said = "a published model comes without its samples"
    assert said in capsys.readouterr().err
    assert said in (out / "table.md").read_text()


def test_simulated_people_of_the_training_are_known_without_samples(
    small_run: Run, published: Run, make_small_study: MakeStudy, tmp_path: Path
) -> None:
    own = small_run.store()
    with pytest.raises(DataError, match="90 of the samples"):
        check_unseen(published, own)  # the whole store that it was trained on
    more = new_samples(make_small_study({"data.seed": 4, "data.people": 100}), None, 3, tmp_path / "s", Progress())
    with pytest.raises(
        DataError, match=f"{len(own.indices('train')) + len(own.indices('validation'))} of the subjects"
    ):
        check_unseen(published, more)
    assert check_unseen(published, new_samples(published.study, None, 8, tmp_path / "t", Progress())) == []


# --- other judges ---


def another_judge(run: Run, path: Path) -> tuple[Path, MaskReader]:
    """The file of one with other weights than the run's own, and its network."""
    network = run.load("judge")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.01)
    artefact.save(path, network, artefact.read_meta(run.path("judge")) | {"key": "another"})
    return path, network


@pytest.mark.slow
def test_another_judge_gives_another_opinion(small_run: Run, published: Run, tmp_path: Path) -> None:
    """That of a run with the same grid and structures, as a folder or a file; here the segmentor of one, which no
    method of it was tuned with."""
    other, network = another_judge(small_run, tmp_path / "other.safetensors")
    x = torch.from_numpy(np.array(small_run.store().images[:2])).float() / 127.5 - 1
    for place, expected in ((other, network), (small_run.folder, small_run.load("judge"))):
        judge = load_judge(published, place)
        assert torch.equal(judge.read(x), expected.read(x))
        assert not any(parameter.requires_grad for parameter in judge.parameters())
    people = new_samples(published.study, None, 7, tmp_path / "store", Progress())
    evaluate_samples(published, people, tmp_path / "out", CPU, Progress(), judge=other)
    assert f"Judged by {other}" in (tmp_path / "out" / "table.md").read_text()


def test_another_judge_leaves_the_run_s_own_table_alone(small_run: Run, tmp_path: Path) -> None:
    shutil.copytree(small_run.folder, tmp_path / "run")
    own = (tmp_path / "run" / "evaluation" / "table.md").read_text()
    judge = str(another_judge(small_run, tmp_path / "other.safetensors")[0])
    assert main(["evaluate", str(tmp_path / "run"), "--judge", judge, "--device", "cpu"]) == 0
    assert (tmp_path / "run" / "evaluation" / "table.md").read_text() == own
    assert judge in (tmp_path / "run" / "evaluation-other-judge" / "table.md").read_text()
    guide = str(small_run.path("segmentor"))
    assert main(["evaluate", str(tmp_path / "run"), "--judge", guide, "--device", "cpu"]) == 1


def test_a_judge_that_is_the_guide_is_refused_also_where_the_guide_is_not(small_run: Run, published: Run) -> None:
    for run in (small_run, published):
        with refused(RunError, Code.LEAK, "segmentor.safetensors"):
            load_judge(run, small_run.path("segmentor"))


def test_another_judge_measures_what_the_run_s_study_measures(
    small_run: Run, make_small_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MEASURES._things, "width", Width())
    absent = {"variables.heart_area.scale": "log", "variables.heart_area.zero_inflated": True}
    study = make_small_study({"structures.heart.measure": "width", "evaluation.metric": "mae", **absent})
    network = small_run.build("judge")
    meta = artefact.load(small_run.path("judge"), network)
    artefact.save(tmp_path / "judge.safetensors", network, meta | {"study": study.model_dump(mode="json")})
    judge, own = load_judge(small_run, tmp_path), small_run.load("judge")
    dark = torch.full((1, 1, *study.image.size), -1.0)
    assert judge.measurements == own.measurements
    assert torch.equal(judge.read(dark), own.read(dark))


def test_a_table_by_another_judge_does_not_pass_for_the_run_s_own(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segcft.pipeline.judging.evaluate_samples", lambda *_: [])
    shutil.copytree(small_run.folder, tmp_path / "run")
    record = Run(tmp_path / "run").evaluation / RECORD
    words = ["evaluate", str(tmp_path / "run"), "--device", "cpu", "--json"]
    assert main(words) == 0
    assert record.is_file()
    assert main([*words, "--judge", str(small_run.folder), "--out", str(record.parent)]) == 0
    assert not record.exists()


def test_a_judge_of_something_else_is_refused(published: Run, plaque_run: Run, tmp_path: Path) -> None:
    for place, code, name in (
        (MODELS / "chest-sim", Code.OTHER, "judge.safetensors"),
        (plaque_run.folder, Code.OTHER, "judge.safetensors"),
        (published.path("scm"), Code.INVALID, "scm.safetensors"),
        (tmp_path, Code.MISSING, "judge.safetensors"),
        (tmp_path / "gone.safetensors", Code.MISSING, "gone.safetensors"),
    ):
        with refused(RunError, code, name):
            load_judge(published, place)


# --- how many people ---


def test_samples_and_people_are_both_told_where_they_differ(small_run: Run, tmp_path: Path) -> None:
    store = write_people(small_run, tmp_path / "s", small_run.store().indices("test")[:6], "new-")
    store.table["patient"] = [f"who{i // 2}" for i in range(6)]
    evaluate_samples(small_run, store, tmp_path / "out", CPU, Progress())
    title = (tmp_path / "out" / "table.md").read_text().splitlines()[0]
    assert "6 simulated people of 3 people" in title
    assert set(pd.read_parquet(tmp_path / "out" / "scores.parquet")["patient"]) == {"who0", "who1", "who2"}
