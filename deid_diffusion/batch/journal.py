"""Output folder of a data-set run with its journal, a SQLite file that survives a kill at any moment.

A row is written just before the file that it describes is renamed into place. So an output is finished if it has a row
and exists; everything else is processed again.
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
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from .._version import __version__
from ..errors import DeidError, UsageError, one_line
from ..io.files import image_errors, open_synced, prepare_folder, publish
from ..options import options_digest
from .tasks import WHOLE_FILE, JobConfig, SourceFile, TaskResult

WORK = ".deid-work"  # name of the hidden folder with the journal and unfinished results
LOCK_TIMEOUT = 60.0  # seconds to wait for another process of the same run that is writing

# `output` is NULL if nothing was written; `pictures` counts images; `lines` are those of the manifest
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (name BLOB, first INTEGER, count INTEGER, stamp TEXT, output BLOB, failed INTEGER,
                                  pictures INTEGER, lines TEXT, config TEXT, PRIMARY KEY (name, first));
CREATE INDEX IF NOT EXISTS outputs ON tasks (output);
"""


class RunDirectory:
    """Output folder of a run, `out`, and this process's absolute one for unfinished results, `scratch`."""

    def __init__(self, out: Path, scratch: Path, config: str, lock: BaseFileLock | None) -> None:
        """Open the journal. Raises DeidError if it cannot be used. See `open`."""
        self.out, self.scratch, self._config, self._lock = out, scratch, config, lock
        self._path = out / WORK / "journal.sqlite"
        with self._errors():
            self._database = sqlite3.connect(self._path, timeout=LOCK_TIMEOUT, isolation_level=None)
            self._database.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost rows, never their order
            self._database.executescript(_SCHEMA)

    @classmethod
    def open(cls, out: Path, config: JobConfig, *, leads: bool = True) -> RunDirectory:
        """Open a folder, and delete what a killed run left unfinished.

        Args:
            out: a folder that is new, empty or of an earlier run with the same settings; else UsageError.
            config: settings of the run.
            leads: False in the other processes of a run, which open the folder after the first one.

        Raises:
            DeidError: another run uses it, or it cannot be written.
        """
        work = out / WORK
        if leads and not work.exists() and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out}: is not empty and not of an earlier run: choose another output folder")
        prepare_folder(out)
        scratch = work.absolute() / "scratch" / secrets.token_hex(8)
        with image_errors(work):
            work.mkdir(mode=0o700, exist_ok=True)  # records and unfinished results are private
            lock = FileLock(work / "lock") if leads else None
            if lock is not None:
                try:
                    lock.acquire(timeout=0)
                except Timeout as error:
                    raise DeidError(f"{out}: another run is using it: wait until it has finished") from error
                shutil.rmtree(scratch.parent, ignore_errors=True)
            scratch.mkdir(parents=True)
        run_directory = cls(out, scratch, _digest(config), lock)
        if run_directory._select("SELECT config FROM tasks LIMIT 1", default=run_directory._config) != _digest(config):
            run_directory.close()
            raise UsageError(
                f"{out}: belongs to a run with another version or other options: repeat those, or choose another "
                "output folder"
            )
        return run_directory

    def close(self) -> None:
        """Delete unfinished results and release the folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    def is_finished(self, source: SourceFile) -> bool:
        """Return whether a file in its current version was finished without failures. Raises DeidError."""
        query = "SELECT output FROM tasks WHERE name = ? AND first = ? AND stamp = ? AND NOT failed"
        output = self._select(query, _key(source), WHOLE_FILE, source.stamp)
        return output is not None and (self.out / os.fsdecode(output)).is_file()

    def owner(self, output: str) -> str | None:
        """Return the name of the file that a result belongs to; None if there is no such result. Raises DeidError."""
        name = self._select("SELECT name FROM tasks WHERE output = ? LIMIT 1", os.fsencode(output))
        return None if name is None else os.fsdecode(name)

    def finished_pieces(self, source: SourceFile) -> list[tuple[int, int, Path | None]]:
        """Return a shard's finished pieces in order: first item, count, and file, or None if all items are left out.

        Pieces of an older version or without their file are dropped. Raises DeidError if the journal cannot be used.
        """
        name, pieces = _key(source), []
        self._execute("DELETE FROM tasks WHERE name = ? AND stamp != ?", name, source.stamp)
        query = "SELECT first, count, output FROM tasks WHERE name = ? AND first >= 0 ORDER BY first"
        for first, count, output in self._execute(query, name).fetchall():
            path = None if output is None else self.out / os.fsdecode(output)
            if path is None or path.is_file():
                pieces.append((first, count, path))
            else:
                self._execute("DELETE FROM tasks WHERE name = ? AND first = ?", name, first)
        return pieces

    def delete_pieces(self, source: SourceFile) -> None:
        """Delete the files of a shard's pieces."""
        shutil.rmtree(self.out / _piece_folder(source), ignore_errors=True)

    def commit(self, result: TaskResult) -> None:
        """Write a result's row, then rename its file into place. Raises DeidError.

        A kill between the two costs the result; a renamed file always has its row.
        """
        task = result.task
        place = task.output if task.first == WHOLE_FILE else f"{_piece_folder(task.source)}/{task.first:012}"
        prepare_folder((self.out / place).parent)
        with image_errors(self.out / place):
            if task.error is None:
                (self.out / place).unlink(missing_ok=True)  # of an older version: it must not pass for the new row's
            self._insert(result, place)
            if result.temporary is not None:
                publish(result.temporary, self.out / place, overwrite=True)

    def picture_count(self) -> int:
        """Return the number of images that are not processed again. Raises DeidError."""
        return int(self._select("SELECT total(pictures) FROM tasks WHERE NOT failed OR output IS NOT NULL"))

    def check_manifest(self, path: Path) -> None:
        """Raise UsageError for a manifest that cannot be written, or that no run has written."""
        if path.exists() and self._select("SELECT 1 FROM tasks LIMIT 1") is None:
            raise UsageError(f"{path}: exists already: move it away, or give --manifest another name")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: its folder does not exist: create it, or give --manifest another name")

    def write_manifest(self, path: Path) -> None:
        """Write the records of all finished files, sorted by name; an existing file is replaced.

        Raises ImageError if the file cannot be written, and is unchanged, or DeidError if the journal cannot be used.
        """
        temporary = path.with_name(f".deid-{secrets.token_hex(8)}.tmp")
        with image_errors(path), self._errors():
            try:
                with open_synced(temporary) as stream:
                    for (lines,) in self._execute("SELECT lines FROM tasks ORDER BY name, first"):
                        stream.writelines(line.encode() + b"\n" for line in lines.splitlines())
                publish(temporary, path, overwrite=True)
            finally:
                temporary.unlink(missing_ok=True)

    def _insert(self, result: TaskResult, place: str) -> None:
        task = result.task
        lines = [outcome.report.to_json() for outcome in result.outcomes]
        row = (
            _key(task.source),
            task.first,
            task.count,
            task.source.stamp,
            None if result.temporary is None else os.fsencode(place),
            result.failed,
            len(result.outcomes),
            "\n".join(lines if result.line is None else [*lines, result.line]),
            self._config,
        )
        self._execute(f"INSERT OR REPLACE INTO tasks VALUES ({', '.join('?' * len(row))})", *row)

    def _select(self, query: str, *values: Any, default: Any = None) -> Any:
        """Return the first row's first value. Raises DeidError."""
        row = self._execute(query, *values).fetchone()
        return default if row is None else row[0]

    def _execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        with self._errors():
            return self._database.execute(query, values)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DeidError(
                f"{self._path}: cannot be used ({one_line(error)}): check the disk; if the file is damaged, choose "
                "another output folder"
            ) from error


def _digest(config: JobConfig) -> str:
    """Return a digest of everything that shapes a result."""
    settings = {
        "version": __version__,
        "model": config.model,
        "options": options_digest(config.options),
        "format": config.file_format,
        "require_face": config.require_face,
        "copied": sorted(config.copied),
        "image_columns": sorted(config.image_columns),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _piece_folder(source: SourceFile) -> str:
    """Return the folder of a shard's finished pieces, below the output folder."""
    digest = hashlib.sha256(f"{source.stamp} {source.name}".encode(errors="surrogateescape")).hexdigest()
    return f"{WORK}/pieces/{digest[:32]}"


def _key(source: SourceFile) -> bytes:
    return os.fsencode(source.name)
