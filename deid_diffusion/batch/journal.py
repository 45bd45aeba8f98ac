"""The journal of a run: what is finished, in a SQLite file of the output folder that a kill cannot hurt.

A row is written just before the file that it speaks of gets its name. So what has a row and is there is finished, and
everything else is made again; a million rows take no memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from .._version import __version__
from ..errors import DeidError, UsageError, one_line
from ..io.files import prepare_folder, publish, refused, synced
from ..options import options_digest
from .tasks import JobConfig, SourceFile, TaskResult


def check_manifest(path: Path, journal: Journal) -> None:
    """Refuse to write over a file that no run wrote. Raises UsageError."""
    if path.exists() and not journal.begun():
        raise UsageError(f"{path}: exists already: move it away, or give --manifest another name")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: its folder does not exist: create it, or give --manifest another name")


def write_manifest(path: Path, journal: Journal) -> None:
    """Write the records of everything that is finished, sorted by name, in place of what stood there.

    Raises ImageError if the system refuses; then the file is as it was.
    """
    temporary = path.with_name(f".deid-{secrets.token_hex(8)}.tmp")
    with refused(path):
        try:
            with synced(temporary) as stream:
                for line in journal.lines():
                    stream.write(line.encode() + b"\n")
            publish(temporary, path, overwrite=True)
        finally:
            temporary.unlink(missing_ok=True)


WORK = ".deid-work"
"""Name of the hidden folder."""

_MODE = 0o700  # records and unfinished results are nobody else's business


@dataclass(frozen=True)
class RunDirectory:
    """An open output folder.

    Attributes:
        out: the folder.
        journal: of what is finished there.
        scratch: this process's folder for results that have no name yet.
        lock: keeps other runs out until this process ends; None in processes that another one opened it for.
    """

    out: Path
    journal: Journal
    scratch: Path
    lock: BaseFileLock | None

    @classmethod
    def open(cls, out: Path, recipe: JobConfig, *, leads: bool = True) -> RunDirectory:
        """Open a folder, and clear what a killed run left unfinished.

        Args:
            out: a folder that is empty or new, or that such a run wrote to.
            recipe: has to be that of the run that wrote to it.
            leads: False in the further processes of one run, which must wait until the first one has opened it.

        Raises:
            UsageError: it holds something else, or was begun with another recipe.
            DeidError: another run works on it, or it cannot be written to.
        """
        work = out / WORK
        if leads and not work.exists() and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out}: is not empty, and no run over a data set made it: choose another output folder")
        prepare_folder(out)
        with refused(work):
            work.mkdir(mode=_MODE, exist_ok=True)
        lock = _lock(out) if leads else None
        if leads:
            shutil.rmtree(work / "scratch", ignore_errors=True)
        scratch = work / "scratch" / secrets.token_hex(8)
        with refused(scratch):
            scratch.mkdir(parents=True)
        return cls(out, Journal(work / "journal.sqlite", _wishes(recipe)), scratch, lock)

    def pieces(self, found: SourceFile) -> Path:
        """The folder for finished pieces of a shard."""
        digest = hashlib.sha256(f"{found.stamp} {found.name}".encode(errors="surrogateescape")).hexdigest()
        return self.out / WORK / "pieces" / digest[:32]

    def close(self) -> None:
        """Let go of the folder; what is unfinished and nobody can use is removed."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.journal.close()
        if self.lock is not None:
            self.lock.release()


def _lock(out: Path) -> BaseFileLock:
    lock = FileLock(out / WORK / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DeidError(f"{out}: another run is working on it: wait until it is done") from error
    (out / WORK / "lock").chmod(0o600)
    return lock


def _wishes(recipe: JobConfig) -> str:
    shaping = {
        "version": __version__,
        "model": recipe.model,
        "options": options_digest(recipe.options),
        "format": recipe.file_format,
        "require_face": recipe.require_face,
        "copied": sorted(recipe.copied),
        "image_columns": sorted(recipe.image_columns),
    }
    return json.dumps(shaping, sort_keys=True)


PATIENCE_S = 60.0
"""How long to wait for another process of the same run that is writing."""

JOINED = -1
"""The `first` of the row of a shard that is finished."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (wishes TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (name BLOB, first INTEGER, count INTEGER, stamp TEXT, made TEXT, output BLOB,
                                  failed INTEGER, pictures INTEGER, lines TEXT, PRIMARY KEY (name, first));
CREATE INDEX IF NOT EXISTS outputs ON tasks (output);
"""


class Journal:
    """Finished tasks by the name of their file and the first of their items."""

    def __init__(self, path: Path, wishes: str) -> None:
        """Open the journal; a file that does not exist is created.

        Args:
            path: the file.
            wishes: a text that differs where results may differ.

        Raises:
            UsageError: it was begun with other wishes.
            DeidError: it cannot be used.
        """
        self._path = path
        with self._errors():
            self._database = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
            self._database.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost rows, never their order
            self._database.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                self._database.execute(statement)
            if self._database.execute("SELECT 1 FROM tasks LIMIT 1").fetchone() is None:
                self._database.execute("DELETE FROM about")  # nothing was finished with those of an earlier run
                self._database.execute("INSERT INTO about VALUES (?)", (wishes,))
            row = self._database.execute("SELECT wishes FROM about").fetchone()
            self._database.execute("COMMIT")
        if row[0] != wishes:
            raise UsageError(
                f"{path.parent.parent}: was begun with another version or other options: give those again, or choose "
                "another output folder"
            )

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def add(self, done: TaskResult, made: str | None) -> None:
        """Remember a task that is finished, and the name of a piece's file. Raises DeidError."""
        task, lines = done.task, [one.report.to_json() for one in done.outcomes]
        pictures = len(lines)
        if done.copied is not None:
            lines.append(done.copied.to_json())
        output = os.fsencode(task.output) if made is None and done.made is not None else None
        self._put(task.found, task.first, task.count, made, output, done.failed, pictures, lines)

    def add_shard(self, found: SourceFile, output: str, line: str) -> None:
        """Remember a shard that is finished. Raises DeidError."""
        self._put(found, JOINED, 0, None, os.fsencode(output), False, 0, [line])

    def finished(self, found: SourceFile, first: int) -> bool:
        """Whether a row says that a file is finished, with nothing left out, and as it is now. Raises DeidError."""
        select = "SELECT stamp = ? AND NOT failed FROM tasks WHERE name = ? AND first = ?"
        with self._errors():
            row = self._database.execute(select, (found.stamp, _key(found), first)).fetchone()
        return bool(row and row[0])

    def pieces(self, found: SourceFile) -> list[tuple[int, int, str | None]]:
        """A shard's finished pieces in their order: first, count, and file name, or None for one that was left out.

        Raises DeidError.
        """
        select = "SELECT first, count, made FROM tasks WHERE name = ? AND first >= 0 ORDER BY first"
        with self._errors():
            return list(self._database.execute(select, (_key(found),)))

    def stamp(self, found: SourceFile) -> str | None:
        """What a shard's stamp was when its first row was written; None without one. Raises DeidError."""
        with self._errors():
            row = self._database.execute("SELECT stamp FROM tasks WHERE name = ? LIMIT 1", (_key(found),)).fetchone()
        return None if row is None else str(row[0])

    def owner(self, output: str) -> str | None:
        """The name of the file whose result stands at a place; None if it is free. Raises DeidError."""
        with self._errors():
            row = self._database.execute(
                "SELECT name FROM tasks WHERE output = ? LIMIT 1", (os.fsencode(output),)
            ).fetchone()
        return None if row is None else os.fsdecode(row[0])

    def forget(self, found: SourceFile, first: int | None = None) -> None:
        """Drop all rows of a file, or one. Raises DeidError."""
        where, values = ("", ()) if first is None else (" AND first = ?", (first,))
        with self._errors():
            self._database.execute(f"DELETE FROM tasks WHERE name = ?{where}", (_key(found), *values))

    def pictures(self) -> int:
        """Number of pictures that will not be tried again. Raises DeidError."""
        select = "SELECT total(pictures) FROM tasks WHERE NOT failed OR made IS NOT NULL"
        with self._errors():
            return int(self._database.execute(select).fetchone()[0])

    def begun(self) -> bool:
        """Whether there is any row. Raises DeidError."""
        with self._errors():
            return self._database.execute("SELECT 1 FROM tasks LIMIT 1").fetchone() is not None

    def lines(self) -> Iterator[str]:
        """The records as lines of JSON, in the order of the names. Raises DeidError."""
        with self._errors():
            for (lines,) in self._database.execute("SELECT lines FROM tasks ORDER BY name, first"):
                yield from lines.splitlines()

    def _put(
        self,
        found: SourceFile,
        first: int,
        count: int,
        made: str | None,
        output: bytes | None,
        failed: bool,
        pictures: int,
        lines: list[str],
    ) -> None:
        row = (_key(found), first, count, found.stamp, made, output, failed, pictures, "\n".join(lines))
        with self._errors():
            self._database.execute(f"INSERT OR REPLACE INTO tasks VALUES ({', '.join('?' * len(row))})", row)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DeidError(
                f"{self._path}: cannot be used ({one_line(error)}): check the disk; if the file is damaged, choose "
                "another output folder"
            ) from error


def _key(found: SourceFile) -> bytes:
    return os.fsencode(found.name)
