"""Several processes that `accelerate launch` begins share one run: each has its share of the files, and its GPU."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta

from ..errors import UsageError
from .walking import Found
from .workplace import Workplace

PATIENCE = timedelta(days=30)
"""How long a process that is done waits for the others; torch's own limit is ten minutes."""


@dataclass(frozen=True)
class Share:
    """What this process is of a run.

    Attributes:
        number, of: this process, from 0, of so many.
        device: for its model.
        wait: returns when all processes of the run have called it.
    """

    number: int
    of: int
    device: str
    wait: Callable[[], None]

    @property
    def leads(self) -> bool:
        """Whether it does what only one may do."""
        return self.number == 0

    def has(self, found: Found) -> bool:
        """Whether a file is this process's; a shard is one file. It depends on the file's place alone."""
        return zlib.crc32(os.fsencode(found.place)) % self.of == self.number

    @contextmanager
    def in_turn(self, opened: Callable[[bool], Workplace]) -> Iterator[Workplace]:
        """An open workplace, which the leading process opens first."""
        if not self.leads:
            self.wait()
        with closing(opened(self.leads)) as place:
            if self.leads:
                self.wait()
            yield place


def share_of_this_process(workers: int | None, engine: str, device: str) -> Share:
    """The share of the process that calls: all of it, unless `accelerate launch` began it as one of several.

    Raises UsageError where it is one of several, and is to have workers of its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Share(0, 1, device, lambda: None)
    if workers is not None or engine != "local":
        raise UsageError("--workers and --engine: accelerate launch begins the processes: leave them out")
    from accelerate import PartialState

    state = PartialState(timeout=PATIENCE)
    own = str(state.device) if device == "auto" else device
    return Share(state.process_index, state.num_processes, own, state.wait_for_everyone)
