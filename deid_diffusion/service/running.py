"""An ASGI application on a socket, until somebody ends the process."""

from __future__ import annotations

import signal
import socket
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from ..errors import DeidError, one_line

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def listen(host: str, port: int) -> socket.socket:
    """A socket that nobody else has, on which `run` serves; port 0 is any free one. Raises DeidError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise DeidError(f"--host {one_line(host)}: no address of this machine ({one_line(error)})") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(2048)
    except OSError as error:
        opened.close()
        reason = one_line(error.strerror or error)
        raise DeidError(f"{host}:{port}: cannot listen there ({reason}): choose another --port or --host") from error
    return opened


def address_of(opened: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: ASGIApp, opened: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; what is at work is finished first."""
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=10)
    )
    before = signal.signal(signal.SIGTERM, _interrupt)  # the server raises the signal once more when it has ended
    try:
        server.run(sockets=[opened])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        opened.close()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
