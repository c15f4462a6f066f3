"""The server of the page: a little HTTP around a model.

It keeps nothing of an image: the page sends it again with every question, on the model's grid.

====================================  ==========================================================================
``GET /``, ``GET /static/NAME``       the page
``GET /api/models``                   names and descriptions
``GET /api/models/NAME``              variables with ranges, structures, examples
``POST /api/upload?model=NAME``       a file's bytes -> its pixels on the model's grid, and what its header says
``POST /api/question``                a question (:class:`segcft.app.payload.Asked`) -> its answer
``POST /api/file/FORMAT``             the same question -> the answer as a file: png, dcm, nii.gz or json
====================================  ==========================================================================

Errors are ``{"error": text}``.
"""

from __future__ import annotations

import logging
import mimetypes
import socket
import traceback
from collections.abc import Awaitable, Callable, Sequence
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

from segcft.app import payload
from segcft.app.catalogue import Catalogue
from segcft.app.files import MEDIA, as_file
from segcft.app.guard import Guard, RateLimit
from segcft.app.refused import RefusedError
from segcft.app.upload import received
from segcft.app.worker import Worker
from segcft.errors import SegcftError

LOG = logging.getLogger(__name__)

MOST_UPLOADED = 64_000_000
"""Bytes of an uploaded file."""
MOST_UPLOADS = 2
"""Uploads that are received or read at a time, as each is held in memory."""
MOST_ASIDE = 100_000
"""Bytes of a question beside its pixels."""
MOST_WAITING = 8
"""Computations, the one that runs included."""
RATE, BURST = 40.0, 80.0
"""Requests per second that compute something, of all clients together."""
SECONDS_TO_SEND = 60.0
"""Time for a request's body."""

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
        self.most_asked = MOST_ASIDE + 4 * catalogue.most_bytes // 3
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

    async def upload(self, request: Request) -> Response:
        if self.uploads >= MOST_UPLOADS:
            raise RefusedError(503, "", "other files are being uploaded; try again in a moment")
        self.uploads += 1
        try:
            return await self._upload(request)
        finally:
            self.uploads -= 1

    async def _upload(self, request: Request) -> Response:
        name = request.query_params.get("model", "")
        data = await self._body(request, "application/octet-stream", MOST_UPLOADED)

        def read() -> dict[str, Any]:
            question = self.catalogue[name].question(received(data))
            known = {fact.variable: fact.amount for fact in question.known}  # from a DICOM header
            return {"pixels": payload.encode(question.pixels), "known": known}

        return JSONResponse(await self._compute(request, read))

    async def question(self, request: Request) -> Response:
        asked = payload.parse_question(await self._body(request, "application/json", self.most_asked))

        def answer() -> dict[str, Any]:
            model = self.catalogue[asked.model]
            return payload.encode_answer(payload.ask(model, asked), model.study)

        return JSONResponse(await self._compute(request, answer))

    async def file(self, request: Request) -> Response:
        format = request.path_params["format"]
        if format not in MEDIA:
            raise RefusedError(404, "format", f"expected {', '.join(MEDIA)}, not {format!r}")
        asked = payload.parse_question(await self._body(request, "application/json", self.most_asked))
        if not asked.do:  # it would be the image itself, marked as synthetic
            raise RefusedError(422, "do", "nothing is asked for")
        content = await self._compute(request, lambda: as_file(payload.ask(self.catalogue[asked.model], asked), format))
        disposition = {"Content-Disposition": f'attachment; filename="counterfactual.{format}"'}
        return Response(content, media_type=MEDIA[format], headers=disposition)

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
