"""The store on disk, the split of patients, and batches as a pure function of the step."""

from __future__ import annotations

import json
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refused import refused
from segcft.config.loader import parse_study
from segcft.config.sources import Splits
from segcft.config.study import Study
from segcft.data.batches import Batches, sequential
from segcft.data.splits import PARTS, assign, expected_parts, uniform
from segcft.data.store import Store
from segcft.data.writer import StoreWriter
from segcft.errors import Code, DataError, StudyError
from segcft.measures.measure import MEASURES
from segcft.utils.loop import ahead
from tests.test_measures import Width

GRID = (4, 6)


def make_study(**changes: Any) -> Study:
    step = {"steps": 1}
    raw: dict[str, Any] = {
        "name": "small",
        "image": {"size": list(GRID), "field_of_view": [8, 12], "length_unit": "mm"},
        "variables": {
            "sex": {"kind": "categorical", "categories": ["F", "M"]},
            "heart_area": {"kind": "continuous", "parents": ["sex"]},
            "age": {"kind": "continuous"},
        },
        "structures": {"heart": {"variable": "heart_area", "bit": 4}},
        "data": {"source": "folder"},
        "segmentor": step | {"seed": 1},
        "judge": step | {"seed": 2},
        "regressor": step,
        "scm": step,
        "hvae": step | {"levels": [{"width": 8}]},
        "finetune": step,
    }
    return parse_study(raw | changes)


def fill(writer: StoreWriter, people: int = 10, **extra: Any) -> None:
    """Append ``people`` different samples, every fifth of the test part, number 3 without an age."""
    random = np.random.default_rng(0)
    for i in range(people):
        writer.append(
            f"i{i}",
            f"p{i}",
            "test" if i % 5 == 4 else "train",
            random.integers(0, 256, (1, *GRID), dtype=np.uint8),
            random.integers(0, 256, (1, *GRID), dtype=np.uint8),
            {"sex": "FM"[i % 2], "age": None if i == 3 else 30.5 + i},
            extra,
        )


def fill_and_raise(folder: Path, error: BaseException) -> None:
    with StoreWriter(folder, make_study()) as writer:
        fill(writer, 3)
        raise error


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with StoreWriter(tmp_path / "store", make_study()) as writer:
        fill(writer)
        writer.reject("i99", 'no, a "reason" with\na line break')
    return Store(tmp_path / "store")


# --- store ---


def test_what_was_written_is_read_back(store: Store) -> None:
    random = np.random.default_rng(0)
    for i in range(10):
        np.testing.assert_array_equal(store.images[i], random.integers(0, 256, (1, *GRID), dtype=np.uint8))
        np.testing.assert_array_equal(store.masks[i], random.integers(0, 256, (1, *GRID), dtype=np.uint8))
    assert list(store.table["id"]) == [f"i{i}" for i in range(10)]
    assert store.table["age"].isna().tolist() == [i == 3 for i in range(10)]
    assert store.rejected.to_dict("records") == [{"id": "i99", "reason": 'no, a "reason" with\na line break'}]
    assert store.structures == {"heart": "heart_area"}
    assert repr(store).endswith("8 train, 0 validation, 2 test; 1 rejected)")


def test_areas_are_measured_from_coverage_in_the_study_s_unit(store: Store) -> None:
    expected = store.masks.sum(axis=(1, 2, 3), dtype=np.int64) / 255 * 4  # a pixel is 2 mm x 2 mm
    np.testing.assert_allclose(store.table["heart_area"], expected, rtol=1e-12)
    assert store.area_unit == "mm²"
    assert store.pixel_area == 4


def test_values_follow_the_study_s_order(store: Store) -> None:
    values = store.values()
    assert values.dtype == np.float32
    assert values.shape == (10, 3)
    np.testing.assert_array_equal(values[:, 0], [0, 1] * 5)
    np.testing.assert_allclose(values[:, 1], store.table["heart_area"], rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(values[:, 2]), np.arange(10) == 3)


def test_a_variable_that_everybody_misses_is_all_nan(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", make_study()) as writer:
        blank = np.zeros((1, *GRID), dtype=np.uint8)
        for i in range(3):
            writer.append(f"{i}", f"{i}", "train", blank, blank, {})
    store = Store(tmp_path / "store", verify=True)
    assert np.isnan(store.values()[:, [0, 2]]).all()
    assert len(store.indices(complete=True)) == 0


def test_indices_by_part_and_completeness(store: Store) -> None:
    assert store.indices("test").tolist() == [4, 9]
    assert store.indices("train", complete=True).tolist() == [0, 1, 2, 5, 6, 7, 8]
    assert store.indices().tolist() == list(range(10))
    with pytest.raises(ValueError, match="split must be one of"):
        store.indices("val")


def test_the_fingerprint_is_of_the_content_alone(tmp_path: Path) -> None:
    prints = set()
    for name, people in (("a", 10), ("b", 10), ("c", 9)):
        with StoreWriter(tmp_path / name, make_study()) as writer:
            fill(writer, people)
        prints.add(Store(tmp_path / name, verify=True).fingerprint)
    assert len(prints) == 2


def test_extra_columns_are_kept_exactly(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", make_study()) as writer:
        fill(writer, person=2**63 - 1)
    table = Store(tmp_path / "store", verify=True).table
    assert table["person"].dtype == np.int64
    assert (table["person"] == 2**63 - 1).all()


def test_extra_columns_are_the_same_for_every_sample(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", make_study()) as writer:
        fill(writer)
        with pytest.raises(ValueError, match="person"):
            fill(writer, person=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((1, 4, 5), dtype=np.uint8)}, r"image must be uint8 \(1, 4, 6\)"),
        ({"masks": np.zeros((1, *GRID))}, "masks must be uint8"),
        ({"split": "val"}, "split must be one of"),
        ({"attributes": {"sex": "X"}}, "sex: 'X' is not one of F, M"),
        ({"attributes": {"age": float("inf")}}, "age must be finite"),
    ],
)
def test_append_refuses_what_the_study_does_not_describe(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    blank = np.zeros((1, *GRID), dtype=np.uint8)
    sample = {"id": "a", "patient": "a", "split": "train", "image": blank, "masks": blank, "attributes": {}}
    with StoreWriter(tmp_path / "store", make_study()) as writer:
        fill(writer)
        with pytest.raises(ValueError, match=message):
            writer.append(**(sample | change))
    assert len(Store(tmp_path / "store", verify=True)) == 10  # the failed sample left nothing


def test_an_exception_leaves_neither_store_nor_litter(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill_and_raise(tmp_path / "store", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_an_older_store_stays_until_the_new_one_is_complete(store: Store) -> None:
    before = store.fingerprint
    with pytest.raises(RuntimeError):
        fill_and_raise(store.folder, RuntimeError())
    assert Store(store.folder, verify=True).fingerprint == before
    with StoreWriter(store.folder, make_study()) as writer:
        fill(writer, 3)
        assert Store(store.folder, verify=True).fingerprint == before
    assert len(Store(store.folder, verify=True)) == 3
    assert len(store.images[9]) == 1  # still mapped by whoever had it open
    assert [path.name for path in store.folder.parent.iterdir()] == ["store"]


def test_a_failed_rename_puts_the_older_store_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if ".partial-" in source.name:
            raise OSError("disk on fire")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with refused(DataError, Code.NOT_WRITABLE, store.folder), StoreWriter(store.folder, make_study()) as writer:
        fill(writer, 3)
    monkeypatch.undo()
    assert Store(store.folder, verify=True).fingerprint == store.fingerprint
    assert [path.name for path in store.folder.parent.iterdir()] == ["store"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", make_study())
    writer.__enter__()
    (left,) = tmp_path.iterdir()
    gone = left.with_name(left.name.rsplit("-", 2)[0] + "-4194305-abcd")  # beyond any process number
    gone.mkdir()
    with StoreWriter(tmp_path / "store", make_study()) as other:
        fill(other)
    assert not gone.exists()
    assert left.exists()  # its writer, this process, lives
    writer.__exit__(RuntimeError, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_only_a_store_is_ever_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with refused(DataError, Code.EXISTS, tmp_path), StoreWriter(tmp_path, make_study()):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_no_sample_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", make_study())
    for i in range(5):
        writer.reject(f"i{i}", "bad")
    with pytest.raises(DataError) as error, writer:
        pass
    assert (error.value.code, error.value.field) == (Code.EMPTY, str(tmp_path / "store"))
    assert error.value.text.splitlines()[1:] == ["  i0: bad", "  i1: bad", "  i2: bad", "  and 2 more"]
    assert list(tmp_path.iterdir()) == []


def _edit_meta(folder: Path, **changes: Any) -> None:
    path = folder / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "code", "field"),
    [
        (lambda f: (f / "store.json").unlink(), Code.MISSING, ""),
        (lambda f: (f / "store.json").write_text("{"), Code.UNREADABLE, "store.json"),
        (lambda f: (f / "store.json").write_text("[]"), Code.OTHER, "store.json"),
        (lambda f: _edit_meta(f, version=0), Code.OTHER, "store.json"),
        (lambda f: (f / "images.u8").unlink(), Code.DAMAGED, "images.u8"),
        (lambda f: (f / "masks.u8").write_bytes(b"1"), Code.DAMAGED, "masks.u8"),
        (lambda f: (f / "table.parquet").unlink(), Code.UNREADABLE, "table.parquet"),
        (lambda f: (f / "table.parquet").write_bytes(b"PAR1"), Code.UNREADABLE, "table.parquet"),
        (
            lambda f: pd.read_parquet(f / "table.parquet")[:5].to_parquet(f / "table.parquet"),
            Code.DAMAGED,
            "table.parquet",
        ),
        (
            lambda f: pd.read_parquet(f / "table.parquet").drop(columns="age").to_parquet(f / "table.parquet"),
            Code.DAMAGED,
            "table.parquet: column 'age'",
        ),
        (lambda f: (f / "rejected.csv").unlink(), Code.UNREADABLE, "rejected.csv"),
        (lambda f: (f / "rejected.csv").write_text("id\n"), Code.DAMAGED, "rejected.csv"),
        (lambda f: _edit_meta(f, sha256=5), Code.DAMAGED, "store.json"),
        (
            lambda f: _edit_meta(f, variables={"sex": [], "age": []}),
            Code.DAMAGED,
            "table.parquet: column 'sex'",
        ),
    ],
)
def test_a_damaged_store_does_not_open(store: Store, damage: Any, code: Code, field: str) -> None:
    damage(store.folder)
    with refused(DataError, code, store.folder / field):
        Store(store.folder)


@pytest.mark.parametrize("name", ["images.u8", "masks.u8"])
def test_verification_finds_a_flipped_bit(store: Store, name: str) -> None:
    _flip_a_bit(store.folder / name)
    Store(store.folder)
    with refused(DataError, Code.DAMAGED, name):
        Store(store.folder, verify=True)
    _forget_checksums(store.folder)
    with refused(DataError, Code.DAMAGED, store.folder):
        Store(store.folder, verify=True)


def test_verification_finds_a_changed_attribute(store: Store) -> None:
    store.table.assign(age=50.0).to_parquet(store.folder / "table.parquet", index=False)
    with refused(DataError, Code.DAMAGED, "table.parquet"):
        Store(store.folder, verify=True)
    _forget_checksums(store.folder)
    with refused(DataError, Code.DAMAGED, store.folder):
        Store(store.folder, verify=True)


@pytest.mark.parametrize("checksums", [{}, {"/dev/zero": "abc"}, {"images.u8": "abc", "no\0path": "abc"}])
def test_verification_reads_the_files_of_a_store_and_no_others(store: Store, checksums: dict[str, str]) -> None:
    _edit_meta(store.folder, sha256=checksums)
    with refused(DataError, Code.DAMAGED, "images.u8"):
        Store(store.folder, verify=True)


def _forget_checksums(folder: Path) -> None:
    """Have a store be as it was before its files had checksums."""
    meta = json.loads((folder / "store.json").read_text())
    del meta["sha256"]
    (folder / "store.json").write_text(json.dumps(meta))


def test_a_store_of_another_study_is_refused(store: Store) -> None:
    store.require(make_study())
    store.require(make_study(name="renamed"))
    with refused(DataError, Code.OTHER, f"{store.folder}: size"):
        store.require(make_study(image={"size": [8, 8], "field_of_view": [8, 12], "length_unit": "mm"}))
    with refused(DataError, Code.OTHER, f"{store.folder}: variables"):
        store.require(
            make_study(
                variables={"heart_area": {"kind": "continuous"}, "age": {"kind": "continuous"}},
            )
        )


def test_a_store_knows_what_its_study_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEASURES._things, "width", Width())
    areas = make_study()
    widths = make_study(structures={"heart": {"variable": "heart_area", "measure": "width", "bit": 4}})
    for study, other in ((areas, widths), (widths, areas)):
        folder = tmp_path / study.structures["heart"].measure
        with StoreWriter(folder, study) as writer:
            fill(writer)
        store = Store(folder)
        store.require(study)
        with refused(DataError, Code.OTHER, f"{folder}: measures"):
            store.require(other)
        _forget_checksums(folder)
        Store(folder, verify=True)
    assert "measures" not in json.loads((tmp_path / "area" / "store.json").read_text())  # as in version 0.1.0


def test_a_store_travels_to_another_process_by_its_path(store: Store) -> None:
    assert len(pickle.dumps(store)) < 500
    assert pickle.loads(pickle.dumps(store)).fingerprint == store.fingerprint


# --- splits ---

shares = st.tuples(st.floats(0.05, 1), st.just(0) | st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 1)).map(
    lambda t: {part: share / sum(t) for part, share in zip(PARTS, t, strict=True)}
)


@given(st.text(), st.integers(0, 2**63), shares)
def test_a_patient_s_part_depends_on_seed_and_id_alone(patient: str, seed: int, share: dict[str, float]) -> None:
    splits = Splits(seed=seed, **share)
    part = assign(patient, splits)
    assert part in expected_parts(splits)
    assert part == assign(patient, Splits(seed=seed, **share))
    assert 0 <= uniform(seed, patient) < 1


@given(st.integers(0, 100), shares)
def test_shares_are_met_on_average(seed: int, share: dict[str, float]) -> None:
    splits = Splits(seed=seed, **share)
    found = [assign(f"patient {i}", splits) for i in range(2000)]
    for part in PARTS:
        assert abs(found.count(part) / 2000 - share[part]) < 0.06  # over 5 standard deviations


@given(st.text(), st.integers(0, 9), st.floats(0.3, 0.9), st.floats(0, 0.1))
def test_a_larger_training_share_takes_nobody_out_of_training(
    patient: str, seed: int, train: float, more: float
) -> None:
    if assign(patient, Splits(train=train, validation=0, test=1 - train, seed=seed)) == "train":
        larger = train + min(more, 0.99 - train)
        assert assign(patient, Splits(train=larger, validation=0, test=1 - larger, seed=seed)) == "train"


def test_a_part_of_the_judge_s_own_takes_nobody_but_training_subjects() -> None:
    without, own = Splits(), Splits(train=0.52, judge=0.2)
    assert "judge" not in without.model_dump()
    assert own.model_dump()["judge"] == 0.2
    assert "judge" not in expected_parts(without)
    for i in range(200):
        before, after = (assign(f"p{i}", splits) for splits in (without, own))
        assert after == before or (before, after) == ("train", "judge")


def test_the_split_is_the_same_for_ever() -> None:
    letters = {"train": "R", "validation": "V", "test": "E"}
    found = "".join(letters[assign(f"p{i}", Splits())] for i in range(24))
    assert found == "ERRREREVRRRRRRVRRRRRRRRR"


# --- batches ---


@given(
    samples=st.integers(1, 10),
    batch=st.integers(1, 4),
    world=st.integers(1, 3),
    step=st.integers(0, 10**9),
    seed=st.integers(0, 5),
)
def test_the_ranks_see_together_what_one_device_would(
    shared_store: Store, samples: int, batch: int, world: int, step: int, seed: int
) -> None:
    indices = np.arange(10)[-samples:]
    alone = Batches(shared_store, indices, batch * world, seed).rows(step)
    ranks = [Batches(shared_store, indices, batch * world, seed, rank, world).rows(step) for rank in range(world)]
    np.testing.assert_array_equal(np.concatenate(ranks), alone)


@given(samples=st.integers(1, 10), size=st.integers(1, 12), seed=st.integers(0, 5))
def test_every_epoch_has_every_sample_once(shared_store: Store, samples: int, size: int, seed: int) -> None:
    indices = np.arange(10)[:samples]
    batches = Batches(shared_store, indices, size, seed)
    drawn = np.concatenate([batches.rows(step) for step in range(samples * 2)])  # size * 2 epochs
    epochs = drawn.reshape(-1, samples)
    assert len(epochs) == 2 * size
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), indices)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("data") / "store"
    with StoreWriter(folder, make_study()) as writer:
        fill(writer)
    return Store(folder)


def test_a_batch_does_not_depend_on_what_was_asked_before(store: Store) -> None:
    first = Batches(store, store.indices(), 4, seed=0)
    for _ in first.from_step(0, 20):
        pass
    again = Batches(store, store.indices(), 4, seed=0).batch(7)
    for key, value in first.batch(7).items():
        np.testing.assert_array_equal(value, again[key])
    other = Batches(store, store.indices(), 4, seed=1)
    assert any((other.rows(step) != first.rows(step)).any() for step in range(3))


def test_a_batch_holds_the_store_s_samples(store: Store) -> None:
    batch = Batches(store, store.indices("train"), 5, seed=0).batch(2)
    rows = batch["index"].numpy()
    assert set(rows) <= set(store.indices("train"))
    np.testing.assert_array_equal(batch["image"], store.images[rows])
    np.testing.assert_array_equal(batch["mask"], store.masks[rows])
    np.testing.assert_array_equal(batch["values"], store.values()[rows])
    batch["image"] += 1  # a copy, writable


def test_from_step_gives_the_batches_in_order(store: Store) -> None:
    batches = Batches(store, store.indices(), 4, seed=0)
    found = [batch["index"].tolist() for batch in batches.from_step(3, 8)]
    assert found == [batches.rows(step).tolist() for step in range(3, 8)]
    assert list(batches.from_step(3, 3)) == []


def test_samples_kept_on_a_device_give_the_same_batches(store: Store) -> None:
    cpu = torch.device("cpu")
    streamed, kept = (Batches(store, store.indices("train"), 5, seed=0, rank=0) for _ in range(2))
    room = len(kept.indices) * (store.images[0].nbytes + store.masks[0].nbytes + 4 * len(store.variables))
    assert not kept.keep_on(cpu, room - 1)
    assert kept.keep_on(cpu, room)
    for ours, theirs in zip(kept.from_step(0, 4, cpu), streamed.from_step(0, 4, cpu), strict=True):
        assert ours.keys() == theirs.keys()
        for field, value in ours.items():
            torch.testing.assert_close(value, theirs[field], rtol=0, atol=0, equal_nan=True)
        ours["image"] += 1  # a copy: the next batch has the sample as it is


@given(
    others=arrays(np.int64, (6, 2), elements=st.integers(-1, 5)),
    world=st.integers(1, 2),
    step=st.integers(0, 50),
    kept=st.booleans(),
)
def test_a_batch_has_one_of_the_others_of_each_sample(
    shared_store: Store, others: np.ndarray, world: int, step: int, kept: bool
) -> None:
    indices = np.array([9, 2, 0, 7, 3, 5])
    partners = np.where(others < 0, -1, indices[others])
    ranks = [Batches(shared_store, indices, 4, 3, rank, world, partners) for rank in range(world)]
    if kept:
        assert all(rank.keep_on(torch.device("cpu"), 10**9) for rank in ranks)
    shares = [rank.batch(step) for rank in ranks]
    batch = {field: torch.cat([share[field] for share in shares]) for field in shares[0]}
    alone = Batches(shared_store, indices, 4, 3, others=partners).batch(step)
    rows, theirs, have = (batch[field].numpy() for field in ("index", "other_index", "has_other"))
    for row, other, has in zip(rows, theirs, have, strict=True):
        possible = set(partners[indices == row].ravel()) - {-1}
        assert has == bool(possible)
        assert other in (possible or {row})
    np.testing.assert_array_equal(batch["other_image"], shared_store.images[theirs])
    np.testing.assert_array_equal(batch["other_mask"], shared_store.masks[theirs])
    np.testing.assert_array_equal(batch["other_values"], shared_store.values()[theirs])
    for field, value in alone.items():
        torch.testing.assert_close(batch[field], value, rtol=0, atol=0, equal_nan=True)


def test_reading_ahead_ends_with_its_iterator(store: Store) -> None:
    endless = Batches(store, store.indices(), 4, seed=0).from_step(0)
    next(endless)
    assert any(thread.name.startswith("segcft-ahead") for thread in threading.enumerate())
    endless.close()
    assert not any(thread.name.startswith("segcft-ahead") for thread in threading.enumerate())


def test_an_error_while_reading_ahead_comes_out_in_its_turn() -> None:
    results = ahead(lambda x: 1 / x, [2, 1, 0, 1], workers=2, depth=3)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not any(thread.name.startswith("segcft-ahead") for thread in threading.enumerate())


def test_batches_refuse_what_cannot_be_shared(store: Store) -> None:
    with refused(StudyError, Code.CONFLICT, "batch_size"):
        Batches(store, store.indices(), 5, seed=0, world=2)
    with refused(DataError, Code.EMPTY, store.folder):
        Batches(store, store.indices("validation"), 4, seed=0)
    with pytest.raises(ValueError, match="rank"):
        Batches(store, store.indices(), 4, seed=0, rank=2, world=2)


def test_sequential_visits_each_row_once_in_order(store: Store) -> None:
    batches = list(sequential(store, store.indices("train"), 3))
    assert [len(batch["index"]) for batch in batches] == [3, 3, 2]
    assert np.concatenate([batch["index"] for batch in batches]).tolist() == store.indices("train").tolist()
