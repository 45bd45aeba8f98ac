"""One store of people for the workers of a cluster: an actor on the machine of the run asks it for all of them.

SQLite's locks cannot be relied on across machines, so no other machine opens the store, and none needs its key's file.
What travels inside the cluster is secret all the same: embeddings one way, and the people's keys the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..identity.pseudonyms import Person, Pseudonyms


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


def keep(pseudonyms: Pseudonyms) -> RemotePseudonyms:
    """Have a store kept by an actor on this machine, which is begun again if it dies."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Pseudonyms).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
    keeper = actor.remote(
        pseudonyms.key,
        pseudonyms.store.absolute(),
        recogniser=pseudonyms.recogniser,
        dimension=pseudonyms.dimension,
        threshold=pseudonyms.threshold,
    )
    return RemotePseudonyms(keeper, pseudonyms.store)
