"""Files of strangers run no code, names lead nowhere, no patient is in a log, every licence is known."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from refused import refused
from segcft.cli import main
from segcft.config.loader import load_study
from segcft.data.store import Store
from segcft.errors import Code, DataError, RunError, SegcftError, StudyError
from segcft.image_models.causal_gen import CausalGenHVAE
from segcft.image_models.causal_gen_checkpoint import load_causal_gen
from segcft.pipeline.run import Run
from segcft.training import artefact
from tests.conftest import MakeStudy, changed, plaque_mapping, write_plaques
from tests.test_dicom import make, save
from tools import licences

ROOT = Path(__file__).parents[1]


class Hostile:
    """An object whose unpickling makes the file ``mark``."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What is there once a hostile file has run its code."""
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Hostile(mark)))
    assert mark.exists()  # the attack works where it is let
    mark.unlink()
    return mark


def test_a_hostile_checkpoint_of_a_training_runs_nothing(mark: Path, tmp_path: Path) -> None:
    torch.save({"key": "key", "step": Hostile(mark)}, tmp_path / "hvae.checkpoint")
    with refused(RunError, Code.DAMAGED):
        artefact.load_checkpoint(tmp_path / "hvae.checkpoint", "key")
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_checkpoint_of_others_runs_nothing(
    mark: Path, tmp_path: Path, make_small_study: MakeStudy, zipped: bool
) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"ema_model_state_dict": Hostile(mark)}, path, _use_new_zipfile_serialization=zipped)
    network: Any = CausalGenHVAE.__new__(CausalGenHVAE)  # is not looked at before the file is read
    with refused(DataError, Code.UNREADABLE):
        load_causal_gen(path, network, [])
    assert not mark.exists()


def _part(folder: Path) -> None:
    artefact.read_meta(folder / "hostile")


def _people(folder: Path) -> None:
    (folder / "store.json").write_text(
        '{"version": 1, "samples": 0, "channels": 1, "size": [1, 1], "variables": {}, "structures": {}, '
        '"pixel_area": 1, "area_unit": "px", "fingerprint": ""}'
    )
    (folder / "hostile").rename(folder / "table.parquet")
    Store(folder)


def _study(folder: Path) -> None:
    load_study(folder / "hostile")


@pytest.mark.parametrize("read", [_part, _people, _study])
def test_a_hostile_pickle_under_another_name_runs_nothing(
    mark: Path, tmp_path: Path, read: Callable[[Path], None]
) -> None:
    (tmp_path / "hostile").write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(SegcftError):
        read(tmp_path)
    assert not mark.exists()


def test_a_study_cannot_name_python_objects(mark: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(f"name: !!python/object/apply:os.system ['touch {mark}']\n")
    with refused(StudyError, Code.INVALID, "study.yaml"):
        load_study(tmp_path / "study.yaml")
    assert not mark.exists()


def _calls(file: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


REFUSED = re.compile(
    r"pickle\.loads?|.*\bpickle\.Unpickler|.*read_pickle|joblib\.load|dill\.loads?|marshal\.loads?|shelve\.open|eval|exec"
    r"|os\.system|yaml\.(unsafe_load|full_load)|.*\.extractall|shutil\.unpack_archive"
)


def test_the_source_has_no_call_that_runs_what_a_file_says() -> None:
    files = [*ROOT.glob("src/**/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("tools/*.py")]
    found = [(file, name, call) for file in files for name, call in _calls(file)]
    assert len(found) > 1000
    assert not [(file.name, name) for file, name, _ in found if REFUSED.fullmatch(name)]
    loads = [(file, call) for file, name, call in found if name == "torch.load"]
    assert loads
    for file, call in loads:
        said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert said.get("weights_only") == "True", file
    for file, name, call in found:
        if name in ("np.load", "numpy.load"):
            assert all(ast.unparse(k.value) == "False" for k in call.keywords if k.arg == "allow_pickle"), file
        if name == "yaml.load":
            assert [ast.unparse(k.value) for k in call.keywords if k.arg == "Loader"] == ["_UniqueKeyLoader"], file


@pytest.mark.parametrize("name", ["../other", "/etc/other", "a/b", "..", ".hidden", ""])
def test_the_name_of_a_study_is_no_path(small_study_file: Path, tmp_path: Path, name: str) -> None:
    raw = yaml.safe_load(small_study_file.read_text()) | {"name": name}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(raw))
    with refused(StudyError, Code.INVALID, "study.yaml: name"):
        load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize("id", ["../p0", "/etc/passwd", "a/../../p0", "..\\p0", "C:p0", "p0\x00"])
def test_an_id_of_a_table_that_leads_out_of_the_folder_is_left_out(id: str, tmp_path: Path) -> None:
    write_plaques(tmp_path / "data", people=40)
    with (tmp_path / "data" / "metadata.csv").open("a", encoding="utf-8") as file:
        file.write(f"{id},50\n")
    run = Run(tmp_path / "run", load_plaques(tmp_path))
    assert (
        main(["import", str(tmp_path / "plaques.yaml"), "--data", str(tmp_path / "data"), "--out", str(run.folder)])
        == 0
    )
    rejected = pd.read_csv(run.folder / "store" / "rejected.csv", dtype=str)
    assert len(rejected) == 1
    assert "not a plain file name" in rejected["reason"][0]


def load_plaques(folder: Path, changes: dict[str, Any] | None = None) -> Any:
    path = folder / "plaques.yaml"
    path.write_text(yaml.safe_dump(changed(plaque_mapping(), changes or {})))
    return load_study(path)


def test_no_patient_is_in_a_log_or_in_a_part(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither on the screen, nor in figures of training, nor in the headers of parts; warnings included."""
    write_plaques(tmp_path / "data", people=40)
    lines = (tmp_path / "data" / "metadata.csv").read_text().splitlines()
    lines = [f"{lines[0]},who", *(f"{line},HOSP-{4711 + i}" for i, line in enumerate(lines[1:]))]
    lines.append("gone,60,HOSP-9999")  # no such image
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines))
    load_plaques(tmp_path, {"data.patient": "who", "scm.steps": 3, "segmentor.steps": 3})
    common = [str(tmp_path / "plaques.yaml"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    for command in ("import", "segmentor", "scm"):
        assert main([command, *common]) == 0
    shown = capfd.readouterr()
    assert "40 samples" in shown.err
    assert "1 rejected" in shown.err
    assert "HOSP-" not in shown.out + shown.err
    written = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    of_people = {"table.parquet", "rejected.csv"}  # the samples' own, which never leave the run
    assert of_people < {file.name for file in written}
    for file in written:
        if file.name not in of_people:
            assert b"HOSP-" not in file.read_bytes(), file


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_dicom_header_says_of_a_person_is_not_told(tmp_path: Path) -> None:
    """A process of its own, as warnings of libraries are not printed in tests. The header's dates and age are none."""
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 64), dtype=np.uint16)
    person = {"PatientName": "HOSP^Jane", "PatientID": "HOSP-4711", "PatientBirthDate": "HOSP1950"}
    (tmp_path / "answer").mkdir()
    file = save(tmp_path / "x.dcm", make(pixels, **person, StudyDate="HOSP2014", PatientAge="HOSP", PatientSex="HOSP"))
    words = ["counterfactual", str(ROOT / "models" / "jsrt"), str(file), "--do", "heart_area=+10%"]
    words += ["--out", str(tmp_path / "answer" / "new.dcm")]
    done = subprocess.run([sys.executable, "-m", "segcft.cli", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "HOSP" not in done.stdout + done.stderr
    written = [path for path in (tmp_path / "answer").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"HOSP" in path.read_bytes()]


def test_a_patient_in_two_parts_is_told_by_lines_and_not_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plaques(tmp_path / "data", people=4)
    lines = (tmp_path / "data" / "metadata.csv").read_text().splitlines()
    parts = ["train", "test", "train", "validation"]
    lines = [f"{lines[0]},who,part", *(f"{line},HOSP-{i // 2},{parts[i]}" for i, line in enumerate(lines[1:]))]
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines))
    load_plaques(tmp_path, {"data.patient": "who", "data.split": "part"})
    words = ["import", str(tmp_path / "plaques.yaml"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "one patient is in train (line 2) and test (line 3)" in said
    assert "HOSP-" not in said


# --- licences ---


def test_every_licence_is_allowed_and_on_the_page() -> None:
    packages = list(licences.installed(licences.requirements()))
    assert {"torch", "numpy", "sphinx", "starlette"} <= {package.name.lower() for package in packages}
    assert not [f"{p.name}: {licences.licence(p)}" for p in packages if not licences.is_allowed(licences.licence(p))]
    page = licences.PAGE.read_text(encoding="utf-8")
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    missing = [p.name for p in packages if p.name.lower() in pinned and f"| {p.name} |" not in page]
    assert not missing, "python -m tools.licences --write"


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("Apache-2.0 AND (GPL-2.0-only OR MIT)", True),
        ("(GPL-2.0-only OR LGPL-2.1-only) AND MIT", False),
        ("none stated", False),
        ("Other/Proprietary License", False),
    ],
)
def test_a_licence_with_strings_is_refused(expression: str, allowed: bool) -> None:
    assert licences.is_allowed(expression) == allowed
