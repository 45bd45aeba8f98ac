"""The engine of one machine: so many processes, each with a model of its own; one that dies is replaced.

Every process has a pipe of its own, so it is known which task a dead one had. A task that kills its worker again is
taken apart, and what then still kills it is left out and reported.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from ..errors import DeidError
from .tasks import DEATHS, Done, Task, died_at
from .workshop import Recipe

_START = get_context("spawn")  # a fork would copy locks of threads that hold them


@dataclass(eq=False)
class _Worker:
    """A process, its pipe, the task that it is at, and whether it has its model."""

    number: int
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    ready: bool = False

    def end(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def processes(recipe: Recipe, workers: int, tasks: Iterator[Task]) -> Iterator[Done]:
    """Have tasks done by worker processes.

    Raises:
        DeidError: a worker died before it had its model, which the next one would do, too.
        RuntimeError: an unexpected error of a worker's, with its traceback.
    """
    crew: list[_Worker | None] = [None] * workers  # begun when there is something to do
    again, deaths = deque[Task](), Counter[Task]()
    try:
        while True:
            for number, worker in enumerate(crew):
                if worker is not None and worker.task is not None:
                    continue
                task = again.popleft() if again else next(tasks, None)
                if task is not None:
                    worker = crew[number] = worker or _begin(recipe, number, workers)
                    worker.task = task
                    with suppress(OSError):  # dead: the pipe's end says so below
                        worker.pipe.send(task)
            busy = {worker.pipe: worker for worker in crew if worker is not None and worker.task is not None}
            if not busy:
                return
            for pipe in connection.wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    yield from _bury(worker, again, deaths)
                    crew[worker.number] = None
                    continue
                if isinstance(message, Done):
                    worker.task = None
                    yield message
                elif message is None:
                    worker.ready = True
                elif isinstance(message, DeidError):
                    raise message
                else:
                    raise RuntimeError(message)
    finally:
        for worker in crew:
            if worker is not None:
                worker.end()


def _begin(recipe: Recipe, number: int, workers: int) -> _Worker:
    ours, theirs = _START.Pipe()
    process = _START.Process(target=_work, args=(theirs, recipe, number, workers), daemon=True)
    process.start()
    theirs.close()
    return _Worker(number, process, ours)


def _bury(worker: _Worker, again: deque[Task], deaths: Counter[Task]) -> Iterator[Done]:
    """What is to be done about a dead worker's task."""
    worker.end()
    task = worker.task
    assert task is not None  # only busy workers are listened to
    if not worker.ready:
        raise DeidError(
            f"a worker died before it was ready (exit code {worker.process.exitcode}): often memory is short: give "
            "fewer --workers"
        )
    deaths[task] += 1
    if task.count > 1 and deaths[task] > 1:
        again.extend(task.singles())
    elif deaths[task] < DEATHS:
        again.append(task)
    else:
        yield died_at(task)


def _work(pipe: Connection, recipe: Recipe, number: int, workers: int) -> None:
    """A worker's life: it ends with its pipe, whose other end dies with the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run decides
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    from .working import carry_out
    from .workshop import Workshop

    try:
        workshop = Workshop(replace(recipe, device=_device(recipe.device, number)))
        workshop.load()
        pipe.send(None)
        while True:
            pipe.send(carry_out(pipe.recv(), workshop))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except DeidError as error:
        pipe.send(error)
    except Exception:
        with suppress(OSError):
            pipe.send(traceback.format_exc())


def _device(device: str, number: int) -> str:
    """The worker's share of the GPUs."""
    if device != "auto":
        return device
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{number % gpus}" if gpus else device
