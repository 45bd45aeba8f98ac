"""Engines of a data-set run: local processes or a Ray cluster, and shares of launched processes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

from ..errors import DeidError, UsageError, needed_for, one_line
from .dataset import execute, run_in_process
from .journal import RunDirectory
from .tasks import Engine, ImageWorker, JobConfig, SourceFile, Task, TaskResult, skip

BARRIER_TIMEOUT = timedelta(days=30)
"""How long a launched process waits for the others to finish; torch's default is ten minutes."""

CPUS = 4  # CPUs per Ray worker on a cluster without GPUs, unless the number of workers is given

_OBJECT_STORE = 256 * 2**20  # bytes, of a local cluster: only tasks and records pass through Ray
_CONTEXT = get_context("spawn")  # a fork would copy locks that other threads hold


@dataclass(frozen=True)
class WorkShare:
    """Share of this process in a run: its number, from 0, of how many, its device, and a barrier for all."""

    number: int
    of: int
    device: str
    wait: Callable[[], None]

    @property
    def leads(self) -> bool:
        """Whether this is the main process."""
        return self.number == 0

    def has(self, source: SourceFile) -> bool:
        """Return whether a file belongs to this process, which depends on its place alone."""
        return zlib.crc32(os.fsencode(source.place)) % self.of == self.number

    @contextmanager
    def in_turn(self, open_directory: Callable[[bool], RunDirectory]) -> Iterator[RunDirectory]:
        """Open the output folder, in the main process first."""
        if not self.leads:
            self.wait()
        with closing(open_directory(self.leads)) as directory:
            if self.leads:
                self.wait()
            yield directory


def share_of_this_process(workers: int | None, engine: str, device: str) -> WorkShare:
    """Return the share of this process: everything, unless `accelerate launch` started it as one of several.

    Raises UsageError for a launched process that is to have workers of its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return WorkShare(0, 1, device, lambda: None)
    if workers is not None or engine != "local":
        raise UsageError("--workers and --engine: accelerate launch starts the processes: leave them out")
    from accelerate import PartialState

    state = PartialState(timeout=BARRIER_TIMEOUT)
    own_device = str(state.device) if device == "auto" else device
    return WorkShare(state.process_index, state.num_processes, own_device, state.wait_for_everyone)


def make_engine(name: str, config: JobConfig, workers: int | None, address: str | None) -> Engine:
    """Return the engine "local" or "ray".

    The number of workers is 1 if None, and with Ray one per GPU or per `CPUS` CPUs; without the address of a Ray
    cluster, one is started on this machine.
    """
    if name == "ray":
        return partial(run_on_ray, config, workers, address)
    return partial(run_in_process, config) if workers in (None, 1) else partial(run_in_processes, config, workers)


_worker: ImageWorker  # of a worker process


def _start(config: JobConfig) -> None:
    """Load the model of this worker process. Raises DeidError."""
    global _worker
    _worker = ImageWorker(config)
    if (pseudonyms := config.options.pseudonyms) is not None and not pseudonyms.store.is_file():
        raise DeidError(
            f"{pseudonyms.store}: no such file on {socket.gethostname()}: put the store on a shared file system"
        )
    _worker.load()


def _execute(task: Task) -> TaskResult:
    return execute(task, _worker)


def run_on_workers(
    start: Callable[[int], tuple[Executor, JobConfig]],
    count: int,
    died: type[Exception] | tuple[type[Exception], ...],
    tasks: Iterator[Task],
) -> Iterator[TaskResult]:
    """Execute tasks on worker processes, each of which takes one task at a time.

    A worker that dies is replaced. Its task is tried again while no other task runs, a shard's piece item by item; an
    item that kills a second worker is left out.

    Args:
        start: returns the executor of worker 0, 1, ..., which is one process, and its settings.
        count: number of workers; each is started for its first task.
        died: exceptions that a future raises if its process died.
        tasks: to execute; DeidError if a worker dies again while it loads its model, and as `dataset.execute` does.
    """
    workers: dict[int, tuple[Executor, Future[None]]] = {}  # with the loading of their models
    running: dict[Future[TaskResult], tuple[int, Task]] = {}
    idle, retries, retried = deque(range(count)), deque[Task](), set[Task]()

    def next_task() -> Task | None:
        if any(task in retried for _, task in running.values()):
            return None
        if retries:
            return None if running else retries.popleft()
        return next(tasks, None)

    try:
        while True:
            while idle and (task := next_task()) is not None:
                number = idle.popleft()
                if number not in workers:
                    executor, config = start(number)
                    workers[number] = executor, executor.submit(_start, config)
                running[_submit(workers[number][0], task)] = number, task
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, task = running.pop(future)
                executor, loading = workers[number]
                idle.append(number)
                try:
                    loading.result()
                    result = future.result()
                except died as error:
                    executor.shutdown()
                    del workers[number]
                    loaded = loading.exception() is None
                    if task not in retried:
                        items = task.split() if loaded else [task]
                        retries.extend(items)
                        retried.update(items)
                        continue
                    if not loaded:
                        raise DeidError(
                            "a worker died while it loaded the model, often for lack of memory: use fewer --workers"
                        ) from error
                    result = skip(task, f"{task.name}: killed two workers, often for lack of memory: left out")
                yield result
    finally:
        for executor, _ in workers.values():
            executor.shutdown()


def _submit(executor: Executor, task: Task) -> Future[TaskResult]:
    try:
        return executor.submit(_execute, task)
    except BrokenExecutor as error:  # it died while it was idle
        future: Future[TaskResult] = Future()
        future.set_exception(error)
        return future


class LocalWorker(ProcessPoolExecutor):
    """One process of this machine, which ends with this process."""

    def __init__(self, threads: int) -> None:
        """Prepare it; `threads` are torch's, unless OMP_NUM_THREADS is set."""
        self._receiver, self._lifeline = _CONTEXT.Pipe(duplex=False)
        super().__init__(1, _CONTEXT, _initialize, (self._receiver, threads))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process, and its current task."""
        self._lifeline.close()
        super().shutdown(wait, cancel_futures=cancel_futures)


def _initialize(lifeline: Connection, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator handles it
    Thread(target=_exit_with_coordinator, args=(lifeline,), daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(threads)


def _exit_with_coordinator(lifeline: Connection) -> None:
    """End this process when the other end of a pipe is closed, as a kill of the coordinator does."""
    with suppress(EOFError, OSError):
        lifeline.recv()
    os._exit(1)


def run_in_processes(config: JobConfig, workers: int, tasks: Iterator[Task]) -> Iterator[TaskResult]:
    """Execute tasks in processes of this machine. Raises DeidError as `run_on_workers` does."""
    threads = max(1, (os.cpu_count() or 1) // workers)

    def start(number: int) -> tuple[Executor, JobConfig]:
        return LocalWorker(threads), replace(config, device=worker_device(config.device, number))

    return run_on_workers(start, workers, BrokenExecutor, tasks)


def worker_device(device: str, number: int) -> str:
    """Return the device of a worker: with "auto" the GPUs in turn, if there are any."""
    if device != "auto":
        return device
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{number % gpus}" if gpus else device


class RayWorker(Executor):
    """One actor of a Ray cluster."""

    def __init__(self, resources: Mapping[str, float]) -> None:
        """Start it; `resources` are `num_cpus` and `num_gpus` that it takes."""
        import ray

        self._ray: Any = ray
        self._actor: Any = self._ray.remote(_Actor).options(**resources).remote()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function in the actor."""
        future: Future[Any] = self._actor.call.remote(fn, *args, **kwargs).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the actor, and its current task."""
        self._ray.kill(self._actor)


class _Actor:
    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


def run_on_ray(
    config: JobConfig, workers: int | None, address: str | None, tasks: Iterator[Task]
) -> Iterator[TaskResult]:
    """Execute tasks on a Ray cluster, whose machines see the inputs and the output folder under the same paths.

    See `make_engine`. Raises DeidError if there is no such cluster, it fails, or as `run_on_workers` does.
    """
    first = next(tasks, None)
    if first is None:
        return
    with _cluster(address) as ray:
        count, resources = actor_resources(ray.cluster_resources(), workers)
        shared = _with_absolute_store(config)
        died = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
        try:
            yield from run_on_workers(
                lambda number: (RayWorker(resources), shared), count, died, chain((first,), tasks)
            )
        except ray.exceptions.RayError as error:
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            if not isinstance(cause, ray.exceptions.RayError):  # raised by a worker
                raise cause from error
            message = one_line(cause).partition(" traceback: ")[0][:100]
            raise DeidError(
                f"ray: {type(cause).__name__} ({message}): check that all machines have deid-diffusion, "
                "and repeat the command to resume"
            ) from error


def actor_resources(cluster: dict[str, float], workers: int | None) -> tuple[int, dict[str, float]]:
    """Return the number of actors and the resources of each, given those of the cluster."""
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 1))
    if gpus:
        count = workers or gpus
        return count, {"num_gpus": 1 if count <= gpus else gpus / count, "num_cpus": 1}
    count = workers or max(1, cpus // CPUS)
    return count, {"num_cpus": cpus // count or cpus / count}


def _with_absolute_store(config: JobConfig) -> JobConfig:
    """Return settings for actors, which have another working directory."""
    if config.options.pseudonyms is None:
        return config
    pseudonyms = copy(config.options.pseudonyms)
    pseudonyms.store = pseudonyms.store.absolute()
    return replace(config, options=replace(config.options, pseudonyms=pseudonyms))


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Connect to a cluster; the value is the module `ray`. Raises DeidError if there is none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with needed_for("--engine ray", "deid-diffusion[ray]"):
        import ray

    own: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DeidError(f"--ray-address {address}: no cluster there ({one_line(error)[:200]}): check it") from error
    try:
        yield ray
    finally:
        ray.shutdown()
