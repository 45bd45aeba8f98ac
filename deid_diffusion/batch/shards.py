"""Shards of a data set: WebDataset tars, Parquet files, and the Arrow streams of saved `datasets`.

In a tar, members that share a key, their path up to the first dot, are one sample. Members are read by `tarfile`:
webdataset's reader skips names without a suffix and takes a truncated tar for a complete one. Tables are read and
written by pyarrow: `datasets` would replace the schema's metadata of tables that it did not write.
"""

from __future__ import annotations

import json
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import groupby, islice
from pathlib import Path, PurePath
from typing import Any

import pyarrow
from pyarrow import parquet, types
from webdataset import TarWriter
from webdataset.tariterators import base_plus_ext

from ..errors import ImageError, UsageError
from ..io.files import open_synced
from ..results import JobResult
from . import tasks
from .tasks import ImageWorker, JobConfig, Task, TaskResult

BATCH_ROWS = 16  # rows of a table decoded at once

ROW_GROUP = 100
"""Minimum rows of a row group, as the hub recommends for images; a reader loads a row group to get a row."""

_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)
# owners and modification times are left out; PAX takes names of any length
_WRITER = {"encoder": False, "keep_meta": True, "mtime": 0.0, "user": "", "group": "", "format": "PAX_FORMAT"}
_MAGIC = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"II*\0": ".tiff", b"MM\0*": ".tiff"}


class Tar:
    """Tar file of samples."""

    @staticmethod
    def count(path: Path, config: JobConfig) -> int:
        """Return the number of samples. Raises ImageError for a damaged shard."""
        return sum(1 for _ in _samples(path))

    @staticmethod
    def process(task: Task, worker: ImageWorker) -> TaskResult:
        """Process a piece of a shard; its result is a tar. Raises DeidError, OSError."""
        temporary, outcomes = task.temporary(), list[JobResult]()
        numbers = range(task.first, task.first + task.count)
        with open_synced(temporary) as stream, TarWriter(stream, **_WRITER) as writer:
            for key, members in islice(_samples(task.source.path, numbers), numbers.start, numbers.stop):
                parts = [
                    (f"{task.source.name}/{member}", partial(_process_member, member, data, task, worker))
                    for member, data in members
                ]
                values, sample_outcomes = tasks.process_item(key, parts)
                outcomes += sample_outcomes
                if values is not None:
                    writer.write({"__key__": key, **values})
        return TaskResult(task, temporary, tuple(outcomes))

    @staticmethod
    def join(source: Path, pieces: Sequence[Path], target: Path) -> None:
        """Concatenate pieces into a tar, compressed like its source. Raises OSError."""
        mode: Any = "w" if source.name.lower().endswith(".tar") else "w:gz"
        with open_synced(target) as stream, tarfile.open(fileobj=stream, mode=mode) as joined:
            for path in pieces:
                with tarfile.open(path) as tar:
                    for member in _members(tar):
                        joined.addfile(member, tar.extractfile(member))
                        joined.members.clear()  # type: ignore[attr-defined]


def _process_member(
    member: str, data: bytes, task: Task, worker: ImageWorker
) -> tuple[str, bytes | None, JobResult | None]:
    """Return a member's new suffix, content and result. Raises ImageError for one that is left out."""
    name, copied = f"{task.source.name}/{member}", worker.config.copied
    kind = tasks.kind_of(posixpath.basename(member), copied) if _split(member)[1] else None
    if kind == "photo":
        target = tasks.result_name(member, worker.config.file_format)
        shown = f"{task.output}/{posixpath.normpath(target)}"
        image, outcome = worker.process(lambda: data, name, target, shown)
        return _split(target)[1], image, outcome
    suffix = posixpath.splitext(member)[1].lower()
    if kind != "label":
        raise ImageError(f"{name}: may be an image: left out; if it is none, add --copy {suffix}")
    tasks.check_label(data, name, suffix, copied)
    return _split(member)[1], data, None


def _samples(path: Path, numbers: range = range(0)) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Yield each sample's key, and its members' names and contents, which are empty outside `numbers`."""
    with tasks.damaged_shard(path.name, *_DAMAGE), tarfile.open(path) as tar:
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


class Table:
    """Parquet file or Arrow stream of rows."""

    @staticmethod
    def count(path: Path, config: JobConfig) -> int:
        """Return the number of rows. Raises ImageError for a damaged file, UsageError as `check_columns` does."""
        with _open(path) as (schema, rows, _):
            check_columns(schema, path.name, config)
            return rows

    @staticmethod
    def process(task: Task, worker: ImageWorker) -> TaskResult:
        """Process a piece of a table; its result is an Arrow stream. Raises DeidError, OSError."""
        table, outcomes, kept = _read_rows(task), list[JobResult](), list[int]()
        columns: dict[str, list[Any]] = {column: [] for column in image_columns(table.schema, worker.config)}
        places = {column: f"/{column}" if len(columns) > 1 else "" for column in columns}
        for row in range(table.num_rows):
            name, shown = f"{task.source.name}/{task.first + row}", f"{task.output}/{task.first + row}"
            parts = [
                (name + place, partial(_process_cell, column, table[column][row].as_py(), name, shown, place, worker))
                for column, place in places.items()
            ]
            values, row_outcomes = tasks.process_item(name, parts)
            outcomes += row_outcomes
            if values is not None:
                kept.append(row)
                for column, value in values.items():
                    columns[column].append(value)
        table = table.take(kept)
        for column, cells in columns.items():
            index = table.schema.get_field_index(column)
            field = table.schema.field(index)
            table = table.set_column(index, field, pyarrow.array(cells, type=field.type))
        temporary = task.temporary()
        with open_synced(temporary) as stream, pyarrow.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        return TaskResult(task, temporary, tuple(outcomes))

    @staticmethod
    def join(source: Path, pieces: Sequence[Path], target: Path) -> None:
        """Concatenate pieces into a table in its source's format, with its schema. Raises OSError."""
        with _open(source) as (schema, *_):
            pass
        with open_synced(target) as stream:
            writer: Any = (
                pyarrow.ipc.new_stream(stream, schema)
                if _is_stream(source)
                else parquet.ParquetWriter(stream, schema, write_page_index=True)
            )
            with closing(writer):
                for table in _row_groups(pieces, schema):
                    writer.write_table(table)


def image_columns(schema: pyarrow.Schema, config: JobConfig) -> list[str]:
    """Return the columns of images: those that the user named, and those of type `datasets.Image`.

    That type is a struct of `bytes` and `path`; so is `datasets.Audio`, which the schema's metadata tells apart.
    """
    features = _feature_types(schema)
    return [
        field.name
        for field in schema
        if field.name in config.image_columns
        or (_is_struct(field.type) and features.get(field.name, "Image") == "Image" and field.name not in config.copied)
    ]


def check_columns(schema: pyarrow.Schema, name: str, config: JobConfig) -> None:
    """Raise UsageError for a table without images, or with columns that may hold images and were not declared."""
    columns = image_columns(schema, config)
    for field in schema:
        if field.name in columns:
            if not _is_struct(field.type) and not _is_bytes(field.type):
                raise UsageError(f"{name}: column {field.name} holds {field.type}: images must be bytes")
        elif field.name not in config.copied and any(map(_may_hold_pixels, _leaves(field.type))):
            raise UsageError(
                f"{name}: column {field.name} ({field.type}) may hold images: add --image-column {field.name}, "
                f"or --copy {field.name} if it holds none"
            )
    if not columns:
        raise UsageError(f"{name}: has no image column ({', '.join(schema.names)}): add --image-column NAME")


def _process_cell(
    column: str, cell: Any, row: str, shown: str, place: str, worker: ImageWorker
) -> tuple[str, Any, JobResult | None]:
    """Return a cell's column, new value and result; an empty cell stays empty. Raises ImageError."""
    content, path = (cell["bytes"], cell["path"]) if isinstance(cell, dict) else (cell, None)
    if content is None and path is None:
        return column, cell, None
    suffix = next((suffix for magic, suffix in _MAGIC.items() if content and content.startswith(magic)), "")
    file_name = PurePath(path).name if path else f"image{suffix}"  # without folders of another machine
    target = tasks.result_name(file_name, worker.config.file_format)
    read = partial(tasks.read_image, Path(path or ""), row + place) if content is None else partial(bytes, content)
    image, outcome = worker.process(read, row + place, target, shown + place)
    value = {"bytes": image, "path": target if path else None} if isinstance(cell, dict) else image
    return column, value, outcome


def _read_rows(task: Task) -> pyarrow.Table:
    with _open(task.source.path) as (schema, _, batches):
        slices, offset = list[pyarrow.RecordBatch](), 0
        for batch in batches:
            start, stop = max(task.first - offset, 0), min(task.first + task.count - offset, batch.num_rows)
            if start < stop:
                slices.append(batch.slice(start, stop - start))
            offset += batch.num_rows
            if offset >= task.first + task.count:
                break
        return pyarrow.Table.from_batches(slices, schema)


def _row_groups(pieces: Sequence[Path], schema: pyarrow.Schema) -> Iterator[pyarrow.Table]:
    """Yield the rows of pieces, at least `ROW_GROUP` at once."""
    tables: list[pyarrow.Table] = []
    for path in pieces:
        with pyarrow.ipc.open_stream(path.read_bytes()) as stream:
            tables.append(stream.read_all().cast(schema))
        if sum(table.num_rows for table in tables) >= ROW_GROUP or path == pieces[-1]:
            yield pyarrow.concat_tables(tables).combine_chunks()
            tables = []


@contextmanager
def _open(path: Path) -> Iterator[tuple[pyarrow.Schema, int, Iterable[pyarrow.RecordBatch]]]:
    """Open a table: its schema, number of rows and rows, a few at once. Raises ImageError for a damaged file."""
    with tasks.damaged_shard(path.name, pyarrow.ArrowException, OSError):
        if _is_stream(path):
            with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
                table = stream.read_all()  # mapped, not read
                yield table.schema, table.num_rows, table.to_batches()
        else:
            with parquet.ParquetFile(path, pre_buffer=False) as table:
                yield table.schema_arrow, table.metadata.num_rows, table.iter_batches(batch_size=BATCH_ROWS)


def _is_stream(path: Path) -> bool:
    return path.suffix.lower() == ".arrow"


def _feature_types(schema: pyarrow.Schema) -> dict[str, str]:
    """Return the columns' types as `datasets` writes them into the metadata; empty for tables of other programs."""
    try:
        features: dict[str, Any] = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: str(feature.get("_type")) for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _is_struct(kind: pyarrow.DataType) -> bool:
    return types.is_struct(kind) and {kind.field(k).name for k in range(kind.num_fields)} == {"bytes", "path"}


def _is_bytes(kind: pyarrow.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind)


def _may_hold_pixels(kind: pyarrow.DataType) -> bool:
    """Return whether values of a type may be an encoded image, or the numbers of one."""
    return _is_bytes(kind) or types.is_fixed_size_binary(kind) or types.is_uint8(kind)


def _leaves(kind: pyarrow.DataType, top: bool = True) -> Iterator[pyarrow.DataType]:
    """Yield the plain types inside a type, without a column's single bytes, which are no image."""
    if hasattr(kind, "storage_type"):  # an extension type, such as Array3D
        yield from _leaves(kind.storage_type, top)
    elif types.is_dictionary(kind):
        yield from _leaves(kind.value_type, top)
    elif types.is_nested(kind):
        for k in range(kind.num_fields):
            yield from _leaves(kind.field(k).type, top=False)
    elif not (top and types.is_uint8(kind)):
        yield kind
