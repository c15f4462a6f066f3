"""Requests that the server refuses."""

from __future__ import annotations

from segcft.errors import Code, SegcftError

CODES = {404: Code.UNKNOWN, 408: Code.FAILED, 413: Code.TOO_LARGE, 429: Code.BUSY, 503: Code.BUSY}
"""Of HTTP statuses; of all others the request is invalid."""


class RefusedError(SegcftError):
    """A request that is not answered, with its HTTP status; the field is the part of it that is wrong, or ""."""

    def __init__(self, status: int, field: str, text: str) -> None:
        super().__init__(CODES.get(status, Code.INVALID), field, text)
        self.status = status
