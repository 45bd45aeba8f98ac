"""The folder of uploads: private, gone at the end, and what a killed process left goes at the next start."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from deid_diffusion.serving import gradio_sessions
from deid_diffusion.serving import gradio_sessions as module
from deid_diffusion.serving.access import ApiKey
from deid_diffusion.serving.gradio_app import SecurityMiddleware
from deid_diffusion.serving.gradio_sessions import Session, Sessions, clear_old, upload_dir
from tests.serving.servers import ask, serving


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_parent", lambda: tmp_path)


def test_private_and_gone(tmp_path):
    before = tempfile.gettempdir()
    with upload_dir() as folder:
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert os.environ["GRADIO_TEMP_DIR"] == tempfile.gettempdir() == str(folder)
        (folder / "photo.png").touch()
    assert not list(tmp_path.iterdir())
    assert tempfile.gettempdir() == before
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_gone_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), upload_dir():
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs file locks")
def test_what_a_killed_process_left(tmp_path):
    left = tmp_path / "deid-web-killed"
    left.mkdir()
    (left / "lock").touch()
    (left / "photo.png").touch()
    code = (
        f"import fcntl, sys, time; f = open({str(tmp_path / 'deid-web-alive' / 'lock')!r}, 'w'); "
        "fcntl.flock(f, fcntl.LOCK_EX); print('locked', flush=True); time.sleep(60)"
    )
    (tmp_path / "deid-web-alive").mkdir()
    alive = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert alive.stdout.readline() == "locked\n"
        with upload_dir() as folder:
            assert {path.name for path in tmp_path.iterdir()} == {"deid-web-alive", folder.name}
    finally:
        alive.kill()
        alive.communicate()


def test_old_uploads(tmp_path):
    (tmp_path / "hash").mkdir()
    old, new, kept = ["tmp1", "hash/a.png", "hash/b.sqlite"], ["tmp2", "hash/c.png"], ["lock", "people.sqlite"]
    for name in (*old, *new, *kept):
        (tmp_path / name).touch()
    for name in (*old, *kept):
        os.utime(tmp_path / name, (time.time() - 3600,) * 2)
    clear_old(tmp_path)
    assert {str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file()} == {*new, *kept}


def files(folder: Path, *names: str) -> list[str]:
    paths = [folder / str(k) / name for k, name in enumerate(names)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name_bytes(path))
    return [str(path) for path in paths]


def name_bytes(path: Path) -> bytes:
    return path.name.encode() + path.parent.name.encode()


def test_photos_are_read_once_and_deleted(tmp_path):
    session = Session()
    first = files(tmp_path, "a.jpg", "b.png")
    session.take_in(first)
    assert session.photos == {"a.jpg": b"a.jpg0", "b.png": b"b.png1"}
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    more = tmp_path / "2" / "c.png"
    more.parent.mkdir()
    more.write_bytes(b"c")
    session.take_in([first[1], str(more)])  # one was taken away, one was added
    assert session.photos == {"b.png": b"b.png1", "c.png": b"c"}
    session.take_in([])
    assert session.photos == {}


def test_names_whose_results_would_be_the_same(tmp_path):
    session = Session()
    session.take_in(files(tmp_path, "a.jpg", "a.png", "a.jpg"))
    assert list(session.photos) == ["a.jpg", "a_2.png", "a_3.jpg"]
    assert session.photos["a_3.jpg"] == b"a.jpg2"


def test_a_tab_has_people_of_its_own_until_it_is_closed(tmp_path):
    tabs = Sessions()
    one, other = tabs.of("one"), tabs.of("other")
    people = one.people(tmp_path)
    assert one.people(tmp_path) is people
    assert other.people(tmp_path).key.fingerprint != people.key.fingerprint
    assert len(list(tmp_path.iterdir())) == 2
    tabs.forget("one")
    tabs.forget("one")
    tabs.forget("other")
    assert not list(tmp_path.iterdir())


def test_tokens(monkeypatch):
    tabs = Sessions()
    one = tabs.of("one")
    assert tabs.of("one") is one
    assert tabs.with_token(one.token) is one
    assert tabs.with_token(tabs.of("other").token) is not one
    assert tabs.with_token("one") is None
    tabs.forget("one")
    assert tabs.with_token(one.token) is None


def test_only_so_many_are_remembered(monkeypatch, tmp_path):
    monkeypatch.setattr(gradio_sessions, "MAX_SESSIONS", 2)
    tabs = Sessions()
    first = tabs.of("a")
    first.people(tmp_path)
    for name in ("b", "a", "c"):
        tabs.of(name)
    assert tabs.with_token(first.token) is first  # b was unused for longest
    tabs.of("b")
    tabs.of("d")
    assert tabs.with_token(first.token) is None
    assert not list(tmp_path.iterdir())


pytest.importorskip("uvicorn", reason="the page needs deid-diffusion[web]")
pytest.importorskip("starlette", reason="the page needs deid-diffusion[web]")


KEY = "an-api-key-of-the-test"


async def inside(scope, receive, send):
    """Answers with the number of bytes that came in."""
    if scope["type"] == "http":
        body = await Request(scope, receive).body()
        await PlainTextResponse(f"{len(body)}")(scope, receive, send)


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.fixture(scope="module")
def port():
    with serving(SecurityMiddleware(inside, ApiKey(KEY), 1000)) as port:
        yield port


def test_password(port):
    for wrong in (
        {},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": basic("me:wrong")},
        {"Authorization": "Basic %"},
    ):
        answer = ask(port, "GET", "/", **wrong)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
        assert answer.body == b"the password is the API key of this server; any user name will do"
    for user in ("", "me"):
        assert ask(port, "GET", "/", Authorization=basic(f"{user}:{KEY}")).status == 200


def test_policy(port):
    answer = ask(port, "GET", "/", Authorization=basic(f":{KEY}"))
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http" not in answer.headers["content-security-policy"]


def test_sizes_and_closed_addresses():
    with serving(SecurityMiddleware(inside, None, 1000)) as port:
        assert ask(port, "POST", "/gradio_api/upload", bytes(100_000)).body == b"100000"
        answer = ask(port, "POST", "/gradio_api/upload", bytes(300_000))
        assert (answer.status, answer.body) == (413, b"over the limit of 1000 bytes a photo")
        assert ask(port, "POST", "/gradio_api/queue/join", bytes(1_000_001)).status == 413
        for address in ("file=/etc/passwd", "file/etc/passwd", "proxy=http://a/b", "component_server"):
            assert ask(port, "GET", f"/gradio_api/{address}").status == 404
        unsaid = ask(port, "POST", "/other", (bytes(100_000) for _ in range(30)), Transfer_Encoding="chunked")
        assert (unsaid.status, unsaid.body) == (413, b"over the limit of 1000 bytes a photo")
        assert ask(port, "GET", "/").status == 200
