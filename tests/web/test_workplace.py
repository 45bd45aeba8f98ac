"""The folder of uploads: private, gone at the end, and what a killed process left goes at the next start."""

import os
import stat
import subprocess
import sys
import tempfile
import time

import pytest

from deid_diffusion.web import workplace as module
from deid_diffusion.web.workplace import clear_old, workplace


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_parent", lambda: tmp_path)


def test_private_and_gone(tmp_path):
    before = tempfile.gettempdir()
    with workplace() as folder:
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert os.environ["GRADIO_TEMP_DIR"] == tempfile.gettempdir() == str(folder)
        (folder / "photo.png").touch()
    assert not list(tmp_path.iterdir())
    assert tempfile.gettempdir() == before
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_gone_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), workplace():
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
        with workplace() as folder:
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
