"""Reader of pseudonym stores of formats 1 and 2, for their migration.

Their embeddings were rotated by a secret matrix, and not encrypted.
"""

from __future__ import annotations

import hashlib
import sqlite3

import numpy as np

from .keys import Key


def read_legacy_rows(
    connection: sqlite3.Connection, key: Key, *, version: int, salt: bytes, dimension: int
) -> list[tuple[bytes, int, np.ndarray, bytes]]:
    """Read everybody in a store of format 1 or 2.

    Args:
        connection: to the store.
        key: the key that the store belongs to; any other one yields unrelated vectors.
        version: 1, which has no donors, or 2.
        salt: of the store.
        dimension: D, of an embedding.

    Returns:
        (ID, number of faces, (D,) float64 mean embedding of length 1, donors) of each person.

    Raises:
        ValueError: a row holds impossible values.
    """
    donors = "donors" if version > 1 else "x''"
    rows = connection.execute(f"SELECT cluster, faces, centre, {donors} FROM people").fetchall()
    try:
        rotated = np.frombuffer(b"".join(centre for _, _, centre, _ in rows), "<f4").reshape(len(rows), dimension)
        valid = all(len(row_id) == 16 and faces >= 1 for row_id, faces, _, _ in rows)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if not valid or not (abs(np.linalg.norm(rotated, axis=1) - 1) < 1e-3).all():
        raise ValueError("a row holds impossible values")
    centres = rotated.astype(np.float64) @ _rotation(key, salt, dimension).T
    return [
        (row_id, faces, centre, _decipher_donors(key, row_id, data))
        for (row_id, faces, _, data), centre in zip(rows, centres, strict=True)
    ]


def _decipher_donors(key: Key, row_id: bytes, data: bytes) -> bytes:
    """Decipher up to 32 bytes, which were combined with the row's key stream by XOR."""
    return bytes(a ^ b for a, b in zip(data, key.derive("donors", row_id), strict=False))


def _rotation(key: Key, salt: bytes, dimension: int) -> np.ndarray:
    """Return the (D, D) float64 orthogonal matrix by which a store's embeddings were multiplied from the right.

    QR of Gaussians, with the signs of R's diagonal moved into Q (Mezzadri, "How to generate random matrices from the
    classical compact groups", 2007). The Gaussians come from SHAKE-256 by the Box-Muller transform, because the streams
    of numpy's generators may change with its version (NEP 19).
    """
    stream = hashlib.shake_256(key.derive("rotation", salt)).digest(16 * dimension**2)
    uniform = ((np.frombuffer(stream, "<u8") >> np.uint64(11)) + 1.0) * 2.0**-53  # over 0, up to 1
    radius, turn = uniform.reshape(2, dimension, dimension)
    q, r = np.linalg.qr(np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * turn))
    return q * np.sign(np.diag(r))
