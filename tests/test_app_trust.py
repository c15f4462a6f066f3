"""Whom the web page's server refuses, what it refuses to unpack, and that it keeps and tells nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from starlette.testclient import TestClient

from segcft.app.catalogue import Catalogue
from segcft.app.guard import RateLimit
from segcft.app.refused import RefusedError
from segcft.app.server import MOST_UPLOADED, make_app
from segcft.app.worker import Worker
from segcft.io.provenance import dicom_bytes
from tests.test_app import OCTETS, decode_upload, error, picture, upload

ADDRESS = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/static//etc/passwd",
        "/static/nothing.js",
        "/server.py",
        "/api/nothing",
    ],
)
def test_serves_its_own_files_alone(client: TestClient, path: str) -> None:
    assert error(client.get(path), 404)


def large_png(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it has many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def large_dicom() -> bytes:
    dataset = dcmread(io.BytesIO(dicom_bytes(np.zeros((1, 8, 8), np.uint8), {})))
    dataset.Rows = dataset.Columns = 30_000
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def thin_pixels() -> bytes:
    dataset = dcmread(io.BytesIO(dicom_bytes(np.eye(64, dtype=np.uint8)[None], {})))
    dataset.PixelSpacing = [0.00001, 0.2]
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def line_png(length: int) -> bytes:
    """A file of one row of pixels, of which the canvas of a square grid would be a square."""
    file = io.BytesIO()
    Image.fromarray(np.arange(length, dtype=np.uint8)[None]).save(file, "png")
    return file.getvalue()


def large_nifti() -> bytes:
    return gzip.compress(nifti_header((30_000, 30_000, 1)), mtime=0)


def nifti_header(shape: tuple[int, ...], offset: float = 352) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.structarr["dim"][: len(shape) + 1] = (len(shape), *shape)
    header.structarr["vox_offset"] = offset
    return bytes(header.binaryblock) + b"\0" * 4


def twice_compressed_nifti() -> bytes:
    """What looks like a small image once it is unpacked, and is a compressed file that says what it likes."""
    shown = nifti_header((8, 8, 1))
    start = b"\x1f\x8b\x08\x04" + bytes(6) + struct.pack("<H", len(shown) - 12)  # gzip: an extra field follows
    inside = gzip.compress(nifti_header((30_000, 30_000, 1)), mtime=0)
    return gzip.compress(start + shown[12:] + inside[10:], mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no bytes"),
        (b"not an image", "cannot read this image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot read this image"),
        (picture()[:3000], "cannot read this image"),
        (large_png(30_000, 30_000), "more than the 32 million"),
        (large_dicom(), "more than the 32 million"),
        (large_nifti(), "more than the 32 million"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 500, "holds no image"),
        (dicom_bytes(np.eye(64, dtype=np.uint8)[None], {})[:3000], "the uploaded file: cut off"),
        (thin_pixels(), "pixels of 1e-05 x 0.2 (height x width) cannot be"),
        (gzip.compress(b"no volume" * 100, mtime=0), "NIfTI"),
        (b"\x1f\x8bbroken", "NIfTI"),
        (twice_compressed_nifti(), "cut off"),
        (line_png(60_000), "1 x 60000 pixels (height x width) are too long and narrow"),
        (gzip.compress(nifti_header((-353, 1, 1)) + b"\0" * 1000, mtime=0), "cannot read this NIfTI file"),
        (nifti_header((8, 8, 1), float("nan")) + bytes(range(64)), "cannot read this NIfTI file"),
        (
            nibabel.Nifti1Image(np.zeros((8, 8, 1), [(c, "u1") for c in "RGB"]), np.eye(4)).to_bytes(),
            "expected grey values",
        ),
        (nibabel.Nifti1Image(np.eye(8)[..., None], np.diag([1, 1e9, 1, 1])).to_bytes(), "too long and narrow"),
    ],
)
def test_broken_uploads(client: TestClient, content: bytes, message: str) -> None:
    told = error(upload(client, content), 400)
    assert message in told
    assert told.startswith(("the uploaded file: ", "the image: "))  # and no name that it does not have


def test_what_follows_a_nifti_image_does_not_matter(client: TestClient) -> None:
    volume = nibabel.Nifti1Image(np.arange(4096, dtype=np.int16).reshape(64, 64, 1), np.eye(4)).to_bytes()
    padded = gzip.compress(volume + b"\0" * 50_000_000, mtime=0)
    assert (decode_upload(client, padded) == decode_upload(client, volume)).all()


def test_sizes_are_limited(client: TestClient, question: dict[str, Any]) -> None:
    assert "at most 64 MB" in error(upload(client, b"\0" * (MOST_UPLOADED + 1)), 413)

    def endless() -> Iterator[bytes]:  # says no length before
        for _ in range(100):
            yield b" " * 100_000

    response = client.post("/api/question", content=endless(), headers={"Content-Type": "application/json"})
    assert "too large" in error(response, 413)
    assert "too large" in error(client.post("/api/question", json=question | {"method": "x" * 10**6}), 413)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost.evil.example", "[::1"]
)
def test_other_names_of_the_server_are_refused(client: TestClient, host: str) -> None:
    assert "does not go by that name" in error(client.get("/api/models", headers={"Host": host}), 403)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "10.1.2.3:8000", "box"])
def test_own_names_of_the_server(catalogue: Catalogue, host: str) -> None:
    client = TestClient(make_app(catalogue, ["Box"]), base_url=ADDRESS)
    assert client.get("/api/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8001"},
        {"Origin": "http://[::"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_pages_of_other_sites_are_refused(
    client: TestClient, question: dict[str, Any], headers: dict[str, str]
) -> None:
    assert "another site" in error(client.post("/api/question", json=question, headers=headers), 403)
    assert "another site" in error(client.get("/api/models", headers=headers), 403)


def test_the_page_itself_may_ask(client: TestClient, question: dict[str, Any]) -> None:
    headers = {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/question", json=question, headers=headers).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=link).status_code == 200


def test_bodies_that_a_form_could_send_are_refused(client: TestClient, question: dict[str, Any]) -> None:
    text = {"Content-Type": "text/plain"}
    assert error(client.post("/api/question", content=json.dumps(question), headers=text), 415)
    assert error(client.post("/api/upload?model=chest-sim", files={"file": picture()}), 415)
    assert error(client.get("/api/question"), 405)


def test_too_many_questions_are_refused(client: TestClient, question: dict[str, Any]) -> None:
    statuses = [client.get("/api/models/jsrt").status_code for _ in range(400)]
    assert 429 in statuses


def test_uploads_at_once_are_few(catalogue: Catalogue) -> None:
    app = make_app(catalogue)
    arrived, go_on = anyio.Event(), anyio.Event()
    statuses: list[int] = []

    async def send(content: AsyncIterator[bytes] | bytes) -> None:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url=ADDRESS) as client:
            response = await client.post("/api/upload?model=chest-sim", content=content, headers=OCTETS)
        statuses.append(response.status_code)

    async def slowly() -> AsyncIterator[bytes]:
        yield picture()[:1000]
        arrived.set()
        await go_on.wait()
        yield picture()[1000:]

    async def crowd() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(send, slowly())
            group.start_soon(send, slowly())
            await arrived.wait()
            await anyio.wait_all_tasks_blocked()
            await send(picture())
            assert statuses == [503]
            go_on.set()
        await send(picture())

    anyio.run(crowd)
    assert statuses == [503, 200, 200, 200]


def test_an_error_of_ours_is_told_without_its_cause(
    client: TestClient, question: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "Jane Doe"

    def broken(*_: Any) -> None:
        raise ValueError(name)

    monkeypatch.setattr("segcft.app.payload.outlines", broken)
    assert "segcft itself" in error(client.post("/api/question", json=question), 500)
    assert "ValueError" in caplog.text
    assert "in broken" in caplog.text
    assert name not in caplog.text


_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        _opened.append(str(arguments[0]))


sys.addaudithook(_watch)  # for good: it does nothing unless a test listens


def test_nothing_is_written(
    client: TestClient, question: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use() -> None:
        assert upload(client, picture()).status_code == 200
        big = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (2500, 2500), np.uint8)).save(big, "png")
        assert upload(client, big.getvalue()).status_code == 200
        assert error(upload(client, picture()[:3000]), 400)
        for format in ("png", "dcm", "json"):
            assert client.post(f"/api/file/{format}", json=question).status_code == 200

    use()  # modules that are imported late write their byte code
    global _opened
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(tmp_path)
    _opened = []
    try:
        use()
        assert _opened == []
        (tmp_path / "watched").write_text("x")
        assert _opened == [str(tmp_path / "watched")]
    finally:
        _opened = None
    assert [path.name for path in tmp_path.iterdir()] == ["watched"]


def test_rate_limit() -> None:
    limit = RateLimit(rate=0, burst=3)
    assert [limit.take() for _ in range(5)] == [True] * 3 + [False] * 2


def test_worker_computes_one_at_a_time() -> None:
    worker, running, most = Worker(3), [], []
    refused: list[int] = []

    async def ask(gone: bool = False) -> None:
        def compute() -> None:
            running.append(1)
            most.append(len(running))
            running.pop()

        async def is_gone() -> bool:
            return gone

        try:
            await worker.run(compute, is_gone)
        except RefusedError as error:
            refused.append(error.status)

    async def crowd() -> None:
        async with anyio.create_task_group() as group:
            for k in range(5):
                group.start_soon(ask, k == 1)

    anyio.run(crowd)
    assert most == [1, 1]
    assert sorted(refused) == [499, 503, 503]
    anyio.run(ask)  # there is room again
    assert most == [1, 1, 1]
