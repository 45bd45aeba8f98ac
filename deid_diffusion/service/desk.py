"""One photo at a time, in the order of arrival: a bounded queue before one worker thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from ..errors import DeidError
from .limits import Limits

Check = Callable[[], None]
"""Work calls it between its steps; it raises OutOfTime when the work's time is up."""

_T = TypeVar("_T")


class Full(DeidError):
    """All places are taken."""


class OutOfTime(DeidError):
    """The work was given up."""


class Desk:
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
                raise Full(f"all {self.limits.queue} places are taken: try again in a while")
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
                raise out_of_time(self.limits)

        def run() -> _T:
            check()
            return work(check)

        return self._worker.submit(run)

    def close(self) -> None:
        """Drop what waits, and wait for what is at work."""
        self._worker.shutdown(cancel_futures=True)


def out_of_time(limits: Limits) -> OutOfTime:
    """The error for work that took too long."""
    return OutOfTime(
        f"took longer than {limits.seconds:g} seconds, waiting included: try again later, or scale it down"
    )
