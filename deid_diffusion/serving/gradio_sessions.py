"""Sessions of the web page: uploads and results, kept in memory and deleted when the session ends."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..identity.keys import KEY_BYTES, Key
from ..identity.pseudonyms import Pseudonyms
from ..identity.recognition import SAME_PSEUDONYM, DlibRecogniser

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

_MEMORY = Path("/dev/shm")  # Linux keeps it in memory


_OLD = 900  # seconds


_ROOM = 1_000_000_000  # bytes that have to be free there: containers often have less


@contextmanager
def upload_dir() -> Iterator[Path]:
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


MAX_PHOTOS = 20
"""Photos of a tab at once."""


MAX_SESSIONS = 32
"""Tabs that are remembered; of more, the one unused for longest is forgotten."""


@dataclass(frozen=True, eq=False)
class Result:
    """A finished photo as the page shows it.

    Attributes:
        name: of the result.
        data: its file's bytes.
        record: its record, one line of JSON.
        before, after, overlay: small copies of photo, result, and photo with maps and masks, as data URIs.
    """

    name: str
    data: bytes
    record: str
    before: str
    after: str
    overlay: str


@dataclass
class Session:
    """One open tab.

    Attributes:
        token: names it in addresses of downloads; nobody can guess it.
        photos: name -> the file's bytes, in the order of arrival.
        results: by the photos' names.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    photos: dict[str, bytes] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    _paths: dict[str, str] = field(default_factory=dict)
    _store: Path | None = None
    _people: Pseudonyms | None = None

    def take_in(self, paths: list[str]) -> None:
        """Make the uploaded files the tab's photos; each is read once and deleted at once."""
        photos = {}
        names = {path: self._paths[path] for path in paths if path in self._paths}
        for path in paths:
            if path in names:
                photos[names[path]] = self.photos[names[path]]
                continue
            file = Path(path)
            names[path] = name = _new_name(file.name, {*names.values(), *photos})
            try:
                photos[name] = file.read_bytes()
            finally:
                file.unlink(missing_ok=True)
        self.photos, self._paths = photos, names

    def people(self, folder: Path) -> Pseudonyms:
        """One person, one pseudonym, in this tab: the key is forgotten and the store deleted with it."""
        if self._people is None:
            self._store = folder / f"{secrets.token_hex(16)}.sqlite"
            self._people = Pseudonyms(
                Key(secrets.token_bytes(KEY_BYTES)),
                self._store,
                recogniser=DlibRecogniser.name,
                dimension=DlibRecogniser.dimension,
                threshold=SAME_PSEUDONYM,
            )
        return self._people

    def close(self) -> None:
        """Delete what is left on disk."""
        if self._store is not None:
            for path in self._store.parent.glob(f"{self._store.name}*"):
                path.unlink(missing_ok=True)


class Sessions:
    """All open tabs, by the name that Gradio gives each."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, name: str) -> Session:
        """The tab of this name, a new one if it is not known."""
        with self._lock:
            session = self._open.setdefault(name, Session())
            self._open.move_to_end(name)
            old = self._open.popitem(last=False)[1] if len(self._open) > MAX_SESSIONS else None
        if old is not None:
            old.close()
        return session

    def with_token(self, token: str) -> Session | None:
        """The tab whose downloads have this token in their address."""
        with self._lock:
            return next((one for one in self._open.values() if secrets.compare_digest(one.token, token)), None)

    def forget(self, name: str) -> None:
        """The tab was closed."""
        with self._lock:
            session = self._open.pop(name, None)
        if session is not None:
            session.close()


def _new_name(name: str, taken: set[str]) -> str:
    """The name, with a number if its stem is taken: results of `a.jpg` and `a.png` would both be `a.png`."""
    path, number = Path(name), 1
    stems = {Path(one).stem for one in taken}
    stem = path.stem
    while stem in stems:
        number += 1
        stem = f"{path.stem}_{number}"
    return f"{stem}{path.suffix}"


_PREFIX, _LOCK = "deid-web-", "lock"
