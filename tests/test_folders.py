"""Studies of several sources: each folder is read its own way, and what one lacks is missing, not invented."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from segcft.config.loader import parse_study
from segcft.config.outline import Outline
from segcft.config.sources import FolderKeys, SeveralFolders
from segcft.config.study import Study
from segcft.data.alike import check_copies, copies
from segcft.data.batches import Batches
from segcft.data.maskfit import check_masks
from segcft.data.shards import Shard, join
from segcft.data.store import MASKED, Store
from segcft.errors import Code, DataError, StudyError
from segcft.importers.folder import import_folder
from segcft.pipeline.completion import completed
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.pipeline.stage import STAGES
from segcft.planning.fingerprint import take_fingerprint
from segcft.training.loop import make_fabric
from segcft.utils.progress import Progress

EACH = 8
HOMES = ("north", "south", "east")


def write_source(root: Path, name: str, columns: dict[str, list[Any]], masks: bool = True) -> None:
    """A folder of :data:`EACH` images; ``columns`` are those of its table beside the ids, which all sources share."""
    random = np.random.default_rng(len(name))
    for number in range(EACH):
        mask = lung(number)
        image = random.integers(0, 40, (8, 8), dtype=np.uint8) + 200 * mask  # so that masks fit their images
        for kind, pixels in (("images", image), ("masks", mask)):
            if kind == "images" or masks:
                path = root / name / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    with (root / name / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", *columns], *zip(range(EACH), *columns.values(), strict=True)])


def lung(number: int) -> np.ndarray:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[1:7, 1 : 3 + number % 4] = 1
    return mask


def study_of(folders: dict[str, Any], **changes: Any) -> Study:
    step: dict[str, Any] = {"steps": 2, "batch_size": 4}
    raw: dict[str, Any] = {
        "name": "several",
        "image": {"size": [8, 8]},
        "variables": {
            "site": {"kind": "categorical", "categories": list(HOMES)},
            "age": {"kind": "continuous", "unit": "years"},
            "lung_area": {"kind": "continuous", "parents": ["age"]},
        },
        "structures": {"lung": {"variable": "lung_area", "bit": 1}},
        "data": {"source": "folders", "folders": folders},
        "splits": {"train": 0.5, "validation": 0, "test": 0.5},
        "segmentor": step | {"seed": 1, "widths": [4, 8]},
        "judge": step | {"seed": 2, "widths": [4, 8]},
        "regressor": step,
        "scm": step,
        "hvae": step | {"levels": [{"width": 8}]},
        "finetune": step,
    }
    return parse_study(raw | changes)


THREE: dict[str, Any] = {
    "north": {"values": {"site": "north"}, "columns": {"age": "years"}},
    "south": {"folder": "far/south", "values": {"site": "south"}, "lacks": ["age"]},
    "east": {"masked": False, "patient": "person"},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_source(tmp_path, "north", {"years": list(range(40, 40 + EACH))})
    write_source(tmp_path / "far", "south", {"sex": ["F"] * EACH})
    write_source(
        tmp_path, "east", {"site": ["east"] * EACH, "age": [60] * EACH, "person": [0, 0, 1, 1, 2, 2, 3, 3]}, False
    )
    return tmp_path


def test_every_source_is_read_its_own_way(root: Path) -> None:
    store = import_folder(study_of(THREE), root, root / "store")
    table = store.table
    assert len(store.rejected) == 0
    assert table["site"].tolist() == [home for home in HOMES for _ in range(EACH)]
    assert table["age"][:EACH].tolist() == list(range(40, 40 + EACH))
    assert table["age"][EACH : 2 * EACH].isna().all()
    # The same id in two sources is of two patients, of whom one source has two images each.
    assert table["id"].is_unique
    assert table["patient"].nunique() == 2 * EACH + EACH // 2
    assert table["id"][0] == "north/0"


def test_without_masks_no_measure_is_known_and_no_reader_learns(root: Path) -> None:
    study = study_of(THREE)
    store = import_folder(study, root, root / "store")
    east = (store.table["site"] == "east").to_numpy()
    assert store.table["lung_area"].isna().tolist() == east.tolist()
    assert store.table[MASKED].tolist() == (~east).astype(int).tolist()
    assert not east[store.indices(masked=True)].any()
    assert set(store.indices(complete=True)) == set(range(EACH))  # the south lacks ages, the east masks
    assert check_masks(store) == []  # empty masks are none: nothing is said of how they fit
    Store(root / "store", verify=True)


def test_a_study_whose_sources_all_have_masks_says_nothing_of_them(root: Path) -> None:
    two = {name: THREE[name] for name in ("north", "south")}
    assert MASKED not in import_folder(study_of(two), root, root / "store").table


def test_shards_know_who_has_no_masks(root: Path) -> None:
    study = study_of(THREE)
    shards = [root / f"shard{k}" for k in (1, 2, 3)]
    for k, place in enumerate(shards, 1):
        import_folder(study, root, place, shard=Shard(k, 3))
    whole = import_folder(study, root, root / "store")
    assert join(study, shards, root / "joined").fingerprint == whole.fingerprint


def test_who_has_no_masks_trains_no_reader(root: Path) -> None:
    """A segmentor that learnt from empty masks would learn that nothing is there."""
    study = study_of(THREE)
    store = import_folder(study, root, root / "store")
    east = (store.table["site"] == "east").to_numpy()
    for name in ("segmentor", "judge", "regressor"):
        rows = STAGES.find(name).rows(study, store)
        assert len(rows)
        assert not east[rows].any()


@pytest.mark.parametrize(
    ("source", "key", "value"),
    [
        ("north", "values", {"home": "north"}),
        ("north", "values", {"lung_area": 3.0}),
        ("north", "values", {"site": "west"}),
        ("north", "values", {"age": math.nan}),
        ("north", "values", {"age": True}),
        ("north", "folder", "../north"),
        ("north", "folder", "/north"),
        ("north", "folder", "east"),
        ("north", "lacks", ["age"]),
        ("north", "values", {"age": "old"}),
        ("south", "lacks", ["weight"]),
        ("south", "lacks", ["age", "site"]),
        ("north", "keep", ["side"]),
    ],
)
def test_what_is_said_of_a_source_fits_the_study(source: str, key: str, value: Any) -> None:
    folders = THREE | {source: THREE[source] | {key: value}}
    with pytest.raises(StudyError) as caught:
        study_of(folders)
    assert source in str(caught.value)


@pytest.mark.parametrize(
    ("source", "change", "field"),
    [
        ("north", {"images": "pictures"}, "data.folders.north.images"),
        ("north", {"columns": {"age": "agee"}}, "metadata.csv"),
        ("south", {"table": "table.csv"}, "data.folders.south.table"),
        ("east", {"masked": True}, "data.folders.east.masks"),
    ],
)
def test_errors_name_the_source(root: Path, source: str, change: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError) as caught:
        import_folder(study_of(THREE | {source: THREE[source] | change}), root, root / "store")
    assert caught.value.code is Code.MISSING
    assert field in str(caught.value)


def test_an_image_of_none_is_read_as_all_say(root: Path) -> None:
    folders = {"north": {"window": [1, 99], "nifti_axes": "xy"}, "south": {"window": [0, 99], "nifti_axes": "xy"}}
    data = study_of(folders).data
    assert isinstance(data, SeveralFolders)
    assert data.common == FolderKeys(nifti_axes="xy")


def test_a_plan_looks_at_all_sources(root: Path) -> None:
    study = study_of(THREE)
    outline = Outline(
        study.model_dump(mode="json", include={"name", "variables", "structures", "data"}), "several.yaml"
    )
    seen = take_fingerprint(study, outline, root, Progress())
    assert seen.images == 3 * EACH
    assert seen.subjects == 2 * EACH + EACH // 2
    assert seen.structures["lung"].absent == 0  # of masks that are not known nothing is absent


# --- one picture in two sources ---


def blobs(seed: int) -> np.ndarray:
    """A picture of its own, 32 x 32."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(32, 32)), 3)
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def pictures(root: Path, second: list[np.ndarray]) -> Store:
    """Two sources of eight pictures each, of which those of the second are given."""
    for name in ("north", "south"):
        write_source(root, name, {"age": list(range(EACH))})
        for number in range(EACH):
            picture = blobs(number) if name == "north" else second[number]
            Image.fromarray(picture).save(root / name / "images" / f"{number}.png")
            Image.fromarray(np.kron(lung(number), np.ones((4, 4), np.uint8))).save(root / name / f"masks/{number}.png")
    sources = {"north": {"values": {"site": "north"}}, "south": {"values": {"site": "south"}}}
    return import_folder(study_of(sources, image={"size": [32, 32]}), root, root / "store")


def test_a_picture_in_two_sources_is_found_whatever_its_greys(tmp_path: Path) -> None:
    others = [blobs(100 + number) for number in range(EACH)]
    others[2] = (255 * (blobs(5) / 255) ** 2).astype(np.uint8)  # darker
    others[6] = np.clip(blobs(1) * 1.2 - 20, 0, 255).astype(np.uint8)  # of another window
    store = pictures(tmp_path, others)
    assert set(copies(store)) == {(5, EACH + 2), (1, EACH + 6)}
    assert [remark.kind for remark in check_copies(store)] == ["pictures are in two sources"]


def test_sources_of_a_kind_are_not_full_of_copies(tmp_path: Path) -> None:
    """What two sources share against the rest is their kind, and no picture's own."""
    shape = 400.0 * gaussian_filter(np.eye(32), 6)  # what all of the second source show, and none of the first
    second = [np.clip(0.3 * blobs(100 + number) + 120 * shape / shape.max(), 0, 255) for number in range(EACH)]
    assert list(copies(pictures(tmp_path, [one.astype(np.uint8) for one in second]))) == []


def test_flat_pictures_are_like_no_other(tmp_path: Path) -> None:
    blank = np.zeros((32, 32), np.uint8)
    blank[0, 0] = 255  # a picture of one grey is left out
    assert list(copies(pictures(tmp_path, [blank] * EACH))) == []


def test_pictures_of_one_source_are_not_compared(tmp_path: Path) -> None:
    others = [blobs(100)] * EACH
    assert check_copies(pictures(tmp_path, others)) == []


# --- samples that lack an attribute teach the image mechanism ---


def drawing() -> Study:
    """The study of three sources, whose image mechanism learns from who lacks an age, too."""
    step: dict[str, Any] = {"steps": 2, "batch_size": 4}
    levels = [{"width": 8, "z": 2}]
    return study_of(THREE, hvae=step | {"levels": levels, "patch": 2, "missing": "draw"})


def test_completions_keep_what_is_known_and_differ_in_what_is_not(root: Path) -> None:
    run = Run(root / "run", drawing())
    pipeline = Pipeline(run, make_fabric("cpu"), root)
    pipeline.run_stage("scm")
    values = pipeline.store.values()
    masked = pipeline.store.indices(masked=True)
    found, again = (completed(run.load("scm"), values[masked], seed=3, draws=5) for _ in range(2))
    assert np.array_equal(found, again)
    assert not np.isnan(found).any()
    known = ~np.isnan(values[masked])
    for draw in range(5):
        assert np.array_equal(found[:, draw][known], values[masked][known])
    ages = found[~known.all(axis=1)][:, :, list(run.study.variables).index("age")]
    assert len(ages) == EACH
    assert (np.ptp(ages, axis=1) > 0).all()


def test_steps_take_turns_among_completions_alike_on_every_rank(root: Path) -> None:
    store = import_folder(study_of(THREE), root, root / "store")
    rows = store.indices(masked=True)
    completions = np.random.default_rng(0).random((len(rows), 4, 3)).astype(np.float32)
    alone = Batches(store, rows, 8, 1, completions=completions)
    ranks = [Batches(store, rows, 8, 1, rank, 2, completions=completions) for rank in range(2)]
    kept = Batches(store, rows, 8, 1, completions=completions)
    assert kept.keep_on(torch.device("cpu"), 10**9)
    seen = set()
    for step in range(12):
        batch = alone.batch(step)
        assert torch.equal(torch.cat([one.batch(step)["values"] for one in ranks]), batch["values"])
        assert torch.equal(kept.batch(step)["values"], batch["values"])
        for row, value in zip(batch["index"].tolist(), batch["values"].numpy(), strict=True):
            place = int(np.flatnonzero(rows == row)[0])
            which = [k for k in range(4) if np.array_equal(completions[place, k], value)]
            assert len(which) == 1
            seen.add((place, which[0]))
    assert len({which for _, which in seen}) == 4


def test_a_run_of_several_sources_goes_from_images_to_the_table(root: Path) -> None:
    run = Run(root / "run", drawing())
    pipeline = Pipeline(run, make_fabric("cpu"), root)
    pipeline.run_all()
    table, folder = pipeline.store.table, run.evaluation
    taught = STAGES.find("hvae").rows(run.study, pipeline.store)
    assert set(table["site"].iloc[taught]) == {"north", "south"}  # who lacks masks does not, who lacks an age does
    judged = set(pd.read_parquet(folder / "scores.parquet")["id"])
    tested = table[(table["split"] == "test") & (table[MASKED] == 1)]
    assert judged == set(tested["id"])
    assert tested["age"].isna().any()
    lacking = int(tested["age"].isna().sum())
    assert f"{lacking} of the samples lack attributes" in (folder / "table.md").read_text()
    assert pipeline.run.store().table["age"].isna().any()  # on disk nothing is invented


def test_who_lacks_an_attribute_is_left_out_unless_it_is_drawn(root: Path) -> None:
    store = import_folder(study_of(THREE), root, root / "store")
    left, drawn = (STAGES.find("hvae").rows(study, store) for study in (study_of(THREE), drawing()))
    assert set(left) < set(drawn)
    assert "missing" not in study_of(THREE).hvae.model_dump()


def test_columns_of_a_user_are_not_those_of_a_store(root: Path) -> None:
    """A table may have a column "masked" or "source" of its own."""
    table = (root / "north" / "metadata.csv").read_text().splitlines()
    lines = [f"{table[0]},masked,source", *(f"{line},0,mine" for line in table[1:])]
    (root / "north" / "metadata.csv").write_text("\n".join(lines))
    folders = {"north": THREE["north"] | {"keep": ["masked", "source"]}}
    store = import_folder(study_of(folders), root, root / "store")
    assert len(store.indices(masked=True)) == EACH
    assert set(store.table["source"]) == {"mine"}
    assert set(store.table["masked"]) == {"0"}


def test_people_of_another_hospital_are_judged_by_a_table_of_their_own(root: Path) -> None:
    study = study_of(THREE)
    with (root / "east" / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "site", "age"], *([k, "south", ""] for k in range(EACH))])
    for number in range(EACH):
        (root / "east" / "masks").mkdir(exist_ok=True)
        Image.fromarray(lung(number)).save(root / "east" / "masks" / f"{number}.png")
    store = import_folder(study, root / "east", root / "store", split="test")
    assert set(store.table["split"]) == {"test"}
    assert set(store.table["site"]) == {"south"}
    assert store.table["age"].isna().all()
    assert store.table["lung_area"].notna().all()
    with pytest.raises(DataError):  # where nothing is forced into one part, the sources are needed
        import_folder(study, root / "east", root / "other")
