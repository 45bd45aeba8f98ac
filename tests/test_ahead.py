"""Items are made ahead in order, no further than there is room, and errors come in their turn."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from deid_diffusion.ahead import made_ahead


def counted(made: list[int], stop: int = 100) -> Iterator[int]:
    for k in range(stop):
        made.append(k)
        yield k


def settled(made: list[int]) -> int:
    """How many items there are when no more are made."""
    before = -1
    while len(made) != before:
        before = len(made)
        time.sleep(0.05)
    return before


def test_all_items_come_in_order() -> None:
    assert list(made_ahead(range(50), lambda item: 1, 3)) == list(range(50))
    assert list(made_ahead([], lambda item: 1, 3)) == []


@pytest.mark.parametrize(("weight", "ahead"), [(0, 100), (1, 4), (2, 2), (50, 1)])
def test_no_more_is_made_ahead_than_there_is_room(weight: int, ahead: int) -> None:
    made: list[int] = []
    with closing(made_ahead(counted(made), lambda item: weight, 3)) as items:
        assert next(items) == 0
        assert settled(made) in (ahead, min(100, ahead + 1))  # the first may have been taken before or after it counted


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_error_comes_after_the_items_before_it(error: BaseException) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    ahead = made_ahead(items(), lambda item: 1, 10)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(type(error)):
        next(ahead)


def test_closing_ends_the_thread() -> None:
    made: list[int] = []
    items = made_ahead(counted(made), lambda item: 1, 2)
    next(items)
    items.close()
    assert not [one for one in threading.enumerate() if one.name == "ahead"]
    assert len(made) < 10
