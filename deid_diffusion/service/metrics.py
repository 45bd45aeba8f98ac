"""What a monitor asks of the service, as Prometheus's text: counts and times, nothing of any photo."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from ..report import ImageReport
from .desk import Desk

_SECONDS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Metrics:
    """The figures of one service."""

    def __init__(self, desk: Desk) -> None:
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

    def finished(self, record: ImageReport) -> None:
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
