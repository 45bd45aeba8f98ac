"""`deid-diffusion web`: a process that refuses what is unsafe and leaves nothing behind."""

import signal
import urllib.request

import pytest

pytest.importorskip("gradio", reason="the page needs deid-diffusion[web]")

from deid_diffusion.web.workplace import _parent
from tests.service.servers import started

SCRIPT = """
import sys
from tests.fake_anonymizer import FakeAnonymizer
from deid_diffusion import cli, cli_web
cli_web.load_anonymizer = lambda model, device: FakeAnonymizer()
sys.argv = ["deid-diffusion", "web", "--port", "0"]
cli.main()
"""


def test_a_public_address_needs_a_password(call, monkeypatch):
    monkeypatch.delenv("DEID_API_KEY", raising=False)
    code, out, err = call("web", "--host", "0.0.0.0")
    assert (code, out, len(err)) == (2, [], 1)
    assert "needs a secret: --api-key-file FILE" in err[0]


def test_it_ends_when_told_to_and_leaves_nothing():
    before = set(_parent().glob("deid-web-*"))
    process = started(SCRIPT)
    try:
        address = process.stdout.readline().split()[1]
        with urllib.request.urlopen(address) as answer:
            page = answer.read().decode()
        during = set(_parent().glob("deid-web-*")) - before
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert "deid-compare" in page  # the style sheet
    assert len(during) == 1
    assert not any(folder.exists() for folder in during)
