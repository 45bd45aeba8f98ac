"""The manifest: a line of JSON for each picture, label file and shard, with the SHA-256 of what came and what went."""

from __future__ import annotations

import secrets
from pathlib import Path

from ..errors import UsageError
from ..files import publish, refused, synced
from .journal import Journal


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
