"""Pseudonym store: one pseudonym per person, for the holder of a key (GDPR Art. 4(5)).

Faces are matched by a recogniser's embeddings. The store, a SQLite file beside the key, has one row per person: the
number of faces, their mean embedding, and the synthetic people that the person's new face is mixed from. So the same
person gets the same pseudonym in the next photo, run and process.

- Rows are encrypted with AES-256-GCM, by a key derived from the secret key, the store's random salt and its recogniser.
  Salt and row ID are authenticated, so a row cannot be moved to another ID or store.
- Pseudonyms and seeds are not stored: both are HMACs of the row ID, so they need the key as well.

Without the key the file shows the key's fingerprint, the recogniser and the number of people, and nothing about any of
them; two copies of a store show which rows changed in between. With the key it is biometric data (GDPR Art. 9).
Encryption does not protect a writable file from deleted or outdated rows. Deleting overwrites the bytes in the file;
backups, snapshots and flash memory may still hold them.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import DeidError, UsageError, one_line
from ..io.files import publish_new, write_error
from .keys import Key, check_private
from .legacy_store import read_legacy_rows

LOCK_TIMEOUT_S = 30.0
"""How long to wait for a store that another process has locked, in seconds."""

MAX_DONORS_BYTES = 32
"""Capacity of a row for donors; the space is always used, so that the length of a row tells nothing."""

_APPLICATION_ID = int.from_bytes(b"deid", "big")  # SQLite's file type mark
_FORMAT = 3  # 1 and 2: see legacy_store
_PEOPLE_TABLE = "CREATE TABLE people (id BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID"  # rowids tell the order
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_FORMAT};
CREATE TABLE about (fingerprint TEXT NOT NULL, recogniser TEXT NOT NULL, dimension INTEGER NOT NULL,
                    threshold REAL NOT NULL, salt BLOB NOT NULL);
{_PEOPLE_TABLE};
"""
_DAMAGED = "is damaged: restore a backup, or use a new store, in which everybody gets a new pseudonym"
_FOREIGN = "is not a store of people: choose another file"
_REASONS = {  # by SQLite's messages: Python has its error codes from 3.11 on
    "locked": "is locked by another process: wait until it has finished, then run the command again",
    "not a database": _FOREIGN,
    "unable to open": "cannot be opened: check that it exists and that its folder is writable",
    "readonly": "writing there is not allowed: change the permissions of the store and its folder",
    "full": "the disk is full: free some space and run the command again",
}


class StoreHeader(NamedTuple):
    """Unencrypted properties of a store.

    Attributes:
        fingerprint: of the key that it belongs to.
        recogniser: name of the recogniser whose embeddings it holds.
        dimension: D, of an embedding.
        threshold: cosine at which two faces count as one person, as the store was created.
        salt: 16 random bytes that identify the store.
        version: of the file format.
    """

    fingerprint: str
    recogniser: str
    dimension: int
    threshold: float
    salt: bytes
    version: int = _FORMAT


class PersonRow(NamedTuple):
    """A decrypted row: one person.

    Attributes:
        id: 16 random bytes.
        faces: number of faces in the mean, at least 1.
        centre: mean embedding, D little-endian float32, of length 1.
        donors: up to 32 bytes, see `Pseudonyms.remember`; empty until they were chosen.
    """

    id: bytes
    faces: int
    centre: bytes
    donors: bytes = b""


class StoreRows:
    """The rows of a store within one transaction, encrypted by `key`.

    A row is a random nonce, then the ciphertext of `_PAYLOAD` and the centre, then the tag. Random nonces of 96 bits
    are safe for 2**32 encryptions by one key (NIST SP 800-38D, section 8.3); each face of a store takes one.
    """

    _NONCE_BYTES = 12
    _PAYLOAD = struct.Struct(f"<QB{MAX_DONORS_BYTES}s")  # faces, length of donors, donors

    def __init__(self, connection: sqlite3.Connection, path: Path, key: Key, header: StoreHeader) -> None:
        self._connection, self._path, self._salt, self._dimension = connection, path, header.salt, header.dimension
        dimension = header.dimension.to_bytes(4, "big")
        self._cipher = AESGCM(key.derive("store rows", header.salt, header.recogniser.encode(), dimension))

    def read(self) -> tuple[list[PersonRow], np.ndarray]:
        """Return N rows, and (N, D) float32 of their centres. Raises DeidError for a row that fails authentication."""
        rows = [self._decrypt(*record) for record in self._connection.execute("SELECT id, data FROM people")]
        return rows, np.frombuffer(b"".join(row.centre for row in rows), "<f4").reshape(len(rows), self._dimension)

    def get(self, row_id: bytes) -> PersonRow | None:
        """Return one row, or None if there is none of this ID. Raises DeidError if it fails authentication."""
        record = self._connection.execute("SELECT id, data FROM people WHERE id = ?", (row_id,)).fetchone()
        return self._decrypt(*record) if record else None

    def ids(self) -> list[bytes]:
        """Return the IDs of all rows."""
        return [row_id for (row_id,) in self._connection.execute("SELECT CAST(id AS BLOB) FROM people")]

    def write(self, rows: Sequence[PersonRow]) -> None:
        """Insert rows, or replace those of the same ID."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO people VALUES (?, ?)", [(row.id, self._encrypt(row)) for row in rows]
        )

    def delete(self, ids: Iterable[bytes]) -> None:
        """Delete rows by their IDs."""
        self._connection.executemany("DELETE FROM people WHERE id = ?", [(row_id,) for row_id in ids])

    def _encrypt(self, row: PersonRow) -> bytes:
        nonce = secrets.token_bytes(self._NONCE_BYTES)
        payload = self._PAYLOAD.pack(row.faces, len(row.donors), row.donors) + row.centre
        return nonce + self._cipher.encrypt(nonce, payload, self._salt + row.id)

    def _decrypt(self, row_id: bytes, data: bytes) -> PersonRow:
        try:
            nonce, ciphertext = data[: self._NONCE_BYTES], data[self._NONCE_BYTES :]
            payload = self._cipher.decrypt(nonce, ciphertext, self._salt + row_id)
            faces, length, donors = self._PAYLOAD.unpack_from(payload)
        except (InvalidTag, TypeError, ValueError) as error:
            raise DeidError(f"{self._path}: {_DAMAGED}") from error
        return PersonRow(row_id, faces, payload[self._PAYLOAD.size :], donors[:length])


def create(path: Path, header: StoreHeader) -> None:
    """Create an empty store atomically, with mode 0600, unless there is a file of that name.

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
                connection.execute("INSERT INTO about VALUES (?, ?, ?, ?, ?)", header[:5])
                connection.execute("COMMIT")
            with suppress(FileExistsError):  # another process was faster: its store is as good
                publish_new(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DeidError(write_error(path, error)) from error


def check_file(path: Path) -> None:
    """Raise DeidError for a file that is no store, of a newer format, or open to others; it is not even locked."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise DeidError(f"{path}: no such store: check the name") from error
    except OSError as error:
        raise DeidError(write_error(path, error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise DeidError(f"{path}: is {'a folder' if path.is_dir() else 'not a regular file'}: name the store's file")
    check_private(path, status)
    with _connection(path, "mode=ro&immutable=1") as connection:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != _APPLICATION_ID:
        raise DeidError(f"{path}: {_FOREIGN}")
    if not 1 <= version <= _FORMAT:
        raise DeidError(f"{path}: was written by a newer deid-diffusion (format {version}): install that version")


@contextmanager
def transaction(path: Path, *, write: bool) -> Iterator[tuple[sqlite3.Connection, StoreHeader]]:
    """Open a transaction, which is committed at the end and rolled back by an exception.

    Args:
        path: a store that passed `check_file`.
        write: exclude other writers from the beginning, so that the data read cannot change before it is written.

    Yields:
        The connection, and the store's header.

    Raises:
        DeidError: the store is damaged, missing, locked for over `LOCK_TIMEOUT_S`, or cannot be written; nothing is
            changed.
    """
    with _connection(path) as connection:
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        record = connection.execute("SELECT fingerprint, recogniser, dimension, threshold, salt FROM about").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        try:
            fingerprint, recogniser, dimension, threshold, salt = record
            header = StoreHeader(
                str(fingerprint), str(recogniser), int(dimension), float(threshold), bytes(salt), version
            )
        except (TypeError, ValueError) as error:
            raise DeidError(f"{path}: {_DAMAGED}") from error
        yield connection, header
        connection.execute("COMMIT")


def compact(path: Path) -> None:
    """Rewrite the file without unused pages. Raises DeidError; deleted rows stay deleted in any case."""
    try:
        with _connection(path) as connection:
            connection.execute("VACUUM")
    except DeidError as error:
        raise DeidError(
            f"{error} (the change is saved, but unused parts of the file were not cleared: run sqlite3 {path} VACUUM)"
        ) from error


@contextmanager
def _connection(path: Path, parameters: str = "mode=rw") -> Iterator[sqlite3.Connection]:
    """Open a connection for one use: none crosses a fork, a thread or a pickle. Raises DeidError."""
    try:
        address = f"{path.absolute().as_uri()}?{parameters}"  # neither mode creates a file
        with closing(sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete = ON")  # deleted content is overwritten with zeros
            connection.execute("PRAGMA temp_store = MEMORY")  # VACUUM's copy does not go to a temporary file
            yield connection
    except sqlite3.Error as error:
        reasons = (reason for part, reason in _REASONS.items() if part in str(error))
        raise DeidError(f"{path}: {next(reasons, f'{_DAMAGED} ({one_line(error)})')}") from error


@dataclass(frozen=True)
class Person:
    """A person in a store.

    Attributes:
        id: the pseudonym, 16 hex digits; it differs between keys and between stores.
        new: whether this face was the person's first.
        donors: as passed to `Pseudonyms.remember`; empty until they were chosen.
    """

    id: str
    new: bool
    _key: Key = field(repr=False)
    _row_id: bytes = field(repr=False)
    donors: bytes = field(default=b"", repr=False)

    def seed(self, attempt: int = 0) -> int:
        """Return the seed of the person's new face, 0 to 2**63 - 1, always the same for an attempt (0 or more)."""
        if not 0 <= attempt < 2**63:
            raise ValueError(f"attempt: expected 0 or more, got {attempt}")
        digest = self._key.derive("seed", self._row_id, attempt.to_bytes(8, "big"))
        return int.from_bytes(digest[:8], "big") >> 1


class Pseudonyms:
    """The people of one store, which several processes and threads may use at once.

    A face joins the person with the nearest centre if their cosine reaches the threshold; otherwise it starts a new
    person. So clusters depend on the order of the faces, two people are never merged later on, and a false match of
    the recogniser gives two people one pseudonym.

    Attributes:
        key: of the store.
        store: path of its file.
        recogniser: name of the recogniser whose embeddings it holds.
        dimension: D, of an embedding.
        threshold: cosine at which two faces count as one person.
    """

    def __init__(self, key: Key, store: str | Path, *, recogniser: str, dimension: int, threshold: float) -> None:
        """Open the store, or create it with mode 0600. A store of an older format is migrated.

        Args:
            key: the one that the store was created with, or last rotated to.
            store: the file; its folder must exist.
            recogniser: name of the recogniser, the one that the store was created with.
            dimension: D, 2 to 2048, the one that the store was created with.
            threshold: over -1, up to 1; it may differ from the stored one and then applies to new faces.

        Raises:
            UsageError: a dimension or threshold out of range.
            DeidError: another key, recogniser or dimension; a file that is damaged, no store, of a newer version or
                open to other users; a place that cannot be read or written; a lock held for over `LOCK_TIMEOUT_S`. No
                such file is changed.
        """
        if not 2 <= dimension <= 2048 or not -1 < threshold <= 1:
            raise UsageError(f"dimension {dimension}, threshold {threshold}: expected 2 to 2048, and over -1 up to 1")
        self.key, self.store, self.recogniser = key, Path(store), recogniser
        self.dimension, self.threshold = dimension, threshold
        salt = secrets.token_bytes(16)
        create(self.store, StoreHeader(key.fingerprint, recogniser, dimension, threshold, salt))
        check_file(self.store)
        with transaction(self.store, write=False) as (_, header):
            self._check(header)
        if header.version != _FORMAT:
            self._migrate()

    @classmethod
    def open(cls, key: Key, store: str | Path) -> Pseudonyms:
        """Open an existing store with its own recogniser, dimension and threshold. Raises DeidError."""
        path = Path(store)
        check_file(path)
        with transaction(path, write=False) as (_, header):
            pass
        return cls(key, path, recogniser=header.recogniser, dimension=header.dimension, threshold=header.threshold)

    def person(self, embedding: np.ndarray) -> Person:
        """Identify a face, remember it, and move the person's centre to the mean of their faces.

        Args:
            embedding: (D,) floats of length 1, from the store's recogniser.

        Raises:
            ValueError: for anything else.
            DeidError: the store cannot be used any more (see `Pseudonyms`); the face is not remembered then.
        """
        vector = np.asarray(embedding, np.float64)
        if vector.shape != (self.dimension,) or not abs(np.linalg.norm(vector) - 1) < 1e-3:
            raise ValueError(f"embedding: expected ({self.dimension},) floats of length 1, got shape {vector.shape}")
        with self._rows(write=True) as rows:
            people, centres = rows.read()
            cosines = centres @ vector.astype(np.float32)
            nearest = int(cosines.argmax()) if people else -1
            new = not people or bool(cosines[nearest] < self.threshold)
            if new:
                row = PersonRow(secrets.token_bytes(16), 1, _centre_bytes(vector))
            else:
                row = people[nearest]
                centre = _centre_bytes(row.faces * centres[nearest].astype(np.float64) + vector)
                row = row._replace(faces=row.faces + 1, centre=centre)
            rows.write([row])
        return Person(_pseudonym(self.key, row.id), new, self.key, row.id, row.donors)

    def remember(self, person: Person, donors: bytes) -> bytes:
        """Store the donors of a person's new face, unless some were stored before.

        Args:
            person: of this store.
            donors: any bytes, at most `MAX_DONORS_BYTES`.

        Returns:
            The stored donors: the first ones given, by any process. Empty if the person was forgotten meanwhile.

        Raises:
            ValueError: too many bytes.
            DeidError: the store cannot be used any more.
        """
        if len(donors) > MAX_DONORS_BYTES:
            raise ValueError(f"donors: expected at most {MAX_DONORS_BYTES} bytes, got {len(donors)}")
        with self._rows(write=True) as rows:
            row = rows.get(person._row_id)
            if row is None or row.donors:
                return row.donors if row else b""
            rows.write([row._replace(donors=donors)])
        return donors

    def people(self) -> list[tuple[str, int]]:
        """Return pseudonym and number of faces of everybody, sorted by pseudonym. Raises DeidError."""
        with self._rows(write=False) as rows:
            people, _ = rows.read()
        return sorted((_pseudonym(self.key, row.id), row.faces) for row in people)

    def rotate(self, new_key: Key) -> int:
        """Give everybody a new pseudonym and new donors, and hand the store over to another key.

        People are still recognised. Nothing in the store leads from the new pseudonyms to the old ones; with a copy of
        the old store and both keys the two can be matched, so delete such copies.

        Returns:
            Number of people.

        Raises:
            UsageError: the new key is the old one.
            DeidError: the store cannot be changed; it is left as it was.
        """
        if new_key.fingerprint == self.key.fingerprint:
            raise UsageError(f"{self.store}: already belongs to this key: make a new one")
        with transaction(self.store, write=True) as (connection, header):
            self._check(header)
            rows = StoreRows(connection, self.store, self.key, header)
            people, _ = rows.read()
            rows.delete(row.id for row in people)
            salt = secrets.token_bytes(16)
            new_header = header._replace(fingerprint=new_key.fingerprint, salt=salt)
            StoreRows(connection, self.store, new_key, new_header).write(
                [PersonRow(secrets.token_bytes(16), row.faces, row.centre) for row in people]
            )
            connection.execute("UPDATE about SET fingerprint = ?, salt = ?", (new_key.fingerprint, salt))
        self.key = new_key
        compact(self.store)
        return len(people)

    def forget(self, *ids: str) -> int:
        """Delete people by their pseudonyms, and overwrite their data in the file.

        Returns:
            Number of people deleted.

        Raises:
            DeidError: a pseudonym is not in the store, or it cannot be changed; nobody is deleted then.
        """
        with self._rows(write=True) as rows:
            row_ids = {_pseudonym(self.key, row_id): row_id for row_id in rows.ids()}
            if unknown := sorted(set(ids) - row_ids.keys()):
                raise DeidError(f"{self.store}: unknown pseudonym {', '.join(unknown)}: nobody was deleted")
            rows.delete(row_ids[pseudonym] for pseudonym in set(ids))
        compact(self.store)
        return len(set(ids))

    def forget_all(self) -> int:
        """Delete everybody and return their number; the store stays, empty. Raises DeidError as `forget` does."""
        with self._rows(write=True) as rows:
            row_ids = rows.ids()
            rows.delete(row_ids)
        compact(self.store)
        return len(row_ids)

    @contextmanager
    def _rows(self, *, write: bool) -> Iterator[StoreRows]:
        """Open a transaction on the rows, after checking that the file is still the same store."""
        with transaction(self.store, write=write) as (connection, header):
            self._check(header)
            yield StoreRows(connection, self.store, self.key, header)

    def _check(self, header: StoreHeader) -> None:
        """Raise DeidError for a store of another key or recogniser."""
        if header.fingerprint != self.key.fingerprint:
            raise DeidError(
                f"{self.store}: belongs to the key {header.fingerprint}, not to {self.key.fingerprint}: use the right "
                "key file, or another store"
            )
        if (header.recogniser, header.dimension) != (self.recogniser, self.dimension):
            raise DeidError(
                f"{self.store}: holds embeddings of {header.recogniser} ({header.dimension} numbers), not of "
                f"{self.recogniser} ({self.dimension}): use that recogniser, or another store"
            )

    def _migrate(self) -> None:
        """Encrypt a store of an older format in one transaction; pseudonyms, seeds and donors stay the same."""
        with transaction(self.store, write=True) as (connection, header):
            self._check(header)
            if header.version != _FORMAT:  # else another process was faster
                version, salt, dimension = header.version, header.salt, header.dimension
                try:
                    people = read_legacy_rows(connection, self.key, version=version, salt=salt, dimension=dimension)
                except ValueError as error:
                    raise DeidError(f"{self.store}: {_DAMAGED}") from error
                connection.execute("DROP TABLE people")  # `secure_delete` clears its pages before they are reused
                connection.execute(_PEOPLE_TABLE)
                StoreRows(connection, self.store, self.key, header).write(
                    [PersonRow(row_id, faces, _centre_bytes(mean), donors) for row_id, faces, mean, donors in people]
                )
                connection.execute(f"PRAGMA user_version = {_FORMAT}")
        compact(self.store)


def default_store(key_file: str | Path) -> Path:
    """Return the default store of a key file: beside it, with ``.people.sqlite`` appended to its full name."""
    path = Path(key_file)
    return path.with_name(f"{path.name}.people.sqlite")


def _pseudonym(key: Key, row_id: bytes) -> str:
    """Return 16 hex digits."""
    return key.derive("person", row_id).hex()[:16]


def _centre_bytes(vector: np.ndarray) -> bytes:
    """Normalise (D,) numbers to length 1, and return them as little-endian float32."""
    return (vector / np.linalg.norm(vector)).astype("<f4").tobytes()
