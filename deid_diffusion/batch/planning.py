"""Plan of a run: inputs matched with outputs, and checked before the first photo is processed."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG

from ..errors import UsageError, one_line
from ..io import video as clips
from ..io.images import READABLE, WRITABLE

FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}  # output format -> suffix of its files


@dataclass(frozen=True)
class Job:
    """Photo or clip to process.

    Attributes:
        source, target: paths of the photo and of the result.
        input_name, output_name: for messages and reports: as given, but never an absolute path.
        replace: whether a file at `target` may be replaced.
        holds_original: the file at `target` is a byte-for-byte copy of the photo, to be removed before the run.
    """

    source: Path
    target: Path
    input_name: str
    output_name: str
    replace: bool
    holds_original: bool = False


@dataclass(frozen=True)
class Plan:
    """Jobs of a run.

    Attributes:
        jobs: the photos and clips to process, in order.
        done: number of photos and clips whose finished result exists.
        skipped: number of files in input folders without the suffix of a photo or clip.
        names: of all photos and clips, those with a finished result included.
    """

    jobs: tuple[Job, ...]
    done: int
    skipped: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Input:
    """Path of a photo or clip, its place below the output folder, and its name for messages and reports."""

    path: Path
    place: Path
    name: str


def make_plan(
    inputs: Sequence[Path],
    out: Path | None,
    *,
    file_format: str | None = None,
    overwrite: bool = False,
    in_place: bool = False,
    recursive: bool = False,
) -> Plan:
    """Match inputs with outputs. Reads names and file sizes, and no photo (but one that equals its result in size).

    Args:
        inputs: files, which count as photos unless their suffix is a clip's, and folders, searched for the suffixes of
            photos and clips.
        out: output folder, or output file if there is one input file and `out` has a photo's or clip's suffix.
        file_format: of photos, a key of `FORMATS`; None is "png", or the format that the suffix of `out` names.
        overwrite: process photos whose result exists, too.
        in_place: replace the photos themselves; `out` and `file_format` must be None.
        recursive: search the folders below input folders.

    Raises:
        UsageError: inputs, `out` and options do not fit together, two results would have one name, a result would
            replace an input, or there is no photo at all.
    """
    _check_options(out, file_format, overwrite, in_place)
    photos, skipped = _find(inputs, recursive, out)
    if not photos:
        hint = "" if recursive else " (folders below it are searched with --recursive)"
        raise UsageError(f"{', '.join(map(str, inputs))}: no photo or clip found{hint}")
    if in_place:
        jobs = [Job(photo.path, Path(os.path.realpath(photo.path)), photo.name, photo.name, True) for photo in photos]
        _refuse_shared_names(jobs)
        return Plan(tuple(jobs), 0, skipped, tuple(job.input_name for job in jobs))
    assert out is not None  # _check_options
    if _is_output_file(inputs, out, file_format):
        jobs = [Job(photos[0].path, out, photos[0].name, display_name(out), overwrite)]
    else:
        suffix = FORMATS[file_format or "png"]
        base = Path(display_name(out))
        jobs = []
        for photo in photos:
            clip = clips.is_clip(photo.place)
            place = photo.place.with_suffix(clips.result_suffix(photo.place) if clip else suffix)
            jobs.append(Job(photo.path, out / place, photo.name, (base / place).as_posix(), overwrite))
    _refuse_shared_names(jobs)
    _refuse_inputs_as_targets(jobs)
    unfinished = [job for job in map(_unless_finished, jobs) if job is not None]
    names = tuple(job.input_name for job in jobs)
    return Plan(tuple(unfinished), len(jobs) - len(unfinished), skipped, names)


def display_name(path: Path) -> str:
    """Return the name for messages and reports: `path` as given, or its last part if it is absolute."""
    return path.name if path.is_absolute() else path.as_posix()


def _check_options(out: Path | None, file_format: str | None, overwrite: bool, in_place: bool) -> None:
    if in_place and (out is not None or file_format is not None or overwrite):
        raise UsageError("--in-place replaces each photo in its own format: leave out -o, --format and --overwrite")
    if not in_place and out is None:
        raise UsageError("no output: name a folder with -o, or pass --in-place to replace the photos themselves")


def _find(inputs: Sequence[Path], recursive: bool, out: Path | None) -> tuple[list[_Input], int]:
    """Return all photos, in the given order and folders sorted, and the number of other files in the folders."""
    photos: list[_Input] = []
    skipped = 0
    for given in inputs:
        if not given.is_dir():
            photos.append(_Input(given, Path(given.name), display_name(given)))
            continue
        if out is not None and _same_file(given, out):
            raise UsageError(f"{given}: is both input and output: choose another output folder, or pass --in-place")
        base = Path(display_name(given))
        for path, place in _files(given, recursive, out):
            if path.suffix.lower() in READABLE or clips.is_clip(path):
                photos.append(_Input(path, place, (base / place).as_posix()))
            else:
                skipped += 1
    return photos, skipped


def _files(folder: Path, recursive: bool, out: Path | None) -> Iterator[tuple[Path, Path]]:
    """Yield path and place in `folder` of its visible files, sorted; hidden folders and `out` are left out."""

    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename}: cannot be listed ({one_line(error.strerror)})")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        here = Path(parent)
        below = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        folders[:] = [name for name in below if out is None or not _same_file(here / name, out)]
        place = here.relative_to(folder)
        for name in sorted(names):
            if not name.startswith("."):
                yield here / name, place / name


def _is_output_file(inputs: Sequence[Path], out: Path, file_format: str | None) -> bool:
    """Return whether `out` is a file and no folder. Raises UsageError if the other is needed."""
    looks_like_file = (out.suffix.lower() in READABLE or clips.is_clip(out)) and not out.is_dir()
    if looks_like_file and len(inputs) == 1 and not inputs[0].is_dir():
        writable = clips.WRITABLE if clips.is_clip(inputs[0]) else WRITABLE
        kind = writable.get(out.suffix.lower())
        if kind is None:
            raise UsageError(f"{out}: {out.suffix} cannot be written: use one of {', '.join(writable)}")
        if file_format is not None and kind != file_format.upper():
            raise UsageError(f"{out}: its suffix and --format {file_format} disagree: leave one of them out")
        return True
    if looks_like_file or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out}: is a file's name, but this input needs an output folder")
    return False


def _refuse_shared_names(jobs: Sequence[Job]) -> None:
    owners: dict[str, Job] = {}
    for job in jobs:
        owner = owners.setdefault(os.path.normcase(job.target), job)
        if owner is not job:
            both = f"{owner.source} and {job.source}"
            raise UsageError(f"{both} would both become {job.target}: rename one, or run them apart")


def _refuse_inputs_as_targets(jobs: Sequence[Job]) -> None:
    """Raise UsageError if a target is one of the photos, also by a link or another case of its letters."""
    owners = {(stat.st_dev, stat.st_ino): job.source for job in jobs if (stat := _stat(job.source))}
    for job in jobs:
        stat = _stat(job.target)
        owner = owners.get((stat.st_dev, stat.st_ino)) if stat else None
        if owner is not None:
            raise UsageError(f"{job.target}: is the input {owner} itself: choose another output, or pass --in-place")


def _unless_finished(job: Job) -> Job | None:
    """Return the job, adapted to a file at its target; None if that is a finished result, no empty file or copy."""
    stat = _stat(job.target)
    if stat is None or not S_ISREG(stat.st_mode):
        return job
    if stat.st_size == 0:
        return replace(job, replace=True)
    if _same_bytes(job.source, job.target, stat.st_size):
        return replace(job, replace=True, holds_original=True)
    return job if job.replace else None


def _same_bytes(source: Path, target: Path, target_size: int) -> bool:
    stat = _stat(source)
    if stat is None or stat.st_size != target_size:
        return False
    try:
        return filecmp.cmp(source, target, shallow=False)
    except OSError:  # unreadable: reading the photo will say so
        return False


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):  # missing or unreadable: reading it will say so
        return None


def _same_file(path: Path, other: Path) -> bool:
    first, second = _stat(path), _stat(other)
    return first is not None and second is not None and os.path.samestat(first, second)
