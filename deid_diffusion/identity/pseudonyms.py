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
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import DeidError, UsageError
from . import people_store
from .keys import Key
from .people_store import About, Row


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
        people_store.create(self.store, About(key.fingerprint, recogniser, dimension, threshold, salt))
        people_store.inspect(self.store)
        with self._transaction(write=False):
            pass

    @classmethod
    def open(cls, key: Key, store: str | Path) -> Pseudonyms:
        """A store that exists, with the recogniser, dimension and threshold that it was made with. Raises DeidError."""
        path = Path(store)
        people_store.inspect(path)
        with people_store.transaction(path, write=False) as (_, about):
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
            rows, centres = people_store.read(connection, self.store, self.dimension)
            cosines = centres @ turned.astype(np.float32)
            nearest = int(cosines.argmax()) if rows else -1
            new = not rows or bool(cosines[nearest] < self.threshold)
            if new:
                row = Row(secrets.token_bytes(16), 1, _blob(turned))
                people_store.insert(connection, [row])
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
            rows, _ = people_store.read(connection, self.store, self.dimension)
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
            rows, centres = people_store.read(connection, self.store, self.dimension)
            vectors = centres.astype(np.float64) @ rotation.T @ new_rotation
            connection.execute("DELETE FROM people")
            fresh = [Row(secrets.token_bytes(16), row.faces, _blob(v)) for row, v in zip(rows, vectors, strict=True)]
            people_store.insert(connection, fresh)
            connection.execute("UPDATE about SET fingerprint = ?, salt = ?", (new_key.fingerprint, salt))
        self.key = new_key
        people_store.compact(self.store)
        return len(rows)

    def forget(self, *ids: str) -> int:
        """Delete people by their pseudonyms, and overwrite what the file held of them.

        Returns:
            Number of people deleted.

        Raises:
            DeidError: somebody is not in the store, or it cannot be changed; then nobody was deleted.
        """
        with self._transaction(write=True) as (connection, _):
            rows, _ = people_store.read(connection, self.store, self.dimension)
            known = {_pseudonym(self.key, row.cluster): row.cluster for row in rows}
            if unknown := sorted(set(ids) - known.keys()):
                raise DeidError(f"{self.store}: nobody in it is called {', '.join(unknown)}: nobody was forgotten")
            connection.executemany("DELETE FROM people WHERE cluster = ?", [(known[one],) for one in set(ids)])
        people_store.compact(self.store)
        return len(set(ids))

    def forget_all(self) -> int:
        """Delete everybody; the store stays, empty. Returns the number of people; raises DeidError like `forget`."""
        with self._transaction(write=True) as (connection, _):
            number = connection.execute("DELETE FROM people").rowcount
        people_store.compact(self.store)
        return number

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[tuple[sqlite3.Connection, np.ndarray]]:
        """A transaction and the store's rotation (D, D), if the store is, or still is, the one that was asked for."""
        with people_store.transaction(self.store, write=write) as (connection, about):
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
