"""What a worker holds: the model and the wishes, and how one picture of any data set is made with them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from .. import results
from ..errors import DeidError, ImageError, UsageError, one_line
from ..io import images
from ..options import Options
from ..results import ImageRecord, JobResult, elapsed, internal
from .planning import FORMATS, display_name

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer


@dataclass(frozen=True)
class Task:
    """What one worker does at once, and what a kill costs at most.

    Attributes:
        kind: what the file is.
        found: the file.
        output: where the result goes below the output folder; of a shard's piece, where the shard goes.
        first, count: of a shard, the samples or rows to process; a file of its own is one.
        scratch: folder for the result, which gets its name when the task comes back.
    """

    kind: Kind
    found: SourceFile
    output: str
    scratch: Path
    first: int = 0
    count: int = 1

    def singles(self) -> tuple[Task, ...]:
        """The same in the smallest tasks."""
        return tuple(replace(self, first=self.first + k, count=1) for k in range(self.count))


@dataclass(frozen=True)
class FileRecord:
    """What became of a file that is no picture: a label file that was copied, or a shard.

    Attributes:
        file: its name as the user gave it, never an absolute path.
        output: the result's, below the output folder.
        input_sha256, output_sha256: hex digests.
        items: samples or rows of a shard, those that were left out included; None of a label file.
    """

    file: str
    output: str
    input_sha256: str
    output_sha256: str
    items: int | None = None

    def to_json(self) -> str:
        """One line of JSON, ASCII only, without the line break."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class TaskResult:
    """What became of a task.

    Attributes:
        task: the task.
        made: the finished file, under a passing name; None if nothing may be written.
        outcomes: what became of each picture.
        copied: the record of a label file.
        stop: one line on what keeps the whole run from going on; nothing of this task counts then.
    """

    task: Task
    made: Path | None = None
    outcomes: tuple[JobResult, ...] = ()
    copied: FileRecord | None = None
    stop: str | None = None

    @property
    def failed(self) -> bool:
        """Whether a picture was left out."""
        return any(one.report.status == "failed" for one in self.outcomes)


Engine = Callable[[Iterator[Task]], Iterator[TaskResult]]
"""Has tasks done, in any order; asks for a task when there is somebody to do it."""


DEATHS = 3
"""Workers that one sample, row or photo may kill before it is left out."""


def mark_poisoned(task: Task) -> TaskResult:
    """A task that killed `DEATHS` workers."""
    where = f"{task.found.name}, item {task.first}" if task.kind in ("tar", "table") else task.found.name
    return skip(task, f"{where}: {DEATHS} workers died at it (often memory is short): left out")


def skip(task: Task, error: str) -> TaskResult:
    """A task none of which could be done."""
    name = task.found.name
    if task.kind in ("tar", "table") and task.count:
        name += f"/{task.first}" + (f" to {task.first + task.count - 1}" if task.count > 1 else "")
    report = ImageRecord(name, None, "failed", error=error)
    return TaskResult(task, outcomes=(JobResult(report, error),))


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


@dataclass(frozen=True)
class SourceFile:
    """A file of a data set.

    Attributes:
        path: the file.
        place: where its result goes below the output folder, with forward slashes.
        name: for people and reports: as given, but never an absolute path.
        stamp: size and time of change, which differ where the content does.
    """

    path: Path
    place: str
    name: str
    stamp: str


def iter_files(inputs: Sequence[Path], out: Path) -> Iterator[SourceFile]:
    """The visible files in folders and the folders below them, and single files, in the system's own order.

    No two files have one name: not one input may be in another one, and no two may be called the same.

    Links to files are followed, links to folders are not. The output folder is not entered.

    Raises:
        UsageError: there is no such file or folder, one cannot be listed, the output folder is an input, or inputs
            overlap.
    """
    _refuse_overlaps(inputs)
    for given in inputs:
        if not given.exists():
            raise UsageError(f"{given}: no such file or folder: check the name")
        if given.is_dir():
            if out.exists() and given.samefile(out):
                raise UsageError(f"{given}: is both input and output: choose another output folder")
            yield from _folder(given, "", Path(display_name(given)), out)
        else:
            yield _found(given, given.name, display_name(given))


def _refuse_overlaps(inputs: Sequence[Path]) -> None:
    names: dict[str, Path] = {}
    places: dict[Path, Path] = {}
    for given in inputs:
        owner = names.setdefault(display_name(given), given)
        if owner is not given:
            raise UsageError(
                f"{owner} and {given} would both be called {display_name(given)}: rename one, or run them apart"
            )
        owner = places.setdefault(given.resolve(), given)
        if owner is not given:
            raise UsageError(f"{owner} and {given} are the same: leave one of them out")
    for place, given in places.items():
        if not places.keys().isdisjoint(place.parents):
            raise UsageError(f"{given}: is in another input: leave one of them out")


def _folder(folder: Path, place: str, base: Path, out: Path) -> Iterator[SourceFile]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                here = f"{place}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if not (out.exists() and out.samefile(entry.path)):
                        yield from _folder(Path(entry.path), f"{here}/", base, out)
                elif entry.is_file() or not Path(entry.path).exists():  # no pipe, which would make us wait
                    yield _found(Path(entry.path), here, (base / here).as_posix())
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed ({one_line(error.strerror or error)})") from error


def _found(path: Path, place: str, name: str) -> SourceFile:
    try:
        status = path.stat()
    except OSError:  # a dangling link: reading it will say so
        return SourceFile(path, place, name, "")
    return SourceFile(path, place, name, f"{status.st_size}:{status.st_mtime_ns}")


@dataclass(frozen=True)
class JobConfig:
    """Everything that a worker needs to begin; goes to other processes and machines.

    Attributes:
        load: gives the anonymizer of a model's name and a device.
        model: its name.
        options: for each picture.
        file_format: of the results: a key of `planning.FORMATS`, or `kinds.KEEP`.
        require_face: a picture with no face is left out.
        copied: suffixes of files and members, and columns, that hold no picture, as the user said.
        image_columns: columns of tables that hold pictures, beside those that say so themselves.
        device: "auto" gives each worker a GPU in turn where there are any; else a torch device such as "cpu".
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
    """A recipe with the model that it names, loaded when the first picture has been read."""

    def __init__(self, recipe: JobConfig) -> None:
        self.recipe = recipe
        self._versions: Mapping[str, str] = results.versions()

    def load(self) -> None:
        """Load the model now. Raises DeidError where it cannot be loaded, or cannot do what is asked for."""
        self._model  # noqa: B018

    @cached_property
    def _model(self) -> Anonymizer:
        model = self.recipe.load(self.recipe.model, self.recipe.device)
        if self.recipe.options.method == "generate":
            model.check(self.recipe.options)
        return model

    def make(
        self, read: Callable[[], bytes], name: str, output: str, display_name: str
    ) -> tuple[bytes | None, JobResult]:
        """A picture's bytes become the result's.

        Args:
            read: gives the picture's bytes.
            name: of the picture, for people and reports.
            output: name of the result; its suffix says the format.
            shown: the result's name for people and reports.

        Returns:
            The result, or None where nothing may be written; and what became of the picture.

        Raises:
            DeidError: something that would befall every other picture, too.
        """
        start = time.perf_counter()
        failed = ImageRecord(name, None, "failed", versions=self._versions)
        try:
            data = read()
            failed = replace(failed, input_sha256=hashlib.sha256(data).hexdigest())
            model, recipe = self._model, self.recipe
            failed = replace(failed, model=model.model_name, gate=model.verifier.description)
            encoded, record = model.anonymize_bytes(
                data, recipe.options, name=name, output=output, require_face=recipe.require_face
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
