"""The command line: what it prints where, which files it writes, and errors that a user can act on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segcft.api.model import Model
from segcft.cli.entry import main
from segcft.cli.run import STAGES
from segcft.io.provenance import inspect
from segcft.pipeline.run import Run

Outcome = tuple[int, str, str]


@pytest.fixture
def segcft(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``segcft("evaluate", run)`` -> exit status, standard output, standard error."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def radiograph(small_run: Run, tmp_path: Path) -> Path:
    """An image file of a test person, larger than the study's grid."""
    store = small_run.store()
    pixels = store.images[store.indices("test")[0], 0]
    Image.fromarray(np.kron(pixels, np.ones((4, 4), dtype=np.uint8))).save(tmp_path / "chest.png")
    return tmp_path / "chest.png"


def one_line(outcome: Outcome) -> str:
    """The error of a command that failed as it should: status 1, one message, nothing on standard output."""
    status, out, err = outcome
    assert (status, out) == (1, "")
    assert err.startswith("segcft: error: ")
    assert "Traceback" not in err
    return err


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


# --- help ---


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    loaded = python(
        "import sys\n"
        "from segcft.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))\n"
    ).splitlines()[-1]
    heavy = {"torch", "lightning", "monai", "zuko", "pandas", "numpy", "matplotlib", "pydantic", "rich"}
    assert not heavy & set(yaml.safe_load(loaded))


@pytest.mark.parametrize("module", ["segcft", "segcft.cli"])
def test_the_command_line_is_there_without_being_installed(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    for command in ("run", "evaluate", "counterfactual", *STAGES):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["run", "evaluate", "counterfactual", *STAGES])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "--device" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["run"], ["run", "x.yaml", "--speed", "9"]]
    + [["evaluate", "run", "--seed", seed] for seed in ("-1", "one")]
    + [["run", "x.yaml", "--jobs", jobs] for jobs in ("0", "two")],
)
def test_a_wrong_command_line_shows_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: segcft" in capsys.readouterr().err


# --- errors ---


def test_a_wrong_study_is_told_by_file_and_key_before_anything_is_imported(
    small_study_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.yaml"
    raw = yaml.safe_load(small_study_file.read_text())
    raw["hvae"]["stepz"] = raw["hvae"].pop("steps")
    path.write_text(yaml.safe_dump(raw))
    code = f"import sys; from segcft.cli import main; print(main(['run', {str(path)!r}]), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    status, *modules = done.stdout.split()
    assert status == "1"
    assert not {"lightning", "monai", "zuko"} & set(modules)
    lines = done.stderr.splitlines()
    # That there are no steps is no mistake: they would be planned.
    assert lines == [f"segcft: error: {path}: hvae.stepz: unknown key; did you mean 'steps'?"]
    assert list(tmp_path.iterdir()) == [path]  # nothing was begun


def test_several_devices_train_one_part_at_a_time(segcft: Callable[..., Outcome], small_study_file: Path) -> None:
    message = one_line(segcft("run", small_study_file, "--jobs", 2, "--devices", 2))
    assert "--jobs: with --devices or --nodes one part is trained at a time" in message


def test_a_study_that_is_not_there_is_told(segcft: Callable[..., Outcome], tmp_path: Path) -> None:
    assert "none.yaml: cannot read this study file" in one_line(segcft("run", tmp_path / "none.yaml"))


def test_a_folder_study_asks_for_its_data(
    segcft: Callable[..., Outcome], small_study_file: Path, tmp_path: Path
) -> None:
    raw = yaml.safe_load(small_study_file.read_text())
    raw["data"] = {"source": "folder"}
    for bit, structure in zip((1, 2, 4), raw["structures"].values(), strict=True):
        structure["bit"] = bit
    path = tmp_path / "folder.yaml"
    path.write_text(yaml.safe_dump(raw))
    for extra, message in (
        ((), "--data: "),
        (("--data", tmp_path / "nowhere"), str(tmp_path / "nowhere")),
    ):
        status, _, err = segcft("import", path, "--out", tmp_path / "run", *extra)
        assert status == 1
        assert f"segcft: error: {message}" in err
        assert not (tmp_path / "run" / "store").exists()


def test_a_stage_that_the_study_does_not_have_is_told(
    segcft: Callable[..., Outcome], small_study_file: Path, tmp_path: Path
) -> None:
    raw = yaml.safe_load(small_study_file.read_text())
    raw["finetune"]["guides"] = ["segmentor"]
    path = tmp_path / "one.yaml"
    del raw["regressor"]
    path.write_text(yaml.safe_dump(raw))
    for stage, key in (("cft-regressor", "finetune.guides"), ("regressor", "regressor")):
        message = one_line(segcft(stage, path, "--out", tmp_path / "run", "--device", "cpu"))
        assert f"{path}: {key}: this study has no stage {stage!r}" in message


@pytest.mark.parametrize("command", [("evaluate",), ("counterfactual", "x.png", "--do", "age=3", "--out", "o")])
def test_a_folder_that_is_no_run_is_told(
    segcft: Callable[..., Outcome], tmp_path: Path, command: tuple[str, ...]
) -> None:
    assert f"{tmp_path}: not a run" in one_line(segcft(command[0], tmp_path, *command[1:]))


def test_ctrl_c_says_how_to_go_on(
    segcft: Callable[..., Outcome], small_study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segcft.importers.simulated.person_number", interrupt)
    status, out, err = segcft("import", small_study_file, "--out", tmp_path / "run", "--device", "cpu")
    assert (status, out) == (130, "")
    assert "the same command goes on from the last checkpoint" in err
    assert not (tmp_path / "run" / "store").exists()


# --- stages and evaluation ---


def test_a_run_that_is_up_to_date_prints_its_table(
    segcft: Callable[..., Outcome], small_run: Run, small_study_file: Path, tmp_path: Path
) -> None:
    run = Run(shutil.copytree(small_run.folder, tmp_path / "run"))
    status, out, err = segcft("run", small_study_file, "--out", run.folder, "--device", "cpu")
    assert status == 0
    assert (run.evaluation / "table.md").read_text() in out
    assert str(run.evaluation / "figures") in out
    assert err.count("up to date") == 9


def test_the_default_folder_is_named_after_the_study(
    segcft: Callable[..., Outcome], small_study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = segcft("import", small_study_file, "--device", "cpu")
    assert (status, out) == (0, "")
    assert "90 samples (53 train, 19 validation, 18 test)" in err
    assert len(Run(tmp_path / "runs" / "small").store()) == 90


@pytest.mark.slow
def test_evaluate_prints_pure_json(segcft: Callable[..., Outcome], small_run: Run, tmp_path: Path) -> None:
    """In a process of its own: nothing else may write to standard output, not even a library."""
    command = [sys.executable, "-m", "segcft.cli", "evaluate", small_run.folder, "--json", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "judged"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(done.stdout)
    assert rows == json.loads((tmp_path / "judged" / "table.json").read_text())
    # The same people, judge and seed: the table that the run itself made.
    assert rows == json.loads((small_run.evaluation / "table.json").read_text())
    assert str(tmp_path / "judged") in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_evaluate_on_new_people(segcft: Callable[..., Outcome], small_run: Run, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(small_run.folder, copied)
    status, out, _ = segcft("evaluate", copied, "--seed", 77, "--device", "cpu")
    assert status == 0
    assert out.startswith("# small")
    new = json.loads((copied / "evaluation-new" / "table.json").read_text())
    assert max(row["n"] for row in new) == 90
    assert (copied / "evaluation" / "table.md").read_text() == (small_run.evaluation / "table.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_evaluate_on_validation_people(segcft: Callable[..., Outcome], small_run: Run, tmp_path: Path) -> None:
    judged = ("evaluate", small_run.folder, "--split", "validation", "--out", tmp_path / "o", "--device", "cpu")
    status, out, _ = segcft(*judged)
    assert status == 0
    assert "counterfactuals of 19 simulated people" in out
    assert "Validation samples" in out
    assert "--split validation: " in one_line(segcft(*judged, "--seed", 77))


def test_people_of_the_study_are_refused(segcft: Callable[..., Outcome], small_run: Run, tmp_path: Path) -> None:
    refused = segcft("evaluate", small_run.folder, "--seed", 3, "--out", tmp_path / "o", "--device", "cpu")
    assert "--seed: 3 is " in one_line(refused)
    store = small_run.folder / "store"
    refused = segcft("evaluate", small_run.folder, "--data", store, "--out", tmp_path / "o", "--device", "cpu")
    assert "were in this model's training or validation" in one_line(refused)


# --- one image ---


def test_an_answer_does_not_replace_its_image(
    segcft: Callable[..., Outcome], small_run: Run, radiograph: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.png"
    own.write_bytes(radiograph.read_bytes())
    status, _, err = segcft(
        "counterfactual", small_run.folder, own, "--do", "age=70", "--out", tmp_path / "x/../own.png"
    )
    assert status == 1
    assert "--out" in err
    assert own.read_bytes() == radiograph.read_bytes()


def test_a_counterfactual_is_written_and_says_that_it_is_synthetic(
    segcft: Callable[..., Outcome], small_run: Run, radiograph: Path, tmp_path: Path
) -> None:
    ask = ("counterfactual", small_run.folder, radiograph, "--do", "left_lung_area=+20%", "--device", "cpu")
    ask = (*ask, "--draws", 0)
    status, out, err = segcft(*ask, "--set", "age=63", "--set", "sex=F", "--out", tmp_path / "answer")
    assert status == 0
    assert str(tmp_path / "answer") in err
    names = {"image.png", "counterfactual.png", "difference.png", "band.png", "counterfactual.json"}
    assert {path.name for path in (tmp_path / "answer").iterdir()} == names
    record = json.loads((tmp_path / "answer" / "counterfactual.json").read_text())
    with Image.open(tmp_path / "answer" / "counterfactual.png") as picture:
        assert picture.size == (32, 32)
        assert "Synthetic" in picture.text["Description"]  # type: ignore[attr-defined]
        told = json.loads(picture.text["segcft"])  # type: ignore[attr-defined]
        assert told | {"image": "chest.png"} == record
        assert "image" not in told  # a file's name may be a patient's
    assert record["do"] == ["left_lung_area=+20.0%"]
    assert record["method"] == "segmentor"
    lung, age = record["variables"]["left_lung_area"], record["variables"]["age"]
    assert lung["after"] == pytest.approx(1.2 * lung["before"], rel=1e-5)
    assert (lung["intervened"], lung["source"]) == (True, "read from the image")
    assert (age["before"], age["after"], age["source"]) == (63, 63, "given")
    assert record["variables"]["sex"]["before"] == "F"
    assert all(name in out for name in small_run.study.variables)
    # Asked again, the answer is the same.
    segcft(*ask, "--set", "age=63", "--set", "sex=F", "--out", tmp_path / "again")
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "answer" / name).read_bytes()


def test_as_many_draws_as_in_python(
    segcft: Callable[..., Outcome], small_run: Run, radiograph: Path, tmp_path: Path
) -> None:
    ask = ("counterfactual", small_run.folder, radiograph, "--do", "age=70", "--device", "cpu", "--out")
    assert segcft(*ask, tmp_path / "one")[0] == 0
    (tmp_path / "images").mkdir()
    radiograph.rename(tmp_path / "images" / "chest.png")
    assert segcft(*ask[:2], tmp_path / "images", *ask[3:], tmp_path / "many", "--jobs", 1)[0] == 0
    model = Model(small_run)
    python = model.counterfactual(tmp_path / "images" / "chest.png", do={"age": 70})
    record = json.loads((tmp_path / "one" / "counterfactual.json").read_text())
    assert record["draws"] == len(python.draws) == 8
    assert len(list((tmp_path / "one").glob("draw-*.png"))) == 8
    (answer,) = model.counterfactuals([tmp_path / "images" / "chest.png"], do={"age": 70})
    many = inspect(tmp_path / "many" / "images" / "chest.png")
    assert many is not None
    assert many["draws"] == len(answer.draws) == 0


def test_what_is_not_given_is_inferred(
    segcft: Callable[..., Outcome], small_run: Run, radiograph: Path, tmp_path: Path
) -> None:
    ask = ("counterfactual", small_run.folder, radiograph, "--do", "sex=M", "--do", "heart_area=+1sd")
    status, out, _ = segcft(*ask, "--method", "none", "--out", tmp_path / "answer", "--device", "cpu")
    assert status == 0
    assert "(inferred" in out
    record = json.loads((tmp_path / "answer" / "counterfactual.json").read_text())
    assert record["method"] == "none"
    assert 18 < record["variables"]["age"]["before"] < 100
    assert record["variables"]["sex"]["after"] == "M"


def test_asking_for_the_impossible_is_a_warning(
    segcft: Callable[..., Outcome], small_run: Run, radiograph: Path, tmp_path: Path
) -> None:
    ask = ("counterfactual", small_run.folder, radiograph, "--do", "age=150", "--device", "cpu")
    status, out, _ = segcft(*ask, "--out", tmp_path / "a")
    assert status == 0
    assert "warning: age: 150 (asked for) is not in the training range" in out


def test_what_is_known_but_cannot_be_is_a_warning(
    segcft: Callable[..., Outcome], small_run: Run, radiograph: Path, tmp_path: Path
) -> None:
    ask = ("counterfactual", small_run.folder, radiograph, "--do", "heart_area=+5%", "--device", "cpu")
    status, out, _ = segcft(*ask, "--set", "left_lung_area=1000", "--out", tmp_path / "a", "--method", "No CFT")
    assert status == 0
    assert "warning: left_lung_area: 1000 (given) is not in the training range" in out
    assert "No CFT; areas as the judge reads them" in out


def test_an_answer_that_misses_the_question_is_a_warning(
    segcft: Callable[..., Outcome], small_run: Run, radiograph: Path, tmp_path: Path
) -> None:
    """Without fine-tuning the heart stays as it was."""
    ask = ("counterfactual", small_run.folder, radiograph, "--do", "heart_area=+1sd", "--device", "cpu")
    status, out, _ = segcft(*ask, "--method", "none", "--out", tmp_path / "a")
    assert status == 0
    assert "warning: heart_area: should have changed by +" in out
    assert "warning: left_lung_area: should" not in out


def test_weights_of_other_samples_are_refused(
    segcft: Callable[..., Outcome], small_run: Run, radiograph: Path, make_small_study: Any, tmp_path: Path
) -> None:
    """Who is a test person after another split may have been a training person of the weights."""
    folder = tmp_path / "run"
    shutil.copytree(small_run.folder, folder)
    study = tmp_path / "other.yaml"
    raw = make_small_study({"splits.seed": 5}).model_dump(mode="json")
    study.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    assert segcft("import", study, "--out", folder, "--device", "cpu")[0] == 0
    message = one_line(segcft("evaluate", folder, "--out", tmp_path / "o", "--device", "cpu"))
    assert "was trained on other samples than those imported since" in message
    ask = ("counterfactual", folder, radiograph, "--do", "heart_area=+5%", "--out", tmp_path / "a", "--device", "cpu")
    assert "was trained on other samples" in one_line(segcft(*ask))


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--do", "left_lung_area", "expected VARIABLE=AMOUNT"),
        ("--do", "left_lung=+20%", "left_lung: not a variable; did you mean 'left_lung_area'?"),
        ("--do", "left_lung_area=20%", "left_lung_area: "),
        ("--do", "left_lung_area=big", "left_lung_area: "),
        ("--do", "left_lung_area=2000", "left_lung_area: "),
        ("--do", "sex=X", "sex: "),
        ("--do", "left_lung_area=-200%", "left_lung_area: "),
        ("--set", "age=+3", "age: "),
        ("--set", "colour=3", "colour: "),
        ("--method", "oracle", "method 'oracle' is not here"),
    ],
)
def test_a_question_that_makes_no_sense_is_told(
    segcft: Callable[..., Outcome],
    small_run: Run,
    radiograph: Path,
    tmp_path: Path,
    option: str,
    text: str,
    message: str,
) -> None:
    ask = [
        "counterfactual",
        small_run.folder,
        radiograph,
        option,
        text,
        "--out",
        tmp_path / "a",
        "--device",
        "cpu",
    ]
    assert message in one_line(segcft(*ask, *([] if option == "--do" else ["--do", "age=50"])))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("damage", ["missing", "no image", "cut", "blank", "folder"])
def test_an_image_that_cannot_be_used_is_told(
    segcft: Callable[..., Outcome], small_run: Run, radiograph: Path, tmp_path: Path, damage: str
) -> None:
    match damage:
        case "missing":
            radiograph.unlink()
        case "no image":
            radiograph.write_text("not a picture")
        case "cut":
            radiograph.write_bytes(radiograph.read_bytes()[:200])
        case "blank":
            Image.new("L", (32, 32), 7).save(radiograph)
        case "folder":
            radiograph.unlink()
            radiograph.mkdir()
    out = tmp_path / "answer"
    ask = ("counterfactual", small_run.folder, radiograph, "--do", "age=50", "--out", out, "--device", "cpu")
    assert str(radiograph) in one_line(segcft(*ask))
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_told(
    segcft: Callable[..., Outcome], small_run: Run, small_study_file: Path, radiograph: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "file"
    taken.touch()
    ask = ("counterfactual", small_run.folder, radiograph, "--do", "age=50")
    evaluate, begun = ("evaluate", small_run.folder, "--seed", 5), ("import", small_study_file)
    for command, out in ((ask, taken), (begun, taken), (evaluate, taken), ((*ask, "--draws", 0), taken / "x.png")):
        status, _, err = segcft(*command, "--out", out, "--device", "cpu")
        assert status == 1
        assert err.splitlines()[-1].startswith(f"segcft: error: {out}")
        assert ".partial" not in err  # a name of ours


def test_a_wrong_place_for_an_answer_is_told_before_anything_is_imported(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").touch()
    (tmp_path / "x.png").mkdir()
    (tmp_path / "file").touch()
    for image, out, message in (
        ("a.png", "x.jpg", "x.jpg: "),
        ("a.png", "X.TIF", "X.TIF: "),
        ("a.csv", "answers.zip", "answers.zip: "),
        ("a.png", "x.png", "x.png: "),
        ("a.png", "file", "file: "),
        ("a.png", "taken", "taken: "),
        (".", "y.png", "y.png: "),
        ("a.csv", "y.png", "y.png: "),
    ):
        ask = ["counterfactual", "no-run", image, "--do", "age=50", "--out", out]
        code = f"import sys; from segcft.cli import main; print(main({ask!r}), 'torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout.split() == ["1", "False"]
        assert message in done.stderr


def test_an_answer_takes_the_place_of_an_earlier_one(
    segcft: Callable[..., Outcome], small_run: Run, radiograph: Path, tmp_path: Path
) -> None:
    ask = ("counterfactual", small_run.folder, radiograph, "--device", "cpu", "--draws", 0)
    (tmp_path / "answer").mkdir()
    (tmp_path / "answer" / ".DS_Store").touch()  # nothing of a user's
    for out in ("x.json", "release-0.2", "answers.v2", "answer"):
        for age in (50, 60):
            assert segcft(*ask, "--do", f"age={age}", "--out", tmp_path / out)[0] == 0
        written = tmp_path / out if out == "x.json" else tmp_path / out / "counterfactual.json"
        assert json.loads(written.read_text())["do"] == ["age=60.0"]


def test_a_damaged_part_is_told(
    segcft: Callable[..., Outcome], small_run: Run, radiograph: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "run"
    shutil.copytree(small_run.folder, copied)
    (copied / "scm.safetensors").write_bytes(b"nothing")
    ask = ("counterfactual", copied, radiograph, "--do", "age=50", "--out", tmp_path / "a", "--device", "cpu")
    assert f"{copied / 'scm.safetensors'}: damaged" in one_line(segcft(*ask))
