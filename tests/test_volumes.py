"""Volumes through every stage, and what is not yet there for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segcft
from refused import refused
from segcft.config.loader import parse_study
from segcft.config.outline import Outline
from segcft.errors import Code, StudyError
from segcft.evaluate.planes import Planes
from segcft.grid import Grid
from segcft.pipeline.judging import load_judge
from segcft.pipeline.publish import publish
from segcft.pipeline.publish_readers import publish_readers
from segcft.pipeline.realism import judge_realism
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.segment import Readers
from segcft.planning.plan import usual_study
from segcft.report.page import render_report
from segcft.training.loop import make_fabric
from segcft.utils.progress import Progress
from tests.conftest import MakeOnce

SIZE = (28, 36, 56)


def mapping() -> dict[str, Any]:
    """A small study of volumes, in voxels of 1 x 1 x 1 mm."""
    reader = {"steps": 3, "batch_size": 3, "widths": [4, 8]}
    volume = {"kind": "continuous", "parents": ["sex", "age"], "unit": "mm³"}
    return {
        "name": "volumes",
        "image": {"size": list(SIZE), "field_of_view": list(SIZE), "length_unit": "mm"},
        "variables": {
            "sex": {"kind": "categorical", "categories": ["F", "M"]},
            "age": {"kind": "continuous", "unit": "years"},
            "anterior_volume": volume,
            "posterior_volume": volume,
            "tip": {"kind": "continuous", "parents": ["anterior_volume"], "unit": "mm"},
        },
        "structures": {
            "anterior": {"variable": "anterior_volume"},
            "posterior": {"variable": "posterior_volume"},
            "anterior_tip": {"variable": "tip", "of": ["anterior"], "measure": "right"},
        },
        "data": {"source": "volume-simulator", "people": 24, "seed": 1},
        "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
        "segmentor": reader | {"seed": 1},
        "judge": reader | {"seed": 2},
        "regressor": {"steps": 3, "batch_size": 3, "widths": [4, 4, 8, 8], "blocks": [1, 1, 1, 1], "seed": 3},
        "scm": {"steps": 5, "seed": 4},
        "hvae": {
            "steps": 3,
            "batch_size": 3,
            "patch": 2,
            "warp": 4,
            "diffeomorphic": True,
            "deform": {"share": 0.5},
            "levels": [
                {"width": 8, "encoder": 1, "decoder": 1, "z": 2},
                {"width": 8, "encoder": 1, "decoder": 1, "z": 2},
            ],
        },
        "finetune": {"steps": 3, "batch_size": 3, "bound_batches": 1, "price": "floor", "area_scale": "given others"},
        "evaluation": {"metric": "mae", "people": 4, "bootstrap": 100, "batch_size": 4, "figure_people": 1},
    }


@pytest.fixture(scope="session")
def volumes(made_once: MakeOnce) -> Run:
    """A whole run of a small study of volumes, every stage from the import to the evaluation; only to be read."""
    study = parse_study(mapping())

    def make(folder: Path) -> None:
        Pipeline(Run(folder / "volumes", study), make_fabric("cpu")).run_all()

    return Run(made_once("volumes", make) / "volumes", study)


def test_every_stage_takes_volumes(volumes: Run) -> None:
    store = volumes.store()
    assert store.images.shape[1:] == (1, *SIZE)
    assert store.masks.shape[1:] == (2, *SIZE)
    measured = store.masks[:, 0].reshape(len(store), -1).sum(axis=1) / 255
    np.testing.assert_allclose(store.table["anterior_volume"], measured, rtol=1e-5)  # mm³, of voxels of 1 mm³
    assert 28 < store.table["tip"].mean() < 56
    rows = json.loads((volumes.evaluation / "table.json").read_text())
    said = {(row["method"], row["metric"]) for row in rows if row["value"] is not None}
    for method in ("none", "regressor", "segmentor"):
        for metric in ("mae", "locality", "true counterfactual error", "smallest stretch", "reversibility"):
            assert (method, metric) in said
    assert all(row["value"] > 0 for row in rows if row["metric"] == "smallest stretch" and row["value"] is not None)
    figures = {path.name for path in (volumes.evaluation / "figures").iterdir()}
    assert {"counterfactuals-anterior.png", "differences-posterior.png", "asked-obtained.png"} <= figures


def test_an_answer_to_nothing_is_the_volume_itself(volumes: Run) -> None:
    model, store = volumes.model("segmentor"), volumes.store()
    x = torch.from_numpy(store.images[:2].copy()).float() / 127.5 - 1
    values = torch.from_numpy(store.values()[:2])
    with torch.no_grad():
        same = model.mechanism.predict(model.mechanism.abduct(x, values), values)
    torch.testing.assert_close(same, x, rtol=0, atol=1e-4)


def test_what_is_not_there_for_volumes_says_so(volumes: Run, tmp_path: Path) -> None:
    with refused(StudyError, Code.UNSUPPORTED, "image.size"):
        segcft.load(volumes.folder)
    with refused(StudyError, Code.UNSUPPORTED, "image.size"):
        publish(volumes, tmp_path / "model")
    with refused(StudyError, Code.UNSUPPORTED, "image.size"):
        publish_readers(volumes, tmp_path / "readers")
    with refused(StudyError, Code.UNSUPPORTED, "image.size"):
        Readers.of([volumes.folder], torch.device("cpu"))
    with refused(StudyError, Code.UNSUPPORTED, "image.size"):
        judge_realism(volumes, tmp_path / "realism", torch.device("cpu"), Progress())
    with refused(StudyError, Code.UNSUPPORTED, "image.size"):
        render_report(volumes, torch.device("cpu"))
    (tmp_path / "theirs.yaml").write_text("{network: net.pt, structures: {anterior: [0], posterior: [1]}}\n")
    with refused(StudyError, Code.UNSUPPORTED, "image.size"):
        load_judge(volumes, tmp_path / "theirs.yaml")


@pytest.mark.parametrize("image", [None, {"size": list(SIZE)}])
def test_volumes_are_not_planned_yet(image: dict[str, Any] | None) -> None:
    raw = {key: value for key, value in mapping().items() if key not in ("hvae", "finetune", "image")}
    with refused(StudyError, Code.UNSUPPORTED, "image.size"):
        usual_study(Outline(raw | ({"image": image} if image else {}), "volumes.yaml"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data": {"source": "folder"}}, "study: image.size"),
        ({"data": {"source": "chest-simulator", "people": 9}}, "study: image.size"),
        ({"image": {"size": [32, 32]}}, "study: image.size"),
        ({"regressor": mapping()["regressor"] | {"augment": {"film": {"share": 0.5}}}}, "study: regressor.augment"),
        ({"finetune": mapping()["finetune"] | {"view": {"rotate": 5}}}, "study: finetune.view"),
    ],
)
def test_what_volumes_cannot_have_is_told_before_anything_is_trained(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(mapping() | changes)
    assert str(caught.value).startswith(field)


# --- what is seen of a volume ---


def test_three_planes_meet_in_one_voxel() -> None:
    grid = Grid((4, 5, 6))
    masks = torch.zeros(2, 4, 5, 6)
    masks[0, 1, 2, 3] = masks[1, 1, 2, 5] = 1  # the middle is between them
    view = Planes(grid, masks)
    assert view.place == (1, 2, 4)
    assert view.size == (5 + 4, 6 + 4)
    values = torch.arange(120.0).reshape(1, 4, 5, 6)
    picture = view(values, -1.0)[0]
    assert torch.equal(picture[:5, :6], values[0, 1])
    assert torch.equal(picture[5:, :6], values[0, :, 2])
    assert torch.equal(picture[:5, 6:], values[0, :, :, 4].T)
    assert bool((picture[5:, 6:] == -1).all())
    assert picture[2, 4] == picture[5 + 1, 4] == picture[2, 6 + 1] == values[0, 1, 2, 4]


def test_voxels_are_shown_as_large_as_they_are() -> None:
    grid = Grid((4, 5, 6), pitch=(2.0, 1.0, 1.0))
    assert Planes(grid, torch.zeros(0, 4, 5, 6)).size == (5 + 8, 6 + 8)
    assert Planes(grid, torch.zeros(1, 4, 5, 6))(torch.ones(3, 4, 5, 6)).shape == (3, 13, 14)


def test_of_an_image_it_is_the_image() -> None:
    view, image = Planes(Grid((4, 5)), torch.ones(1, 4, 5)), torch.rand(2, 3, 4, 5)
    assert view(image) is image
    assert view.size == (4, 5)
