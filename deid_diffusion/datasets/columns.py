"""Which columns of a table hold pictures, and which may hold some without saying so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .workshop import Recipe

if TYPE_CHECKING:
    import pyarrow


def image_columns(schema: pyarrow.Schema, recipe: Recipe) -> list[str]:
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


def check_columns(schema: pyarrow.Schema, name: str, recipe: Recipe) -> None:
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
