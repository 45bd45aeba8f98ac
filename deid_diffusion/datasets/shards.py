"""Shards: files of many items, which are counted, processed in pieces, and joined again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ImageError, one_line
from ..outcomes import Outcome
from .tasks import Done, Task
from .workshop import Recipe, Workshop

PIECE = 16
"""Samples or rows of a task, at most: what a kill costs a worker."""


@dataclass(frozen=True)
class ShardFormat:
    """How one kind of shard is dealt with.

    Attributes:
        count: number of items in a file; raises DeidError for one that is damaged or may not be processed.
        piece: does a task, whose made file holds the items' results in their order.
        join: writes the results of all pieces, in their order, as one file like a source; source, pieces, target.
    """

    count: Callable[[Path, Recipe], int]
    piece: Callable[[Task, Workshop], Done]
    join: Callable[[Path, Sequence[Path], Path], None]


def together(outcomes: list[Outcome], name: str) -> list[Outcome]:
    """The outcomes of one item's pictures: if one was left out, the item is, and the others are not written either."""
    if all(one.report.status != "failed" for one in outcomes):
        return outcomes
    text = f"left out with another picture of {name}"
    return [
        one
        if one.report.status == "failed"
        else replace(one, report=replace(one.report, status="failed", output=None, output_sha256=None, error=text))
        for one in outcomes
    ]


@contextmanager
def damage_named(name: str, *kinds: type[Exception]) -> Iterator[None]:
    """Exceptions of these kinds mean that the shard is damaged. Raises ImageError instead of them."""
    try:
        yield
    except kinds as error:
        raise ImageError(f"{name}: is damaged ({one_line(error)}): left out; get a complete copy") from error
