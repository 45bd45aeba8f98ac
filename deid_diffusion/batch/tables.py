"""Tables as shards: Parquet files, and the Arrow streams in folders that `datasets` saves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, UsageError, needed_for
from ..io.files import synced
from ..results import ImageRecord, JobResult
from .shards import PIECE, ShardFormat, damage_named, fail_whole_sample, passing_name, read_named
from .tasks import ImageWorker, JobConfig, Task, TaskResult, result_name

if TYPE_CHECKING:
    import pyarrow


def image_columns(schema: pyarrow.Schema, recipe: JobConfig) -> list[str]:
    """The columns of pictures: those that the user named, and those whose type is that of the package `datasets`.

    Such a column holds a struct of `bytes` and `path`; the same struct is an `Audio` where the schema says so.
    """
    said = _features(schema)
    return [
        field.name
        for field in schema
        if field.name in recipe.image_columns
        or (_is_struct(field.type) and said.get(field.name, "Image") == "Image" and field.name not in recipe.copied)
    ]


def check_columns(schema: pyarrow.Schema, name: str, recipe: JobConfig) -> None:
    """Refuse columns that may hold pictures nobody named, and tables without any picture. Raises UsageError."""
    pictures = image_columns(schema, recipe)
    for column in schema:
        if column.name in pictures:
            if not _is_struct(column.type) and not _is_bytes(column.type):
                raise UsageError(f"{name}: column {column.name} holds {column.type}, and a picture is bytes")
        elif column.name not in recipe.copied and any(_may_be_pixels(one) for one in _leaves(column.type)):
            raise UsageError(
                f"{name}: column {column.name} ({column.type}) may hold pictures: give --image-column {column.name}, "
                f"or --copy {column.name} if it holds none"
            )
    if not pictures:
        raise UsageError(f"{name}: has no column of pictures ({', '.join(schema.names)}): give --image-column NAME")


def _features(schema: pyarrow.Schema) -> dict[str, str]:
    """Kinds of the columns as `datasets` writes them into the schema; none where another program wrote it."""
    try:
        said: dict[str, Any] = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: str(one.get("_type")) for name, one in said.items() if isinstance(one, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _is_struct(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and {kind.field(k).name for k in range(kind.num_fields)} == {"bytes", "path"}


def _is_bytes(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _may_be_pixels(kind: pyarrow.DataType) -> bool:
    """Whether values of a type may be an encoded picture, or the numbers of one."""
    from pyarrow import types

    return _is_bytes(kind) or types.is_fixed_size_binary(kind) or types.is_uint8(kind)


def _leaves(kind: pyarrow.DataType, top: bool = True) -> Iterator[pyarrow.DataType]:
    """The plain types in a type; single numbers are left out, since one is no picture."""
    from pyarrow import types

    if hasattr(kind, "storage_type"):  # an extension type, such as Array3D
        yield from _leaves(kind.storage_type, top)
    elif types.is_dictionary(kind):
        yield from _leaves(kind.value_type, top)
    elif types.is_nested(kind):
        for k in range(kind.num_fields):
            yield from _leaves(kind.field(k).type, top=False)
    elif not (top and types.is_uint8(kind)):
        yield kind


ROW_GROUP = 100
"""Rows of a row group at least, as the hub advises for tables of pictures: what a reader has to load for one row."""

_STARTS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"II*\0": ".tiff", b"MM\0*": ".tiff"}


def count(path: Path, recipe: JobConfig) -> int:
    """Number of rows. Raises DeidError for a damaged file, and columns that may hold pictures nobody named."""
    with _damage(path):
        with _batches(path) as (schema, batches):
            check_columns(schema, path.name, recipe)
            if is_stream(path):
                return sum(batch.num_rows for batch in batches)
        from pyarrow import parquet

        return int(parquet.read_metadata(path).num_rows)


def piece(task: Task, workshop: ImageWorker) -> TaskResult:
    """Rows first to first + count, as an Arrow stream. Raises DeidError, OSError."""
    import pyarrow

    path, outcomes, kept = task.found.path, list[JobResult](), list[int]()
    with _damage(path):
        table = _rows(path, task.first, task.count)
    columns = image_columns(table.schema, workshop.recipe)
    made: dict[str, list[Any]] = {name: [] for name in columns}
    for number in range(table.num_rows):
        row = {name: table[name][number].as_py() for name in columns}
        name = f"{task.found.name}/{task.first + number}"
        values, of_row = _row(row, name, f"{task.output}/{task.first + number}", workshop)
        of_row = fail_whole_sample(of_row, name)
        outcomes += of_row
        if all(one.report.status != "failed" for one in of_row):
            kept.append(number)
            for column, value in values.items():
                made[column].append(value)
    table = table.take(kept)
    for column, cells in made.items():
        at = table.schema.get_field_index(column)
        field = table.schema.field(at)
        table = table.set_column(at, field, pyarrow.array(cells, type=field.type))
    target = passing_name(task)
    with synced(target) as stream, pyarrow.ipc.new_stream(stream, table.schema) as out:
        out.write_table(table)
    return TaskResult(task, target, tuple(outcomes))


def join(source: Path, pieces: Sequence[Path], target: Path) -> None:
    """One table of all pieces, in its source's format. Raises OSError."""
    import pyarrow
    from pyarrow import parquet

    with _batches(source) as (schema, _), synced(target) as stream:
        out: Any = (
            pyarrow.ipc.new_stream(stream, schema)
            if is_stream(source)
            else parquet.ParquetWriter(stream, schema, write_page_index=True)
        )
        with closing(out):
            for table in _grouped(pieces, schema):
                out.write_table(table)


def _grouped(pieces: Sequence[Path], schema: pyarrow.Schema) -> Iterator[pyarrow.Table]:
    import pyarrow

    waiting: list[pyarrow.Table] = []
    for path in pieces:
        with pyarrow.ipc.open_stream(path.read_bytes()) as stream:
            waiting.append(stream.read_all().cast(schema))
        if sum(table.num_rows for table in waiting) >= ROW_GROUP:
            yield pyarrow.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pyarrow.concat_tables(waiting).combine_chunks()


def _row(row: dict[str, Any], name: str, shown: str, workshop: ImageWorker) -> tuple[dict[str, Any], list[JobResult]]:
    """A row's pictures as they are to be, and what became of them; one that is missing stays missing."""
    values: dict[str, Any] = {}
    outcomes: list[JobResult] = []
    for column, cell in row.items():
        content, path = (cell["bytes"], cell["path"]) if isinstance(cell, dict) else (cell, None)
        if content is None and path is None:
            values[column] = cell
            continue
        label, place = (f"{one}/{column}" if len(row) > 1 else one for one in (name, shown))
        old = PurePath(path).name if path else f"picture{_suffix(content)}"  # only the last part: no folder gets out
        try:
            new = result_name(old, workshop.recipe.file_format)
        except ImageError as error:
            outcomes.append(JobResult(ImageRecord(label, None, "failed", error=str(error)), str(error)))
            continue
        read = partial(read_named, Path(path or ""), label) if content is None else partial(bytes, content)
        data, outcome = workshop.make(read, label, new, place)
        outcomes.append(outcome)
        values[column] = {"bytes": data, "path": new if path else None} if isinstance(cell, dict) else data
    return values, outcomes


def _suffix(content: bytes) -> str:
    """The suffix of a picture without a name, by its first bytes; none for a kind that cannot be written."""
    return next((suffix for start, suffix in _STARTS.items() if content.startswith(start)), "")


def _rows(path: Path, first: int, number: int) -> pyarrow.Table:
    import pyarrow

    taken: list[pyarrow.RecordBatch] = []
    with _batches(path) as (schema, batches):
        at = 0
        for batch in batches:
            start, stop = max(first - at, 0), min(first + number - at, batch.num_rows)
            if start < stop:
                taken.append(batch.slice(start, stop - start))
            at += batch.num_rows
            if at >= first + number:
                break
        return pyarrow.Table.from_batches(taken, schema)


@contextmanager
def _batches(path: Path) -> Iterator[tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]]:
    """A file's schema and rows, few at a time. Raises what pyarrow raises."""
    with needed_for("a table", "deid-diffusion[data]"):
        import pyarrow
        from pyarrow import parquet

    if is_stream(path):
        with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
            yield stream.schema, iter(stream)
    else:
        with parquet.ParquetFile(path, pre_buffer=False) as table:
            yield table.schema_arrow, table.iter_batches(batch_size=PIECE)


def is_stream(path: Path) -> bool:
    """Whether a table is an Arrow stream, by its name."""
    return path.suffix.lower() == ".arrow"


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    with needed_for("a table", "deid-diffusion[data]"):
        import pyarrow

    with damage_named(path.name, pyarrow.ArrowException, OSError):
        yield


FORMAT = ShardFormat(count, piece, join)
