"""How well readers read, alone and together, and readers that are given away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import segcft
from refused import refused
from segcft.app.catalogue import Catalogue
from segcft.cli.entry import main
from segcft.data.batches import sequential
from segcft.errors import Code, RunError, SegcftError
from segcft.evaluate.reading import TOGETHER, by_source, readings, render
from segcft.grey import to_unit
from segcft.pipeline.judging import load_judge
from segcft.pipeline.publish import publish
from segcft.pipeline.publish_readers import publish_readers
from segcft.pipeline.readers import Readers
from segcft.pipeline.run import READERS, Run
from segcft.readers.segmentor import dice


def test_readings_are_what_readers_see(small_run: Run) -> None:
    store, judge = small_run.store(), small_run.load("judge")
    rows = store.indices("test")
    alone, same, together = readings(small_run.study, {"judge": judge, "its twin": judge}, store, rows)
    assert (alone.reader, same.reader, together.reader) == ("judge", "its twin", TOGETHER)
    batch = next(iter(sequential(store, rows, len(rows))))
    image = to_unit(batch["image"])
    with torch.inference_mode():
        value, overlap = judge.read(image), dice((judge.masks(image) > 0.5).float(), (batch["mask"] >= 128).float())
    for one in (alone, same, together):  # who sees the same together sees it alone
        np.testing.assert_allclose(one.values, value, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(one.dice, overlap, rtol=1e-3, atol=1e-3)
    known = batch["values"][:, small_run.study.measured_columns]
    assert np.array_equal(alone.known, known.numpy())
    for k, name in enumerate(small_run.study.masked):
        error = 100 * ((value - known).abs() / known)[:, k].mean()
        assert alone.misread[name] == pytest.approx(float(error), rel=1e-2)
        assert alone.overlap[name] == pytest.approx(float(overlap[:, k].nanmean()), rel=1e-2)


def test_of_one_reader_there_is_no_together(small_run: Run) -> None:
    store = small_run.store()
    rows = store.indices("test")[:2]
    assert [one.reader for one in readings(small_run.study, {"judge": small_run.load("judge")}, store, rows)] == [
        "judge"
    ]
    assert list(by_source(store, rows)) == [""]  # which has no sources


def test_published_readers_see_what_those_of_the_run_see(small_run: Run, tmp_path: Path) -> None:
    publish_readers(small_run, tmp_path / "readers")
    model = Run(tmp_path / "readers")
    assert model.published
    assert model.samples() == small_run.samples()
    x = torch.rand(2, 1, *small_run.study.image.size) * 2 - 1
    for part in READERS:
        assert torch.equal(model.load(part)(x), small_run.load(part)(x))
    assert len(Readers.of([model.folder], torch.device("cpu")).readers) == len(READERS)
    store = small_run.store()
    found = readings(small_run.study, {part: model.load(part) for part in READERS}, store, store.indices("test"))
    card = (model.folder / "README.md").read_text()
    assert render({"": found}) in card
    publish_readers(small_run, tmp_path / "readers")  # in place of the earlier ones


def test_published_readers_answer_no_question(small_run: Run, tmp_path: Path) -> None:
    publish_readers(small_run, tmp_path / "readers")
    with pytest.raises(RunError) as caught:
        segcft.load(tmp_path / "readers")
    assert caught.value.code is Code.MISSING


def test_readers_on_the_command_line(small_run: Run, tmp_path: Path) -> None:
    assert main(["publish", str(small_run.folder), str(tmp_path / "out"), "--readers"]) == 0
    assert Run(tmp_path / "out").path("segmentor").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    with pytest.raises(SegcftError) as caught:
        publish_readers(small_run, tmp_path / "other")
    assert caught.value.code is Code.EXISTS


def test_the_page_passes_over_readers_alone(small_run: Run, tmp_path: Path) -> None:
    publish_readers(small_run, tmp_path / "readers")
    assert list(Catalogue([tmp_path / "readers", small_run.folder]).runs) == [small_run.folder.name]
    with refused(RunError, Code.UNSUPPORTED):
        Catalogue([tmp_path / "readers"])
    publish(small_run, tmp_path / "model")
    with refused(RunError, Code.EXISTS):
        publish_readers(small_run, tmp_path / "model")


def test_readers_of_volumes_are_given_away(volumes: Run, tmp_path: Path) -> None:
    assert main(["publish", str(volumes.folder), str(tmp_path / "readers"), "--readers"]) == 0
    model, store = Run(tmp_path / "readers"), volumes.store()
    x = torch.rand(1, 1, *volumes.study.image.size) * 2 - 1
    for part in READERS:
        assert torch.equal(model.load(part)(x), volumes.load(part)(x))
    assert len(Readers.of([model.folder], torch.device("cpu")).readers) == len(READERS)
    found = readings(volumes.study, {part: model.load(part) for part in READERS}, store, store.indices("test"))
    card = (model.folder / "README.md").read_text()
    assert render({"": found}) in card
    assert volumes.study.image.words in card
    assert "error of the volume" in card
    judge = load_judge(volumes, model.folder)
    torch.testing.assert_close(judge.read(x), volumes.load("judge").read(x))
