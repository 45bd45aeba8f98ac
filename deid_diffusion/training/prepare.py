"""Face caches: aligned crops and face meshes of photographs, which every training script reads."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from ..errors import DeidError, ImageError, UsageError, one_line
from ..faces.alignment import extract, frame_from_mesh, similarity, transform
from ..faces.landmarks import FaceMesh
from ..io.files import image_errors, prepare_folder, write_atomic
from .sources import Photograph, Photographs

CROPS, MESHES, ROWS, SKIPPED = "crops.npy", "meshes.npy", "rows.jsonl", "skipped.jsonl"
RECORD = "prepared.json"
"""Arguments of a cache, a digest of its photographs, and the progress or, once finished, the result."""
COMMIT_EVERY = 256  # photographs between commits, at most; a killed run repeats no more than these
_COMMIT_BYTES = 2**26  # of crops between commits, about
_UNFINISHED = "prepared.parts"  # folder inside the cache whose files are moved up when all photographs are read
_NO_FACE = "no face found"
_COUNTS = ("crops", "photographs", "broken", "faceless")
_MESH_SIDE = 448  # longer side, in pixels, of the image that the mesh is measured on


def face_crops(
    image: np.ndarray, landmarker: FaceMesh, *, size: int, variants: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return crops of the largest face and their meshes; none unless image and mirror image both show a face.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarker: finds the faces.
        size: of the crops, (size, size, 3) uint8 RGB; the meshes are (478, 2) float32 crop pixels.
        variants: number of crops; the first is plain, the others are mirrored, jittered and relit. A greyscale image
            gives half as many.
        rng: of the jitter.
    """
    views = _mirrored_views(image, landmarker)
    crops, meshes = [], []
    grey = is_grey(image)
    for k in range((max(1, variants // 2) if grey else variants) if views else 0):
        view, mesh = views[k % 2]
        frame = frame_from_mesh(mesh, size)
        frame = frame if k == 0 else jitter_frame(frame, size, rng)
        crop = extract(view, frame, size)
        crops.append(crop if k == 0 else jitter_colour(crop, grey, rng))
        meshes.append(transform(mesh, frame))
    return crops, meshes


def jitter_frame(frame: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Rotate, scale and shift a crop matrix at random, by about a detector's own uncertainty."""
    centre = (size - 1) / 2 + rng.normal(0, 0.02, 2) * size
    side = size / float(np.exp(rng.normal(0, 0.06)))
    move = similarity((float(centre[0]), float(centre[1])), side, float(rng.normal(0, 0.07)), size)
    return np.vstack([move, [0, 0, 1]])[:2].astype(np.float32) @ np.vstack([frame, [0, 0, 1]]).astype(np.float32)


def jitter_colour(crop: np.ndarray, grey: bool, rng: np.random.Generator) -> np.ndarray:
    """Vary exposure, gamma, contrast and, unless `grey`, tint of a (H, W, 3) uint8 RGB crop.

    Portraits are well lit: the mean exposure is lowered, since everyday photographs are darker by a third.
    """
    values = crop.astype(np.float32) / 255
    values = np.minimum(values * float(np.exp(rng.normal(-0.2, 0.3))), 1)
    values = values ** float(np.exp(rng.normal(0, 0.2)))
    values = (values - 0.5) * float(np.exp(rng.normal(0, 0.12))) + 0.5
    if not grey:
        values = values * np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    return np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)


def is_grey(image: np.ndarray) -> bool:
    """Return whether a (H, W, 3) uint8 RGB image has (nearly) no colour."""
    spread = image.max(2).astype(int) - image.min(2)
    return bool(spread.mean() < 6)


def _mirrored_views(image: np.ndarray, landmarker: FaceMesh) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return image and mirror image at one scale, each with the largest face's mesh; nothing if either has none."""
    height, width = image.shape[:2]
    k = _MESH_SIDE / max(height, width)
    if min(height, width) * k < 1:
        return []
    upright = cv2.resize(image, None, fx=k, fy=k, interpolation=cv2.INTER_CUBIC if k > 1 else cv2.INTER_AREA)
    mirrored = np.ascontiguousarray(upright[:, ::-1])
    meshes, others = (
        [mesh for mesh in landmarker.meshes(view) if np.isfinite(mesh).all()] for view in (upright, mirrored)
    )
    if not meshes or not others:
        return []
    largest = max(meshes, key=lambda mesh: float(np.ptp(mesh, axis=0).max()))
    x, y = largest.mean(0)
    expected = np.array([upright.shape[1] - 1 - x, y])
    same = min(others, key=lambda mesh: float(np.linalg.norm(mesh.mean(0) - expected)))
    return [(upright, largest), (mirrored, same)]


@dataclass(frozen=True)
class Prepared:
    """Contents of a finished cache: numbers of crops, and of photographs read, broken and faceless.

    `was_complete` tells whether the cache was finished before the call.
    """

    crops: int
    photographs: int
    broken: int
    faceless: int
    was_complete: bool = False


@dataclass(frozen=True, eq=False)
class _Faces:
    """Crops, (S, S, 3) uint8 RGB, of one photograph with meshes and columns, or the reason for none."""

    crops: Sequence[np.ndarray] = ()
    meshes: Sequence[np.ndarray] = ()
    row: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] | None = None


def prepare(
    data: Sequence[str | Path],
    cache: Path,
    *,
    size: int,
    variants: int = 3,
    manifest: Path | None = None,
    caption_column: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Write ``crops.npy`` (N, size, size, 3) uint8, ``meshes.npy`` (N, 478, 2) float32 and ``rows.jsonl``.

    The same call resumes a killed one and ends with the same bytes as an uninterrupted one. Photographs without crops
    are listed in ``skipped.jsonl``, each with the reason.

    Args:
        data: folders, tar files or data sets, see `Photographs`; the largest face of each photograph is used.
        cache: folder, created if missing.
        size, variants: see `face_crops`.
        manifest, caption_column: see `Photographs`; the columns go to ``rows.jsonl``.
        seed: of the jitter.
        progress: called with the numbers of photographs done and in total, at the start and after each photograph.

    Raises:
        DeidError: the data are missing or unusable, the cache was begun with other arguments or photographs, or it
            cannot be written. A broken photograph is skipped, not an error.
    """
    for name, value, least in (("size", size, 1), ("variants", variants, 1), ("seed", seed, 0)):
        if value < least:
            raise UsageError(f"{name}: {value}, expected {least} or more")
    sources = [Path(source).as_posix() for source in data]
    arguments = {
        "data": sources,
        "resolution": size,
        "variants": variants,
        "seed": seed,
        "manifest": None if manifest is None else str(manifest),
        "caption_column": caption_column,
    }
    record = _read_record(cache)
    if record is not None:
        for name, argument in arguments.items():
            if (before := record["arguments"][name]) != argument:
                raise UsageError(
                    f"{cache}: was begun with {name} {_text(before)}, not {_text(argument)}: choose another folder"
                )
        was_complete = (cache / CROPS).exists()
        if "result" in record and (was_complete or (cache / _UNFINISHED / CROPS).exists()):
            with image_errors(cache):
                _publish(cache, [ROWS, MESHES, SKIPPED, CROPS])
            return Prepared(**record["result"], was_complete=was_complete)
    photographs = Photographs(sources, manifest=manifest, caption_column=caption_column)
    count, digest = _survey(photographs)
    if not count:
        raise UsageError(f"{' '.join(sources)}: no photograph found (name tar files themselves, as FOLDER/*.tar)")
    begun = {"arguments": arguments, "photographs": count, "sha256": digest}
    if record is not None and any(record[name] != value for name, value in begun.items()):
        raise UsageError(
            f"{cache}: was begun with photographs or columns that have changed since: choose another folder"
        )
    prepare_folder(cache)
    with image_errors(cache):
        if record is None or "result" in record:  # a finished cache that has lost its crops starts again
            _write_record(cache, begun)
        committed = (record or {}).get("progress", {}) if (cache / _UNFINISHED).is_dir() else {}
        unfinished = _UnfinishedCache(cache, begun, committed)
        if _read_photographs(photographs, unfinished, progress) != digest:
            raise UsageError(f"{cache}: photographs changed while they were read: start again in another folder")
        return unfinished.finish()


def _read_record(cache: Path) -> Any:
    """Return the record of a begun or finished cache, or None without one. Raises UsageError."""
    try:
        return json.loads((cache / RECORD).read_text())
    except (FileNotFoundError, NotADirectoryError):
        if any((cache / name).exists() for name in (CROPS, MESHES, ROWS)):
            raise UsageError(f"{cache}: holds a cache without {RECORD}: choose another folder") from None
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{cache / RECORD}: cannot be read ({one_line(error)}): choose another folder") from error


def _write_record(cache: Path, record: dict[str, Any]) -> None:
    write_atomic(cache / RECORD, json.dumps(record, indent=1).encode() + b"\n", overwrite=True)


def _text(argument: object) -> str:
    return "none" if argument is None else " ".join(argument) if isinstance(argument, list) else str(argument)


def _survey(photographs: Iterable[Photograph]) -> tuple[int, str]:
    """Return the number of photographs and a digest of their names and columns, without decoding any."""
    count, digest = 0, hashlib.sha256()
    for photograph in photographs:
        digest.update(_identity(photograph))
        count += 1
    return count, digest.hexdigest()


def _identity(photograph: Photograph) -> bytes:
    return json.dumps([photograph.source, photograph.name, dict(photograph.columns)]).encode()


def _read_photographs(
    photographs: Iterable[Photograph], unfinished: _UnfinishedCache, progress: Callable[[int, int], None]
) -> str:
    """Append the faces of all remaining photographs; return the digest that `_survey` would return now."""
    size, variants, seed = (unfinished.begun["arguments"][name] for name in ("resolution", "variants", "seed"))
    done, total = unfinished.done["photographs"], unfinished.begun["photographs"]
    full = max(1, min(COMMIT_EVERY, _COMMIT_BYTES // (3 * size * size * variants)))
    progress(done, total)
    landmarker, digest = FaceMesh(), hashlib.sha256()
    batch: list[_Faces] = []
    for number, photograph in enumerate(photographs):
        digest.update(_identity(photograph))
        if number < done:
            continue
        # seeded per photograph, so that a resumed run draws what an uninterrupted one would
        rng = np.random.default_rng((seed, number))
        batch.append(_read_faces(photograph, landmarker, size, variants, rng))
        if len(batch) == full or number == total - 1:
            unfinished.append(batch)
            batch = []
        progress(number + 1, total)
    return digest.hexdigest()


def _read_faces(
    photograph: Photograph, landmarker: FaceMesh, size: int, variants: int, rng: np.random.Generator
) -> _Faces:
    skipped = {"source": photograph.source, "file": photograph.name}
    try:
        image = photograph.read()
    except ImageError as error:
        return _Faces(skipped={**skipped, "reason": one_line(str(error).removeprefix(f"{photograph.path}: "))})
    crops, meshes = face_crops(image, landmarker, size=size, variants=variants, rng=rng)
    if not crops:
        return _Faces(skipped={**skipped, "reason": _NO_FACE})
    own = {"file": photograph.name, "grey": is_grey(image)}
    return _Faces(crops, meshes, row={**own, **photograph.columns, **own})


class _UnfinishedCache:
    """Files of a cache in the making: appended to batch by batch, each committed by a new record.

    `begun` is its record without progress, `progress` that of a killed run, if any: counts up to the last commit, and
    lengths in bytes of the JSON lines that are valid.
    """

    def __init__(self, cache: Path, begun: Mapping[str, Any], progress: Mapping[str, int]) -> None:
        self.cache, self.begun = cache, dict(begun)
        self.done: dict[str, int] = dict.fromkeys((*_COUNTS, "row_bytes", "skipped_bytes"), 0) | dict(progress)

    def append(self, batch: Sequence[_Faces]) -> None:
        """Write a batch after the last commit, in place of what a killed run left there. Raises OSError."""
        folder, size, done = self.cache / _UNFINISHED, self.begun["arguments"]["resolution"], self.done
        folder.mkdir(exist_ok=True)
        crops = [crop for faces in batch for crop in faces.crops]
        meshes = [mesh for faces in batch for mesh in faces.meshes]
        skipped = [faces.skipped for faces in batch if faces.skipped is not None]
        faceless = sum(row["reason"] == _NO_FACE for row in skipped)
        _append_arrays(folder / CROPS, done["crops"], np.array(crops, np.uint8).reshape(-1, size, size, 3))
        _append_arrays(folder / MESHES, done["crops"], np.array(meshes, np.float32).reshape(-1, 478, 2))
        rows = (faces.row for faces in batch for _ in faces.crops)
        self.done = {
            "photographs": done["photographs"] + len(batch),
            "crops": done["crops"] + len(crops),
            "broken": done["broken"] + len(skipped) - faceless,
            "faceless": done["faceless"] + faceless,
            "row_bytes": _append_lines(folder / ROWS, done["row_bytes"], rows),
            "skipped_bytes": _append_lines(folder / SKIPPED, done["skipped_bytes"], skipped),
        }
        _write_record(self.cache, {**self.begun, "progress": self.done})

    def finish(self) -> Prepared:
        """Record the result and move the files into the cache. Raises DeidError without a single crop."""
        result: dict[str, Any] = {name: self.done[name] for name in _COUNTS}
        if not result["crops"]:
            (self.cache / RECORD).unlink()
            _publish(self.cache, [SKIPPED])
            counts = f"{result['broken']} broken, {result['faceless']} without a face ({self.cache / SKIPPED})"
            raise DeidError(f"{self.cache}: none of the {result['photographs']} photographs can be used: {counts}")
        _write_record(self.cache, {**self.begun, "result": result})
        _publish(self.cache, [ROWS, MESHES, SKIPPED, CROPS])
        return Prepared(**result)


def _append_arrays(path: Path, length: int, arrays: np.ndarray) -> None:
    """Write arrays after the first `length` of a .npy file, whose header then counts them as well."""
    header = io.BytesIO()  # as long as before: numpy aligns it to 64 bytes
    shape = (length + len(arrays), *arrays.shape[1:])
    np.lib.format.write_array_header_1_0(header, {"descr": arrays.dtype.str, "fortran_order": False, "shape": shape})
    with _appending(path, length * int(np.prod(shape[1:])) * arrays.itemsize, header.getvalue()) as stream:
        stream.write(arrays.tobytes())


def _append_lines(path: Path, length: int, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write JSON lines after the first `length` bytes of a file; return its new length."""
    with _appending(path, length) as stream:
        stream.writelines(json.dumps(row).encode() + b"\n" for row in rows)
        return stream.tell()


@contextmanager
def _appending(path: Path, length: int, header: bytes = b"") -> Iterator[BinaryIO]:
    """Open a file to write after a header and `length` bytes, cut off the rest, and sync the file at the end."""
    with path.open("r+b" if length else "wb") as stream:
        end = len(header) + length
        if length and stream.seek(0, os.SEEK_END) < end:
            raise DeidError(f"{path}: is shorter than {RECORD} says: delete the cache and prepare it again")
        stream.seek(0)
        stream.write(header)
        stream.truncate(end)
        stream.seek(end)
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _publish(cache: Path, names: Sequence[str]) -> None:
    """Move finished files into the cache, in this order and as far as a killed run has not, and drop the others."""
    for name in names:
        if (path := cache / _UNFINISHED / name).exists():
            path.replace(cache / name)
    shutil.rmtree(cache / _UNFINISHED, ignore_errors=True)
