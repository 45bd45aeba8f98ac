"""API keys, and where a server listens with and without one."""

import socket
import threading
from pathlib import Path

import pytest

from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.serving.server import (
    API_KEY_VARIABLE,
    ApiKey,
    DeadlineExceeded,
    Limits,
    QueueFull,
    RequestQueue,
    address_of,
    check_reach,
    listen,
    read_api_key,
)

SECRET = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)


def write_key(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "api.key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_key_from_environment(monkeypatch):
    assert read_api_key(None) is None
    monkeypatch.setenv(API_KEY_VARIABLE, "from-the-environment")
    assert read_api_key(None) == ApiKey("from-the-environment")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_key_from_file(tmp_path, end):
    assert read_api_key(write_key(tmp_path, SECRET + end)) == ApiKey(SECRET)


@pytest.mark.parametrize("text", ["", "short", "with a space in it, long", SECRET + "\n" + SECRET, "x" * 513, "ü" * 20])
def test_malformed_key(tmp_path, monkeypatch, text):
    with pytest.raises(DeidError, match=r"not an API key: expected one line"):
        read_api_key(write_key(tmp_path, text))
    monkeypatch.setenv(API_KEY_VARIABLE, text)
    with pytest.raises(DeidError, match=r"^DEID_API_KEY: not an API key"):
        read_api_key(None)


def test_unreadable_key_file(tmp_path):
    with pytest.raises(DeidError, match="is open to other users"):
        read_api_key(write_key(tmp_path, SECRET, 0o644))
    with pytest.raises(DeidError, match="No such file"):
        read_api_key(tmp_path / "none")
    with pytest.raises(DeidError, match="cannot be read"):
        read_api_key(tmp_path)


def test_comparison():
    key = ApiKey(SECRET)
    assert key.is_same(SECRET)
    for other in ("", SECRET[:-1], SECRET + "x", "\ud800", "ü"):
        assert not key.is_same(other)
    assert SECRET not in repr(key)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(host):
    check_reach(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_public_address_needs_key(host):
    with pytest.raises(UsageError, match="an API key is required"):
        check_reach(host, None)
    check_reach(host, ApiKey(SECRET))


def test_listen():
    with listen("127.0.0.1", 0) as server_socket:
        port = server_socket.getsockname()[1]
        assert address_of(server_socket) == f"http://127.0.0.1:{port}"
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(DeidError, match=rf"^127\.0\.0\.1:{port}: cannot listen there \([^(]+\): choose another"):
            listen("127.0.0.1", port)


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
