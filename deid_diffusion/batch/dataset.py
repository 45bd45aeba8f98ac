"""A data set's way through the house: walk, have tasks done, give results their names, join shards, write the manifest.

Workers write under passing names only. This process alone writes a result's row in the journal and then gives it its
name, so a worker that dies, or is doubled, leaves nothing behind; a kill of this process costs what was in work.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import DeidError, ImageError, one_line
from ..io.files import prepare_folder, publish, refusal, refused, sha256_of
from ..results import JobResult
from . import shards, tables
from .journal import JOINED, Journal, RunDirectory
from .shards import PIECE, ShardFormat, passing_name
from .tasks import (
    Engine,
    FileRecord,
    ImageWorker,
    JobConfig,
    Kind,
    SourceFile,
    Task,
    TaskResult,
    iter_files,
    kind_of,
    result_name,
    skip,
)

_WAYS: dict[Kind, Callable[[Task, ImageWorker], TaskResult]] = {
    "photo": shards.photo,
    "label": shards.label,
    "tar": shards.FORMAT.piece,
    "table": tables.FORMAT.piece,
}


def execute(task: Task, workshop: ImageWorker) -> TaskResult:
    """Do a task. What keeps every task from being done, such as a full disk, comes back as the reason to stop."""
    try:
        return _WAYS[task.kind](task, workshop)
    except ImageError as error:  # of a shard: what is wrong with a picture is no exception here
        return skip(task, one_line(error))
    except DeidError as error:
        return TaskResult(task, stop=one_line(error))
    except OSError as error:
        return TaskResult(task, stop=refusal(task.scratch, error))


def run_in_process(recipe: JobConfig, tasks: Iterator[Task]) -> Iterator[TaskResult]:
    """The simplest engine: one worker, in this process."""
    workshop = ImageWorker(recipe)
    for task in tasks:
        yield execute(task, workshop)


SHARDS: dict[Kind, ShardFormat] = {"tar": shards.FORMAT, "table": tables.FORMAT}
"""How each kind of shard is dealt with."""

FILE: dict[Kind, int] = {"photo": 0, "label": 0, "tar": JOINED, "table": JOINED}
"""The `first` of the row that says that a file is finished, or cannot be."""


class DatasetRun:
    """One run over a data set; an iterator over what became of its pictures.

    Attributes:
        skipped: files that are neither pictures nor labels, and were not copied.
        known: pictures that were finished before.
    """

    def __init__(
        self,
        inputs: Sequence[Path],
        place: RunDirectory,
        recipe: JobConfig,
        engine: Engine,
        mine: Callable[[SourceFile], bool] = lambda found: True,
    ) -> None:
        """Prepare a run.

        Args:
            inputs: folders and files.
            place: the output folder, open.
            recipe: what to make.
            engine: has the tasks done.
            mine: whether a file is this process's business, where several share a run.
        """
        self._inputs, self._place, self._recipe, self._engine, self._mine = inputs, place, recipe, engine, mine
        self._journal: Journal = place.journal
        self._outputs: set[str] = set()  # of the tasks in work
        self._open: dict[str, int] = {}  # shards by name -> items that are not finished
        self._early: list[JobResult] = []  # of what failed before it could become a task
        self.skipped = 0
        self.known = self._journal.pictures()

    def __iter__(self) -> Iterator[JobResult]:
        """Raises DeidError: what befalls every picture, a full disk, or inputs that cannot be processed."""
        for done in self._engine(self._tasks()):
            yield from self._take_early()
            if done.stop is not None:
                raise DeidError(done.stop)
            self._settle(done)
            yield from done.outcomes
        yield from self._take_early()

    def _take_early(self) -> Iterator[JobResult]:
        while self._early:
            yield self._early.pop(0)

    def _tasks(self) -> Iterator[Task]:
        """What is left to do."""
        for found in iter_files(self._inputs, self._place.out):
            if not self._mine(found):
                continue
            kind = kind_of(found.path.name, self._recipe.copied)
            if kind is None:
                self.skipped += 1
                continue
            try:
                output = result_name(found.place, self._recipe.file_format) if kind == "photo" else found.place
                if self._journal.finished(found, FILE[kind]) and (self._place.out / output).is_file():
                    continue
                task = Task(kind, found, output, self._place.scratch)
                self._refuse_shared(task)
                items = SHARDS[kind].count(found.path, self._recipe) if kind in SHARDS else 1
            except ImageError as error:  # of this file alone; all other errors end the run
                self._leave_out(Task(kind, found, found.place, self._place.scratch), str(error))
                continue
            yield from self._pieces(task, items) if kind in SHARDS else (task,)

    def _refuse_shared(self, task: Task) -> None:
        """Raise ImageError if another file's result has the name that this one's would get."""
        owner = self._journal.owner(task.output)
        if task.output in self._outputs or owner not in (None, task.found.name):
            raise ImageError(
                f"{task.found.name}: another file's result is {task.output}, too: left out; rename one, or give "
                "--format keep"
            )
        self._outputs.add(task.output)

    def _leave_out(self, task: Task, error: str) -> None:
        """Report a file that cannot become a task; the next run tries it again."""
        done = skip(task, error)
        self._journal.add(replace(done, task=replace(task, first=FILE[task.kind])), None)
        self._early += done.outcomes

    def _pieces(self, task: Task, items: int) -> Iterator[Task]:
        """The pieces of a shard that are left to do; if there are none, it is joined."""
        found, journal = task.found, self._journal
        if journal.stamp(found) != found.stamp:  # new, or another file of that name
            journal.forget(found)
        folder, at, gaps = self._place.pieces(found), 0, list[tuple[int, int]]()
        for first, count, made in journal.pieces(found):
            if made is not None and not (folder / made).is_file():
                journal.forget(found, first)
                continue
            gaps.append((at, first))
            at = first + count
        gaps.append((at, items))
        self._open[found.name] = sum(stop - start for start, stop in gaps)
        if not self._open[found.name]:
            self._join(task)
        for start, stop in gaps:
            for first in range(start, stop, PIECE):
                yield replace(task, first=first, count=min(PIECE, stop - first))

    def _settle(self, done: TaskResult) -> None:
        """Write the row of what was made, and give it its name. Raises DeidError."""
        task = done.task
        if task.kind in SHARDS:
            name = None if done.made is None else f"{task.first:012}"
            piece = self._place.pieces(task.found) / f"{task.first:012}"
            self._finish(done.made, piece, lambda: self._journal.add(done, name))
            self._open[task.found.name] -= task.count
            if not self._open[task.found.name]:
                self._join(task)
            return
        self._finish(done.made, self._place.out / task.output, lambda: self._journal.add(done, None))
        self._outputs.discard(task.output)

    def _join(self, task: Task) -> None:
        """Make one file of a shard's pieces. Raises DeidError."""
        found, folder, target = task.found, self._place.pieces(task.found), self._place.out / task.output
        rows = self._journal.pieces(found)
        joined = passing_name(task)
        with refused(target):
            SHARDS[task.kind].join(found.path, [folder / made for _, _, made in rows if made is not None], joined)
            digests = sha256_of(found.path), sha256_of(joined)
        line = FileRecord(found.name, task.output, *digests, items=sum(count for _, count, _ in rows)).to_json()
        self._finish(joined, target, lambda: self._journal.add_shard(found, task.output, line))
        shutil.rmtree(folder, ignore_errors=True)
        del self._open[found.name]
        self._outputs.discard(task.output)

    def _finish(self, made: Path | None, target: Path, add_row: Callable[[], None]) -> None:
        """The row first: a kill before the name costs what was made; after the name nothing is made again."""
        prepare_folder(target.parent)
        with refused(target):
            target.unlink(missing_ok=True)  # of what the file was before: it must not pass for the row's
            add_row()
            if made is not None:
                publish(made, target, overwrite=True)
