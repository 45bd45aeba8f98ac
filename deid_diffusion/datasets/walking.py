"""A walk through folders that holds no listing: memory is that of the folders' depth, whatever the number of names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError, one_line
from ..planning import shown


@dataclass(frozen=True)
class Found:
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


def walk(inputs: Sequence[Path], out: Path) -> Iterator[Found]:
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
            yield from _folder(given, "", Path(shown(given)), out)
        else:
            yield _found(given, given.name, shown(given))


def _refuse_overlaps(inputs: Sequence[Path]) -> None:
    names: dict[str, Path] = {}
    places: dict[Path, Path] = {}
    for given in inputs:
        owner = names.setdefault(shown(given), given)
        if owner is not given:
            raise UsageError(f"{owner} and {given} would both be called {shown(given)}: rename one, or run them apart")
        owner = places.setdefault(given.resolve(), given)
        if owner is not given:
            raise UsageError(f"{owner} and {given} are the same: leave one of them out")
    for place, given in places.items():
        if not places.keys().isdisjoint(place.parents):
            raise UsageError(f"{given}: is in another input: leave one of them out")


def _folder(folder: Path, place: str, base: Path, out: Path) -> Iterator[Found]:
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


def _found(path: Path, place: str, name: str) -> Found:
    try:
        status = path.stat()
    except OSError:  # a dangling link: reading it will say so
        return Found(path, place, name, "")
    return Found(path, place, name, f"{status.st_size}:{status.st_mtime_ns}")
