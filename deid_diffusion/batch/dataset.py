"""Coordinator of a data-set run: find files, have an engine process them, commit results, join shards.

Workers write temporary files only. The coordinator alone records results and renames them into place, so a worker that
dies or is duplicated leaves nothing behind, and a kill of the coordinator costs the tasks that were running.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DeidError, ImageError, needed_for, one_line
from ..io.files import image_errors, open_synced, write_error
from ..results import JobResult
from . import tasks
from .journal import RunDirectory
from .tasks import WHOLE_FILE, Engine, ImageWorker, JobConfig, Kind, SourceFile, Task, TaskResult

if TYPE_CHECKING:
    from .shards import Table, Tar

PIECE = 16  # samples or rows of a task, at most, and hence the loss per worker if the run is killed


def shard_format(kind: Kind) -> type[Tar | Table]:
    """Return the format of "tar" or "table". Raises DeidError if a package is missing."""
    with needed_for("a tar or a table", "deid-diffusion[data]"):
        from .shards import Table, Tar
    return Tar if kind == "tar" else Table


def execute(task: Task, worker: ImageWorker) -> TaskResult:
    """Execute a task. Raises DeidError for errors of every task, such as a full disk or a missing model."""
    if task.error is not None:
        return tasks.skip(task, task.error)
    try:
        if task.kind == "photo":
            return _process_photo(task, worker)
        return _copy_label(task, worker) if task.kind == "label" else shard_format(task.kind).process(task, worker)
    except ImageError as error:
        return tasks.skip(task, one_line(error))
    except OSError as error:
        raise DeidError(write_error(task.scratch, error)) from error


def run_in_process(config: JobConfig, pending: Iterator[Task]) -> Iterator[TaskResult]:
    """Execute tasks in this process, one after the other."""
    worker = ImageWorker(config)
    for task in pending:
        yield execute(task, worker)


def _process_photo(task: Task, worker: ImageWorker) -> TaskResult:
    read = partial(tasks.read_image, task.source.path, task.source.name)
    data, outcome = worker.process(read, task.source.name, task.output, task.output)
    if data is None:
        return TaskResult(task, outcomes=(outcome,))
    temporary = task.temporary()
    with open_synced(temporary) as stream:
        stream.write(data)
    return TaskResult(task, temporary, (outcome,))


def _copy_label(task: Task, worker: ImageWorker) -> TaskResult:
    """Copy a label file. Raises ImageError for one that may embed an image, OSError."""
    source, temporary = task.source, task.temporary()
    try:
        stream = source.path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(f"{source.name}: no such file: check the link") from error
    with stream, open_synced(temporary) as copy:
        if os.fstat(stream.fileno()).st_size:  # an empty file cannot be mapped
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                tasks.check_label(content, source.name, source.path.suffix.lower(), worker.config.copied)
        if source.path.name == "state.json":
            copy.write(_new_fingerprint(stream.read()))
        else:
            shutil.copyfileobj(stream, copy)
    return TaskResult(task, temporary, line=tasks.manifest_line(task, temporary))


def _new_fingerprint(data: bytes) -> bytes:
    """Renew the fingerprint in the `state.json` of `datasets`, so that caches of the originals are not reused."""
    try:
        state = json.loads(data)
        state["_fingerprint"] = secrets.token_hex(8)
    except (ValueError, TypeError):  # a file of another program
        return data
    return json.dumps(state, indent=2).encode()


class DatasetRun:
    """One run over a data set; an iterator over the results of its images.

    `skipped` counts files that are neither images nor labels, `known` images that were finished before.
    """

    def __init__(
        self,
        inputs: Sequence[Path],
        directory: RunDirectory,
        config: JobConfig,
        engine: Engine,
        mine: Callable[[SourceFile], bool] = lambda source: True,
    ) -> None:
        """Prepare a run over folders and files to an open output folder.

        An engine executes the tasks; `mine` returns whether this process handles a file, where several share a run.
        """
        self._inputs, self._directory, self._config = inputs, directory, config
        self._engine, self._mine = engine, mine
        self._reserved: set[str] = set()  # outputs of running tasks
        self._unfinished: dict[str, int] = {}  # shard's name -> items to be processed
        self.skipped = 0
        self.known = directory.picture_count()

    def __iter__(self) -> Iterator[JobResult]:
        """Raises DeidError for an error that concerns all images, such as a full disk, and for unsuitable inputs."""
        for result in self._engine(self._tasks()):
            self._commit(result)
            yield from result.outcomes

    def _tasks(self) -> Iterator[Task]:
        for source in tasks.iter_files(self._inputs, self._directory.out):
            if not self._mine(source):
                continue
            kind = tasks.kind_of(source.path.name, self._config.copied)
            if kind is None:
                self.skipped += 1
            elif not self._directory.is_finished(source):
                yield from self._tasks_of(Task(kind, source, source.place, self._directory.scratch))

    def _tasks_of(self, task: Task) -> Iterator[Task]:
        """Yield the tasks of one file: the file, the pieces of a shard, or an error that concerns this file alone."""
        try:
            if task.kind == "photo":
                task = replace(task, output=tasks.result_name(task.source.place, self._config.file_format))
            self._reserve(task)
            is_shard = task.kind in ("tar", "table")
            items = shard_format(task.kind).count(task.source.path, self._config) if is_shard else None
        except ImageError as error:
            yield replace(task, error=str(error))
        else:
            yield from (task,) if items is None else self._pieces(task, items)

    def _reserve(self, task: Task) -> None:
        """Raise ImageError if another file's result has the same name."""
        owner = self._directory.owner(task.output)
        if task.output in self._reserved or owner not in (None, task.source.name):
            raise ImageError(
                f"{task.source.name}: another file's result is {task.output}, too: left out; rename one, or add "
                "--format keep"
            )
        self._reserved.add(task.output)

    def _pieces(self, task: Task, items: int) -> Iterator[Task]:
        """Yield the unfinished pieces of a shard; if there are none, join it."""
        pending = np.ones(items, bool)
        for first, count, _ in self._directory.finished_pieces(task.source):
            pending[first : first + count] = False
        self._unfinished[task.source.name] = int(pending.sum())
        if not pending.any():
            self._join(task)
        for first in range(0, items, PIECE):
            block = pending[first : first + PIECE]
            piece = replace(task, first=first, count=len(block))
            if block.all():
                yield piece
            else:  # the rest of a piece that was split
                yield from (item for item, unfinished in zip(piece.split(), block, strict=True) if unfinished)

    def _commit(self, result: TaskResult) -> None:
        """Record a result, and join its shard if it was the last piece. Raises DeidError."""
        task = result.task
        self._directory.commit(result)
        if task.first != WHOLE_FILE:
            self._unfinished[task.source.name] -= task.count
            if not self._unfinished[task.source.name]:
                self._join(task)
        elif task.error is None:
            self._reserved.discard(task.output)

    def _join(self, task: Task) -> None:
        """Join a shard's pieces into one file. Raises DeidError."""
        source, target, joined = task.source, self._directory.out / task.output, task.temporary()
        pieces = self._directory.finished_pieces(source)
        with image_errors(target):
            shard_format(task.kind).join(source.path, [path for *_, path in pieces if path is not None], joined)
            line = tasks.manifest_line(task, joined, sum(count for _, count, _ in pieces))
        self._directory.commit(TaskResult(replace(task, first=WHOLE_FILE, count=0), joined, line=line))
        self._directory.delete_pieces(source)
        self._reserved.discard(task.output)
        del self._unfinished[source.name]
