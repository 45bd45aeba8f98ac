"""An ASGI application on a socket, until somebody ends the process."""

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
"""Environment variable of the secret, where no file is named."""

LEAST_LETTERS = 16
_MOST_LETTERS = 512


@dataclass(frozen=True)
class ApiKey:
    """The secret that callers show; its repr does not show it. Made by `read_api_key`."""

    secret: str = field(repr=False)

    def is_same(self, shown: str) -> bool:
        """Whether a caller shows the secret, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(self.secret.encode(), shown.encode(errors="replace"))


def read_api_key(path: Path | None) -> ApiKey | None:
    """The secret in a file that only its owner can read, else in the environment; None where there is neither.

    It is never an argument: the arguments of a process are for all users of a machine to read.

    Args:
        path: a file of one line, 16 to 512 printable ASCII characters without spaces, such as ``deid-diffusion keys
            new`` or ``openssl rand -hex 32`` write.

    Raises:
        DeidError: the file cannot be read or is open to others, or the secret has another form.
    """
    if path is None:
        secret = os.environ.get(API_KEY_VARIABLE)
        return None if secret is None else _checked(secret, API_KEY_VARIABLE)
    try:
        with path.open("rb") as stream:
            check_private(path, os.fstat(stream.fileno()))
            text = stream.read(_MOST_LETTERS + 3).decode(errors="replace")
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise DeidError(f"{path}: the API key cannot be read ({reason}): check the name and its permissions") from error
    return _checked(text.removesuffix("\n").removesuffix("\r"), str(path))


def check_reach(host: str, api_key: ApiKey | None) -> None:
    """Refuse to listen where other machines can reach a server without a secret. Raises UsageError."""
    if api_key is None and not _is_loopback(host):
        raise UsageError(
            f"--host {one_line(host)}: other machines could use it, so it needs a secret: --api-key-file FILE, or "
            f"{API_KEY_VARIABLE} in the environment; or leave --host out"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checked(secret: str, source: str) -> ApiKey:
    if not re.fullmatch(rf"[!-~]{{{LEAST_LETTERS},{_MOST_LETTERS}}}", secret):
        raise DeidError(
            f"{source}: is no API key: expected one line of {LEAST_LETTERS} to {_MOST_LETTERS} printable characters "
            "without spaces, as `openssl rand -hex 32` writes"
        )
    return ApiKey(secret)


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
