"""Which engine has the tasks of a run done."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import signal
import traceback
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import islice
from math import ceil
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..errors import DeidError, UsageError, needed_for, one_line
from ..identity.pseudonyms import Person, Pseudonyms
from .dataset import execute, run_in_process
from .journal import RunDirectory
from .tasks import DEATHS, Engine, ImageWorker, JobConfig, SourceFile, Task, TaskResult, mark_poisoned

PATIENCE = timedelta(days=30)
"""How long a process that is done waits for the others; torch's own limit is ten minutes."""


@dataclass(frozen=True)
class WorkShare:
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

    def has(self, found: SourceFile) -> bool:
        """Whether a file is this process's; a shard is one file. It depends on the file's place alone."""
        return zlib.crc32(os.fsencode(found.place)) % self.of == self.number

    @contextmanager
    def in_turn(self, opened: Callable[[bool], RunDirectory]) -> Iterator[RunDirectory]:
        """An open workplace, which the leading process opens first."""
        if not self.leads:
            self.wait()
        with closing(opened(self.leads)) as place:
            if self.leads:
                self.wait()
            yield place


def share_of_this_process(workers: int | None, engine: str, device: str) -> WorkShare:
    """The share of the process that calls: all of it, unless `accelerate launch` began it as one of several.

    Raises UsageError where it is one of several, and is to have workers of its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return WorkShare(0, 1, device, lambda: None)
    if workers is not None or engine != "local":
        raise UsageError("--workers and --engine: accelerate launch begins the processes: leave them out")
    from accelerate import PartialState

    state = PartialState(timeout=PATIENCE)
    own = str(state.device) if device == "auto" else device
    return WorkShare(state.process_index, state.num_processes, own, state.wait_for_everyone)


class RemotePseudonyms:
    """What workers take for `Pseudonyms`.

    Attributes:
        store: its file, as messages call it.
    """

    def __init__(self, keeper: Any, store: Path) -> None:
        self._keeper, self.store = keeper, store

    def person(self, embedding: np.ndarray) -> Person:
        """See `Pseudonyms.person`."""
        import ray

        try:
            found: Person = ray.get(self._keeper.person.remote(embedding))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error  # as the store raised it
        return found


def remote_store(pseudonyms: Pseudonyms) -> RemotePseudonyms:
    """Have a store kept by an actor on this machine, which is begun again if it dies."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Pseudonyms).options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=this_node
    )
    keeper = actor.remote(
        pseudonyms.key,
        pseudonyms.store.absolute(),
        recogniser=pseudonyms.recogniser,
        dimension=pseudonyms.dimension,
        threshold=pseudonyms.threshold,
    )
    return RemotePseudonyms(keeper, pseudonyms.store)


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


def processes(recipe: JobConfig, workers: int, tasks: Iterator[Task]) -> Iterator[TaskResult]:
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
                if isinstance(message, TaskResult):
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


def _begin(recipe: JobConfig, number: int, workers: int) -> _Worker:
    ours, theirs = _START.Pipe()
    process = _START.Process(target=_work, args=(theirs, recipe, number, workers), daemon=True)
    process.start()
    theirs.close()
    return _Worker(number, process, ours)


def _bury(worker: _Worker, again: deque[Task], deaths: Counter[Task]) -> Iterator[TaskResult]:
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
        yield mark_poisoned(task)


def _work(pipe: Connection, recipe: JobConfig, number: int, workers: int) -> None:
    """A worker's life: it ends with its pipe, whose other end dies with the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run decides
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    from .dataset import execute
    from .tasks import ImageWorker

    try:
        workshop = ImageWorker(replace(recipe, device=_device(recipe.device, number)))
        workshop.load()
        pipe.send(None)
        while True:
            pipe.send(execute(pipe.recv(), workshop))
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


BUNDLE = 4
"""Tasks that Ray hands over at once: what a kill of the run costs a worker."""

WINDOW = 10_000
"""Tasks of one execution; between two of them the actors are begun anew."""

CPUS = 4
"""CPUs of a worker where there is no GPU, unless the number of workers says otherwise."""

_MEMORY = 256 * 2**20  # of the object store of a cluster that is begun here: only tasks and records are in it


class _Actor:
    """A worker. Its model is loaded with the first picture."""

    def __init__(self, recipe: JobConfig) -> None:
        self._workshop = ImageWorker(recipe)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tasks = (pickle.loads(task) for task in batch["task"])
        done = [pickle.dumps(one) for task in tasks for one in _counted(task, self._workshop)]
        return {"done": np.array(done, object)}


def _counted(task: Task, workshop: ImageWorker) -> list[TaskResult]:
    """Do a task that Ray tries again for ever if its worker dies; what kills workers is found, and left out."""
    tried = task.scratch / hashlib.sha256(repr(task).encode(errors="surrogateescape")).hexdigest()
    deaths = tried.stat().st_size if tried.exists() else 0
    if task.count > 1 and deaths > 1:
        return [done for single in task.singles() for done in _counted(single, workshop)]
    if deaths >= DEATHS:
        return [mark_poisoned(task)]
    with tried.open("ab") as stream:
        stream.write(b".")
    done = execute(task, workshop)
    tried.unlink(missing_ok=True)
    return [done]


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster as an engine.

    Attributes:
        recipe: what the workers make.
        workers: number of actors; None is one a GPU, or one for each `CPUS` where there is none.
        address: of the cluster; None begins one on this machine.
    """

    recipe: JobConfig
    workers: int | None
    address: str | None

    def __call__(self, tasks: Iterator[Task]) -> Iterator[TaskResult]:
        """Raises DeidError: there is no such cluster, or it cannot go on."""
        first = next(tasks, None)
        if first is None:
            return
        with _connected(self.address) as ray:
            recipe = _for_all(self.recipe)
            window = [first, *islice(tasks, WINDOW - 1)]
            while window:
                yield from self._window(ray, recipe, window)
                window = list(islice(tasks, WINDOW))

    def _window(self, ray: Any, recipe: JobConfig, window: list[Task]) -> Iterator[TaskResult]:
        rows = [{"task": pickle.dumps(_everywhere(task))} for task in window]
        workers, share = _shares(ray.cluster_resources(), self.workers)
        made = ray.data.from_items(rows, override_num_blocks=ceil(len(rows) / BUNDLE)).map_batches(
            _Actor,
            fn_constructor_args=(recipe,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(workers, ceil(len(rows) / BUNDLE))),
            **share,
        )
        try:
            for row in made.iter_rows():
                yield pickle.loads(row["done"])
        except ray.exceptions.RayError as error:
            raise DeidError(
                f"ray: {type(error).__name__}: what is finished stays: give the command again (and fewer --workers "
                "if memory is short)"
            ) from error


def _shares(resources: dict[str, float], workers: int | None) -> tuple[int, dict[str, float]]:
    """The number of actors, and what each of them takes of the cluster."""
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    if gpus:
        count = workers or gpus
        return count, {"num_gpus": 1 if count <= gpus else gpus / count, "num_cpus": 1}
    count = workers or max(1, cpus // CPUS)
    return count, {"num_cpus": cpus // count or cpus / count}


def _everywhere(task: Task) -> Task:
    """The task with paths that do not depend on where a process stands."""
    return replace(task, found=replace(task.found, path=task.found.path.absolute()), scratch=task.scratch.absolute())


def _for_all(recipe: JobConfig) -> JobConfig:
    """The recipe with one store of people for all machines."""
    if recipe.options.pseudonyms is None:
        return recipe

    kept = cast("Pseudonyms", remote_store(recipe.options.pseudonyms))
    return replace(recipe, options=replace(recipe.options, pseudonyms=kept))


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """The package, connected to a cluster. Raises DeidError where there is none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody asked to be counted
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray tells of every retry
    with needed_for("--engine ray", "deid-diffusion[ray]"):
        import ray
        import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ours: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": _MEMORY}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **ours)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DeidError(f"--ray-address {address}: no cluster there ({one_line(error)[:200]}): check it") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()


def make_engine(name: str, recipe: JobConfig, workers: int | None, address: str | None) -> Engine:
    """An engine.

    Args:
        name: "local" or "ray".
        recipe: what the workers make.
        workers: their number; None is one, and with Ray one for each GPU or share of the CPUs.
        address: of a Ray cluster; None begins one on this machine.
    """
    if name == "ray":
        return Cluster(recipe, workers, address)
    return partial(run_in_process, recipe) if workers in (None, 1) else partial(processes, recipe, workers)
