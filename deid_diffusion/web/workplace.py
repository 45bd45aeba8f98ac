"""The one folder that Gradio writes uploads to: in memory where the system has such a place, and gone at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX, _LOCK = "deid-web-", "lock"
_MEMORY = Path("/dev/shm")  # Linux keeps it in memory
_OLD = 900  # seconds
_ROOM = 1_000_000_000  # bytes that have to be free there: containers often have less


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for the owner alone, where this process has its temporary files inside the block.

    It is deleted at the end; what a killed process left behind is deleted at the next start.
    """
    parent = _parent()
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    before = tempfile.tempdir, os.environ.get("GRADIO_TEMP_DIR")
    with (folder / _LOCK).open("w") as lock:
        _claim(lock.fileno())
        tempfile.tempdir = os.environ["GRADIO_TEMP_DIR"] = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before[0]
            if before[1] is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before[1]
            shutil.rmtree(folder, ignore_errors=True)


def clear_old(folder: Path) -> None:
    """Delete uploads that nobody fetched: broken off, too large, or of a tab that was closed meanwhile."""
    for path in folder.rglob("*"):
        kept = path.parent == folder and (path.name == _LOCK or path.suffix == ".sqlite")  # stores of open tabs
        with suppress(OSError):
            if not kept and path.is_file() and time.time() - path.stat().st_mtime > _OLD:
                path.unlink()


def _parent() -> Path:
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM:
        return _MEMORY
    return Path(tempfile.gettempdir())


def _sweep(parent: Path) -> None:
    """Delete folders whose process is gone: nobody holds their lock."""
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock.open("r+") as stream:  # it may be somebody else's, or gone by now
            if _claim(stream.fileno()):
                shutil.rmtree(lock.parent, ignore_errors=True)


def _claim(descriptor: int) -> bool:
    """Lock a file; False if another process has it, or the system has no such locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
