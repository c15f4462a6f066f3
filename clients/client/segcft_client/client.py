"""Requests to the server, each as one method. What they mean is written at the server's ``/api/openapi.json``."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Union
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
from numpy.typing import NDArray

ADDRESS = "http://127.0.0.1:8000"
"""Where ``segcft app`` listens if it is not told otherwise."""
SECONDS = 300.0
"""How long an answer is waited for."""
UNREACHED = 0
"""The status of an error where no server answered."""

Values = Mapping[str, Union[float, str]]
"""Of variables by their names: a number, or the name of a category."""
File = Union[bytes, str, Path]
"""An image file: its bytes, or where it is."""


class ServerError(Exception):
    """What the server does not answer.

    Attributes:
        status: of HTTP, or :data:`UNREACHED`.
        text: what is wrong, as the server says it.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


@dataclass(frozen=True)
class Answer:
    """An answer on the model's grid, as arrays. Images are uint8 (H, W, C), volumes (D, H, W, C)."""

    image: NDArray[np.uint8]
    """The counterfactual."""
    draws: tuple[NDArray[np.uint8], ...]
    """Further ones, as many as were asked for."""
    spread: NDArray[np.float32] | None
    """Standard deviation of the draws in grey levels, (H, W) or (D, H, W)."""
    band: NDArray[np.float32] | None
    """Half-width of the band of 90 % in grey levels."""
    record: dict[str, Any]
    """What was asked, inferred and obtained."""


class Client:
    """Asks a server.

    Args:
        address: where it is.
        seconds: how long to wait for an answer.

    Raises:
        ServerError: the address is none of HTTP.
    """

    def __init__(self, address: str = ADDRESS, seconds: float = SECONDS) -> None:
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc:
            raise ServerError(UNREACHED, f"expected an address as {ADDRESS}, not {address!r}")
        self.address, self.seconds = address.rstrip("/"), seconds
        # Images go to the address that was named, and to no proxy that the environment names.
        self._opener = build_opener(ProxyHandler({}))
        self._models: dict[str, dict[str, Any]] = {}

    def models(self) -> list[dict[str, str]]:
        """Name and description of every model.

        Raises:
            ServerError: here and below: the server refuses, or does not answer.
        """
        found: list[dict[str, str]] = self._json("/api/models")
        return found

    def model(self, name: str) -> dict[str, Any]:
        """What can be asked of a model: variables with ranges, structures, examples. It is asked for once."""
        if name not in self._models:
            self._models[name] = self._json(f"/api/models/{quote(name, safe='')}")
        return self._models[name]

    def examples(self, model: str) -> list[tuple[NDArray[np.uint8], dict[str, float | str]]]:
        """Example images of a model on its grid, as :meth:`upload` gives them, and what is known of these people."""
        return [(self._pixels(model, one["pixels"]), one["known"]) for one in self.model(model)["examples"]]

    def upload(
        self, model: str, file: File, millimetres: Sequence[float] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, float | str]]:
        """A file's pixels on the model's grid, (H, W, C) or (D, H, W, C), and what its header says of the person.

        ``millimetres`` are height and width of a pixel (of a voxel depth, too), where the file does not say.

        Raises:
            OSError: the file is not there.
        """
        sized = {} if millimetres is None else {"millimetres": ",".join(map(str, millimetres))}
        query = urlencode({"model": model} | sized)
        told = json.loads(self._send(f"/api/upload?{query}", _content(file), "application/octet-stream"))
        return self._pixels(model, told["pixels"]), told["known"]

    def ask(
        self,
        model: str,
        pixels: NDArray[np.uint8],
        do: Values,
        known: Values | None = None,
        method: str | None = None,
        draws: int = 0,
    ) -> Answer:
        """The answer about pixels on the model's grid, as :meth:`upload` gives them."""
        told = self._json("/api/question", _question(model, do, known, method, draws) | {"pixels": _text(pixels)})
        size = self._size(model)
        return Answer(
            image=self._pixels(model, told["image"]),
            draws=tuple(self._pixels(model, one) for one in told["draws"]),
            spread=_levels(told["spread"], size),
            band=_levels(told["band"], size),
            record=told["record"],
        )

    def file(
        self,
        model: str,
        pixels: NDArray[np.uint8],
        do: Values,
        format: str,
        known: Values | None = None,
        method: str | None = None,
    ) -> bytes:
        """The answer on the model's grid as a file, which says that it is synthetic: png, dcm, nii.gz or json."""
        question = _question(model, do, known, method) | {"pixels": _text(pixels)}
        return self._send(f"/api/file/{quote(format, safe='')}", _encoded(question), "application/json")

    def full(
        self,
        model: str,
        file: File,
        do: Values,
        known: Values | None = None,
        method: str | None = None,
        millimetres: Sequence[float] | None = None,
    ) -> tuple[NDArray[np.uint8] | None, dict[str, Any]]:
        """The answer about a file in its own pixels, uint8 (H, W, C) or (D, H, W, C), and the record.

        Args:
            model: its name.
            file: the image.
            do: what variables are set to. Where it is empty there are no pixels, and the record has what is read.
            known: what is known of the person; a DICOM header's age and sex are believed.
            method: of the model.
            millimetres: height and width of a pixel, where the file does not say.

        Raises:
            OSError: the file is not there.
        """
        told = self._json("/api/full", _about_file(model, file, do, known, method, millimetres))
        if told["image"] is None:
            return None, told["record"]
        data = np.frombuffer(base64.b64decode(told["image"]), np.uint8)
        return data.reshape(*told["size"], self.model(model)["channels"]), told["record"]

    def full_file(
        self,
        model: str,
        file: File,
        do: Values,
        format: str,
        known: Values | None = None,
        method: str | None = None,
        millimetres: Sequence[float] | None = None,
    ) -> bytes:
        """The same as a file: of an image png or dcm; of a volume nii.gz, on its own grid and in its units.

        Raises:
            OSError: the file is not there.
        """
        question = _about_file(model, file, do, known, method, millimetres)
        return self._send(f"/api/full/{quote(format, safe='')}", _encoded(question), "application/json")

    def _size(self, model: str) -> tuple[int, ...]:
        told = self.model(model)
        return tuple(told["volume"]["size"] if told["volume"] else told["size"])

    def _pixels(self, model: str, text: str) -> NDArray[np.uint8]:
        shape = (*self._size(model), self.model(model)["channels"])
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape)

    def _json(self, place: str, question: Mapping[str, Any] | None = None) -> Any:
        body = None if question is None else _encoded(question)
        return json.loads(self._send(place, body, "application/json"))

    def _send(self, place: str, body: bytes | None, kind: str) -> bytes:
        request = Request(self.address + place, body, {} if body is None else {"Content-Type": kind})
        try:
            with self._opener.open(request, timeout=self.seconds) as response:
                content: bytes = response.read()
                return content
        except HTTPError as error:
            with error:
                raise ServerError(error.code, _reason(error)) from None
        except (URLError, OSError, HTTPException) as error:
            why = getattr(error, "reason", error)
            raise ServerError(UNREACHED, f"no server answers at {self.address} ({why})") from None


def _reason(error: HTTPError) -> str:
    """What the server says; of another one what HTTP says."""
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.reason)


def _question(model: str, do: Values, known: Values | None, method: str | None, draws: int = 0) -> dict[str, Any]:
    return {"model": model, "do": dict(do), "known": dict(known or {}), "method": method, "draws": draws}


def _about_file(
    model: str, file: File, do: Values, known: Values | None, method: str | None, millimetres: Sequence[float] | None
) -> dict[str, Any]:
    sizes = None if millimetres is None else [float(one) for one in millimetres]
    question = _question(model, do, known, method)
    return question | {"file": base64.b64encode(_content(file)).decode(), "millimetres": sizes}


def _content(file: File) -> bytes:
    return file if isinstance(file, bytes) else Path(file).read_bytes()


def _encoded(question: Mapping[str, Any]) -> bytes:
    return json.dumps(question, allow_nan=False).encode()


def _text(pixels: NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(pixels, np.uint8).tobytes()).decode()


def _levels(text: str | None, size: tuple[int, ...]) -> NDArray[np.float32] | None:
    return None if text is None else np.frombuffer(base64.b64decode(text), "<f4").reshape(size).astype(np.float32)
