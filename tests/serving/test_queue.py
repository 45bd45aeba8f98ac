"""One piece of work at a time, in order, with places for so many and no more."""

from __future__ import annotations

import threading

import pytest

from deid_diffusion.serving.queue import DeadlineExceeded, Limits, QueueFull, RequestQueue


def test_one_at_a_time_in_order():
    desk, at_work, order = RequestQueue(Limits()), [], []

    def work(k: int) -> int:
        at_work.append(k)
        assert len(at_work) == 1
        order.append(k)
        at_work.remove(k)
        return k

    waiting = [desk.submit(lambda check, k=k: work(k)) for k in range(20)]
    assert [one.result(10) for one in waiting] == order == list(range(20))
    desk.close()


def test_places():
    desk = RequestQueue(Limits(queue=1))
    with desk.place():
        assert desk.taken == 1
        with pytest.raises(QueueFull, match="all 1 places are taken"), desk.place():
            pass
    assert desk.taken == 0
    with pytest.raises(ZeroDivisionError), desk.place():
        _ = 1 / 0
    assert desk.taken == 0


def test_work_ends_at_its_next_check():
    desk, steps = RequestQueue(Limits(seconds=0.05)), []

    def work(check) -> None:
        check()
        threading.Event().wait(0.2)
        check()
        steps.append(1)

    running, waiting = desk.submit(work), desk.submit(lambda check: steps.append(2))
    with pytest.raises(DeadlineExceeded, match=r"longer than 0\.05 seconds"):
        running.result(10)
    with pytest.raises(DeadlineExceeded):
        waiting.result(10)
    assert not steps
    desk.close()


def test_closing_drops_what_waits():
    desk, go_on = RequestQueue(Limits()), threading.Event()
    running, waiting = desk.submit(lambda check: go_on.wait(10)), desk.submit(lambda check: 1)
    threading.Timer(0.05, go_on.set).start()
    desk.close()
    assert running.result()
    assert waiting.cancelled()
