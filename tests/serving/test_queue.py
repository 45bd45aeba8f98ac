"""RequestQueue: order, places, deadline, shutdown."""

import threading

import pytest

from deid_diffusion.serving.server import DeadlineExceeded, Limits, QueueFull, RequestQueue


def test_one_at_a_time_in_order():
    desk, active, order = RequestQueue(Limits()), [], []

    def work(number: int) -> int:
        active.append(number)
        assert len(active) == 1
        order.append(number)
        active.remove(number)
        return number

    futures = [desk.submit(lambda check, number=number: work(number)) for number in range(20)]
    assert [future.result(10) for future in futures] == order == list(range(20))
    desk.close()


def test_places():
    desk = RequestQueue(Limits(queue=1))
    with desk.place(), pytest.raises(QueueFull, match="all 1 places are taken"), desk.place():
        pass
    with pytest.raises(ZeroDivisionError), desk.place():
        _ = 1 / 0
    with desk.place():
        pass


def test_deadline():
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


def test_close_drops_waiting_work():
    desk, resume = RequestQueue(Limits()), threading.Event()
    running, waiting = desk.submit(lambda check: resume.wait(10)), desk.submit(lambda check: 1)
    threading.Timer(0.05, resume.set).start()
    desk.close()
    assert running.result()
    assert waiting.cancelled()
