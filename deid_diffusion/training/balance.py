"""Draws faces so that men and women are as many, and ages and turned heads less few than in the photos at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from ..faces.measures import measure

_TURN = 0.35  # of `measures.FaceMeasures.yaw`, from which on captions speak of a turned head

SEX: Mapping[str, str] = {"man": "male", "boy": "male", "woman": "female", "girl": "female"}
"""Of the words for a person in captions."""


class Balance:
    """Says which of N faces is drawn.

    Args:
        outer: N groups that are drawn equally often, or None for a face of no known group. Those keep their share.
        inner: N groups within these, drawn in proportion to the root of their size: equally often would show the few
            of a small group over and over.
    """

    def __init__(self, outer: Sequence[Hashable | None], inner: Sequence[Hashable]) -> None:
        self.ends = np.arange(1, len(outer) + 1) / len(outer)
        groups = set(outer) - {None}
        if not groups:
            return
        known = sum(group is not None for group in outer) / len(outer)
        both = list(zip(outer, inner, strict=True))
        sizes = Counter(both)
        roots = {group: sum(n**0.5 for (one, _), n in sizes.items() if one == group) for group in groups}
        shares = [
            1 / len(both) if one[0] is None else known / len(groups) / roots[one[0]] * sizes[one] ** -0.5
            for one in both
        ]
        self.ends = np.cumsum(shares)

    def draw(self, rng: np.random.Generator) -> int:
        """The index of a face."""
        return min(int(np.searchsorted(self.ends, rng.random() * self.ends[-1], "right")), len(self.ends) - 1)


def by_sex_age_and_turn(said: Sequence[Mapping[str, str]], meshes: np.ndarray) -> Balance:
    """Sexes equally often, ages and turns of the head by the roots of their numbers.

    Args:
        said: what captions know of N faces.
        meshes: (N, 478, 2), in any pixels.
    """
    turns = [int(abs(measure(mesh).yaw) / _TURN) for mesh in meshes]
    inner = [(one.get("age", ""), turn) for one, turn in zip(said, turns, strict=True)]
    return Balance([SEX.get(one.get("person", "")) for one in said], inner)
