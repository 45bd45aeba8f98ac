"""Sources of training photographs: image folders, tar files and Hugging Face data sets.

Folders and tars are not read by ``datasets.load_dataset``, which copies every photograph to its cache, skips files
without a metadata row silently, and refuses tars whose samples differ in their file types.
"""

from __future__ import annotations

import csv
import json
import lzma
import os
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import DeidError, ImageError, UsageError, one_line
from ..io import images

CAPTION = "text"  # column of a photograph's caption

_METADATA = ("metadata.csv", "metadata.jsonl")  # of an imagefolder, with a column file_name
_SAVED = ("state.json", "dataset_dict.json")  # files of datasets.save_to_disk
_ARCHIVES = frozenset({".tar", ".gz", ".tgz", ".bz2", ".xz", ".zip"})
_MAX_SIDECAR = 2**20  # bytes; larger files are annotations of a data set, not captions
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)


def read_table(path: Path, key: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the value of the column `key` and the other columns of each row of a .jsonl or .csv file.

    Raises UsageError if the file cannot be read, or a row lacks the column.
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
    except (OSError, ValueError, csv.Error) as error:  # ValueError: damaged text or JSON
        raise UsageError(f"{path}: cannot be read as a table ({one_line(error)})") from error


def as_text(row: Any) -> dict[str, str]:
    """Return the strings, numbers and booleans of a row as strings; nothing if it is no mapping."""
    if not isinstance(row, Mapping):
        return {}
    return {name: str(value) for name, value in row.items() if name and isinstance(value, (str, int, float, bool))}


@dataclass(frozen=True)
class Photograph:
    """Photograph of a source, not decoded yet.

    Attributes:
        source: its folder, tar or data set, as given.
        name: its path in the source, with forward slashes; the row number in a data set.
        columns: its metadata; the caption, if any, is the column `CAPTION`.
        read: returns (H, W, 3) uint8 RGB, upright, or raises ImageError; to be called before the iteration continues.
    """

    source: str
    name: str
    columns: Mapping[str, str]
    read: Callable[[], np.ndarray]

    @property
    def path(self) -> str:
        """Source and name, as error messages state them."""
        return str(Path(self.source, self.name))


class Photographs:
    """Re-iterable photographs of several sources with their columns, in a fixed order.

    Damaged files are included; reading them raises.
    """

    def __init__(
        self, data: Sequence[str | Path], *, manifest: Path | None = None, caption_column: str | None = None
    ) -> None:
        """Open the sources. Raises UsageError if one does not exist or cannot be read.

        Args:
            data: folders of images, read recursively with their `metadata.csv` or `.jsonl`; tar files with their .json
                and .txt sidecars; folders saved by `datasets`; or data set names, NAME or NAME:SPLIT. An existing
                path is never taken for a name.
            manifest: CSV whose column `file` is a photograph's name or its last part; its other columns win.
            caption_column: column of the caption; None means `CAPTION`, the column of .txt sidecars.
        """
        self._sources = [open_source(str(source)) for source in data]
        self._caption_column = caption_column
        self._manifest = None if manifest is None else dict(read_table(manifest, "file"))

    def __iter__(self) -> Iterator[Photograph]:
        """Yield all photographs; at the end raise UsageError if none is in the manifest or has the caption column."""
        photograph, is_listed, has_caption = None, self._manifest is None, self._caption_column is None
        for photograph in chain.from_iterable(self._sources):
            columns = dict(photograph.columns)
            if self._manifest is not None:
                names = photograph.name, posixpath.basename(photograph.name)
                row = next((self._manifest[name] for name in names if name in self._manifest), None)
                columns.update(row or {})
                is_listed |= row is not None
            if self._caption_column is not None:
                caption = columns.pop(self._caption_column, None)
                columns.pop(CAPTION, None)
                columns.update({} if caption is None else {CAPTION: caption})
                has_caption |= caption is not None
            yield replace(photograph, columns=columns)
        if photograph is not None and not is_listed:
            raise UsageError(f"manifest: its column file names none of the photographs, such as {photograph.name}")
        if photograph is not None and not has_caption:
            raise UsageError(
                f"caption column: no photograph has a column {self._caption_column} "
                f"({photograph.path} has {', '.join(photograph.columns) or 'none'})"
            )


def open_source(given: str) -> Iterable[Photograph]:
    """Return the photographs of a folder, tar file, saved data set or data set name. Raises UsageError."""
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
    """Images of a folder and its subfolders, sorted, without hidden ones."""

    source: str

    def __iter__(self) -> Iterator[Photograph]:
        table: dict[str, dict[str, str]] = {}
        for parent, folders, names in os.walk(self.source, onerror=_refuse_folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            place = Path(parent).relative_to(self.source).as_posix()
            for metadata in _METADATA:
                if metadata in names:
                    for name, columns in read_table(Path(parent, metadata), "file_name"):
                        table[posixpath.normpath(posixpath.join(place, name))] = columns
            for name in sorted(filter(_is_image, names)):
                name = posixpath.normpath(posixpath.join(place, name))
                path = Path(self.source, name)
                yield Photograph(self.source, name, table.get(name, {}), partial(_read_file, path))


class _Tar:
    """Images of a tar file in its order, with sidecars that share their name up to the first or last dot."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._sidecars: dict[str, str] = {}
        for tar, member in _members(source):
            if PurePosixPath(member.name).suffix.lower() in (".json", ".txt") and member.size <= _MAX_SIDECAR:
                self._sidecars[posixpath.normpath(member.name)] = _content(tar, member).decode("utf-8", "replace")

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
        for stem in (base.partition(".")[0], base.rpartition(".")[0]):  # WebDataset's key, then the more specific one
            row, text = (self._sidecars.get(posixpath.join(folder, stem + suffix)) for suffix in (".json", ".txt"))
            if row is not None:
                columns.update(self._parse(row, name))
            if text is not None:
                columns[CAPTION] = text.strip()
        return columns

    def _parse(self, text: str, name: str) -> dict[str, str]:
        try:
            row = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{Path(self._source, name)}: its .json sidecar is damaged ({one_line(error)})") from error
        return as_text(row)


class _DataSet:
    """Images of a Hugging Face data set: its first image column, with the plain columns as text."""

    def __init__(self, source: str) -> None:
        rows = _load_rows(source)
        import datasets

        image_columns = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        if not image_columns:
            raise UsageError(f"{source}: has no column of images (its columns are {', '.join(rows.column_names)})")
        self._source, self._column = source, image_columns[0]
        self._plain = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Value)]
        self._rows = rows.with_format(None).cast_column(self._column, datasets.Image(decode=False))

    def __iter__(self) -> Iterator[Photograph]:
        rows = self._rows.select_columns(self._plain) if self._plain else repeat({})
        for number, row in zip(range(len(self._rows)), rows, strict=False):
            yield Photograph(self._source, f"{number:08}", as_text(row), partial(self._read, number))

    def _read(self, number: int) -> np.ndarray:
        image, label = self._rows[number][self._column], str(Path(self._source, f"{number:08}"))
        if image is None:
            raise ImageError(f"{label}: the row has no image")
        if image["bytes"] is None:
            return images.read(image["path"]).pixels
        return images.decode(image["bytes"], label).pixels


def _load_rows(source: str) -> Any:
    """Return the `datasets.Dataset` of a folder of save_to_disk, or of NAME or NAME:SPLIT. Raises UsageError."""
    is_saved = Path(source).is_dir()
    prefix = f"{source}: " if is_saved else f"{source}: no such file or folder, and "
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"{prefix}data sets need one more package: pip install datasets 'pyarrow<26' ({one_line(error)})"
        ) from error
    name, _, split = source.partition(":")
    try:
        rows = datasets.load_from_disk(source) if is_saved else datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # of the hub, the network, pyarrow, or a data set that needs a configuration
        raise UsageError(f"{prefix}the package datasets cannot load it ({one_line(error)})") from error
    if not isinstance(rows, datasets.DatasetDict):
        return rows
    if "train" not in rows:
        raise UsageError(f"{source}: has no split train: name the folder of one of its splits, {', '.join(rows)}")
    return rows["train"]


def _members(source: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the regular files of a tar, each to be read before the iteration continues. Raises UsageError."""
    try:
        with tarfile.open(source) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else it keeps every header in memory
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
