"""Tar shards as WebDataset knows them: files that share a key, the name up to its first dot, are one sample."""

from __future__ import annotations

import hashlib
import json
import lzma
import posixpath
import secrets
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeidError, ImageError, needed_for, one_line
from ..io import images
from ..io.files import synced
from ..results import ImageRecord, JobResult
from .tasks import FileRecord, ImageWorker, JobConfig, Task, TaskResult, holds_picture, kind_of, result_name, skip

if TYPE_CHECKING:
    pass

PIECE = 16
"""Samples or rows of a task, at most: what a kill costs a worker."""


@dataclass(frozen=True)
class ShardFormat:
    """How one kind of shard is dealt with.

    Attributes:
        count: number of items in a file; raises DeidError for one that is damaged or may not be processed.
        piece: does a task, whose made file holds the items' results in their order.
        join: writes the results of all pieces, in their order, as one file like a source; source, pieces, target.
    """

    count: Callable[[Path, JobConfig], int]
    piece: Callable[[Task, ImageWorker], TaskResult]
    join: Callable[[Path, Sequence[Path], Path], None]


def fail_whole_sample(outcomes: list[JobResult], name: str) -> list[JobResult]:
    """The outcomes of one item's pictures: if one was left out, the item is, and the others are not written either."""
    if all(one.report.status != "failed" for one in outcomes):
        return outcomes
    text = f"left out with another picture of {name}"
    return [
        one
        if one.report.status == "failed"
        else replace(one, report=replace(one.report, status="failed", output=None, output_sha256=None, error=text))
        for one in outcomes
    ]


@contextmanager
def damage_named(name: str, *kinds: type[Exception]) -> Iterator[None]:
    """Exceptions of these kinds mean that the shard is damaged. Raises ImageError instead of them."""
    try:
        yield
    except kinds as error:
        raise ImageError(f"{name}: is damaged ({one_line(error)}): left out; get a complete copy") from error


_PIECE = 2**20  # bytes copied at once


def passing_name(task: Task) -> Path:
    """A name in the task's scratch folder that nobody else has."""
    return task.scratch / secrets.token_hex(16)


def photo(task: Task, workshop: ImageWorker) -> TaskResult:
    """De-identify a photo. Raises DeidError, OSError."""
    read = partial(read_named, task.found.path, task.found.name)
    data, outcome = workshop.make(read, task.found.name, task.output, task.output)
    if data is None:
        return TaskResult(task, outcomes=(outcome,))
    made = passing_name(task)
    with synced(made) as stream:
        stream.write(data)
    return TaskResult(task, made, (outcome,))


def read_named(path: Path, name: str) -> bytes:
    """A file's bytes. Raises ImageError that calls it by its name, without folders of this machine."""
    try:
        return images.file_bytes(path)
    except ImageError as error:
        raise ImageError(str(error).replace(str(path), name)) from error


def label(task: Task, workshop: ImageWorker) -> TaskResult:
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
        return skip(task, str(error).replace(str(path), name))
    return TaskResult(task, made, copied=FileRecord(name, task.output, before.hexdigest(), after.hexdigest()))


def encoded(name: str, suffix: str) -> str:
    """Why a label is left out."""
    return f"{name}: holds encoded data that may be a picture: left out; if it is none, --copy {suffix}"


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece


_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class _Sample:
    """Members of one key, in the shard's order; each can be read until the next sample is asked for."""

    key: str
    shard: str
    tar: tarfile.TarFile
    members: tuple[tarfile.TarInfo, ...]

    def content(self, member: tarfile.TarInfo) -> bytes:
        with damage_named(f"{self.shard}/{member.name}", *_DAMAGE):
            stream = self.tar.extractfile(member)
            return b"" if stream is None else stream.read()


def _samples(path: Path) -> Iterator[_Sample]:
    """Raises what a damaged tar raises."""
    with tarfile.open(path) as tar:
        for key, members in groupby(_members(tar), lambda member: _split(member.name)[0]):
            yield _Sample(key, path.name, tar, tuple(members))


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files in a tar. Raises what a damaged tar raises, also where it ends at a member's end."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # or it keeps the header of every file
        if member.isfile():
            yield member
    stream: Any = tar.fileobj
    stream.seek(tar.offset)
    if any(end := stream.read(tarfile.BLOCKSIZE)) or not end:  # what tarfile takes for the end as well
        raise tarfile.ReadError("it ends without the mark of its end")


def _split(name: str) -> tuple[str, str]:
    """A member's key and suffix, as the package webdataset splits them; a name that it skips is a key of its own."""
    with needed_for("a tar shard", "deid-diffusion[data]"):
        from webdataset.tariterators import base_plus_ext

    key, suffix = base_plus_ext(name)
    return (name, "") if key is None else (key, suffix)


def count(path: Path, recipe: JobConfig) -> int:
    """Number of samples. Raises DeidError."""
    with damage_named(path.name, *_DAMAGE):
        return sum(1 for _ in _samples(path))


def piece(task: Task, workshop: ImageWorker) -> TaskResult:
    """Samples first to first + count of a tar, as a tar. Raises DeidError, OSError."""
    from webdataset import TarWriter

    made, outcomes = passing_name(task), list[JobResult]()
    with synced(made) as stream, TarWriter(stream, **_PLAIN) as out:
        for sample in islice(_samples(task.found.path), task.first, task.first + task.count):
            members, of_sample = _process(sample, task, workshop)
            of_sample = fail_whole_sample(of_sample, sample.key)
            outcomes += of_sample
            if all(one.report.status != "failed" for one in of_sample):
                out.write({"__key__": sample.key, **members})
    return TaskResult(task, made, tuple(outcomes))


#: Nothing of the source's owners and times, and names of any length.
_PLAIN = {"encoder": False, "keep_meta": True, "mtime": 0.0, "user": "", "group": "", "format": "PAX_FORMAT"}


def _process(sample: _Sample, task: Task, workshop: ImageWorker) -> tuple[dict[str, bytes], list[JobResult]]:
    """The result's members by their suffixes, and what became of the pictures; a failure stands for all of it."""
    made: dict[str, bytes] = {}
    outcomes: list[JobResult] = []
    for member in sample.members:
        name = f"{task.found.name}/{member.name}"
        try:
            suffix, data, outcome = _member(sample, member, name, task, workshop)
            if suffix in made:
                raise ImageError(f"{name}: another picture of its sample gets the same name: use --format keep")
        except ImageError as error:
            outcomes.append(JobResult(ImageRecord(name, None, "failed", error=str(error)), str(error)))
            continue
        outcomes += [outcome] if outcome else []
        if data is not None:
            made[suffix] = data
    return made, outcomes


def _member(
    sample: _Sample, member: tarfile.TarInfo, name: str, task: Task, workshop: ImageWorker
) -> tuple[str, bytes | None, JobResult | None]:
    """A member's suffix, content and outcome as they are to be. Raises ImageError for one that is left out."""
    base = posixpath.basename(member.name)
    kind = kind_of(base, workshop.recipe.copied)
    if kind == "photo" and _split(member.name)[1]:
        target = result_name(member.name, workshop.recipe.file_format)
        data, outcome = workshop.make(
            lambda: sample.content(member), name, target, f"{task.output}/{posixpath.normpath(target)}"
        )
        return _split(target)[1], data, outcome
    suffix = posixpath.splitext(base)[1].lower()
    if kind != "label" or not _split(member.name)[1]:
        raise ImageError(f"{name}: nobody knows whether it is a picture: left out; if it is none, --copy {suffix}")
    data = sample.content(member)
    if suffix not in workshop.recipe.copied and holds_picture([data]):
        raise ImageError(encoded(name, suffix))
    return _split(member.name)[1], data, None


def join(source: Path, pieces: Sequence[Path], target: Path) -> None:
    """One tar of all pieces, compressed if its source's name says so. Raises OSError."""
    compressed = not source.name.lower().endswith(".tar")
    with synced(target) as stream, tarfile.open(fileobj=stream, mode="w:gz" if compressed else "w") as out:
        for path in pieces:
            with tarfile.open(path) as tar:
                for member in _members(tar):
                    out.addfile(member, tar.extractfile(member))
                    out.members.clear()  # type: ignore[attr-defined]


FORMAT = ShardFormat(count, piece, join)


def fresh_state(name: str, data: bytes) -> bytes:
    """The content of `state.json` with a new fingerprint, so that no cache of the originals is taken for the results'.

    Everything else is returned as it is.
    """
    if name != "state.json":
        return data
    try:
        state = json.loads(data)
        state["_fingerprint"] = secrets.token_hex(8)
    except (ValueError, TypeError):  # another program's file of that name
        return data
    return json.dumps(state, indent=2).encode()
