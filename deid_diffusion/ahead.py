"""Later items are made while earlier ones are worked on, in a thread of their own and no further than there is room."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")


def made_ahead(items: Iterable[_Item], weigh: Callable[[_Item], int], room: int) -> Generator[_Item]:
    """The items of an iterable, in order, taken from it in another thread.

    Args:
        items: is asked for the next item while those that wait weigh no more than ``room``.
        weigh: how much room an item takes while it waits.
        room: over which nothing more is made ahead; one item always fits.

    Raises:
        BaseException: what ``items`` raises, in its turn. When the generator is closed, the item that is being made is
            waited for.
    """
    waiting: deque[tuple[_Item, int]] = deque()
    changed = threading.Condition()
    closed, over = False, False
    error: BaseException | None = None

    def work() -> None:
        nonlocal over, error
        try:
            for item in items:
                with changed:
                    waiting.append((item, weigh(item)))
                    changed.notify()
                    changed.wait_for(lambda: closed or sum(weight for _, weight in waiting) <= room)
                    if closed:
                        return
        except BaseException as raised:  # also an interrupt: it is for the thread that waits
            error = raised
        finally:
            with changed:
                over = True
                changed.notify()

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: waiting or over)
                if not waiting:
                    break
                item, _ = waiting.popleft()
                changed.notify()
            yield item
        if error is not None:
            raise error
    finally:
        with changed:
            closed = True
            changed.notify()
        thread.join()
