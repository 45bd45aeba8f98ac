"""Photographs of faces in, a cache of aligned crops and meshes out: what every training script reads."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ..faces.crop import extract, frame_from_mesh, similarity, transform
from ..faces.landmarks import FaceMesh

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_UPRIGHT_SIDE = 448  # the mesh is measured at one scale, whatever the photograph's


@dataclass(frozen=True)
class Prepared:
    """What ``prepare`` did: crops written, files read, and the names of files without a usable face or image."""

    crops: int
    files: int
    skipped: tuple[str, ...]


def read_images(source: Path) -> Iterator[tuple[str, np.ndarray | None]]:
    """(name, (H, W, 3) uint8 RGB, or None when it cannot be decoded) of every image in a folder or a tar."""
    if source.is_dir():
        for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in _SUFFIXES):
            yield path.name, _decode(path.read_bytes())
        return
    with tarfile.open(source) as tar:
        for member in tar:
            if member.isfile() and Path(member.name).suffix.lower() in _SUFFIXES:
                stream = tar.extractfile(member)
                if stream is not None:
                    yield Path(member.name).name, _decode(stream.read())


def _decode(data: bytes) -> np.ndarray | None:
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, ValueError):
        return None


def jitter_frame(frame: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A crop matrix turned, scaled and shifted a little, as a detector's own uncertainty would do."""
    centre = (size - 1) / 2 + rng.normal(0, 0.02, 2) * size
    side = size / float(np.exp(rng.normal(0, 0.06)))
    move = similarity((float(centre[0]), float(centre[1])), side, float(rng.normal(0, 0.07)), size)
    return np.vstack([move, [0, 0, 1]])[:2].astype(np.float32) @ np.vstack([frame, [0, 0, 1]]).astype(np.float32)


def jitter_colour(crop: np.ndarray, grey: bool, rng: np.random.Generator) -> np.ndarray:
    """Another light: gamma, contrast and, for colour photographs, a tint. (H, W, 3) uint8 in and out."""
    values = crop.astype(np.float32) / 255
    values = values ** float(np.exp(rng.normal(0, 0.2)))
    values = (values - 0.5) * float(np.exp(rng.normal(0, 0.12))) + 0.5
    if not grey:
        values = values * np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    return np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)


def is_grey(image: np.ndarray) -> bool:
    """Whether a (H, W, 3) uint8 picture has (nearly) no colour."""
    spread = image.max(2).astype(int) - image.min(2)
    return bool(spread.mean() < 6)


def prepare(
    sources: list[Path], output: Path, *, size: int, variants: int = 3, manifest: Path | None = None, seed: int = 0
) -> Prepared:
    """Write ``crops.npy`` (N, size, size, 3) uint8, ``meshes.npy`` (N, 478, 2) float32 and ``rows.jsonl``.

    Args:
        sources: image folders or tar files; one face a picture, the largest when there are several.
        output: folder of the cache, made when missing.
        size: of a crop, in pixels.
        variants: crops a photograph; the first is plain, the others are mirrored, jittered and relit. Photographs
            without colour get half as many.
        manifest: CSV with a ``file`` column; its other columns are kept in ``rows.jsonl``.
        seed: of the jitter.
    """
    labels: dict[str, dict[str, str]] = {}
    if manifest is not None:
        with manifest.open(newline="") as stream:
            labels = {row["file"]: row for row in csv.DictReader(stream)}
    output.mkdir(parents=True, exist_ok=True)
    landmarker, rng = FaceMesh(), np.random.default_rng(seed)
    crops, meshes, skipped, files = [], [], [], 0
    with (output / "rows.jsonl").open("w") as rows:
        for source in sources:
            for name, image in read_images(source):
                files += 1
                faces = [] if image is None else _both_sides(image, landmarker)
                if len(faces) < 2 or image is None:
                    skipped.append(name)
                    continue
                grey = is_grey(image)
                for k in range(max(1, variants // 2) if grey else variants):
                    picture, mesh = faces[k % 2]
                    frame = frame_from_mesh(mesh, size)
                    frame = frame if k == 0 else jitter_frame(frame, size, rng)
                    crop = extract(picture, frame, size)
                    crops.append(crop if k == 0 else jitter_colour(crop, grey, rng))
                    meshes.append(transform(mesh, frame))
                    rows.write(json.dumps({"file": name, "grey": grey, **labels.get(name, {})}) + "\n")
    np.save(output / "crops.npy", np.stack(crops) if crops else np.zeros((0, size, size, 3), np.uint8))
    np.save(output / "meshes.npy", np.stack(meshes) if meshes else np.zeros((0, 478, 2), np.float32))
    return Prepared(len(crops), files, tuple(skipped))


def _both_sides(image: np.ndarray, landmarker: FaceMesh) -> list[tuple[np.ndarray, np.ndarray]]:
    """The picture and its mirror image, each with its mesh, at one scale."""
    k = _UPRIGHT_SIDE / max(image.shape[:2])
    upright = cv2.resize(image, None, fx=k, fy=k, interpolation=cv2.INTER_CUBIC if k > 1 else cv2.INTER_AREA)
    found = []
    for picture in (upright, np.ascontiguousarray(upright[:, ::-1])):
        mesh = landmarker(picture)
        if mesh is not None:
            found.append((picture, mesh))
    return found
