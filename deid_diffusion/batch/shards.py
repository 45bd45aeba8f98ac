"""WebDataset shards: tar files in which members that share a key, their path up to the first dot, are one sample.

Members are read by `tarfile`: webdataset's reader skips names without a suffix and takes a truncated tar for a complete
one.
"""

from __future__ import annotations

import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from webdataset import TarWriter
from webdataset.tariterators import base_plus_ext

from ..errors import ImageError
from ..io.files import open_synced
from ..results import JobResult
from .tasks import (
    ImageWorker,
    JobConfig,
    Task,
    TaskResult,
    check_label,
    damaged_shard,
    kind_of,
    process_item,
    result_name,
)

_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)

#: Owners and modification times are left out; PAX takes names of any length.
_WRITER = {"encoder": False, "keep_meta": True, "mtime": 0.0, "user": "", "group": "", "format": "PAX_FORMAT"}


def count(path: Path, config: JobConfig) -> int:
    """Return the number of samples. Raises ImageError for a damaged shard."""
    return sum(1 for _ in _samples(path))


def process(task: Task, worker: ImageWorker) -> TaskResult:
    """Process a piece of a shard; its result is a tar. Raises DeidError, OSError."""
    temporary, outcomes = task.temporary(), list[JobResult]()
    numbers = range(task.first, task.first + task.count)
    with open_synced(temporary) as stream, TarWriter(stream, **_WRITER) as writer:
        for key, members in islice(_samples(task.source.path, numbers), numbers.start, numbers.stop):
            parts = [
                (f"{task.source.name}/{member}", partial(_process, member, data, task, worker))
                for member, data in members
            ]
            values, sample_outcomes = process_item(key, parts)
            outcomes += sample_outcomes
            if values is not None:
                writer.write({"__key__": key, **values})
    return TaskResult(task, temporary, tuple(outcomes))


def join(source: Path, pieces: Sequence[Path], target: Path) -> None:
    """Concatenate pieces into a tar, compressed like its source. Raises OSError."""
    mode: Any = "w" if source.name.lower().endswith(".tar") else "w:gz"
    with open_synced(target) as stream, tarfile.open(fileobj=stream, mode=mode) as joined:
        for path in pieces:
            with tarfile.open(path) as tar:
                for member in _members(tar):
                    joined.addfile(member, tar.extractfile(member))
                    joined.members.clear()  # type: ignore[attr-defined]


def _process(member: str, data: bytes, task: Task, worker: ImageWorker) -> tuple[str, bytes | None, JobResult | None]:
    """Return a member's new suffix, content and result. Raises ImageError for one that is left out."""
    name, copied = f"{task.source.name}/{member}", worker.config.copied
    kind = kind_of(posixpath.basename(member), copied) if _split(member)[1] else None
    if kind == "photo":
        target = result_name(member, worker.config.file_format)
        shown = f"{task.output}/{posixpath.normpath(target)}"
        image, outcome = worker.process(lambda: data, name, target, shown)
        return _split(target)[1], image, outcome
    suffix = posixpath.splitext(member)[1].lower()
    if kind != "label":
        raise ImageError(f"{name}: may be an image: left out; if it is none, add --copy {suffix}")
    check_label(data, name, suffix, copied)
    return _split(member)[1], data, None


def _samples(path: Path, numbers: range = range(0)) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Yield each sample's key, and its members' names and contents, which are empty outside `numbers`.

    Raises ImageError for a damaged shard.
    """
    with damaged_shard(path.name, *_DAMAGE), tarfile.open(path) as tar:
        for number, (key, members) in enumerate(groupby(_members(tar), lambda member: _split(member.name)[0])):
            yield key, [(member.name, _content(tar, member) if number in numbers else b"") for member in members]


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return b"" if stream is None else stream.read()


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files of a tar. Raises TarError also for a tar that is cut off between two members."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # memory would grow with each header
        if member.isfile():
            yield member
    stream: Any = tar.fileobj
    stream.seek(tar.offset)
    if any(end := stream.read(tarfile.BLOCKSIZE)) or not end:  # tarfile accepts both as the end
        raise tarfile.ReadError("no end-of-archive marker")


def _split(name: str) -> tuple[str, str]:
    """Return a member's key and suffix as webdataset splits them; a name that it skips is a key without suffix."""
    key, suffix = base_plus_ext(name)
    return (name, "") if key is None else (key, suffix)
