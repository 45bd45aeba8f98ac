"""Bounded first-in, first-out queue with one worker thread; its limits and metrics."""

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


_BUCKETS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300)  # seconds


class Metrics:
    """Prometheus metrics of one service.

    Attributes:
        queue: gauge of the photos accepted and not yet answered.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._photos = Counter("deid_photos", "Finished photos, by status.", ["status"], registry=registry)
        self._faces = Counter("deid_faces", "Faces, by action.", ["action"], registry=registry)
        self._refused = Counter("deid_refused", "Refused requests, by HTTP status.", ["code"], registry=registry)
        self._seconds = Histogram(
            "deid_photo_seconds", "Processing time of a photo, without waiting.", buckets=_BUCKETS, registry=registry
        )
        self.queue = Gauge("deid_queue", "Photos accepted and not yet answered.", registry=registry)

    def count_photo(self, record: ImageRecord) -> None:
        """Count a finished photo and its faces."""
        self._photos.labels(record.status).inc()
        self._seconds.observe(record.seconds)
        for face in record.faces:
            self._faces.labels(face.action).inc()

    def count_refusal(self, code: int) -> None:
        """Count a request that was answered by an error."""
        self._refused.labels(str(code)).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)


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
        self._worker = ThreadPoolExecutor(1, "deid-desk")

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
