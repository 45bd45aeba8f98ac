"""One photo at a time, in the order of arrival: a bounded queue before one worker thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from ..errors import DeidError
from ..results import ImageRecord


@dataclass(frozen=True)
class Limits:
    """What is refused, and when.

    Attributes:
        max_bytes: of an uploaded file.
        max_pixels: width x height of a photo, judged from its header before anything is decoded.
        queue: photos that are taken in and not yet answered, the one at work included; more are turned away.
        seconds: from the moment at which a photo begins to arrive, or to wait, to its result.
    """

    max_bytes: int = 30_000_000
    max_pixels: int = 50_000_000
    queue: int = 16
    seconds: float = 300.0


_SECONDS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Metrics:
    """The figures of one service."""

    def __init__(self, desk: RequestQueue) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._photos = Counter("deid_photos", "Photos finished, by status.", ["status"], registry=self._registry)
        self._faces = Counter("deid_faces", "Faces, by what was done to them.", ["action"], registry=self._registry)
        self._refused = Counter("deid_refused", "Requests refused, by HTTP status.", ["code"], registry=self._registry)
        self._seconds = Histogram(
            "deid_photo_seconds", "Time of a photo, without waiting.", buckets=_SECONDS, registry=self._registry
        )
        taken = Gauge("deid_queue", "Photos taken in and not yet answered.", registry=self._registry)
        taken.set_function(lambda: desk.taken)

    def finished(self, record: ImageRecord) -> None:
        """Count a photo and its faces."""
        self._photos.labels(record.status).inc()
        self._seconds.observe(record.seconds)
        for face in record.faces:
            self._faces.labels(face.action).inc()

    def refused(self, code: int) -> None:
        """Count a request that was answered by an error."""
        self._refused.labels(str(code)).inc()

    def text(self) -> bytes:
        """All figures in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)


Check = Callable[[], None]
"""Work calls it between its steps; it raises OutOfTime when the work's time is up."""

_T = TypeVar("_T")


class QueueFull(DeidError):
    """All places are taken."""


class DeadlineExceeded(DeidError):
    """The work was given up."""


class RequestQueue:
    """Takes work in while there is room, and does one piece after the other in a thread of its own.

    The models need all cores or the whole GPU for one photo, so two at once are not faster and need twice the memory.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.taken = 0  # places
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "deid-desk")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds one of the places inside the block. Raises Full where there is none."""
        with self._lock:
            if self.taken >= self.limits.queue:
                raise QueueFull(f"all {self.limits.queue} places are taken: try again in a while")
            self.taken += 1
        try:
            yield
        finally:
            with self._lock:
                self.taken -= 1

    def submit(self, work: Callable[[Check], _T]) -> Future[_T]:
        """Queue work, which is given a `Check`; it is not begun, and ends at its next check, when its time is up."""
        end = time.monotonic() + self.limits.seconds

        def check() -> None:
            if time.monotonic() > end:
                raise deadline_check(self.limits)

        def run() -> _T:
            check()
            return work(check)

        return self._worker.submit(run)

    def close(self) -> None:
        """Drop what waits, and wait for what is at work."""
        self._worker.shutdown(cancel_futures=True)


def deadline_check(limits: Limits) -> DeadlineExceeded:
    """The error for work that took too long."""
    return DeadlineExceeded(
        f"took longer than {limits.seconds:g} seconds, waiting included: try again later, or scale it down"
    )
