"""What a file, or a member of a shard, is by its name: a picture, a label, a shard of them, or none of these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Literal

from .. import images
from ..errors import ImageError
from ..planning import FORMATS

Kind = Literal["photo", "label", "tar", "table"]

_TEXTS = ("csv", "json", "jsonl", "md", "names", "tsv", "txt", "xml", "yaml", "yml")
_MEMBERS = ("caption", "cls", "cls2", "id", "index", "inx", "transcript")  # what WebDataset's decoder takes for text
LABELS = frozenset(f".{name}" for name in (*_TEXTS, *_MEMBERS))
"""Suffixes, in lower case, of text that says something of pictures and is copied as it is."""

TARS = (".tar", ".tar.gz", ".tgz")
"""Ends of the names of shards of members."""

TABLES = (".parquet", ".arrow")
"""Ends of the names of shards of rows: Parquet, and the Arrow streams that `datasets` saves."""

KEEP = "keep"
"""The output format that leaves each picture its own format and name."""

_ENCODED = re.compile(rb"[A-Za-z0-9+/]{1024}")  # no label is that long without a space or a comma
_OVERLAP = 1023


def kind_of(name: str, copied: frozenset[str]) -> Kind | None:
    """The kind of a file; None for one that nobody knows, which may be a picture.

    Args:
        name: its last part.
        copied: suffixes that the user said to copy.
    """
    low = name.lower()
    if low.endswith(TARS):
        return "tar"
    if low.endswith(TABLES):
        return "table"
    suffix = PurePosixPath(low).suffix
    if suffix in images.READABLE:
        return "photo"
    return "label" if suffix in LABELS or suffix in copied else None


def holds_picture(pieces: Iterable[bytes]) -> bool:
    """Whether text has something in it that is as long as an encoded picture (base64, as LabelMe's imageData)."""
    return any(_ENCODED.search(piece) for piece in _overlapping(pieces))


def result_name(name: str, file_format: str) -> str:
    """A picture's name as its result has it. Raises ImageError where its own format cannot be written."""
    path = PurePosixPath(name)
    if file_format != KEEP:
        return str(path.with_suffix(FORMATS[file_format]))
    if path.suffix.lower() not in images.WRITABLE:
        raise ImageError(f"{name}: {path.suffix or 'no suffix'} cannot be written: use --format png, webp or jpeg")
    return name


def _overlapping(pieces: Iterable[bytes]) -> Iterator[bytes]:
    before = b""
    for piece in pieces:
        yield before + piece
        before = (before + piece)[-_OVERLAP:]
