"""What only a GPU can show: the same answers, trainings that go on, bfloat16, compiled passes. `make gpu` runs it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segcft.counterfactual.model import CounterfactualModel
from segcft.data.batches import Batches
from segcft.image_models.mechanism import seeded
from segcft.pipeline.pool import run_all
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training.loop import make_fabric
from tests.conftest import MakeStudy
from tests.test_training import CutOffError, StopAfter, copy_of, log_of, tensors_of

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, which PyTorch does not find here"),
]
GPU = "cuda"


@pytest.fixture(autouse=True)
def _float32() -> Any:
    """Products and convolutions in float32, so that a GPU gives what a CPU does."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("part", ["segmentor", "judge", "regressor"])
def test_readers_read_on_a_gpu_what_they_read_on_a_cpu(
    small_run: Run, small_batch: dict[str, Tensor], part: str
) -> None:
    read = [small_run.load(part, device).read(small_batch["image"].to(device)).cpu() for device in ("cpu", GPU)]
    torch.testing.assert_close(read[1], read[0], rtol=1e-3, atol=1e-2)


def test_counterfactuals_are_the_same_on_a_gpu(small_run: Run, small_batch: dict[str, Tensor]) -> None:
    do = torch.full_like(small_batch["values"], math.nan)
    do[:, -1] = 1.2 * small_batch["values"][:, -1]
    found = []
    for device in ("cpu", GPU):
        model = CounterfactualModel(small_run.load("scm", device), small_run.load("cft-segmentor", device))
        image, values, asked = (tensor.to(device) for tensor in (small_batch["image"], small_batch["values"], do))
        found.append(model.counterfactual(image, values, asked))
    torch.testing.assert_close(found[1].values.cpu(), found[0].values, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[1].image.cpu(), found[0].image, rtol=0, atol=1e-2)


def test_what_is_drawn_with_a_seed_leaves_the_generator_where_it_was() -> None:
    device = torch.device(GPU)
    torch.manual_seed(5)
    first = torch.randn(3, device=device)
    torch.manual_seed(5)
    with seeded(1, device):
        torch.randn(7, device=device)
    assert torch.equal(torch.randn(3, device=device), first)


def test_batches_are_the_same_kept_on_a_gpu_or_sent_to_it(small_run: Run) -> None:
    store, device = small_run.store(), torch.device(GPU)
    sent, kept = (Batches(store, store.indices("train", complete=True), 8, seed=1) for _ in range(2))
    assert kept.keep_on(device, room=2**30)
    for ours, theirs in zip(kept.from_step(2, 20, device), sent.from_step(2, 20, device), strict=True):
        for field, value in theirs.items():
            assert ours[field].device.type == device.type
            assert torch.equal(ours[field], value), field


def test_a_training_that_was_cut_off_goes_on_from_its_checkpoint(
    small_run: Run, make_small_study: MakeStudy, tmp_path: Path
) -> None:
    run = copy_of(small_run, tmp_path, make_small_study({"hvae.steps": 20, "hvae.checkpoint_steps": 10}))
    run.path("hvae").unlink()
    with pytest.raises(CutOffError):
        Pipeline(run, make_fabric(GPU), progress=StopAfter(15)).run_stage("hvae")
    before = log_of(run.training, "hvae")
    Pipeline(run, make_fabric(GPU)).run_stage("hvae")
    after = log_of(run.training, "hvae")
    assert [row["step"] for row in after] == list(range(1, 21))
    assert after[:10] == before[:10]
    assert after[10] == pytest.approx(
        before[10], rel=1e-3
    )  # the first step from the checkpoint: same weights and draws


@pytest.mark.parametrize("stage", ["hvae", "cft-segmentor"])
def test_bf16_trains_and_keeps_float32_weights(
    small_run: Run, make_small_study: MakeStudy, tmp_path: Path, stage: str
) -> None:
    study = make_small_study({"hvae.precision": "bf16", "finetune.precision": "bf16", "hvae.steps": 8})
    run = copy_of(small_run, tmp_path, study)
    Pipeline(run, make_fabric(GPU)).run_stage(stage)
    assert all(math.isfinite(row["loss"]) for row in log_of(run.training, stage))
    assert {tensor.dtype for tensor in tensors_of(run.path(stage)).values()} == {torch.float32}


def test_parts_side_by_side_share_a_gpu(make_small_study: MakeStudy, tmp_path: Path) -> None:
    few = {f"{part}.steps": 2 for part in ("segmentor", "judge", "regressor", "scm", "hvae", "finetune")}
    pipeline = Pipeline(Run(tmp_path / "run", make_small_study(few)), make_fabric(GPU))
    run_all(pipeline, jobs=2)
    assert all(pipeline.run.path(part).is_file() for part in pipeline.run.parts)


def test_a_compiled_training_takes_its_first_step_as_one_that_is_not(
    small_run: Run, make_small_study: MakeStudy, tmp_path: Path
) -> None:
    levels = [{"width": 8, "encoder": 1, "z": 2}, {"width": 8, "encoder": 0, "z": 2}]
    first = []
    for compile in (False, True):
        run = copy_of(small_run, tmp_path / str(compile), make_small_study({"hvae.steps": 1, "hvae.levels": levels}))
        Pipeline(run, make_fabric(GPU), compile=compile).run_stage("hvae")
        first.append(log_of(run.training, "hvae")[0]["distortion"])
    assert first[1] == pytest.approx(first[0], rel=0.1)  # the draws of compiled code are others
