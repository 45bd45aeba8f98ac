"""Pseudonym stores of a test key, embeddings for them, and raw access to their rows."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from deid_diffusion.identity.keys import Key
from deid_diffusion.identity.pseudonyms import Pseudonyms

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
D = 64


def open_store(store: Path, key: Key = KEY, **options: object) -> Pseudonyms:
    return Pseudonyms(key, store, **{"recogniser": "test", "dimension": D, "threshold": 0.8, **options})


def execute(store: Path, statement: str, *values: object) -> list[tuple]:
    with closing(sqlite3.connect(store)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def records(store: Path) -> dict[str, tuple[bytes, bytes]]:
    """Return pseudonym -> (row ID, encrypted row)."""
    rows = execute(store, "SELECT id, data FROM people")
    return {KEY.derive("person", row[0]).hex()[:16]: row for row in rows}


def strangers(number: int) -> np.ndarray:
    """Return (N, D) float32 of length 1, with cosines near 0."""
    vectors = np.random.default_rng(0).normal(size=(number, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def variant(vector: np.ndarray, seed: int) -> np.ndarray:
    """Return another photo of the same person: cosine 0.95."""
    noise = np.random.default_rng(1000 + seed).normal(size=D)
    noise -= (noise @ vector) * vector
    return (0.95 * vector + np.sqrt(1 - 0.95**2) * noise / np.linalg.norm(noise)).astype(np.float32)


FACE = strangers(1)[0]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
