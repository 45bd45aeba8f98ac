"""`deid-diffusion serve`: a process that says where it is, refuses what is unsafe, and ends when it is told to."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

import pytest

from deid_diffusion.cli import serve
from deid_diffusion.serving import access
from deid_diffusion.serving.access import listen
from deid_diffusion.serving.gradio_app import upload_parent
from tests.fake_anonymizer import FakeAnonymizer
from tests.serving.servers import started

pytest.importorskip("fastapi", reason="the service needs deid-diffusion[service]")
pytest.importorskip("uvicorn", reason="the service needs deid-diffusion[service]")


SCRIPT = """
import sys
from tests.fake_anonymizer import FakeAnonymizer
from deid_diffusion.cli import main, serve
serve.load_anonymizer = lambda model, device: FakeAnonymizer()
sys.argv = ["deid-diffusion", "serve", "--port", "0"]
main.main()
"""


@pytest.fixture
def served(monkeypatch):
    """The applications that the command would have served."""
    apps = []
    monkeypatch.delenv("DEID_API_KEY", raising=False)
    monkeypatch.setattr(serve, "load_anonymizer", lambda model, device: FakeAnonymizer())
    monkeypatch.setattr(access, "run", lambda app, opened: apps.append(app) or opened.close())
    return apps


def test_where_it_is(call, served):
    code, out, err = call("serve", "--port", "0", "--queue", "2")
    assert (code, len(out), err, len(served)) == (0, 1, [], 1)
    assert out[0].startswith("listening on http://127.0.0.1:")


def test_secrets_and_addresses(call, served, tmp_path, monkeypatch):
    code, out, err = call("serve", "--host", "0.0.0.0")
    assert (code, out, len(err), served) == (2, [], 1, [])
    assert "needs a secret: --api-key-file FILE" in err[0]
    key = tmp_path / "api.key"
    key.write_text("0123456789abcdef\n")
    key.chmod(0o600)
    assert call("serve", "--host", "0.0.0.0", "--port", "0", "--api-key-file", str(key))[0] == 0
    monkeypatch.setenv("DEID_API_KEY", "short")
    assert "is no API key" in call("serve")[2][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--key-file", "none.key"], "no such key file"),
        (["--store", "x.sqlite"], "--key-file only"),
        (["--queue", "0"], "--queue"),
        (["--host", "no.such.host.invalid", "--api-key-file", "none"], "cannot be read"),
    ],
)
def test_bad_usage_is_one_line(call, served, options, words):
    code, out, err = call("serve", *options)
    assert (code, out, len(err), served) == (2, [], 1, [])
    assert words in err[0]


def test_a_port_that_is_taken(call, served):
    with listen("127.0.0.1", 0) as taken:
        code, _, err = call("serve", "--port", str(taken.getsockname()[1]))
    assert (code, len(err), served) == (2, 1, [])
    assert "cannot listen there" in err[0]


def test_people_of_a_key(call, served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("keys", "new", "people.key")[0] == 0
    assert call("serve", "--port", "0", "--key-file", "people.key")[0] == 0
    assert Path("people.key.people.sqlite").exists()


def test_it_ends_when_told_to():
    process = started(SCRIPT)
    try:
        address = process.stdout.readline().split()[2]
        with urllib.request.urlopen(f"{address}/health") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")


pytest.importorskip("gradio", reason="the page needs deid-diffusion[web]")


WEB_SCRIPT = """
import sys
from tests.fake_anonymizer import FakeAnonymizer
from deid_diffusion.cli import main, serve
serve.load_anonymizer = lambda model, device: FakeAnonymizer()
sys.argv = ["deid-diffusion", "web", "--port", "0"]
main.main()
"""


def test_a_public_address_needs_a_password(call, monkeypatch):
    monkeypatch.delenv("DEID_API_KEY", raising=False)
    code, out, err = call("web", "--host", "0.0.0.0")
    assert (code, out, len(err)) == (2, [], 1)
    assert "needs a secret: --api-key-file FILE" in err[0]


def test_it_ends_when_told_to_and_leaves_nothing():
    before = set(upload_parent().glob("deid-web-*"))
    process = started(WEB_SCRIPT)
    try:
        address = process.stdout.readline().split()[1]
        with urllib.request.urlopen(address) as answer:
            page = answer.read().decode()
        during = set(upload_parent().glob("deid-web-*")) - before
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert "deid-compare" in page  # the style sheet
    assert len(during) == 1
    assert not any(folder.exists() for folder in during)
