"""The server of the page: a little HTTP around a model.

It keeps nothing of an image: the page sends it again with every question, on the model's grid; a program may send the
whole file (``clients/`` has such programs).

====================================  ==========================================================================
``GET /``, ``GET /static/NAME``       the page
``GET /api/models``                   names and descriptions
``GET /api/models/NAME``              variables with ranges, structures, examples
``POST /api/upload?model=NAME``       a file's bytes -> its pixels on the model's grid, and what its header says;
                                      ``&millimetres=0.7,0.7``: height and width of its pixels, where it lacks them
``POST /api/question``                a question (:class:`segcft.app.payload.Asked`) -> its answer
``POST /api/file/FORMAT``             the same question -> the answer as a file: png, dcm, nii.gz or json
``POST /api/full``                    a question about a file (:class:`segcft.app.payload.AskedOfFile`) -> the answer in
                                      the file's own pixels
``POST /api/full/FORMAT``             the same question -> that answer as a file: png, dcm or nii.gz
``GET /api/openapi.json``             all of this for programs (:mod:`segcft.app.openapi`)
====================================  ==========================================================================

Errors are ``{"error": text}``.
"""

from __future__ import annotations

import logging
import mimetypes
import socket
import traceback
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import wraps
from importlib import resources
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from segcft.app import openapi, payload
from segcft.app.catalogue import Catalogue
from segcft.app.files import MEDIA, WHOLE, as_file, as_full
from segcft.app.guard import Guard, RateLimit
from segcft.app.limits import (
    BURST,
    MOST_UPLOADED,
    MOST_UPLOADS,
    MOST_WAITING,
    RATE,
    SECONDS_TO_SEND,
    most_asked,
)
from segcft.app.refused import RefusedError
from segcft.app.upload import received
from segcft.app.worker import Worker
from segcft.errors import SegcftError

LOG = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(catalogue: Catalogue, names: Sequence[str] = ()) -> Starlette:
    """The application. ``names`` are what this server is called beside ``localhost`` and its addresses."""
    site = _Site(catalogue)
    routes = [
        Route("/", _safely(site.page)),
        Route("/static/{name}", _safely(site.static)),
        Route("/api/models", _safely(site.models)),
        Route("/api/models/{name}", _safely(site.model)),
        Route("/api/upload", _safely(site.upload), methods=["POST"]),
        Route("/api/question", _safely(site.question), methods=["POST"]),
        Route("/api/file/{format}", _safely(site.file), methods=["POST"]),
        Route("/api/full", _safely(site.full), methods=["POST"]),
        Route("/api/full/{format}", _safely(site.full_file), methods=["POST"]),
        Route(openapi.PLACE, _safely(site.openapi)),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, names=names)],
        exception_handlers={HTTPException: _http_error},
    )


def serve(app: Starlette, bound: socket.socket) -> None:
    """Serve until interrupted. Nothing of a request is logged."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # no proxy is trusted to say who asks
        limit_concurrency=64,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[bound])


class _Site:
    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.worker = Worker(MOST_WAITING)
        self.limit = RateLimit(RATE, BURST)
        self.uploads = 0
        self.most_asked = most_asked(catalogue.most_bytes)
        folder = resources.files("segcft.app") / "static"
        # Read once: what is not in this table does not exist, whatever path is asked for.
        self.files = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}

    async def page(self, request: Request) -> Response:
        return self._file("index.html")

    async def static(self, request: Request) -> Response:
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        if name not in self.files:
            raise RefusedError(404, name, "there is no such file")
        return Response(self.files[name], media_type=mimetypes.guess_type(name)[0] or "application/octet-stream")

    async def models(self, request: Request) -> Response:
        return JSONResponse(self.catalogue.titles())

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        return JSONResponse(await self._compute(request, lambda: self.catalogue.describe(name)))

    async def openapi(self, request: Request) -> Response:
        def document() -> dict[str, Any]:
            return openapi.document(self.most_asked, openapi.example_of(self.catalogue))

        return JSONResponse(await self._compute(request, document))

    async def upload(self, request: Request) -> Response:
        name = request.query_params.get("model", "")
        lengths = payload.parse_lengths(request.query_params.get("millimetres", ""))

        def read(data: bytes) -> dict[str, Any]:
            question = self.catalogue[name].question(payload.sized(received(data), lengths))
            known = {fact.variable: fact.amount for fact in question.known}  # from a DICOM header
            return {"pixels": payload.encode(question.pixels), "known": known}

        return JSONResponse(await self._with_file(request, "application/octet-stream", MOST_UPLOADED, read))

    async def _with_file(self, request: Request, kind: str, most: int, compute: Callable[[bytes], Any]) -> Any:
        """What is computed of a request's body that has a file, of which few are in memory at a time."""
        if self.uploads >= MOST_UPLOADS:
            raise RefusedError(503, "", "other files are being uploaded; try again in a moment")
        self.uploads += 1
        try:
            data = await self._body(request, kind, most)
            return await self._compute(request, lambda: compute(data))
        finally:
            self.uploads -= 1

    async def question(self, request: Request) -> Response:
        asked = payload.parse_question(await self._body(request, "application/json", self.most_asked), payload.Asked)

        def answer() -> dict[str, Any]:
            model = self.catalogue[asked.model]
            return payload.encode_answer(payload.ask(model, asked), model.study)

        return JSONResponse(await self._compute(request, answer))

    async def file(self, request: Request) -> Response:
        format = _format(request, MEDIA)
        asked = payload.parse_question(await self._body(request, "application/json", self.most_asked), payload.Asked)
        _check_asked(asked)
        content = await self._compute(request, lambda: as_file(payload.ask(self.catalogue[asked.model], asked), format))
        return _download(content, format)

    async def full(self, request: Request) -> Response:
        def answer(data: bytes) -> dict[str, Any]:
            asked = payload.parse_question(data, payload.AskedOfFile)
            found, image = payload.ask_of_file(self.catalogue[asked.model], asked)
            return payload.encode_full(found, image)

        return JSONResponse(await self._with_file(request, "application/json", most_asked(MOST_UPLOADED), answer))

    async def full_file(self, request: Request) -> Response:
        format = _format(request, WHOLE)

        def answer(data: bytes) -> bytes:
            asked = payload.parse_question(data, payload.AskedOfFile)
            _check_asked(asked)
            return as_full(*payload.ask_of_file(self.catalogue[asked.model], asked), format)

        content = await self._with_file(request, "application/json", most_asked(MOST_UPLOADED), answer)
        return _download(content, format)

    async def _compute(self, request: Request, compute: Callable[[], Any]) -> Any:
        if not self.limit.take():
            raise RefusedError(429, "", "too many questions a second; try again in a moment")
        return await self.worker.run(compute, request.is_disconnected)

    async def _body(self, request: Request, kind: str, most: int) -> bytes:
        """The body of a request, which is of the type ``kind`` and at most ``most`` bytes."""
        # No form of another site can send these types, so the browser would have to ask us first.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != kind:
            raise RefusedError(415, "content-type", f"expected a body of type {kind}")
        length = request.headers.get("content-length", "0")
        body = bytearray()
        try:
            if not length.isdecimal() or int(length) > most:
                raise _TooLargeError
            with anyio.fail_after(SECONDS_TO_SEND):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise _TooLargeError
        except _TooLargeError:
            raise RefusedError(413, "", f"too large: at most {most / 1e6:.3g} MB") from None
        except TimeoutError:
            raise RefusedError(408, "", f"the request did not arrive within {SECONDS_TO_SEND:g} s") from None
        except ClientDisconnect:
            raise RefusedError(499, "", "the question was taken back") from None
        return bytes(body)


def _format(request: Request, formats: Collection[str]) -> str:
    format = str(request.path_params["format"])
    if format not in formats:
        raise RefusedError(404, "format", f"expected {', '.join(formats)}, not {format!r}")
    return format


def _check_asked(asked: payload.About) -> None:
    if not asked.do:  # it would be the image itself, marked as synthetic
        raise RefusedError(422, "do", "nothing is asked for")


def _download(content: bytes, format: str) -> Response:
    disposition = {"Content-Disposition": f'attachment; filename="counterfactual.{format}"'}
    return Response(content, media_type=MEDIA[format], headers=disposition)


class _TooLargeError(Exception):
    pass


def _safely(endpoint: Endpoint) -> Endpoint:
    """``endpoint``, whose errors become answers: ours with their message, others without."""

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RefusedError as error:
            return JSONResponse({"error": str(error)}, error.status)
        except SegcftError as error:
            return JSONResponse({"error": str(error)}, 400)
        except Exception as error:
            # Where, not what: a message may quote the request.
            where = "".join(traceback.format_tb(error.__traceback__))
            LOG.error("%s in an answer\n%s", type(error).__name__, where)
            return JSONResponse({"error": "an error of segcft itself; its terminal says where"}, 500)

    return answer


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
