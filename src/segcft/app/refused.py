"""What the server says no to."""

from __future__ import annotations

from segcft.errors import Code, SegcftError

CODES = {404: Code.UNKNOWN, 408: Code.FAILED, 413: Code.TOO_LARGE, 429: Code.BUSY, 503: Code.BUSY}
"""Of HTTP statuses; of all others the request is invalid."""


class RefusedError(SegcftError):
    """A request that is not answered, with its HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(CODES.get(status, Code.INVALID), "", reason)
        self.status = status
