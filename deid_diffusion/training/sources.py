"""Where training photographs come from: image folders, tar files (WebDataset shards, too) and Hugging Face datasets."""

from __future__ import annotations

import csv
import json
import lzma
import os
import posixpath
import re
import sqlite3
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import DeidError, ImageError, UsageError, one_line
from ..io import images


class TextStore:
    """Texts by name, in a temporary file of their own: a million captions take no memory.

    The file goes away with the store.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("CREATE TABLE texts (name BLOB PRIMARY KEY, text TEXT) WITHOUT ROWID")

    def put(self, name: str, text: str) -> None:
        """Keep `text`, in place of an earlier one of that name."""
        self._database.execute("INSERT OR REPLACE INTO texts VALUES (?, ?)", (_key(name), text))

    def get(self, name: str) -> str | None:
        """The text of that name, or None."""
        row = self._database.execute("SELECT text FROM texts WHERE name = ?", (_key(name),)).fetchone()
        return None if row is None else str(row[0])


def read_table(path: Path, key: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The value of the column `key` and the other columns of each row of a .jsonl file, or of a CSV with a header.

    Raises UsageError: it cannot be read, or a row has no such column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = (json.loads(line) for line in stream if line.strip())
            rows: Iterator[Any] = lines if path.suffix.lower() == ".jsonl" else iter(csv.DictReader(stream))
            for number, row in enumerate(rows, 1):
                columns = as_text(row)
                if key not in columns:
                    raise UsageError(
                        f"{path}: row {number} has no column {key!r} (it has {', '.join(columns) or 'none'})"
                    )
                yield columns.pop(key), columns
    except DeidError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # of damaged text and JSON: ValueError
        raise UsageError(f"{path}: cannot be read as a table ({one_line(error)})") from error


def as_text(row: Any) -> dict[str, str]:
    """The strings, numbers and truth values among a row's columns, as strings; none if it is no mapping."""
    if not isinstance(row, Mapping):
        return {}
    return {name: str(value) for name, value in row.items() if name and isinstance(value, (str, int, float, bool))}


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # file names need not be text


CAPTION = "text"
"""The column that holds a photograph's caption."""

_METADATA = ("metadata.csv", "metadata.jsonl")  # Hugging Face's imagefolder, with a column file_name
_SAVED = ("state.json", "dataset_dict.json")  # what datasets.save_to_disk leaves
_ARCHIVES = frozenset({".tar", ".gz", ".tgz", ".bz2", ".xz", ".zip"})
_MAX_SIDECAR = 2**20  # bytes; more is no caption, but a whole data set's annotations
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)
_DATASET_ROWS = 1000  # read at once, without their pictures


@dataclass(frozen=True)
class Photograph:
    """One photograph, not read yet.

    Attributes:
        source: the folder, tar or data set that it comes from, as it was given.
        name: its path in there, with forward slashes; in a data set the row's number.
        columns: what is said of it, all strings; its caption, if there is one, is `CAPTION`.
        read: gives (H, W, 3) uint8 RGB, upright, or raises ImageError with the reason in one line. To be called before
            the next photograph is asked for.
    """

    source: str
    name: str
    columns: Mapping[str, str]
    read: Callable[[], np.ndarray]

    @property
    def path(self) -> str:
        """How errors and people call it."""
        return str(Path(self.source, self.name))


class Photographs:
    """All photographs of some sources with their columns, in an order that stays; to be iterated any number of times.

    Broken files are among them: what is wrong shows when they are read.
    """

    def __init__(
        self, data: Sequence[str | Path], *, manifest: Path | None = None, caption_column: str | None = None
    ) -> None:
        """Open the sources.

        Args:
            data: folders of images (with folders below; `metadata.csv` or `.jsonl` is read where there is one), tar
                files (with .json and .txt sidecars where there are any), folders saved by `datasets`, or names of data
                sets, NAME or NAME:SPLIT. What exists as a path is not taken for a name.
            manifest: CSV whose column `file` holds a photograph's name, or its last part; its other columns win.
            caption_column: the column that is the caption; None is `CAPTION`, which is also a .txt sidecar's.

        Raises:
            UsageError: there is no such data, or it cannot be read.
        """
        self._sources = [open_source(str(one)) for one in data]
        self._caption_column = caption_column
        self._manifest = None if manifest is None else TextStore()
        if manifest is not None and self._manifest is not None:
            for name, columns in read_table(manifest, "file"):
                self._manifest.put(name, json.dumps(columns))

    def __iter__(self) -> Iterator[Photograph]:
        """Raises UsageError at the end: not one photograph is in the manifest, or has the caption column."""
        photograph, listed, captioned = None, self._manifest is None, self._caption_column is None
        for photograph in chain.from_iterable(self._sources):
            columns = dict(photograph.columns)
            if self._manifest is not None:
                found = self._manifest.get(photograph.name) or self._manifest.get(posixpath.basename(photograph.name))
                columns.update(json.loads(found or "{}"))
                listed |= found is not None
            if self._caption_column is not None:
                caption = columns.pop(self._caption_column, None)
                columns.pop(CAPTION, None)
                columns.update({} if caption is None else {CAPTION: caption})
                captioned |= caption is not None
            yield replace(photograph, columns=columns)
        if photograph is not None and not listed:
            raise UsageError(f"manifest: its column file names none of the photographs, such as {photograph.name}")
        if photograph is not None and not captioned:
            raise UsageError(
                f"caption column: no photograph has a column {self._caption_column} "
                f"({photograph.path} has {', '.join(photograph.columns) or 'none'})"
            )


def open_source(given: str) -> Iterable[Photograph]:
    """The photographs of one folder, tar file, saved data set or name of a data set. Raises UsageError."""
    path = Path(given)
    if path.is_dir():
        return _DataSet(given) if any((path / name).is_file() for name in _SAVED) else _Folder(given)
    if path.exists():
        return _Tar(given)
    name = given.partition(":")[0]
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) or PurePosixPath(name).suffix.lower() in (
        _ARCHIVES | images.READABLE
    ):
        raise UsageError(f"{given}: no such file or folder: check the name")
    return _DataSet(given)


@dataclass(frozen=True)
class _Folder:
    """Images in a folder and the folders below it, sorted; hidden ones are left out."""

    source: str

    def __iter__(self) -> Iterator[Photograph]:
        table = TextStore()
        for parent, folders, names in os.walk(self.source, onerror=_refuse_folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            place = Path(parent).relative_to(self.source).as_posix()
            for metadata in _METADATA:
                if metadata in names:
                    for name, columns in read_table(Path(parent, metadata), "file_name"):
                        table.put(posixpath.normpath(posixpath.join(place, name)), json.dumps(columns))
            for name in sorted(filter(_is_image, names)):
                name = posixpath.normpath(posixpath.join(place, name))
                columns = json.loads(table.get(name) or "{}")
                yield Photograph(self.source, name, columns, partial(_read_file, Path(self.source, name)))


class _Tar:
    """Images in a tar file, in its order, each with the sidecars that share its name up to the last or first dot."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._sidecars = TextStore()
        for tar, member in _members(source):
            if PurePosixPath(member.name).suffix.lower() in (".json", ".txt") and member.size <= _MAX_SIDECAR:
                text = _content(tar, member).decode("utf-8", "replace")
                self._sidecars.put(posixpath.normpath(member.name), text)

    def __iter__(self) -> Iterator[Photograph]:
        for tar, member in _members(self._source):
            if _is_image(posixpath.basename(member.name)):
                name = posixpath.normpath(member.name)
                yield Photograph(self._source, name, self._columns(name), partial(self._read, tar, member, name))

    def _read(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> np.ndarray:
        label = str(Path(self._source, name))
        try:
            data = _content(tar, member)
        except _DAMAGE as error:
            raise ImageError(f"{label}: cannot be read from the tar ({one_line(error)}): get another copy") from error
        return images.decode(data, label).pixels

    def _columns(self, name: str) -> dict[str, str]:
        folder, base = posixpath.split(name)
        columns: dict[str, str] = {}
        for stem in (base.partition(".")[0], base.rpartition(".")[0]):  # WebDataset's key, then the closer relative
            said, text = (self._sidecars.get(posixpath.join(folder, stem + end)) for end in (".json", ".txt"))
            if said is not None:
                columns.update(self._parsed(said, name))
            if text is not None:
                columns[CAPTION] = text.strip()
        return columns

    def _parsed(self, text: str, name: str) -> dict[str, str]:
        try:
            row = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{Path(self._source, name)}: its .json is damaged ({one_line(error)})") from error
        return as_text(row)


class _DataSet:
    """The rows of a Hugging Face data set: the first column of images, and its plain columns as text."""

    def __init__(self, source: str) -> None:
        rows = _load_rows(source)
        import datasets

        kinds = {
            name: kind for name, kind in rows.features.items() if isinstance(kind, (datasets.Image, datasets.Value))
        }
        pictures = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
        if not pictures:
            raise UsageError(f"{source}: has no column of images (its columns are {', '.join(rows.column_names)})")
        self._source, self._column = source, pictures[0]
        self._plain = [name for name in kinds if name not in pictures]
        self._rows = rows.with_format(None).cast_column(self._column, datasets.Image(decode=False))

    def __iter__(self) -> Iterator[Photograph]:
        plain = self._rows.select_columns(self._plain)
        for first in range(0, len(self._rows), _DATASET_ROWS):
            batch = plain[first : first + _DATASET_ROWS] if self._plain else {}
            for number in range(first, min(first + _DATASET_ROWS, len(self._rows))):
                columns = as_text({name: values[number - first] for name, values in batch.items()})
                yield Photograph(self._source, f"{number:08}", columns, partial(self._read, number))

    def _read(self, number: int) -> np.ndarray:
        picture, label = self._rows[number][self._column], str(Path(self._source, f"{number:08}"))
        if picture is None:
            raise ImageError(f"{label}: the row has no picture")
        if picture["bytes"] is None:
            return images.read(picture["path"]).pixels
        return images.decode(picture["bytes"], label).pixels


def _load_rows(source: str) -> Any:
    """The `datasets.Dataset` of a folder made by save_to_disk, or of NAME or NAME:SPLIT. Raises UsageError."""
    saved = Path(source).is_dir()
    what = "" if saved else "no such file or folder, and "
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"{source}: {what}data sets need one more package: pip install datasets 'pyarrow<26' ({one_line(error)})"
        ) from error
    name, _, split = source.partition(":")
    try:
        rows = datasets.load_from_disk(source) if saved else datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # of the hub, of the network, of pyarrow, of data sets with configurations and scripts
        raise UsageError(f"{source}: {what}the package datasets cannot load it ({one_line(error)})") from error
    if not isinstance(rows, datasets.DatasetDict):
        return rows
    if "train" not in rows:
        raise UsageError(f"{source}: has no split train: name the folder of one of its splits, {', '.join(rows)}")
    return rows["train"]


def _members(source: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The regular files in a tar, in its order; each can be read before the next is asked for. Raises UsageError."""
    try:
        with tarfile.open(source) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps the header of every file
                if member.isfile():
                    yield tar, member
    except _DAMAGE as error:
        raise UsageError(
            f"{source}: is neither a folder nor a complete tar file: check it, or get another copy"
        ) from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return b"" if stream is None else stream.read()


def _read_file(path: Path) -> np.ndarray:
    return images.read(path).pixels


def _is_image(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in images.READABLE


def _refuse_folder(error: OSError) -> None:
    raise UsageError(f"{error.filename}: cannot be listed ({one_line(error.strerror)})")
