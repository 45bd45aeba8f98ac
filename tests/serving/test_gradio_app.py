"""Upload folder, password, limits, and sessions of the web page over HTTP."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from deid_diffusion.serving.server import ApiKey, Limits
from tests.fake_anonymizer import FakeAnonymizer, expected
from tests.lazy import LazyModule
from tests.serving.servers import KEY, PHOTO, Answer, ask, encoded, serving, stored_files

gradio_app = LazyModule("deid_diffusion.serving.gradio_app")
gradio_page = LazyModule("deid_diffusion.serving.gradio_page")


def test_upload_dir_is_private_and_deleted(tmp_path):
    previous = tempfile.gettempdir()
    with gradio_app.upload_dir(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        uploads = Path(tempfile.gettempdir())
        assert os.environ["GRADIO_TEMP_DIR"] == str(uploads)
        assert uploads.parent == folder
        (uploads / "photo.png").touch()
    assert not list(tmp_path.iterdir())
    assert tempfile.gettempdir() == previous
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_upload_dir_is_deleted_after_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), gradio_app.upload_dir(tmp_path):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs file locks")
def test_upload_dir_of_killed_process_is_deleted(tmp_path):
    killed, alive = tmp_path / "deid-web-killed", tmp_path / "deid-web-alive"
    for folder in (killed, alive):
        folder.mkdir()
        (folder / "lock").touch()
        (folder / "photo.png").touch()
    code = (
        f"import fcntl, time; f = open({str(alive / 'lock')!r}, 'w'); "
        "fcntl.flock(f, fcntl.LOCK_EX); print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        with gradio_app.upload_dir(tmp_path) as folder:
            assert set(tmp_path.iterdir()) == {alive, folder}
    finally:
        process.kill()
        process.communicate()


def test_stale_uploads_are_deleted(tmp_path):
    stale, kept = ["uploads/tmp1", "uploads/hash/a.png"], ["uploads/tmp2", "uploads/hash/c.png", "lock", "x.sqlite"]
    (tmp_path / "uploads" / "hash").mkdir(parents=True)
    for name in (*stale, *kept):
        (tmp_path / name).touch()
    for name in (*stale, "lock", "x.sqlite"):
        os.utime(tmp_path / name, (time.time() - 3600,) * 2)
    gradio_app.delete_stale_uploads(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(kept)


async def count_bytes(scope, receive, send):
    """Answer with the size of the body."""
    if scope["type"] == "http":
        body = await Request(scope, receive).body()
        await PlainTextResponse(f"{len(body)}")(scope, receive, send)


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.fixture(scope="module")
def guarded():
    with serving(gradio_app.SecurityMiddleware(count_bytes, ApiKey(KEY), 1000)) as port:
        yield port


@pytest.mark.parametrize("header", [None, f"Bearer {KEY}", basic("me:wrong"), basic(KEY), "Basic %", "Basic"])
def test_wrong_password(guarded, header):
    answer = ask(guarded, "GET", "/any", **({} if header is None else {"Authorization": header}))
    assert (answer.status, answer.body) == (401, b"enter the server's API key as the password; any user name")
    assert answer.headers["www-authenticate"].startswith("Basic realm=")


@pytest.mark.parametrize("user", ["", "me"])
def test_password_and_headers(guarded, user):
    answer = ask(guarded, "GET", "/", Authorization=basic(f"{user}:{KEY}"))
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_body_limits():
    with serving(gradio_app.SecurityMiddleware(count_bytes, None, 1000)) as port:
        assert ask(port, "POST", "/gradio_api/upload", bytes(100_000)).body == b"100000"
        assert ask(port, "POST", "/gradio_api/upload", bytes(300_000)).status == 413
        assert ask(port, "POST", "/gradio_api/queue/join", bytes(1_000_001)).status == 413
        pieces = (bytes(100_000) for _ in range(30))
        assert ask(port, "POST", "/other", pieces, Transfer_Encoding="chunked").status == 413
        assert ask(port, "GET", "/").status == 200


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Port of a page, and its folder."""
    parent = tmp_path_factory.mktemp("memory")
    with (
        gradio_app.upload_dir(parent) as folder,
        serving(gradio_app.make_app(FakeAnonymizer(), Limits(max_bytes=100_000), folder)) as port,
    ):
        yield port, folder


@pytest.mark.parametrize(
    "path",
    ["file=/etc/passwd", "file/etc/passwd", "file=http://127.0.0.1/a", "proxy=http://127.0.0.1/a", "component_server"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_closed_addresses(page, method, path):
    assert ask(page[0], method, f"/gradio_api/{path}").status == 404


def post_form(port: int, name: str, data: bytes) -> Answer:
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n--x--\r\n'
    content_type = "multipart/form-data; boundary=x"
    return ask(port, "POST", "/gradio_api/upload", form % (name.encode(), data), Content_Type=content_type)


def test_oversized_photo_is_refused(page):
    port, folder = page
    assert post_form(port, "a.png", bytes(100_001)).status == 413
    assert not stored_files(folder)


class Tab:
    """A browser's side of Gradio's protocol."""

    def __init__(self, port: int, session_hash: str) -> None:
        self._port, self._hash = port, session_hash
        handlers = ask(port, "GET", "/config").json["dependencies"]
        self._functions = {handler["api_name"]: handler["id"] for handler in handlers}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep the session alive inside the block."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        connection.request("GET", f"/gradio_api/heartbeat/{self._hash}")
        response = connection.getresponse()
        assert response.readline() == b"data: ALIVE\n"
        try:
            yield
        finally:
            response.close()
            connection.close()

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        (path,) = post_form(self._port, name, data).json
        return {"path": path, "orig_name": name, "size": len(data), "meta": {"_type": "gradio.FileData"}}

    def call(self, function: str, *values: Any) -> list[Any]:
        """Call an event handler and return its last outputs."""
        event = {"data": values, "fn_index": self._functions[function], "session_hash": self._hash}
        json_type = {"Content_Type": "application/json"}
        assert ask(self._port, "POST", "/gradio_api/queue/join", json.dumps(event), **json_type).status == 200
        stream = ask(self._port, "GET", f"/gradio_api/queue/data?session_hash={self._hash}").body.decode()
        messages = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line]
        (completed,) = [message for message in messages if message["msg"] == "process_completed"]
        assert completed["success"], completed
        return completed["output"]["data"]

    def run(self, new_faces: str | None = None) -> list[Any]:
        return self.call("run", None, [], "", "generate", new_faces or gradio_page.FRESH, 1, 6, "png")


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def download_path(links: str) -> str:
    (path,) = re.findall(r'href="(result/[^"]+/picture)"', links)
    return f"/{path}"


def process(tab: Tab, *, by_person: bool = False) -> str:
    """Upload and process a photo; return the address of the result."""
    tab.call("upload", [tab.upload("ä.png", encoded(PHOTO))], None)
    status, *_, links = tab.run(gradio_page.PERSON if by_person else None)
    assert "1 photo: 1 face replaced" in status
    return download_path(links)


def test_session_ends_with_tab(page):
    port, folder = page
    tab = Tab(port, "tab")
    with tab.open():
        path = process(tab, by_person=True)
        answer = ask(port, "GET", path)
        np.testing.assert_array_equal(answer.pixels, expected(PHOTO))
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A4.png"
        assert answer.headers["cache-control"] == "no-store"
        assert [file.suffix for file in stored_files(folder)] == [".sqlite"]
        record = ask(port, "GET", path.replace("/0/picture", "/0/record")).json
        assert record["faces"][0]["action"] == "replaced"
        archive = zipfile.ZipFile(io.BytesIO(ask(port, "GET", path.replace("/0/picture", "/all.zip")).body))
        assert archive.namelist() == ["ä.png", "records.jsonl"]
    wait_for(lambda: ask(port, "GET", path).status == 404 and not stored_files(folder))


def test_sessions_are_isolated(page):
    port, _ = page
    tabs = Tab(port, "first"), Tab(port, "second")
    with tabs[0].open(), tabs[1].open():
        paths = [process(tab) for tab in tabs]
        assert "choose a photo first" in Tab(port, "third").run()[0]
        tokens = [path.split("/")[2] for path in paths]
        assert tokens[0] != tokens[1]
        for wrong in (tokens[0][::-1], "first"):
            assert ask(port, "GET", paths[0].replace(tokens[0], wrong)).status == 404
        assert ask(port, "GET", paths[0].replace("/0/", "/1/")).status == 404


def test_invalid_photos(page):
    bomb = io.BytesIO()
    Image.new("1", (8000, 8000)).save(bomb, "PNG")
    tab = Tab(page[0], "invalid")
    uploads = {"text.png": b"this is a text", "bomb.png": bomb.getvalue(), "good.png": encoded(PHOTO)}
    with tab.open():
        tab.call("upload", [tab.upload(name, data) for name, data in uploads.items()], None)
        status, *_, links = tab.run()
    for words in ("1 photo: 1 face replaced", "text.png: is not a", "bomb.png: 8000 x 8000 pixels are over the limit"):
        assert words in status
    assert "Download good.png" in links


def test_least_recent_session_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr("deid_diffusion.serving.gradio_page.MAX_SESSIONS", 2)
    with (
        gradio_app.upload_dir(tmp_path) as folder,
        serving(gradio_app.make_app(FakeAnonymizer(), Limits(), folder)) as port,
    ):
        paths = [process(Tab(port, name), by_person=True) for name in ("a", "b", "c")]
        wait_for(lambda: [ask(port, "GET", path).status for path in paths] == [404, 200, 200])
        wait_for(lambda: len(stored_files(folder)) == 2)
