"""Secrets of servers: where they come from, how they look, and what is refused without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.serving.access import API_KEY_VARIABLE, ApiKey, check_reach, read_api_key

SECRET = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)


def secret_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "api.key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_from_a_file_or_the_environment(tmp_path, monkeypatch):
    assert read_api_key(None) is None
    monkeypatch.setenv(API_KEY_VARIABLE, "from-the-environment")
    assert read_api_key(None) == ApiKey("from-the-environment")
    for end in ("", "\n", "\r\n"):
        assert read_api_key(secret_file(tmp_path, SECRET + end)) == ApiKey(SECRET)


@pytest.mark.parametrize("text", ["", "short", "with a space in it, long", SECRET + "\n" + SECRET, "x" * 513, "ü" * 20])
def test_no_secret(tmp_path, monkeypatch, text):
    with pytest.raises(DeidError, match=r"is no API key: expected one line"):
        read_api_key(secret_file(tmp_path, text))
    monkeypatch.setenv(API_KEY_VARIABLE, text)
    with pytest.raises(DeidError, match=r"^DEID_API_KEY: is no API key"):
        read_api_key(None)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(DeidError, match="is open to other users"):
        read_api_key(secret_file(tmp_path, SECRET, 0o644))
    with pytest.raises(DeidError, match="No such file"):
        read_api_key(tmp_path / "none")
    with pytest.raises(DeidError, match="cannot be read"):
        read_api_key(tmp_path)


def test_comparison():
    key = ApiKey(SECRET)
    assert key.is_same(SECRET)
    for other in ("", SECRET[:-1], SECRET + "x", "\ud800", "ü"):
        assert not key.is_same(other)


def test_a_public_address_needs_a_secret():
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        check_reach(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org", ""):
        with pytest.raises(UsageError, match="needs a secret"):
            check_reach(host, None)
        check_reach(host, ApiKey(SECRET))
