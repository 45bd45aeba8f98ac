"""The cache while it is being made: finished parts in a folder of their own, merged into the whole at the end.

A part holds the crops of the photographs that its name counts, from the first to before the last, and gets that name
by one rename. So a run that is killed leaves whole parts only. A cache is one when its `crops.npy` is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

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
