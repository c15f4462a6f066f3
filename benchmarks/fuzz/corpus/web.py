"""Requests to the web page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fuzz.corpus.common import MODEL, pixels
from benchmarks.fuzz.corpus.dicom import radiographs
from benchmarks.fuzz.corpus.images import pictures, tiffs
from benchmarks.fuzz.corpus.volumes import slices
from benchmarks.fuzz.work import Reader
from segcft.errors import Code, SegcftError


def readers() -> list[Reader]:
    upload = lambda: _post(f"/api/upload?model={MODEL.name}", "application/octet-stream")  # noqa: E731
    question = lambda: _post("/api/question", "application/json")  # noqa: E731
    file = lambda: _post("/api/file/dcm", "application/json")  # noqa: E731
    return [
        Reader("web upload", ".bin", _uploads, upload, named=False),
        Reader("web question", ".json", _questions, question, "json", named=False, weight=0.6),
        Reader("web file", ".json", _questions, file, "json", named=False, weight=0.4),
    ]


def _uploads() -> list[bytes]:
    return [*pictures("png"), *radiographs(), *slices(), *pictures("jpeg"), *tiffs()[:4]]


def _client() -> Any:
    from starlette.testclient import TestClient

    from segcft.app import server
    from segcft.app.catalogue import Catalogue

    server.RATE = server.BURST = 1e9  # a flood is what this is
    return TestClient(
        server.make_app(Catalogue([MODEL])), base_url="http://127.0.0.1:8000", raise_server_exceptions=False
    )


def _post(address: str, kind: str) -> Callable[[Path], object]:
    client = _client().__enter__()

    def post(path: Path) -> None:
        answer = client.post(address, content=path.read_bytes(), headers={"Content-Type": kind})
        if answer.status_code == 200:
            return
        told = answer.json()
        if answer.status_code >= 500 or set(told) != {"error"} or not told["error"]:
            raise AssertionError(f"status {answer.status_code}: {answer.text[:500]}")
        raise SegcftError(Code.INVALID, "", told["error"])

    return post


def _questions() -> list[bytes]:
    from segcft.app.catalogue import _examples
    from segcft.app.payload import encode
    from segcft.pipeline.run import Run

    run = Run(MODEL)
    size = run.study.image.size
    examples = [example["pixels"] for example in _examples(run)] or [encode(pixels(size)[None])]
    return [
        json.dumps({"model": MODEL.name, "pixels": examples[0], "known": {}, "do": do, "draws": draws}).encode()
        for do, draws in (({"lumen_area": "+20%"}, 0), ({"lumen_area": 90, "calcified_plaque_area": 0}, 1))
    ]
