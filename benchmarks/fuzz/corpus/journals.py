"""What is written while work goes on, and read when it is gone on with: journals, figures of trainings, records."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.fuzz.corpus.common import MODEL, chest, lazily
from benchmarks.fuzz.corpus.images import pictures
from benchmarks.fuzz.work import Reader
from segcft.errors import Code, DataError

_HISTORY = b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": NaN}\n'
_SETTINGS = {"size": [64, 64], "window": [0.5, 99.5]}
_ROW = {"id": "a", "patient": "p", "split": "train", "age": 63}


def readers() -> list[Reader]:
    log = lazily("segcft.training.loop", "_keep_history", 2, False)
    return [
        Reader("history", ".jsonl", lambda: [_HISTORY], lazily("segcft.report.charts", "read_history"), "text"),
        Reader("training log", ".jsonl", lambda: [_HISTORY], log, "lines"),
        Reader("journal", ".jsonl", _conversions, lambda: _read_conversion, "lines", file="journal.jsonl"),
        Reader("answers", ".jsonl", _answers, lambda: _read_answers, "lines", _images, "journal.jsonl", weight=0.3),
        Reader("import record", ".json", _records, lambda: _read_record, "json", file="import.json"),
    ]


def _journal(settings: Mapping[str, Any], row: Mapping[str, Any], stamp: str | None = None) -> bytes:
    """With one row."""
    from segcft.utils.journal import Journal

    with tempfile.TemporaryDirectory() as folder:
        with Journal(Path(folder), settings, lambda row: None) as journal:
            journal.add({"row": row, "mask": False, "stamp": stamp})
        return journal.path.read_bytes()


def _conversions() -> list[bytes]:
    return [_journal(_SETTINGS, _ROW)]


def _read_conversion(path: Path) -> None:
    """As :func:`segcft.importers.convert.convert` does where nothing is left to be done."""
    from segcft.importers.convert import _Done
    from segcft.utils.journal import Journal

    done = _Done()
    with Journal(path.parent, _SETTINGS, done.note) as journal:
        journal.has("a", None)
        done.write_metadata(path.parent / "metadata.csv", journal, {"a"})


def _item() -> Any:
    from segcft.api.questions import Item

    return Item("a", Path("a.png"), (), ("lumen_area=+20%",))  # of a file that is not there


def _answers() -> list[bytes]:
    from segcft.api.many import _settings
    from segcft.pipeline.run import Run

    run = Run(MODEL)
    value = {"before": 1.5, "after": 2.5, "obtained": 2.25}
    record: dict[str, Any] = {"do": ["lumen_area=+20%"], "method": "segmentor", "model": "abc", "warnings": ["far"]}
    record["variables"] = dict.fromkeys(run.study.variables, value)
    return [_journal(_settings(run, None, 0, False), {"id": "a", "record": record}, _item().stamp())]


def _images(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(pictures("png")[0])


def _read_answers(path: Path) -> None:
    """A journal that is read answers the question; one with another question leaves it to be rejected."""
    from segcft.api.many import answer_all
    from segcft.pipeline.run import Run

    answer_all(Run(MODEL), [_item()], path.parent, torch.device("cpu"))


def _records() -> list[bytes]:
    from segcft.pipeline.importing import _source

    return [json.dumps({**_source(chest(), None), "fingerprint": "f"}).encode()]


def _read_record(path: Path) -> None:
    from segcft.pipeline.importing import _is_imported, _source
    from segcft.pipeline.run import Run

    (path.parent / "store").mkdir(exist_ok=True)
    (path.parent / "store" / "store.json").write_bytes(path.read_bytes())
    if not _is_imported(Run(path.parent, chest()), _source(chest(), None)):
        raise DataError(Code.OTHER, path, "of other samples; they are imported again")
