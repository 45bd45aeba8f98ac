"""How much a server takes on: values that the service and the web page share."""

from __future__ import annotations

from dataclasses import dataclass


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
