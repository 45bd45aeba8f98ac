"""One person, one pseudonym, for whoever holds the key: pseudonymisation (GDPR Art. 4(5)), never anonymisation.

Faces are told apart by a recogniser's embeddings. A store, a SQLite file beside the key, remembers one centre for each
person, so that the same person gets the same pseudonym in the next photo, run and process. What stands in the store:

- Embeddings only after a rotation (a random orthogonal matrix) that follows from the key and the store's own salt.
  Without the key they cannot be compared with photos, with other systems or with another store of the same key.
- Neither pseudonyms nor seeds: both are HMACs of a random number of the person, so they take the key as well.
- Which synthetic people a person's new face is mixed from, enciphered with the key.

What this does not protect from: a rotation keeps every angle, so the store without its key still shows how many people
there are, how often each was seen and who resembles whom. Who knows the embeddings of about as many of them as there
are dimensions can solve for the rotation, and with many people it may be found from their distribution alone. So the
store is a secret as the key is (mode 0600), and with the key it is biometric data (GDPR Art. 9). Deleting overwrites
the bytes in the file; backups, snapshots and flash memory keep what they kept.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DeidError, UsageError, one_line
from ..io.files import publish_new, refusal
from .keys import Key, check_private

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


@dataclass(frozen=True)
class Person:
    """Somebody in the store.

    Attributes:
        id: the pseudonym, 16 hex digits; another key, or another store, gives another one.
        new: whether this face was the person's first.
        donors: who stands in the person's place, as `Pseudonyms.remember` was told; empty where nobody was chosen yet.
    """

    id: str
    new: bool
    _key: Key = field(repr=False)
    _cluster: bytes = field(repr=False)
    donors: bytes = field(default=b"", repr=False)

    def seed(self, attempt: int = 0) -> int:
        """Seed of the person's new face, 0 to 2**63 - 1, the same each time; one for each attempt from 0 on."""
        if not 0 <= attempt < 2**63:
            raise ValueError(f"attempt: expected 0 or more, got {attempt}")
        digest = self._key.derive("seed", self._cluster, attempt.to_bytes(8, "big"))
        return int.from_bytes(digest[:8], "big") >> 1


class Pseudonyms:
    """The people of one store. Several processes and threads may use a store at once.

    A face joins the person whose centre is nearest if their cosine reaches the threshold, and is somebody new
    otherwise. So what a person is depends on the order of the faces, two people are never merged later on, and the
    recogniser's false matches give strangers one pseudonym.

    Attributes:
        key: of the store.
        store: its file.
        recogniser: name of the recogniser whose embeddings it holds.
        dimension: D, of an embedding.
        threshold: cosine from which on two faces count as one person.
    """

    def __init__(self, key: Key, store: str | Path, *, recogniser: str, dimension: int, threshold: float) -> None:
        """Open the store; a file that does not exist is created with mode 0600.

        Args:
            key: must be the one that the store was made with, or last rotated to.
            store: the file; its folder must exist.
            recogniser: name of the recogniser, which must be the one that the store was made with.
            dimension: D, 2 to 2048; likewise.
            threshold: over -1, up to 1; another one than before holds for the faces to come.

        Raises:
            UsageError: a dimension or threshold out of range.
            DeidError: another key, recogniser or dimension; a file that is damaged, no store, of a newer version or
                open to other users; a place that cannot be read or written; a lock held for over
                `people_store.PATIENCE_S`. No such file is changed.
        """
        if not 2 <= dimension <= 2048 or not -1 < threshold <= 1:
            raise UsageError(f"dimension {dimension}, threshold {threshold}: expected 2 to 2048, and over -1 up to 1")
        self.key, self.store, self.recogniser = key, Path(store), recogniser
        self.dimension, self.threshold = dimension, threshold
        salt = secrets.token_bytes(16)
        create(self.store, About(key.fingerprint, recogniser, dimension, threshold, salt))
        inspect(self.store)
        with self._transaction(write=False):
            pass

    @classmethod
    def open(cls, key: Key, store: str | Path) -> Pseudonyms:
        """A store that exists, with the recogniser, dimension and threshold that it was made with. Raises DeidError."""
        path = Path(store)
        inspect(path)
        with transaction(path, write=False) as (_, about):
            pass
        return cls(key, path, recogniser=about.recogniser, dimension=about.dimension, threshold=about.threshold)

    def person(self, embedding: np.ndarray) -> Person:
        """Whose face this is; it is remembered, and the person's centre moves to the mean of the faces so far.

        Args:
            embedding: (D,) floats of length 1, as the store's recogniser gives them.

        Raises:
            ValueError: for anything else.
            DeidError: the store cannot be used any more (see `Pseudonyms`); it then does not know the face.
        """
        vector = np.asarray(embedding, np.float64)
        if vector.shape != (self.dimension,) or not abs(np.linalg.norm(vector) - 1) < 1e-3:
            raise ValueError(f"embedding: expected ({self.dimension},) floats of length 1, got shape {vector.shape}")
        with self._transaction(write=True) as (connection, rotation):
            turned = vector @ rotation
            rows, centres = read(connection, self.store, self.dimension)
            cosines = centres @ turned.astype(np.float32)
            nearest = int(cosines.argmax()) if rows else -1
            new = not rows or bool(cosines[nearest] < self.threshold)
            if new:
                row = Row(secrets.token_bytes(16), 1, _blob(turned))
                insert(connection, [row])
            else:
                row = rows[nearest]
                centre = _blob(row.faces * centres[nearest].astype(np.float64) + turned)
                change = "UPDATE people SET faces = ?, centre = ? WHERE cluster = ?"
                connection.execute(change, (row.faces + 1, centre, row.cluster))
        donors = _enciphered(self.key, row.cluster, row.donors)
        return Person(_pseudonym(self.key, row.cluster), new, self.key, row.cluster, donors)

    def remember(self, person: Person, donors: bytes) -> bytes:
        """Keep who stands in a person's place, unless that was chosen before.

        Args:
            person: of this store.
            donors: any bytes, 32 at most.

        Returns:
            What is kept: the first that was given, by whatever process. Empty if the person was forgotten meanwhile.

        Raises:
            DeidError: the store cannot be used any more.
        """
        with self._transaction(write=True) as (connection, _):
            change = "UPDATE people SET donors = ? WHERE cluster = ? AND donors = x''"
            connection.execute(change, (_enciphered(self.key, person._cluster, donors), person._cluster))
            found = connection.execute("SELECT donors FROM people WHERE cluster = ?", (person._cluster,)).fetchone()
        return _enciphered(self.key, person._cluster, bytes(found[0]) if found else b"")

    def people(self) -> list[tuple[str, int]]:
        """Pseudonym and number of faces of everybody, in the order of the pseudonyms. Raises DeidError."""
        with self._transaction(write=False) as (connection, _):
            rows, _ = read(connection, self.store, self.dimension)
        return sorted((_pseudonym(self.key, row.cluster), row.faces) for row in rows)

    def rotate(self, new_key: Key) -> int:
        """Give everybody a new pseudonym, of another key, which the store belongs to from then on.

        People are still recognised. Nothing in the store leads from the new pseudonyms to the old ones; who kept a copy
        of the old store can match the two by the numbers of faces and by the angles between people, so delete it.

        Returns:
            Number of people.

        Raises:
            UsageError: the new key is the old one.
            DeidError: the store cannot be changed; then all of it is as before.
        """
        if new_key.fingerprint == self.key.fingerprint:
            raise UsageError(f"{self.store}: belongs to that very key already: make another one")
        salt = secrets.token_bytes(16)
        new_rotation = _rotation(new_key, salt, self.dimension)
        with self._transaction(write=True) as (connection, rotation):
            rows, centres = read(connection, self.store, self.dimension)
            vectors = centres.astype(np.float64) @ rotation.T @ new_rotation
            connection.execute("DELETE FROM people")
            fresh = [Row(secrets.token_bytes(16), row.faces, _blob(v)) for row, v in zip(rows, vectors, strict=True)]
            insert(connection, fresh)
            connection.execute("UPDATE about SET fingerprint = ?, salt = ?", (new_key.fingerprint, salt))
        self.key = new_key
        compact(self.store)
        return len(rows)

    def forget(self, *ids: str) -> int:
        """Delete people by their pseudonyms, and overwrite what the file held of them.

        Returns:
            Number of people deleted.

        Raises:
            DeidError: somebody is not in the store, or it cannot be changed; then nobody was deleted.
        """
        with self._transaction(write=True) as (connection, _):
            rows, _ = read(connection, self.store, self.dimension)
            known = {_pseudonym(self.key, row.cluster): row.cluster for row in rows}
            if unknown := sorted(set(ids) - known.keys()):
                raise DeidError(f"{self.store}: nobody in it is called {', '.join(unknown)}: nobody was forgotten")
            connection.executemany("DELETE FROM people WHERE cluster = ?", [(known[one],) for one in set(ids)])
        compact(self.store)
        return len(set(ids))

    def forget_all(self) -> int:
        """Delete everybody; the store stays, empty. Returns the number of people; raises DeidError like `forget`."""
        with self._transaction(write=True) as (connection, _):
            number = connection.execute("DELETE FROM people").rowcount
        compact(self.store)
        return number

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[tuple[sqlite3.Connection, np.ndarray]]:
        """A transaction and the store's rotation (D, D), if the store is, or still is, the one that was asked for."""
        with transaction(self.store, write=write) as (connection, about):
            if about.fingerprint != self.key.fingerprint:
                raise DeidError(
                    f"{self.store}: belongs to the key {about.fingerprint}, and this one is {self.key.fingerprint}: "
                    "use the right key file, or another store"
                )
            if (about.recogniser, about.dimension) != (self.recogniser, self.dimension):
                raise DeidError(
                    f"{self.store}: holds faces as {about.recogniser} sees them ({about.dimension} numbers), and this "
                    f"recogniser is {self.recogniser} ({self.dimension}): use that one, or another store"
                )
            yield connection, _rotation(self.key, about.salt, self.dimension)


def default_store(key_file: str | Path) -> Path:
    """Where a key's store lies unless said otherwise: beside the key file, by its whole name."""
    path = Path(key_file)
    return path.with_name(f"{path.name}.people.sqlite")


def _pseudonym(key: Key, cluster: bytes) -> str:
    """16 hex digits."""
    return key.derive("person", cluster).hex()[:16]


def _enciphered(key: Key, cluster: bytes, data: bytes) -> bytes:
    """XOR up to 32 bytes with a stream that only the key's holder knows; its own inverse."""
    return bytes(a ^ b for a, b in zip(data, key.derive("donors", cluster), strict=False))


def _blob(vector: np.ndarray) -> bytes:
    """(D,) numbers, made to have length 1, as D little-endian float32."""
    return (vector / np.linalg.norm(vector)).astype("<f4").tobytes()


@lru_cache(maxsize=4)
def _rotation(key: Key, salt: bytes, dimension: int) -> np.ndarray:
    """(D, D) float64, orthogonal: uniform among all such matrices for whoever lacks the key.

    QR of Gaussians, with the signs of R's diagonal moved into Q (Mezzadri, "How to generate random matrices from the
    classical compact groups", 2007). The Gaussians come from SHAKE-256 by Box and Muller's formula and not from numpy's
    generators, whose streams may change with its version (NEP 19): a store has to be readable by all of them.
    """
    stream = hashlib.shake_256(key.derive("rotation", salt)).digest(16 * dimension**2)
    uniform = ((np.frombuffer(stream, "<u8") >> np.uint64(11)) + 1.0) * 2.0**-53  # over 0, up to 1
    radius, turn = uniform.reshape(2, dimension, dimension)
    q, r = np.linalg.qr(np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * turn))
    rotation = q * np.sign(np.diag(r))
    rotation.setflags(write=False)  # it is shared
    return rotation
