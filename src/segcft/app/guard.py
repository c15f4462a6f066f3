"""Only the page itself may ask, from this server.

A page of another site can make a browser send requests to 127.0.0.1, and by DNS rebinding even under that site's own
name. So a request must name this server by an address or a name of its own (``Host``), and must not come from
another site (``Origin``, ``Sec-Fetch-Site``). What goes out forbids the browser to load anything from elsewhere.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSP = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
"""Content-Security-Policy: scripts, styles and questions of this server alone, no text becomes code."""

HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware that refuses requests of other sites and sets the headers of every answer.

    Args:
        app: what is guarded.
        names: names of this server beside ``localhost``. Addresses are always right: rebinding needs a name.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self.app = app
        self.names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket: there is none here
            await send({"type": "websocket.close", "code": 1008})
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        reason = self._refusal(Headers(scope=scope))
        if reason:
            await JSONResponse({"error": reason}, 403)(scope, receive, with_headers)
        else:
            await self.app(scope, receive, with_headers)

    def _refusal(self, headers: Headers) -> str | None:
        """Why a request is refused, or None."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "this server does not go by that name; open it by its address, or name it with --host"
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host.lower():
            return "questions of another site's page are refused"
        site = headers.get("sec-fetch-site", "same-origin")
        opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if site not in ("same-origin", "none") and not opened:  # a link that leads here is no question
            return "requests of another site's page are refused"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True


def _place(origin: str) -> str:
    """The host and port of an origin; nothing, which no host is, if it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


class RateLimit:
    """A bucket of ``burst`` tokens that fills at ``rate`` tokens per second; a request takes one."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._tokens, self._time = burst, time.monotonic()

    def take(self) -> bool:
        """Whether there was a token left."""
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._time) * self.rate)
        self._time = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
