"""Units of work of a data-set run: source files, tasks, and the worker that anonymises one image."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import secrets
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from .. import results
from ..errors import DeidError, ImageError, UsageError, one_line
from ..io import images
from ..io.files import sha256_of
from ..options import Options
from ..results import ImageRecord, JobResult, elapsed, internal
from .planning import FORMATS, display_name

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer

Kind = Literal["photo", "label", "tar", "table"]

_TEXT_FILES = ("csv", "json", "jsonl", "md", "names", "tsv", "txt", "xml", "yaml", "yml")
_TEXT_MEMBERS = ("caption", "cls", "cls2", "id", "index", "inx", "transcript")  # as WebDataset's decoder has them
LABELS = frozenset(f".{suffix}" for suffix in (*_TEXT_FILES, *_TEXT_MEMBERS))
"""Lower-case suffixes of annotations, which are copied."""

TARS = (".tar", ".tar.gz", ".tgz")  # suffixes of WebDataset shards
TABLES = (".parquet", ".arrow")  # suffixes of tables: Parquet, and the Arrow streams that `datasets` saves
KEEP = "keep"  # output format that leaves each image its own format and name
WHOLE_FILE = -1  # `first` of a task that is not a piece of a shard

_ENCODED = re.compile(rb"[A-Za-z0-9+/]{1024}")  # base64; labels have a space or a comma more often than that


def kind_of(name: str, copied: frozenset[str]) -> Kind | None:
    """Return the kind of a file by its name, or None for an unknown one, which may be an image.

    `copied` are suffixes that the user declared to hold no image.
    """
    name = name.lower()
    if name.endswith(TARS):
        return "tar"
    if name.endswith(TABLES):
        return "table"
    suffix = PurePosixPath(name).suffix
    if suffix in images.READABLE:
        return "photo"
    return "label" if suffix in LABELS or suffix in copied else None


def check_label(data: bytes | mmap.mmap, name: str, suffix: str, copied: frozenset[str]) -> None:
    """Raise ImageError for text that may embed an image in base64 (LabelMe's `imageData`), unless it is in `copied`."""
    if suffix not in copied and _ENCODED.search(data):
        raise ImageError(f"{name}: may embed an image as base64: left out; if it holds none, add --copy {suffix}")


def result_name(name: str, file_format: str) -> str:
    """Return the name of an image's result. Raises ImageError if its own format cannot be written."""
    path = PurePosixPath(name)
    if file_format != KEEP:
        return str(path.with_suffix(FORMATS[file_format]))
    if path.suffix.lower() not in images.WRITABLE:
        raise ImageError(f"{name}: {path.suffix or 'no suffix'} cannot be written: use --format png, webp or jpeg")
    return name


@dataclass(frozen=True)
class SourceFile:
    """An input file with an absolute path.

    Attributes:
        place: of its result below the output folder, with forward slashes.
        name: for messages and records: as given, but never an absolute path.
        stamp: size and modification time, which tell versions of the file apart.
    """

    path: Path
    place: str
    name: str
    stamp: str


def iter_files(inputs: Sequence[Path], out: Path) -> Iterator[SourceFile]:
    """Walk folders and files in the file system's order; hidden files and the output folder are left out.

    Links to files are followed, links to folders are not. Names are unique. Raises UsageError for an input that does
    not exist, cannot be listed, is the output folder, or overlaps with another input.
    """
    _check_overlaps(inputs)
    for path in inputs:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder: check the name")
        if not path.is_dir():
            yield _source_file(path, path.name, display_name(path))
        elif out.exists() and path.samefile(out):
            raise UsageError(f"{path}: is both input and output: choose another output folder")
        else:
            yield from _walk(path, "", Path(display_name(path)), out)


def _check_overlaps(inputs: Sequence[Path]) -> None:
    names: dict[str, Path] = {}
    resolved: dict[Path, Path] = {}
    for path in inputs:
        name = display_name(path)
        if (other := names.setdefault(name, path)) is not path:
            raise UsageError(f"{other} and {path} would both be called {name}: rename one or run them separately")
        if (other := resolved.setdefault(path.resolve(), path)) is not path:
            raise UsageError(f"{other} and {path} are the same: give only one of them")
    for target, path in resolved.items():
        if not resolved.keys().isdisjoint(target.parents):
            raise UsageError(f"{path}: lies inside another input: give only one of them")


def _walk(folder: Path, place: str, base: Path, out: Path) -> Iterator[SourceFile]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path, entry_place = Path(entry.path), f"{place}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if not (out.exists() and out.samefile(path)):
                        yield from _walk(path, f"{entry_place}/", base, out)
                elif entry.is_file() or not path.exists():  # not a pipe, which would block
                    yield _source_file(path, entry_place, (base / entry_place).as_posix())
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed ({one_line(error.strerror or error)})") from error


def _source_file(path: Path, place: str, name: str) -> SourceFile:
    try:
        status = path.stat()
        stamp = f"{status.st_size}:{status.st_mtime_ns}"
    except OSError:  # a dangling link: reading it reports the error
        stamp = ""
    return SourceFile(path.absolute(), place, name, stamp)


@dataclass(frozen=True)
class Task:
    """Unit of work of one worker: a file, or a piece of a shard.

    Attributes:
        kind: of the file.
        source: the file.
        output: path of its result below the output folder.
        scratch: absolute folder for unfinished results.
        first, count: samples or rows of a shard's piece, from 0; `WHOLE_FILE` and 1 for a file.
        error: why the file is left out; None unless that is known beforehand.
    """

    kind: Kind
    source: SourceFile
    output: str
    scratch: Path
    first: int = WHOLE_FILE
    count: int = 1
    error: str | None = None

    @property
    def name(self) -> str:
        """Name for messages and records: that of the file, and of a piece its samples' or rows' numbers."""
        if self.first == WHOLE_FILE:
            return self.source.name
        last = f" to {self.first + self.count - 1}" if self.count > 1 else ""
        return f"{self.source.name}/{self.first}{last}"

    def split(self) -> list[Task]:
        """Return one task per sample or row."""
        return [replace(self, first=self.first + k, count=1) for k in range(self.count)]

    def temporary(self) -> Path:
        """Return a new, unused path in the scratch folder."""
        return self.scratch / secrets.token_hex(16)


@dataclass(frozen=True)
class TaskResult:
    """Result of a task: a complete output, not yet renamed into place, or None, and results of images.

    `line` is that of the manifest for a copied label file or a shard.
    """

    task: Task
    temporary: Path | None = None
    outcomes: tuple[JobResult, ...] = ()
    line: str | None = None

    @property
    def failed(self) -> bool:
        """Whether an image was left out."""
        return any(outcome.report.status == "failed" for outcome in self.outcomes)


Engine = Callable[[Iterator[Task]], Iterator[TaskResult]]
"""Executes tasks, in any order; takes the next task when a worker is free."""


def manifest_line(task: Task, temporary: Path, items: int | None = None) -> str:
    """Return the manifest's line for a label file or a shard of `items`, left-out ones included. Raises OSError."""
    digests = {"input_sha256": sha256_of(task.source.path), "output_sha256": sha256_of(temporary)}
    return json.dumps({"file": task.source.name, "output": task.output, **digests, "items": items})


def leave_out(name: str, error: str) -> JobResult:
    """Return the result of an image, or of several as one, that cannot be processed."""
    return JobResult(ImageRecord(name, None, "failed", error=error), error)


def skip(task: Task, error: str) -> TaskResult:
    """Return the result of a task that cannot be executed."""
    return TaskResult(task, outcomes=(leave_out(task.name, error),))


Part = tuple[str, Callable[[], tuple[str, Any, JobResult | None]]]
"""A tar member or table cell: its name, and a function that returns its new key, its new value and its result.

The result is None for a part that is not an image. The function raises ImageError for a part that is left out.
"""


def process_item(name: str, parts: Iterable[Part]) -> tuple[dict[str, Any] | None, list[JobResult]]:
    """Process the parts of one sample or row; if one of its images fails, all of it is left out.

    Returns the new values by their keys, or None if it is left out; and the results of its images.
    """
    values: dict[str, Any] = {}
    outcomes: list[JobResult] = []
    for part_name, process in parts:
        try:
            key, value, outcome = process()
            if key in values:
                raise ImageError(f"{part_name}: another image of its sample gets the same name: use --format keep")
        except ImageError as problem:
            outcomes.append(leave_out(part_name, one_line(problem)))
            continue
        values[key] = value
        if outcome is not None:
            outcomes.append(outcome)
    if all(outcome.report.status != "failed" for outcome in outcomes):
        return values, outcomes
    error = f"left out with another image of {name}"
    for index, outcome in enumerate(outcomes):
        if outcome.report.status != "failed":
            report = replace(outcome.report, status="failed", output=None, output_sha256=None, error=error)
            outcomes[index] = replace(outcome, report=report)
    return None, outcomes


def read_image(path: Path, name: str) -> bytes:
    """Return a file's bytes. Raises ImageError that shows `name` in place of the path."""
    try:
        return images.file_bytes(path)
    except ImageError as error:
        raise ImageError(str(error).replace(str(path), name)) from error


@contextmanager
def damaged_shard(name: str, *kinds: type[Exception]) -> Iterator[None]:
    """Raise ImageError, which says that a shard is damaged, in place of exceptions of these kinds."""
    try:
        yield
    except kinds as error:
        raise ImageError(f"{name}: is damaged ({one_line(error)}): left out; get a complete copy") from error


@dataclass(frozen=True)
class JobConfig:
    """Settings of a worker; sent to other processes and machines.

    Attributes:
        load: returns the anonymizer for a model's name and a device.
        model, options: its name, and the options for each image.
        file_format: of the results: a key of `planning.FORMATS`, or `KEEP`.
        require_face: leave out images without a face.
        copied: suffixes of files and members, and names of columns, that the user declared to hold no image.
        image_columns: table columns that hold images, in addition to those of type `datasets.Image`.
        device: a torch device; "auto" gives each worker one of the GPUs, if there are any.
    """

    load: Callable[[str, str], Anonymizer]
    model: str = "builtin"
    options: Options = field(default_factory=Options)
    file_format: str = "png"
    require_face: bool = False
    copied: frozenset[str] = frozenset()
    image_columns: tuple[str, ...] = ()
    device: str = "auto"


class ImageWorker:
    """A model and the settings it is used with; it is loaded for the first image that can be read."""

    def __init__(self, config: JobConfig) -> None:
        self.config = config
        self._versions: Mapping[str, str] = results.versions()

    def load(self) -> None:
        """Load the model now. Raises DeidError if it cannot be loaded or does not support the options."""
        self._model  # noqa: B018

    @cached_property
    def _model(self) -> Anonymizer:
        model = self.config.load(self.config.model, self.config.device)
        if self.config.options.method == "generate":
            model.check(self.config.options)
        return model

    def process(
        self, read: Callable[[], bytes], name: str, output: str, display_name: str
    ) -> tuple[bytes | None, JobResult]:
        """Anonymise one encoded picture.

        Args:
            read: returns the picture's bytes.
            name: of the picture in messages and records.
            output: name of the result; its suffix says the format.
            display_name: of the result in messages and records.

        Returns:
            The result's bytes, or None where nothing may be written; and the record.

        Raises:
            DeidError: an error that every other picture would meet, too.
        """
        start = time.perf_counter()
        failed = ImageRecord(name, None, "failed", versions=self._versions)
        try:
            data = read()
            failed = replace(failed, input_sha256=hashlib.sha256(data).hexdigest())
            model, config = self._model, self.config
            failed = replace(failed, model=model.model_name, gate=model.verifier.description)
            encoded, record = model.anonymize_bytes(
                data, config.options, name=name, output=output, require_face=config.require_face
            )
        except ImageError as error:
            text = one_line(error)
            return None, JobResult(replace(failed, error=text, seconds=elapsed(start)), text)
        except DeidError:
            raise
        except Exception as error:
            text = "".join(traceback.format_exception(error))  # the exception itself may not travel
            result = internal(replace(failed, seconds=elapsed(start)), name, error)
            return None, replace(result, unexpected=RuntimeError(text))
        return encoded, JobResult(replace(record, output=display_name))
