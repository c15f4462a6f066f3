"""Numbers that should not be: where they come from, what names them, and what goes on in spite of them."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refused import refused
from segcft.config.loader import parse_study
from segcft.counterfactual.warnings import out_of_support
from segcft.data.splits import assign
from segcft.errors import Code, DataError, RunError, StudyError
from segcft.io.imagefile import read_image
from segcft.io.reject import Rejected
from segcft.measures.measurements import Measurements
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.readers.regressor import RegressorObjective
from segcft.readers.segmentor import SegmentorObjective
from segcft.training import artefact
from segcft.training.loop import make_fabric
from tests.conftest import MakeStudy, changed, plaque_mapping, write_plaques
from tests.test_dicom import RAMP, make, save
from tests.test_pipeline import Notes
from tests.test_training import log_of, tensors_of


def rewrite(folder: Path, ages: list[str] | None = None, keep: Any = None) -> None:
    """Change the table of :func:`write_plaques`: other ages, or some of the rows only."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    if ages is not None:
        rows = [[id, age] for (id, _), age in zip(rows, ages, strict=False)]
    if keep is not None:
        rows = [row for row in rows if keep(row[0])]
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def pipeline_of(folder: Path, changes: dict[str, Any] | None = None, progress: Notes | None = None) -> Pipeline:
    study = parse_study(changed(plaque_mapping(), changes or {}))
    return Pipeline(Run(folder / "run", study), make_fabric("cpu"), folder / "data", progress)


# --- images ---


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_image_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    pixels = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    pixels[1, 2] = value
    Image.fromarray(pixels).save(tmp_path / "x.tiff")
    with pytest.raises(Rejected, match=r"x\.tiff: holds values that are not finite"):
        read_image(tmp_path / "x.tiff", 1, grey_range=(0, 1))


@pytest.mark.parametrize("slope", ["1e400", "nan"])
@pytest.mark.filterwarnings("ignore")  # pydicom and NumPy see it as well
def test_a_dicom_header_that_makes_values_infinite_is_refused(tmp_path: Path, slope: str) -> None:
    path = save(tmp_path / "x.dcm", make(RAMP, RescaleSlope=slope, RescaleIntercept="0"))
    with pytest.raises(Rejected, match=r"x\.dcm: holds values that are not finite"):
        read_image(path, 1)


@pytest.mark.parametrize("window", [None, (0.5, 99.5)])
def test_a_constant_image_is_refused(tmp_path: Path, window: tuple[float, float] | None) -> None:
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(Rejected, match=r"constant image \(every pixel is 7\)"):
        read_image(tmp_path / "x.png", 1, window=window)


@pytest.mark.slow
def test_absurd_images_and_hundreds_of_steps_in_bf16_stay_finite(tmp_path: Path) -> None:
    write_plaques(tmp_path / "data")
    noise = 255 * np.random.default_rng(1).integers(0, 2, (32, 32)).astype(np.uint8)
    for i in range(0, 90, 15):  # black and white at random, whatever the masks say
        Image.fromarray(noise).save(tmp_path / "data" / "images" / f"p{i}.png")
    pipeline = pipeline_of(tmp_path, {"hvae.steps": 200, "hvae.precision": "bf16"})
    pipeline.run_stage("hvae")
    rows = log_of(pipeline.run.training, "hvae")
    assert (len(rows), rows[-1]["skipped"]) == (200, 0)
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"]) for row in rows)
    assert all(tensor.isfinite().all() for tensor in tensors_of(pipeline.run.path("hvae")).values())


@pytest.mark.slow
def test_fine_tuning_in_bf16_stays_finite(small_run: Run, make_small_study: MakeStudy, tmp_path: Path) -> None:
    shutil.copytree(small_run.folder, tmp_path / "run")
    study = make_small_study({"finetune.precision": "bf16", "finetune.steps": 40, "finetune.guides": ["segmentor"]})
    pipeline = Pipeline(Run(tmp_path / "run", study), make_fabric("cpu"))
    pipeline.run_stage("cft-segmentor")
    assert all(math.isfinite(row["loss"]) for row in log_of(pipeline.run.training, "cft-segmentor"))


# --- training ---


def test_skipped_steps_are_counted_in_the_part_and_told(
    small_run: Run, make_small_study: MakeStudy, tmp_path: Path
) -> None:
    shutil.copytree(small_run.folder, tmp_path / "run")
    first = log_of(small_run.training, "hvae")[0]["gradient_norm"]  # so that the first step at least is a spike
    study = make_small_study({"hvae.steps": 20, "hvae.gradient_skip": 0.99 * first})
    notes = Notes()
    pipeline = Pipeline(Run(tmp_path / "run", study), make_fabric("cpu"), progress=notes)
    pipeline.run_stage("hvae")
    skipped = log_of(pipeline.run.training, "hvae")[-1]["skipped"]
    assert skipped >= 1
    metrics = artefact.read_meta(pipeline.run.path("hvae"))["metrics"]
    assert metrics["skipped"] == skipped
    assert all(math.isfinite(value) for value in metrics.values())
    assert any(f"warning: hvae: {skipped} of 20 steps were skipped" in line for line in notes.lines)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path, value: float) -> None:
    network = torch.nn.Linear(2, 1)
    with torch.no_grad():
        network.weight[0, 1] = value
    with pytest.raises(RunError, match=r"part\.safetensors: not written, since weight is not finite"):
        artefact.save(tmp_path / "part.safetensors", network, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["segmentor", "regressor"])
def test_a_structure_that_a_whole_batch_lacks_still_teaches(small_run: Run, part: str) -> None:
    network, store = small_run.build(part), small_run.store()
    rows = store.indices("train")[:4]
    batch = {"image": torch.from_numpy(store.images[rows]), "mask": torch.from_numpy(store.masks[rows])}
    batch["mask"][:, 0] = 0
    spec = getattr(small_run.study, part)
    if part == "segmentor":
        objective: Any = SegmentorObjective(network, spec)  # type: ignore[arg-type]
    else:
        objective = RegressorObjective(network, spec, Measurements.of(small_run.study))  # type: ignore[arg-type]
    loss, _ = objective(batch, 0)
    loss.backward()
    assert loss.isfinite()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


# --- people and attributes ---


def test_an_attribute_without_variance_is_refused_before_any_training(tmp_path: Path) -> None:
    write_plaques(tmp_path / "data", people=30)
    rewrite(tmp_path / "data", ages=["50"] * 30)
    with refused(DataError, Code.EMPTY, "store: age"):
        pipeline_of(tmp_path).run_all()
    assert not (tmp_path / "run" / "training").exists()


def test_one_training_person_is_refused_before_any_training(tmp_path: Path) -> None:
    write_plaques(tmp_path / "data", people=30)
    splits = parse_study(plaque_mapping()).splits
    of_training = [f"p{i}" for i in range(30) if assign(f"p{i}", splits) == "train"]
    rewrite(tmp_path / "data", keep=lambda id: id not in of_training[1:])
    with refused(DataError, Code.EMPTY):
        pipeline_of(tmp_path).run_all()


def test_attributes_that_no_training_person_has_whole_are_refused(tmp_path: Path) -> None:
    write_plaques(tmp_path / "data", people=30)
    rewrite(tmp_path / "data", ages=[""] * 30)
    with refused(DataError, Code.EMPTY, "store"):
        pipeline_of(tmp_path).run_all()


def test_a_category_of_no_training_person_is_told_at_the_import_and_in_answers(tmp_path: Path) -> None:
    write_plaques(tmp_path / "data", people=40)
    sex = {"kind": "categorical", "categories": ["F", "M", "X"]}
    lines = (tmp_path / "data" / "metadata.csv").read_text().splitlines()
    lines = [f"{lines[0]},sex", *(f"{line},{'FM'[i % 2]}" for i, line in enumerate(lines[1:]))]
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines))
    notes = Notes()
    pipeline = pipeline_of(tmp_path, {"variables.sex": sex}, notes)
    pipeline.run_stage("import")
    assert any("warning: sex: no training sample is 'X'" in line for line in notes.lines)
    store, study = pipeline.store, pipeline.study
    people = torch.from_numpy(store.values()[store.indices("train", complete=True)])
    column = list(study.variables).index("sex")
    asked = torch.full_like(people[0], torch.nan)
    asked[column] = 2
    after = people[0].clone()
    after[column] = 2
    source = dict.fromkeys(study.variables, "given")
    assert out_of_support(study, source, people[0], asked, after, people) == [
        "sex: X (asked for) is not in the training samples"
    ]


def test_intervals_need_draws_beyond_their_ends(make_small_study: MakeStudy) -> None:
    with pytest.raises(StudyError, match=r"evaluation\.bootstrap: .*greater than or equal to 40"):
        make_small_study({"evaluation.bootstrap": 39})


def test_areas_at_zero_leave_no_number_that_is_none(plaque_run: Run) -> None:
    rows = json.loads((plaque_run.evaluation / "table.json").read_text())
    of_plaque = [row for row in rows if row["structure"] == "plaque" and row["metric"] == "mae"]
    assert of_plaque
    for row in of_plaque:
        assert math.isfinite(row["value"])
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
