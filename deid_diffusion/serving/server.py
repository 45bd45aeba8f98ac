"""Server of photos: limits, a bounded queue with one worker thread, the API key, the socket and the main loop."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import uvicorn

from ..errors import DeidError, UsageError, one_line
from ..identity.keys import check_private

if TYPE_CHECKING:
    from starlette.types import ASGIApp


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        max_bytes: size of an uploaded file.
        max_pixels: width x height of a photo, checked from its header before decoding.
        queue: photos accepted and not yet answered, the one in progress included; further photos are refused.
        seconds: time for a photo to arrive, and again from its arrival to its result.
    """

    max_bytes: int = 30_000_000
    max_pixels: int = 50_000_000
    queue: int = 16
    seconds: float = 300.0


Check = Callable[[], None]
"""Called by work between its steps; raises `DeadlineExceeded` when the time is up."""

_T = TypeVar("_T")


class QueueFull(DeidError):
    """All places of the queue are taken."""


class DeadlineExceeded(DeidError):
    """Work took too long and was abandoned."""


class RequestQueue:
    """Bounded queue of work for one thread, in order of arrival.

    One photo occupies all cores or the GPU, so parallel work would gain no time and double the memory. A thread pool
    rather than `anyio.CapacityLimiter`: the web page's handlers wait for it outside the event loop.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._places = threading.BoundedSemaphore(limits.queue)
        self._worker = ThreadPoolExecutor(1, "deid-worker")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place of the queue inside the block. Raises QueueFull if there is none."""
        if not self._places.acquire(blocking=False):
            raise QueueFull(f"all {self.limits.queue} places are taken: try again later")
        try:
            yield
        finally:
            self._places.release()

    def submit(self, work: Callable[[Check], _T]) -> Future[_T]:
        """Queue work, and pass it a `Check`. After the deadline it is not started, or ends at its next check."""
        end = time.monotonic() + self.limits.seconds

        def check() -> None:
            if time.monotonic() > end:
                raise deadline_error(self.limits)

        def run() -> _T:
            check()
            return work(check)

        return self._worker.submit(run)

    def close(self) -> None:
        """Drop waiting work, and wait for work in progress."""
        self._worker.shutdown(cancel_futures=True)


def deadline_error(limits: Limits) -> DeadlineExceeded:
    """Return the error for work that took too long."""
    return DeadlineExceeded(
        f"took longer than {limits.seconds:g} seconds, including the wait: try again later, or downscale the photo"
    )


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
