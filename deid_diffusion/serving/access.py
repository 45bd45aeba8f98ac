"""API key, listening socket and main loop of a server."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from ..errors import DeidError, UsageError, one_line
from ..identity.keys import check_private

if TYPE_CHECKING:
    from starlette.types import ASGIApp


API_KEY_VARIABLE = "DEID_API_KEY"
"""Environment variable of the API key, used where no file is given."""

_MIN_LENGTH, _MAX_LENGTH = 16, 512


@dataclass(frozen=True)
class ApiKey:
    """Secret that authorises callers; hidden in its repr. Created by `read_api_key`."""

    secret: str = field(repr=False)

    def is_same(self, candidate: str) -> bool:
        """Compare with a caller's secret in constant time."""
        return hmac.compare_digest(self.secret.encode(), candidate.encode(errors="replace"))


def read_api_key(path: Path | None) -> ApiKey | None:
    """Read the API key from a private file or else from the environment; return None if neither exists.

    It is never a command-line argument, because all users of a machine can read those.

    Args:
        path: a file of one line, 16 to 512 printable ASCII characters without spaces, as written by
            ``deid-diffusion keys new`` or ``openssl rand -hex 32``.

    Raises:
        DeidError: the file cannot be read or is open to other users, or the key is malformed.
    """
    if path is None:
        secret = os.environ.get(API_KEY_VARIABLE)
        return None if secret is None else _parse(secret, API_KEY_VARIABLE)
    try:
        with path.open("rb") as stream:
            check_private(path, os.fstat(stream.fileno()))
            text = stream.read(_MAX_LENGTH + 3).decode(errors="replace")
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise DeidError(f"{path}: the API key cannot be read ({reason}): check the path and its permissions") from error
    return _parse(text.removesuffix("\n").removesuffix("\r"), str(path))


def _parse(secret: str, source: str) -> ApiKey:
    if not re.fullmatch(rf"[!-~]{{{_MIN_LENGTH},{_MAX_LENGTH}}}", secret):
        raise DeidError(
            f"{source}: not an API key: expected one line of {_MIN_LENGTH} to {_MAX_LENGTH} printable characters "
            "without spaces, as written by `openssl rand -hex 32`"
        )
    return ApiKey(secret)


def check_reach(host: str, api_key: ApiKey | None) -> None:
    """Refuse to listen without an API key where other machines can connect. Raises UsageError."""
    if api_key is None and not _is_loopback(host):
        raise UsageError(
            f"--host {one_line(host)}: other machines could connect, so an API key is required: use --api-key-file "
            f"FILE or set {API_KEY_VARIABLE}, or leave out --host"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket for `run`; port 0 is any free port. Raises DeidError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise DeidError(f"--host {one_line(host)}: not an address of this machine ({one_line(error)})") from error
    dual_stack = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(address, family=family, backlog=2048, dualstack_ipv6=dual_stack)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else one_line(error)
        raise DeidError(f"{host}:{port}: cannot listen there ({reason}): choose another --port or --host") from error


def address_of(server_socket: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = server_socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: ASGIApp, server_socket: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, and finish requests in progress."""
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=10)
    )
    previous = signal.signal(signal.SIGTERM, _interrupt)  # uvicorn re-raises the signal after its shutdown
    try:
        server.run(sockets=[server_socket])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, previous)
        server_socket.close()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
