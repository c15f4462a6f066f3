"""What the server says no to."""

from __future__ import annotations

from segcft.errors import SegcftError


class RefusedError(SegcftError):
    """A request that is not answered, with its HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
