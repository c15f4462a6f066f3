"""How much the page's server takes: of a request, at a time, and a second."""

from __future__ import annotations

MOST_UPLOADED = 64_000_000
"""Bytes of an uploaded file."""
MOST_UPLOADS = 2
"""Uploads that are received or read at a time, as each is held in memory."""
MOST_ASIDE = 100_000
"""Bytes of a question beside its pixels or its file."""
MOST_DRAWS = 12
"""Further answers to a question."""
MOST_WAITING = 8
"""Computations, the one that runs included."""
RATE, BURST = 40.0, 80.0
"""Requests per second that compute something, of all clients together."""
SECONDS_TO_SEND = 60.0
"""Time for a request's body."""


def most_asked(image: int) -> int:
    """Bytes of a question that has ``image`` bytes of pixels, or of a file, in base64."""
    return MOST_ASIDE + 4 * image // 3
