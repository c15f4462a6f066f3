"""`segcft app`: the web page."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import socket
import sys
import warnings
from contextlib import suppress
from pathlib import Path

from segcft.cli.options import Command, hardware, model, quiet_libraries
from segcft.errors import Code, SegcftError
from segcft.utils.signals import Terminated


def add_app(command: Command) -> None:
    """Add the command."""
    parser = command("app", _app, "serve a web page on which to ask models by moving sliders")
    parser.add_argument(
        "models",
        metavar="MODEL",
        type=model,
        nargs="*",
        default=[Path("models/chest")],
        help="folder of a run or of a published model, or hf://USER/MODEL; several to choose from (default: "
        "models/chest)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)"
    )
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on; 0: any (default: 8000)")
    parser.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="open the page in the browser (default: --open)",
    )
    hardware(parser)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a whole number from 0 to 65535, not {text!r}")
    return int(text)


def _app(options: argparse.Namespace) -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise SegcftError(Code.NOT_INSTALLED, error.name, "segcft app needs it: pip install 'segcft[app]'") from None
    bound = _listen(options.host, options.port)
    quiet_libraries()
    _say_nothing_of_files()
    from segcft.app.catalogue import Catalogue
    from segcft.app.server import make_app, serve
    from segcft.training.loop import make_fabric

    catalogue = Catalogue(options.models, make_fabric(options.device).device)
    catalogue.describe(next(iter(catalogue.runs)))  # errors come now, and the page opens at once
    app = make_app(catalogue, [options.host])
    address, port = bound.getsockname()[:2]
    if not ipaddress.ip_address(address).is_loopback:
        print(
            f"segcft: warning: --host {options.host}: everybody who reaches this machine can use the page, and what "
            "they send and get is not encrypted",
            file=sys.stderr,
        )
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"http://{host}:{port}/"
    print(f"{url}  (Ctrl-C ends it)", flush=True)
    if options.open and _has_screen():
        import webbrowser

        webbrowser.open(url)  # the socket listens already: the browser waits for the first answer
    with suppress(Terminated):  # as Ctrl-C: it is how a server ends
        serve(app, bound)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        hint = "; choose another --port" if port else ""
        why = (error.strerror or str(error)).partition(" (while")[0]
        raise SegcftError(Code.INVALID, f"--host {host} --port {port}", f"cannot listen there: {why}{hint}") from None


def _say_nothing_of_files() -> None:
    """Keep readers' remarks off the terminal: they quote headers, which may name a patient."""
    warnings.simplefilter("ignore")
    for reader in ("pydicom", "nibabel.global", "PIL"):
        logging.getLogger(reader).setLevel(logging.CRITICAL)


def _has_screen() -> bool:
    """Whether a browser would have a window; without one, Python starts a browser in the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
