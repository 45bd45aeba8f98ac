"""The file behind `pseudonyms`: a SQLite database that is ours, undamaged, and closed to other users."""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DeidError, one_line
from ..files import publish_new, refusal
from .keys import check_private

PATIENCE_S = 30.0
"""How long to wait for another process that has a store locked."""

_APPLICATION = int.from_bytes(b"deid", "big")  # SQLite's mark of whose file it is
_FORMAT = 2  # 1 had no donors
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_FORMAT};
CREATE TABLE about (fingerprint TEXT NOT NULL, recogniser TEXT NOT NULL, dimension INTEGER NOT NULL,
                    threshold REAL NOT NULL, salt BLOB NOT NULL);
CREATE TABLE people (cluster BLOB PRIMARY KEY, faces INTEGER NOT NULL, centre BLOB NOT NULL,
                     donors BLOB NOT NULL DEFAULT x'') WITHOUT ROWID;
"""  # without row numbers nothing tells in which order people came
_DAMAGED = "is damaged: restore a copy, or name another store, in which everybody gets a new pseudonym"
_FOREIGN = "is not a store of people: choose another name"
_REASONS = {  # by SQLite's messages: its error codes are in Python from 3.11 on
    "locked": "another process keeps the store locked: wait until it is done, and run the command again",
    "not a database": _FOREIGN,
    "unable to open": "cannot be opened: check that it exists, and that its folder may be written to",
    "readonly": "writing there is not allowed: change the permissions of the store and its folder",
    "full": "the disk is full: free some space and run the command again",
}


class About(NamedTuple):
    """What a store says of itself.

    Attributes:
        fingerprint: of the key that it belongs to.
        recogniser: name of the recogniser whose embeddings it holds.
        dimension: D, of an embedding.
        threshold: cosine from which on two faces count as one person, as the store was made.
        salt: random bytes that, with the key, give the store its rotation.
    """

    fingerprint: str
    recogniser: str
    dimension: int
    threshold: float
    salt: bytes


class Row(NamedTuple):
    """One person.

    Attributes:
        cluster: 16 random bytes that stand for the person.
        faces: how many faces make the centre, 1 or more.
        centre: D little-endian float32, of length 1, rotated.
        donors: who stands in the person's place, enciphered; empty until that was chosen.
    """

    cluster: bytes
    faces: int
    centre: bytes
    donors: bytes = b""


def create(path: Path, about: About) -> None:
    """Make an empty store, whole from its first moment on and with mode 0600, unless there is a file of that name.

    Raises DeidError if the system refuses.
    """
    temporary = path.with_name(f".deid-{secrets.token_hex(8)}.tmp")
    try:
        if path.exists():
            return
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            with _connection(temporary) as connection:
                connection.executescript(f"BEGIN; {_SCHEMA}")
                connection.execute("INSERT INTO about VALUES (?, ?, ?, ?, ?)", about)
                connection.execute("COMMIT")
            with suppress(FileExistsError):  # another process was faster: its store is as good as ours
                publish_new(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DeidError(refusal(path, error)) from error


def inspect(path: Path) -> None:
    """Refuse, without touching it, a file that is no store, of a newer format, or open to others; upgrade an older one.

    Raises DeidError.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise DeidError(f"{path}: no such store: check the name") from error
    except OSError as error:
        raise DeidError(refusal(path, error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise DeidError(f"{path}: is {'a folder' if path.is_dir() else 'no plain file'}: name the file of the store")
    check_private(path, status)
    with _connection(path, "mode=ro&immutable=1") as connection:  # not even a lock on a file that may be another's
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise DeidError(f"{path}: {_FOREIGN}")
    if version == 1:
        with _connection(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone() == (1,):  # no other process was faster
                connection.execute("ALTER TABLE people ADD COLUMN donors BLOB NOT NULL DEFAULT x''")
                connection.execute(f"PRAGMA user_version = {_FORMAT}")
            connection.execute("COMMIT")
    elif version != _FORMAT:
        raise DeidError(f"{path}: was made by a newer deid-diffusion (format {version}): install that version")


@contextmanager
def transaction(path: Path, *, write: bool) -> Iterator[tuple[sqlite3.Connection, About]]:
    """A connection in which all or nothing happens, and what the store says of itself.

    Args:
        path: a store that `inspect` found well.
        write: keep other writers out from the beginning, so that what is read is still true when it is changed.

    Raises:
        DeidError: the store is damaged, gone, locked for over `PATIENCE_S`, or cannot be written; nothing is changed.
    """
    with _connection(path) as connection:
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        row = connection.execute("SELECT fingerprint, recogniser, dimension, threshold, salt FROM about").fetchone()
        try:
            fingerprint, recogniser, dimension, threshold, salt = row
            about = About(str(fingerprint), str(recogniser), int(dimension), float(threshold), bytes(salt))
        except (TypeError, ValueError) as error:
            raise DeidError(f"{path}: {_DAMAGED}") from error
        yield connection, about
        connection.execute("COMMIT")


def read(connection: sqlite3.Connection, path: Path, dimension: int) -> tuple[list[Row], np.ndarray]:
    """Everybody: N rows, and (N, D) float32 of their centres, of length 1. Raises DeidError for impossible values."""
    rows = [Row(*row) for row in connection.execute("SELECT cluster, faces, centre, donors FROM people")]
    try:
        centres = np.frombuffer(b"".join(row.centre for row in rows), "<f4").reshape(len(rows), dimension)
        fine = all(len(row.cluster) == 16 and row.faces >= 1 for row in rows)
    except (TypeError, ValueError) as error:
        raise DeidError(f"{path}: {_DAMAGED}") from error
    if not fine or not (abs(np.linalg.norm(centres, axis=1) - 1) < 1e-3).all():
        raise DeidError(f"{path}: {_DAMAGED}")
    return rows, centres


def insert(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Add people."""
    connection.executemany("INSERT INTO people VALUES (?, ?, ?, ?)", rows)


def compact(path: Path) -> None:
    """Write the file anew, without anything of deleted rows. Raises DeidError; the rows stay deleted in any case."""
    try:
        with _connection(path) as connection:
            connection.execute("VACUUM")
    except DeidError as error:
        raise DeidError(
            f"{error} (the change is made, but unused parts of the file were not cleared: run sqlite3 {path} VACUUM)"
        ) from error


@contextmanager
def _connection(path: Path, how: str = "mode=rw") -> Iterator[sqlite3.Connection]:
    """A connection of its own for each use: none crosses a fork, a thread or a pickle. Raises DeidError."""
    try:
        address = f"{path.absolute().as_uri()}?{how}"  # `how` keeps SQLite from creating a file
        with closing(sqlite3.connect(address, uri=True, timeout=PATIENCE_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete = ON")  # zeros over what is deleted
            connection.execute("PRAGMA temp_store = MEMORY")  # VACUUM's copy does not go to a temporary file
            yield connection
    except sqlite3.Error as error:
        known = (reason for part, reason in _REASONS.items() if part in str(error))
        raise DeidError(f"{path}: {next(known, f'{_DAMAGED} ({one_line(error)})')}") from error
