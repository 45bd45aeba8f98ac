"""Commands `serve` and `web`: addresses, API keys, usage errors, shutdown."""

import signal
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service needs deid-diffusion[service]")
if find_spec("gradio") is None:
    pytest.skip("the page needs deid-diffusion[web]", allow_module_level=True)

from deid_diffusion.cli import serve
from deid_diffusion.serving import server
from deid_diffusion.serving.server import listen
from tests.fake_anonymizer import FakeAnonymizer
from tests.serving.servers import start_python

SCRIPT = """
import sys
from tests.fake_anonymizer import FakeAnonymizer
from deid_diffusion.cli import main, serve
serve.load_anonymizer = lambda model, device: FakeAnonymizer()
sys.argv = ["deid-diffusion", "{command}", "--port", "0"]
main.main()
"""


@pytest.fixture
def served(monkeypatch):
    """Applications that a command would have served."""
    apps = []
    monkeypatch.delenv("DEID_API_KEY", raising=False)
    monkeypatch.setattr(serve, "load_anonymizer", lambda model, device: FakeAnonymizer())
    monkeypatch.setattr(server, "run", lambda app, server_socket: apps.append(app) or server_socket.close())
    return apps


def test_address_is_printed(call, served):
    code, out, err = call("serve", "--port", "0", "--queue", "2")
    assert (code, len(out), err, len(served)) == (0, 1, [], 1)
    assert out[0].startswith("listening on http://127.0.0.1:")


@pytest.mark.parametrize("command", ["serve", "web"])
def test_public_address_needs_key(call, served, command):
    code, out, err = call(command, "--host", "0.0.0.0")
    assert (code, out, len(err), served) == (2, [], 1, [])
    assert "an API key is required: use --api-key-file FILE" in err[0]


def test_api_key(call, served, tmp_path, monkeypatch):
    key = tmp_path / "api.key"
    key.write_text("0123456789abcdef\n")
    key.chmod(0o600)
    assert call("serve", "--host", "0.0.0.0", "--port", "0", "--api-key-file", str(key))[0] == 0
    monkeypatch.setenv("DEID_API_KEY", "short")
    assert "not an API key" in call("serve")[2][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--key-file", "none.key"], "no such key file"),
        (["--store", "x.sqlite"], "--key-file"),
        (["--queue", "0"], "--queue"),
        (["--host", "no.such.host.invalid", "--api-key-file", "none"], "cannot be read"),
    ],
)
def test_usage_errors(call, served, options, words):
    code, out, err = call("serve", *options)
    assert (code, out, len(err), served) == (2, [], 1, [])
    assert words in err[0]


@pytest.mark.parametrize(("command", "extra"), [("serve", "service"), ("web", "web")])
def test_missing_packages(call, served, monkeypatch, command, extra):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "deid_diffusion.serving.server")
    code, out, err = call(command)
    assert (code, out, len(err), served) == (2, [], 1, [])
    assert f"pip install 'deid-diffusion[{extra}]'" in err[0]


def test_port_in_use(call, served):
    with listen("127.0.0.1", 0) as server_socket:
        code, _, err = call("serve", "--port", str(server_socket.getsockname()[1]))
    assert (code, len(err), served) == (2, 1, [])
    assert "cannot listen there" in err[0]


def test_key_file_opens_store(call, served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("keys", "new", "people.key")[0] == 0
    assert call("serve", "--port", "0", "--key-file", "people.key")[0] == 0
    assert Path("people.key.people.sqlite").exists()


@pytest.mark.parametrize(
    ("command", "path", "stop", "content"),
    [("serve", "/health", signal.SIGTERM, "ok"), ("web", "/", signal.SIGINT, "deid-compare")],
)
def test_shutdown(command, path, stop, content):
    """A signal ends the process without output, and deletes the page's upload folder."""
    from deid_diffusion.serving.gradio_app import upload_parent

    before = set(upload_parent().glob("deid-web-*"))
    process = start_python(SCRIPT.format(command=command))
    try:
        address = next(word for word in process.stdout.readline().split() if word.startswith("http"))
        with urllib.request.urlopen(address + path) as answer:
            assert content in answer.read().decode()
        folders = set(upload_parent().glob("deid-web-*")) - before
        process.send_signal(stop)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert len(folders) == (command == "web")
    assert not any(folder.exists() for folder in folders)
