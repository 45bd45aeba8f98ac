"""The engine of many machines: Ray Data hands tasks to actors, each with a model of its own.

Pictures do not pass through Ray: an actor reads them from, and writes them to, folders that all machines see under the
same path. What passes are tasks and records. Ray gives the task of a dead worker to another one, and since only the run
gives a result its name, that is neither a loss nor a double.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import DeidError, one_line
from ..requirements import needed_for
from .tasks import DEATHS, Done, Task, died_at
from .working import carry_out
from .workshop import Recipe, Workshop

if TYPE_CHECKING:
    from ..identity.pseudonyms import Pseudonyms

BUNDLE = 4
"""Tasks that Ray hands over at once: what a kill of the run costs a worker."""

WINDOW = 10_000
"""Tasks of one execution; between two of them the actors are begun anew."""

CPUS = 4
"""CPUs of a worker where there is no GPU, unless the number of workers says otherwise."""

_MEMORY = 256 * 2**20  # of the object store of a cluster that is begun here: only tasks and records are in it


class _Actor:
    """A worker. Its model is loaded with the first picture."""

    def __init__(self, recipe: Recipe) -> None:
        self._workshop = Workshop(recipe)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tasks = (pickle.loads(task) for task in batch["task"])
        done = [pickle.dumps(one) for task in tasks for one in _counted(task, self._workshop)]
        return {"done": np.array(done, object)}


def _counted(task: Task, workshop: Workshop) -> list[Done]:
    """Do a task that Ray tries again for ever if its worker dies; what kills workers is found, and left out."""
    tried = task.scratch / hashlib.sha256(repr(task).encode(errors="surrogateescape")).hexdigest()
    deaths = tried.stat().st_size if tried.exists() else 0
    if task.count > 1 and deaths > 1:
        return [done for single in task.singles() for done in _counted(single, workshop)]
    if deaths >= DEATHS:
        return [died_at(task)]
    with tried.open("ab") as stream:
        stream.write(b".")
    done = carry_out(task, workshop)
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

    recipe: Recipe
    workers: int | None
    address: str | None

    def __call__(self, tasks: Iterator[Task]) -> Iterator[Done]:
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

    def _window(self, ray: Any, recipe: Recipe, window: list[Task]) -> Iterator[Done]:
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


def _for_all(recipe: Recipe) -> Recipe:
    """The recipe with one store of people for all machines."""
    if recipe.options.pseudonyms is None:
        return recipe
    from .keeper import keep

    kept = cast("Pseudonyms", keep(recipe.options.pseudonyms))
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
