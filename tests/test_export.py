"""Models in ONNX and as MONAI bundles: what they give without segcft is what segcft gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from refused import refused
from segcft.cli import main
from segcft.errors import Code, RunError
from segcft.export.bundle import export_bundle
from segcft.export.onnx import COUNTERFACTUAL, DESCRIPTION, TOLERANCE, export_onnx
from segcft.grey import to_unit
from segcft.io.lie import Lie
from segcft.io.scan import read_array
from segcft.io.volumeout import nifti_bytes
from segcft.pipeline.run import Run
from segcft.readers.foreign import ForeignSegmentor
from tests.conftest import MakeOnce

FAR = 10 * TOLERANCE
"""What tells two answers from each other; and what an export may be off by on images of which none was tried."""


def ask(path: Path, **given: Tensor) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: one.numpy() for name, one in given.items()})
    return np.asarray(found)


@pytest.fixture(scope="module")
def exported(made_once: MakeOnce, small_run: Run) -> Path:
    return made_once("onnx", lambda folder: export_onnx(small_run, folder))


def test_answers_are_those_of_the_model(exported: Path, small_run: Run) -> None:
    """Of images of the data, of which none was tried when it was written."""
    store, model = small_run.store(), small_run.model(list(small_run.methods())[-1])
    rows = store.indices("test", complete=True)[:2]
    images, values = to_unit(torch.from_numpy(store.images[rows])), torch.from_numpy(store.values()[rows])
    after = values.flip(0)
    for k in range(2):
        one = slice(k, k + 1)
        expected = model.abduct(images[one], values[one]).predict(after[one])
        found = ask(exported / "counterfactual.onnx", image=images[one], values=values[one], after=after[one])
        assert np.abs(found - expected.numpy()).max() < FAR


def test_readers_take_any_number_of_images(exported: Path, small_run: Run) -> None:
    store = small_run.store()
    images = to_unit(torch.from_numpy(store.images[store.indices("test")[:5]]))
    for part in ("judge", "segmentor"):
        expected = small_run.load(part).masks(images)
        assert np.abs(ask(exported / f"{part}.onnx", image=images) - expected.numpy()).max() < FAR


def test_a_reader_that_sees_nothing_of_what_is_faint_is_exported_as_it_is(small_run: Run, tmp_path: Path) -> None:
    """Though what is all but faint may be given by the one and not by the other."""
    store, study = small_run.store(), small_run.study
    images = to_unit(torch.from_numpy(store.images[store.indices("test")[:5]]))
    soft = small_run.load("judge").masks(images)
    faint = float(soft.median())
    run = Run(small_run.folder, study.model_copy(update={"judge": study.judge.model_copy(update={"faint": faint})}))
    export_onnx(run, tmp_path / "onnx")
    found, expected = (
        torch.from_numpy(ask(tmp_path / "onnx" / "judge.onnx", image=images)),
        run.load("judge").masks(images),
    )
    assert (expected == 0).float().mean() > 0.4
    sure = (soft - faint).abs() > FAR
    assert (found - expected)[sure].abs().max() < FAR


def test_an_exported_judge_judges(exported: Path, small_run: Run) -> None:
    """Its file beside it is that of a judge from elsewhere."""
    store = small_run.store()
    images = to_unit(torch.from_numpy(store.images[store.indices("test")[:3]]))
    foreign = ForeignSegmentor(exported / "judge.yaml", small_run.study)
    assert torch.allclose(foreign.masks(images), small_run.load("judge").masks(images), atol=FAR)


def test_volumes_are_exported_too(volumes: Run, tmp_path: Path) -> None:
    apart = export_onnx(volumes, tmp_path / "onnx")
    assert COUNTERFACTUAL in apart
    assert max(apart.values()) <= TOLERANCE


def test_its_description_names_all_that_is_given(exported: Path, small_run: Run) -> None:
    said = json.loads((exported / DESCRIPTION).read_text())
    assert [one["name"] for one in said["values"]] == list(small_run.study.variables)
    assert said["structures"] == list(small_run.study.masked)
    assert said["networks"][COUNTERFACTUAL]["inputs"]["image"] == [1, 1, *small_run.study.image.size]
    assert all(one["largest difference from PyTorch"] <= TOLERANCE for one in said["networks"].values())


def test_its_readme_runs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines in it are all that somebody needs."""
    code = (exported / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(exported)
    names: dict[str, object] = {}
    exec(code, names)
    assert np.isfinite(np.asarray(names["image"])).all()
    assert np.asarray(names["masks"]).max() <= 1


def test_an_export_replaces_an_export_and_nothing_else(exported: Path, small_run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with refused(RunError, Code.EXISTS, tmp_path):
        export_onnx(small_run, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (exported / "old").write_text("")
    assert main(["export", str(small_run.folder), str(exported)]) == 0
    assert not (exported / "old").exists()


def test_a_method_that_is_not_there_is_an_error(small_run: Run, tmp_path: Path) -> None:
    with refused(RunError, Code.UNKNOWN, small_run.folder):
        export_onnx(small_run, tmp_path / "onnx", "predictor")
    assert not (tmp_path / "onnx").exists()


def run_bundle(folder: Path) -> None:
    """As its own page says."""
    code = (folder / "docs" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_bundle_of_images_gives_the_masks_of_the_model(small_run: Run, tmp_path: Path) -> None:
    folder, study, store = tmp_path / "bundle", small_run.study, small_run.store()
    assert main(["export", str(small_run.folder), str(folder), "--bundle", "judge"]) == 0
    (folder / "images").mkdir()
    rows = store.indices("test")[:3]
    for row in rows:
        Image.fromarray(store.images[row][0]).save(folder / "images" / f"{row}.png")
    run_bundle(folder)
    judge = small_run.load("judge")
    for row in rows:
        seen = judge.masks(to_unit(torch.from_numpy(store.images[[row]])))[0]
        flags = np.asarray(Image.open(folder / "masks" / f"{row}.png_mask.png"))
        for bit in range(len(study.masked)):
            certain = (seen[bit] - 0.5).abs().numpy() > FAR
            assert np.array_equal((flags >> bit & 1)[certain], (seen[bit].numpy() >= 0.5)[certain])


def test_a_bundle_of_volumes_gives_the_masks_of_the_model(volumes: Run, tmp_path: Path) -> None:
    """Of a volume on the study's grid, in an order of axes of its own: its mask has that order, too."""
    folder, study, store = tmp_path / "bundle", volumes.study, volumes.store()
    export_bundle(volumes, folder, "segmentor")
    (folder / "images").mkdir()
    row = int(store.indices("test")[0])
    pixels = store.images[row]
    lie = Lie.straight(study.image.spacing or (1.0, 1.0, 1.0), said=True)
    (folder / "images" / "one.nii.gz").write_bytes(nifti_bytes(pixels, lie, None))
    run_bundle(folder)
    found, _, _ = read_array(folder / "masks" / "one_mask.nii.gz")
    low, high = (float(np.percentile(pixels, one)) for one in (0.5, 99.5))
    scaled = np.clip((pixels.astype(np.float32) - low) / (high - low), 0, 1) * 2 - 1
    seen = volumes.load("segmentor").masks(torch.from_numpy(scaled[None]))[0].numpy()
    assert found.shape[:3] == study.image.size
    for bit in range(len(study.masked)):
        certain = np.abs(seen[bit] - 0.5) > 0.01  # its percentiles are computed otherwise
        assert np.array_equal((found[..., 0].astype(int) >> bit & 1)[certain], (seen[bit] >= 0.5)[certain])


def test_a_bundle_says_what_it_is(small_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    export_bundle(small_run, folder, "judge")
    said = json.loads((folder / "configs" / "metadata.json").read_text())
    wanted = {"version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "description"}
    assert wanted | {"authors", "copyright", "network_data_format"} <= said.keys()
    shape = said["network_data_format"]["inputs"]["image"]["spatial_shape"]
    assert tuple(shape) == small_run.study.image.size
    export_bundle(small_run, folder, "segmentor")  # in its place
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "mine").write_text("")
    with refused(RunError, Code.EXISTS, "else"):
        export_bundle(small_run, tmp_path / "else", "judge")
    with refused(RunError, Code.MISSING, small_run.folder):
        export_bundle(small_run, tmp_path / "other", "regressor")


def test_readers_alone_are_exported_too(tmp_path: Path) -> None:
    model = Path(__file__).parents[1] / "models" / "chest-segmentor"
    apart = export_onnx(Run(model), tmp_path / "onnx")
    assert set(apart) == {"segmentor", "judge"}
    assert "counterfactual" not in (tmp_path / "onnx" / "README.md").read_text()
