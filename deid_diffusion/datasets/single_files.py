"""Tasks that are one file: a photo, and a label file."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .. import images
from ..errors import DeidError, ImageError
from ..files import synced
from .kinds import holds_picture
from .labels import fresh_state
from .tasks import Done, FileRecord, Task, left_out
from .workshop import Workshop

_PIECE = 2**20  # bytes copied at once


def passing_name(task: Task) -> Path:
    """A name in the task's scratch folder that nobody else has."""
    return task.scratch / secrets.token_hex(16)


def photo(task: Task, workshop: Workshop) -> Done:
    """De-identify a photo. Raises DeidError, OSError."""
    read = partial(read_named, task.found.path, task.found.name)
    data, outcome = workshop.make(read, task.found.name, task.output, task.output)
    if data is None:
        return Done(task, outcomes=(outcome,))
    made = passing_name(task)
    with synced(made) as stream:
        stream.write(data)
    return Done(task, made, (outcome,))


def read_named(path: Path, name: str) -> bytes:
    """A file's bytes. Raises ImageError that calls it by its name, without folders of this machine."""
    try:
        return images.file_bytes(path)
    except ImageError as error:
        raise ImageError(str(error).replace(str(path), name)) from error


def label(task: Task, workshop: Workshop) -> Done:
    """Copy a label file; one that may hold an encoded picture is left out. Raises OSError."""
    path, name = task.found.path, task.found.name
    suffix = path.suffix.lower()
    try:
        if suffix not in workshop.recipe.copied and holds_picture(_pieces(path)):
            raise DeidError(encoded(name, suffix))
        before, after = hashlib.sha256(), hashlib.sha256()
        made = passing_name(task)
        with synced(made) as stream:
            for piece in _pieces(path):
                before.update(piece)
                piece = fresh_state(path.name, piece)
                after.update(piece)
                stream.write(piece)
    except (DeidError, FileNotFoundError) as error:
        return left_out(task, str(error).replace(str(path), name))
    return Done(task, made, copied=FileRecord(name, task.output, before.hexdigest(), after.hexdigest()))


def encoded(name: str, suffix: str) -> str:
    """Why a label is left out."""
    return f"{name}: holds encoded data that may be a picture: left out; if it is none, --copy {suffix}"


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece
