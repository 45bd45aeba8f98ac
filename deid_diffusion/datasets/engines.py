"""Which engine has the tasks of a run done."""

from __future__ import annotations

from functools import partial

from .processes import processes
from .tasks import Engine
from .working import here
from .workshop import Recipe


def make_engine(name: str, recipe: Recipe, workers: int | None, address: str | None) -> Engine:
    """An engine.

    Args:
        name: "local" or "ray".
        recipe: what the workers make.
        workers: their number; None is one, and with Ray one for each GPU or share of the CPUs.
        address: of a Ray cluster; None begins one on this machine.
    """
    if name == "ray":
        from .cluster import Cluster

        return Cluster(recipe, workers, address)
    return partial(here, recipe) if workers in (None, 1) else partial(processes, recipe, workers)
