"""Photographs of faces in, a cache of aligned crops and meshes out: what every training script reads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from ..errors import DeidError, ImageError, UsageError, one_line
from ..faces.alignment import extract, frame_from_mesh, similarity, transform
from ..faces.landmarks import FaceMesh
from ..io.files import prepare_folder, refusal, write_atomic
from .sources import Photograph, Photographs

CROPS, MESHES, ROWS, SKIPPED = "crops.npy", "meshes.npy", "rows.jsonl", "skipped.jsonl"
_FOLDER, _UNFINISHED = "prepared.parts", "unfinished"
_MESH = (478, 2)


@dataclass(frozen=True, eq=False)
class Faces:
    """What one photograph gave.

    Attributes:
        crops: (S, S, 3) uint8 RGB each.
        meshes: (478, 2) float32 crop pixels each, as many as crops.
        row: what is known of the photograph, the same for all its crops.
        skipped: what is wrong with it; None if it gave crops.
    """

    crops: Sequence[np.ndarray] = ()
    meshes: Sequence[np.ndarray] = ()
    row: Mapping[str, Any] | None = None
    skipped: Mapping[str, Any] | None = None


class Parts:
    """The parts of one cache on disk. Its methods raise OSError when the system refuses to write."""

    def __init__(self, cache: Path) -> None:
        self._cache, self._folder = cache, cache / _FOLDER

    def done(self) -> int:
        """The number of photographs in the parts there are; what a killed run left unfinished is removed."""
        shutil.rmtree(self._folder / _UNFINISHED, ignore_errors=True)
        return max((int(part.name.partition("-")[2]) for part in self._finished()), default=0)

    def save(self, first: int, faces: Sequence[Faces], size: int) -> None:
        """Keep what the photographs from number `first` on gave, in crops of `size` pixels: all of it or nothing."""
        part = self._begin()
        crops = [crop for one in faces for crop in one.crops]
        meshes = [mesh for one in faces for mesh in one.meshes]
        _write_array(part / CROPS, np.stack(crops) if crops else np.zeros((0, size, size, 3), np.uint8))
        _write_array(part / MESHES, np.stack(meshes) if meshes else np.zeros((0, *_MESH), np.float32))
        _write_lines(part / ROWS, (one.row for one in faces for _ in one.crops))
        _write_lines(part / SKIPPED, (one.skipped for one in faces if one.skipped is not None))
        part.rename(self._folder / f"{first:09}-{first + len(faces):09}")

    def merge(self, size: int) -> int:
        """Put the parts together, one in memory at a time, and return the number of crops; `publish` makes it valid."""
        parts, target = self._finished(), self._begin()
        counts = [len(np.load(part / CROPS, mmap_mode="r")) for part in parts]
        for name, shape, kind in ((CROPS, (size, size, 3), np.uint8), (MESHES, _MESH, np.float32)):
            whole = np.lib.format.open_memmap(target / name, "w+", kind, (sum(counts), *shape))
            first = 0
            for part, count in zip(parts, counts, strict=True):
                whole[first : first + count] = np.load(part / name)
                first += count
            whole.flush()
        for name in (ROWS, SKIPPED):
            with (target / name).open("wb") as stream:
                for part in parts:
                    with (part / name).open("rb") as lines:
                        shutil.copyfileobj(lines, stream)
                _flush(stream)
        return sum(counts)

    def skipped(self) -> Iterator[dict[str, str]]:
        """What is wrong with the photographs that gave nothing, as merged."""
        with (self._folder / _UNFINISHED / SKIPPED).open() as lines:
            yield from map(json.loads, lines)

    def publish(self, names: Sequence[str]) -> None:
        """Move these merged files into the cache, in this order, and drop the parts."""
        for name in names:
            (self._folder / _UNFINISHED / name).replace(self._cache / name)
        self.drop()

    def drop(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _finished(self) -> list[Path]:
        return sorted(self._folder.glob("*-*"))

    def _begin(self) -> Path:
        folder = self._folder / _UNFINISHED
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def _write_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.save(stream, array)
        _flush(stream)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any] | None]) -> None:
    with path.open("wb") as stream:
        stream.writelines(json.dumps(row).encode() + b"\n" for row in rows)
        _flush(stream)


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


_UPRIGHT_SIDE = 448  # the mesh is measured at one scale, whatever the photograph's


def face_crops(
    image: np.ndarray, landmarker: FaceMesh, *, size: int, variants: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Crops of the largest face, and their meshes; none if no face is found in the picture and in its mirror image.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarker: finds the faces.
        size: of a crop, in pixels.
        variants: number of crops; the first is plain, the others are mirrored, jittered and relit. A picture without
            colour gives half as many.
        rng: of the jitter.

    Returns:
        (size, size, 3) uint8 RGB and (478, 2) float32 crop pixels, as many of one as of the other.
    """
    sides = _both_sides(image, landmarker)
    crops, meshes = [], []
    grey = is_grey(image)
    for k in range((max(1, variants // 2) if grey else variants) if sides else 0):
        picture, mesh = sides[k % 2]
        frame = frame_from_mesh(mesh, size)
        frame = frame if k == 0 else jitter_frame(frame, size, rng)
        crop = extract(picture, frame, size)
        crops.append(crop if k == 0 else jitter_colour(crop, grey, rng))
        meshes.append(transform(mesh, frame))
    return crops, meshes


def jitter_frame(frame: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A crop matrix turned, scaled and shifted a little, as a detector's own uncertainty would do."""
    centre = (size - 1) / 2 + rng.normal(0, 0.02, 2) * size
    side = size / float(np.exp(rng.normal(0, 0.06)))
    move = similarity((float(centre[0]), float(centre[1])), side, float(rng.normal(0, 0.07)), size)
    return np.vstack([move, [0, 0, 1]])[:2].astype(np.float32) @ np.vstack([frame, [0, 0, 1]]).astype(np.float32)


def jitter_colour(crop: np.ndarray, grey: bool, rng: np.random.Generator) -> np.ndarray:
    """Another light: exposure, gamma, contrast and, for colour photographs, a tint. (H, W, 3) uint8 in and out.

    Portraits are lit well; the world's photographs are darker, by a third in the mean.
    """
    values = crop.astype(np.float32) / 255
    values = np.minimum(values * float(np.exp(rng.normal(-0.2, 0.3))), 1)
    values = values ** float(np.exp(rng.normal(0, 0.2)))
    values = (values - 0.5) * float(np.exp(rng.normal(0, 0.12))) + 0.5
    if not grey:
        values = values * np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    return np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)


def is_grey(image: np.ndarray) -> bool:
    """Whether a (H, W, 3) uint8 picture has (nearly) no colour."""
    spread = image.max(2).astype(int) - image.min(2)
    return bool(spread.mean() < 6)


def _both_sides(image: np.ndarray, landmarker: FaceMesh) -> list[tuple[np.ndarray, np.ndarray]]:
    """The picture and its mirror image at one scale, each with the mesh of the same face; empty if one has none."""
    height, width = image.shape[:2]
    k = _UPRIGHT_SIDE / max(height, width)
    if min(height, width) * k < 1:
        return []
    upright = cv2.resize(image, None, fx=k, fy=k, interpolation=cv2.INTER_CUBIC if k > 1 else cv2.INTER_AREA)
    mirrored = np.ascontiguousarray(upright[:, ::-1])
    meshes, others = (
        [mesh for mesh in landmarker.meshes(picture) if np.isfinite(mesh).all()] for picture in (upright, mirrored)
    )
    if not meshes or not others:
        return []
    largest = max(meshes, key=lambda mesh: float(np.ptp(mesh, axis=0).max()))
    x, y = largest.mean(0)
    expected = np.array([upright.shape[1] - 1 - x, y])
    same = min(others, key=lambda mesh: float(np.linalg.norm(mesh.mean(0) - expected)))
    return [(upright, largest), (mirrored, same)]


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
