"""What the parts of a run hand to each other: a task goes to a worker, and comes back done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..outcomes import Outcome
from ..report import ImageReport
from .kinds import Kind
from .walking import Found


@dataclass(frozen=True)
class Task:
    """What one worker does at once, and what a kill costs at most.

    Attributes:
        kind: what the file is.
        found: the file.
        output: where the result goes below the output folder; of a shard's piece, where the shard goes.
        first, count: of a shard, the samples or rows to process; a file of its own is one.
        scratch: folder for the result, which gets its name when the task comes back.
    """

    kind: Kind
    found: Found
    output: str
    scratch: Path
    first: int = 0
    count: int = 1

    def singles(self) -> tuple[Task, ...]:
        """The same in the smallest tasks."""
        return tuple(replace(self, first=self.first + k, count=1) for k in range(self.count))


@dataclass(frozen=True)
class FileRecord:
    """What became of a file that is no picture: a label file that was copied, or a shard.

    Attributes:
        file: its name as the user gave it, never an absolute path.
        output: the result's, below the output folder.
        input_sha256, output_sha256: hex digests.
        items: samples or rows of a shard, those that were left out included; None of a label file.
    """

    file: str
    output: str
    input_sha256: str
    output_sha256: str
    items: int | None = None

    def to_json(self) -> str:
        """One line of JSON, ASCII only, without the line break."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Done:
    """What became of a task.

    Attributes:
        task: the task.
        made: the finished file, under a passing name; None if nothing may be written.
        outcomes: what became of each picture.
        copied: the record of a label file.
        stop: one line on what keeps the whole run from going on; nothing of this task counts then.
    """

    task: Task
    made: Path | None = None
    outcomes: tuple[Outcome, ...] = ()
    copied: FileRecord | None = None
    stop: str | None = None

    @property
    def failed(self) -> bool:
        """Whether a picture was left out."""
        return any(one.report.status == "failed" for one in self.outcomes)


Engine = Callable[[Iterator[Task]], Iterator[Done]]
"""Has tasks done, in any order; asks for a task when there is somebody to do it."""


DEATHS = 3
"""Workers that one sample, row or photo may kill before it is left out."""


def died_at(task: Task) -> Done:
    """A task that killed `DEATHS` workers."""
    where = f"{task.found.name}, item {task.first}" if task.kind in ("tar", "table") else task.found.name
    return left_out(task, f"{where}: {DEATHS} workers died at it (often memory is short): left out")


def left_out(task: Task, error: str) -> Done:
    """A task none of which could be done."""
    name = task.found.name
    if task.kind in ("tar", "table") and task.count:
        name += f"/{task.first}" + (f" to {task.first + task.count - 1}" if task.count > 1 else "")
    report = ImageReport(name, None, "failed", error=error)
    return Done(task, outcomes=(Outcome(report, error),))
