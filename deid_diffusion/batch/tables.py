"""Tables: Parquet files, and the Arrow streams in folders that `datasets` saves.

Rows are read and written by pyarrow: `datasets` would replace the schema's metadata of tables that it did not write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import pyarrow
from pyarrow import parquet, types

from ..errors import UsageError
from ..io.files import open_synced
from ..results import JobResult
from .tasks import ImageWorker, JobConfig, Task, TaskResult, damaged_shard, process_item, read_image, result_name

BATCH_ROWS = 16
"""Rows decoded at once."""

ROW_GROUP = 100
"""Minimum rows of a row group, as the hub recommends for images; a reader loads a row group to get a row."""

_MAGIC = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"II*\0": ".tiff", b"MM\0*": ".tiff"}


def count(path: Path, config: JobConfig) -> int:
    """Return the number of rows. Raises ImageError for a damaged file, UsageError as `check_columns` does."""
    with _open(path) as (schema, rows, _):
        check_columns(schema, path.name, config)
        return rows


def process(task: Task, worker: ImageWorker) -> TaskResult:
    """Process a piece of a table; its result is an Arrow stream. Raises DeidError, OSError."""
    table, outcomes, kept = _read_rows(task), list[JobResult](), list[int]()
    columns: dict[str, list[Any]] = {column: [] for column in image_columns(table.schema, worker.config)}
    for row in range(table.num_rows):
        name = f"{task.source.name}/{task.first + row}"
        shown = f"{task.output}/{task.first + row}"
        places = {column: f"/{column}" if len(columns) > 1 else "" for column in columns}
        parts = [
            (name + place, partial(_process, column, table[column][row].as_py(), name + place, shown + place, worker))
            for column, place in places.items()
        ]
        values, row_outcomes = process_item(name, parts)
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
    types = _feature_types(schema)
    return [
        field.name
        for field in schema
        if field.name in config.image_columns
        or (_is_struct(field.type) and types.get(field.name, "Image") == "Image" and field.name not in config.copied)
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


def _process(column: str, cell: Any, name: str, shown: str, worker: ImageWorker) -> tuple[str, Any, JobResult | None]:
    """Return a cell's column, new value and result; an empty cell stays empty. Raises ImageError."""
    content, path = (cell["bytes"], cell["path"]) if isinstance(cell, dict) else (cell, None)
    if content is None and path is None:
        return column, cell, None
    file_name = PurePath(path).name if path else f"image{_suffix(content)}"  # without folders of another machine
    target = result_name(file_name, worker.config.file_format)
    read = partial(read_image, Path(path or ""), name) if content is None else partial(bytes, content)
    image, outcome = worker.process(read, name, target, shown)
    value = {"bytes": image, "path": target if path else None} if isinstance(cell, dict) else image
    return column, value, outcome


def _suffix(content: bytes) -> str:
    """Return the suffix of an encoded image, by its first bytes; "" for a format that cannot be written."""
    return next((suffix for magic, suffix in _MAGIC.items() if content.startswith(magic)), "")


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
    with damaged_shard(path.name, pyarrow.ArrowException, OSError):
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
