"""Photographs of faces in, a cache of aligned crops and meshes out: what every training script reads."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeidError, ImageError, UsageError, one_line
from ..faces.landmarks import FaceMesh
from ..files import prepare_folder, refusal, write_atomic
from .crops import face_crops, is_grey
from .parts import CROPS, MESHES, ROWS, SKIPPED, Faces, Parts
from .sources import Photograph, Photographs

_RECORD = "prepared.json"  # what was asked for, of which photographs, and what came of it
_NO_FACE = "no face found"
_PART_PHOTOGRAPHS, _PART_BYTES = 256, 2**26  # a part is done after so many photographs, or about so many bytes of crops


@dataclass(frozen=True)
class Prepared:
    """What a finished cache holds.

    Attributes:
        crops: their number.
        photographs: the number of those that were looked at, usable or not.
        broken: the number of those that could not be read.
        faceless: the number of those in which no face was found.
        was_complete: whether there was nothing left to do.
    """

    crops: int
    photographs: int
    broken: int
    faceless: int
    was_complete: bool = False


@dataclass(frozen=True)
class _Arguments:
    """What a cache is made with; it is continued with the same only."""

    data: list[str]
    resolution: int
    variants: int
    seed: int
    manifest: str | None
    caption_column: str | None


def prepare(
    data: Sequence[str | Path],
    cache: Path,
    *,
    size: int,
    variants: int = 3,
    manifest: Path | None = None,
    caption_column: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Write ``crops.npy`` (N, size, size, 3) uint8, ``meshes.npy`` (N, 478, 2) float32 and ``rows.jsonl``.

    A call that was killed is continued by the same call, and ends with the bytes that it would have ended with. The
    photographs that gave nothing are listed in ``skipped.jsonl``, each with the reason.

    Args:
        data: folders, tar files or data sets, see `Photographs`; one face a photograph, the largest.
        cache: folder, made when missing.
        size: of a crop, in pixels.
        variants: crops a photograph; the first is plain, the others are mirrored, jittered and relit. Photographs
            without colour get half as many.
        manifest: CSV with a ``file`` column; its other columns are kept in ``rows.jsonl``.
        caption_column: the column that ``rows.jsonl`` calls ``text``; None is ``text`` itself.
        seed: of the jitter.
        progress: called with the numbers of photographs done and in all, at the start and after each photograph.

    Raises:
        DeidError: the data are missing or hold nothing usable, the cache was begun with other arguments or other
            photographs, or it cannot be written. A broken photograph is no error, it is skipped.
    """
    for name, value, least in (("size", size, 1), ("variants", variants, 1), ("seed", seed, 0)):
        if value < least:
            raise UsageError(f"{name}: {value}, expected {least} or more")
    arguments = _Arguments(
        data=[Path(one).as_posix() for one in data],
        resolution=size,
        variants=variants,
        seed=seed,
        manifest=None if manifest is None else str(manifest),
        caption_column=caption_column,
    )
    record = _read_record(cache)
    if record is not None:
        _refuse_other_arguments(cache, record["arguments"], asdict(arguments))
    parts = Parts(cache)
    if record is not None and (cache / CROPS).exists():
        parts.drop()
        return Prepared(**record["result"], was_complete=True)
    photographs = Photographs(arguments.data, manifest=manifest, caption_column=caption_column)
    count, digest = _survey(photographs)
    if not count:
        raise UsageError(
            f"{' '.join(arguments.data)}: no photograph found (tar files are named themselves: FOLDER/*.tar)"
        )
    begun = {"arguments": asdict(arguments), "photographs": count, "sha256": digest}
    if record is not None and any(record[name] != value for name, value in begun.items()):
        raise UsageError(
            f"{cache}: was begun with photographs or columns that have changed since: choose another folder"
        )
    prepare_folder(cache)
    try:
        if record is None:
            parts.drop()
            _write_record(cache, begun)
        if _make_parts(parts, photographs, arguments, count, progress) != digest:
            raise UsageError(f"{cache}: photographs changed while they were read: run it again in another folder")
        return _finish(cache, parts, begun)
    except OSError as error:
        raise DeidError(refusal(cache, error)) from error


def _read_record(cache: Path) -> Any:
    """What is recorded of a cache, begun or finished; None if there is no such cache. Raises UsageError."""
    try:
        return json.loads((cache / _RECORD).read_text())
    except (FileNotFoundError, NotADirectoryError):
        if any((cache / name).exists() for name in (CROPS, MESHES, ROWS)):
            raise UsageError(f"{cache}: holds a cache without {_RECORD}: choose another folder") from None
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{cache / _RECORD}: cannot be read ({one_line(error)}): choose another folder") from error


def _write_record(cache: Path, record: dict[str, Any]) -> None:
    write_atomic(cache / _RECORD, json.dumps(record, indent=1).encode() + b"\n", overwrite=True)


def _refuse_other_arguments(cache: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name, value in now.items():
        if before[name] != value:
            raise UsageError(
                f"{cache}: was begun with {name} {_shown(before[name])}, not {_shown(value)}: choose another folder"
            )


def _shown(value: object) -> str:
    return "none" if value is None else " ".join(value) if isinstance(value, list) else str(value)


def _survey(photographs: Iterable[Photograph]) -> tuple[int, str]:
    """The number of the photographs and a digest of their names and columns. No picture is read."""
    count, digest = 0, hashlib.sha256()
    for photograph in photographs:
        digest.update(_identity(photograph))
        count += 1
    return count, digest.hexdigest()


def _identity(photograph: Photograph) -> bytes:
    return json.dumps([photograph.source, photograph.name, dict(photograph.columns)]).encode()


def _make_parts(
    parts: Parts,
    photographs: Iterable[Photograph],
    arguments: _Arguments,
    total: int,
    progress: Callable[[int, int], None] | None,
) -> str:
    """Make the parts that are missing. Returns the digest of all photographs that `_survey` would give now."""
    size, variants = arguments.resolution, arguments.variants
    full = max(1, min(_PART_PHOTOGRAPHS, _PART_BYTES // (3 * size * size * variants)))
    done = first = parts.done()
    if progress is not None:
        progress(done, total)
    landmarker, digest = FaceMesh(), hashlib.sha256()
    found: list[Faces] = []
    for number, photograph in enumerate(photographs):
        digest.update(_identity(photograph))
        if number < done:
            continue
        # each photograph has randomness of its own, so that it does not matter where a killed run goes on
        found.append(_look_at(photograph, landmarker, size, variants, np.random.default_rng((arguments.seed, number))))
        if len(found) == full or number == total - 1:
            parts.save(first, found, size)
            first, found = number + 1, []
        if progress is not None:
            progress(number + 1, total)
    return digest.hexdigest()


def _look_at(photograph: Photograph, landmarker: FaceMesh, size: int, variants: int, rng: np.random.Generator) -> Faces:
    """What one photograph gives; a broken one gives its reason."""
    skipped = {"source": photograph.source, "file": photograph.name}
    try:
        image = photograph.read()
    except ImageError as error:
        return Faces(skipped={**skipped, "reason": one_line(str(error).removeprefix(f"{photograph.path}: "))})
    crops, meshes = face_crops(image, landmarker, size=size, variants=variants, rng=rng)
    if not crops:
        return Faces(skipped={**skipped, "reason": _NO_FACE})
    own = {"file": photograph.name, "grey": is_grey(image)}
    return Faces(crops, meshes, row={**own, **photograph.columns, **own})


def _finish(cache: Path, parts: Parts, begun: dict[str, Any]) -> Prepared:
    """Make the whole of the parts, and count. Raises DeidError if there is not one crop."""
    crops = parts.merge(begun["arguments"]["resolution"])
    faceless = Counter(one["reason"] == _NO_FACE for one in parts.skipped())
    done = Prepared(crops, begun["photographs"], broken=faceless[False], faceless=faceless[True])
    if not crops:
        (cache / _RECORD).unlink()
        parts.publish([SKIPPED])
        raise DeidError(
            f"{cache}: none of the {done.photographs} photographs can be used: {done.broken} broken, {done.faceless} "
            f"without a face ({cache / SKIPPED})"
        )
    result = {name: value for name, value in asdict(done).items() if name != "was_complete"}
    _write_record(cache, {**begun, "result": result})
    parts.publish([ROWS, MESHES, SKIPPED, CROPS])
    return done
