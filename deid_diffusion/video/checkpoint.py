"""Checkpoints of a clip: the files of each finished chunk of frames, and counts of its faces by action."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from .._version import __version__
from ..errors import VideoError
from ..faces.compositing import FILL
from ..io.files import image_errors, write_atomic
from ..io.video import Encoding
from ..options import options_digest
from ..results import SIMPLE, Action, FaceRecord, TrackRecord

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..options import Options
    from .identities import TrackIdentity
    from .tracking import Track


CHUNK_FRAMES = 120
"""Frames per chunk, the most that a kill costs."""

_VERSION = 3  # of the folder's files
_MODE = 0o700  # boxes, seeds and attribute features are private


@dataclass(frozen=True)
class ClipCheckpoint:
    """Folder of a clip in progress, named by its target and a digest of all that shapes the result.

    A file under its final name is complete.
    """

    folder: Path

    @classmethod
    def open(cls, target: Path, **shaping: str) -> ClipCheckpoint:
        """Open the folder of a result, with the files of an earlier run with the same values. Raises VideoError."""
        versions = {"version": _VERSION, "program": __version__, "chunk_frames": CHUNK_FRAMES}
        text = json.dumps({**versions, **shaping}, sort_keys=True)
        folder = target.with_name(f"{_prefix(target)}{hashlib.sha256(text.encode()).hexdigest()[:16]}")
        with image_errors(folder, VideoError):
            folder.mkdir(mode=_MODE, exist_ok=True)
        return cls(folder)

    def detections(self, number: int) -> Path:
        """Return the path of a chunk's detections."""
        return self.folder / f"detections-{number:05}.npz"

    @property
    def identities(self) -> Path:
        """Path of the tracks' identities."""
        return self.folder / "identities.pt"

    def stats(self, number: int) -> Path:
        """Return the path of a chunk's counts; written before its segment."""
        return self.folder / f"stats-{number:05}.json"

    def segment(self, number: int) -> Path:
        """Return the path of a chunk's encoded frames."""
        return self.folder / f"segment-{number:05}.mkv"

    def result(self, suffix: str) -> Path:
        """Return the path of the joined clip until it is published."""
        return self.folder / f"result{suffix}"

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def clear(target: Path) -> None:
    """Delete the folders that runs with other options or another input left for a finished result."""
    for folder in target.parent.glob(f"{glob.escape(_prefix(target))}*"):
        shutil.rmtree(folder, ignore_errors=True)


def fingerprint(options: Options, encoding: Encoding) -> str:
    """Return a text that differs where results may differ."""
    return json.dumps([options_digest(options), encoding.codec, encoding.pixels, encoding.options], sort_keys=True)


def _prefix(target: Path) -> str:
    return f".{target.name}.deid-"


@dataclass
class TrackStats:
    """Counts of one track; the names are those of `TrackRecord`."""

    actions: Counter[str] = field(default_factory=Counter)
    around: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    similarity: float | None = None
    kept_attributes: tuple[str, ...] = ()
    changed_attributes: Mapping[str, str] = field(default_factory=dict)

    def add(self, face: FaceRecord, *, around: bool) -> None:
        """Count one frame; ``around``: before the face was seen first, or after it was seen last."""
        self.actions[face.action] += 1
        self.around += around and face.action == "covered"
        if face.reason is not None:
            self.reasons[face.reason] += 1
        if face.action == "replaced":
            self.kept_attributes, self.changed_attributes = face.kept_attributes, face.changed_attributes
            if face.similarity is not None:
                self.similarity = max(self.similarity if self.similarity is not None else -math.inf, face.similarity)

    def merge(self, other: Self) -> None:
        """Add the counts of the same track in other frames."""
        self.actions += other.actions
        self.reasons += other.reasons
        self.around += other.around
        similarities = [stats.similarity for stats in (self, other) if stats.similarity is not None]
        self.similarity = max(similarities, default=None)
        if other.actions["replaced"]:
            self.kept_attributes, self.changed_attributes = other.kept_attributes, other.changed_attributes


@dataclass
class ClipStats:
    """Counts of a chunk of frames, of each track and as in `AnonymizedVideo`."""

    tracks: dict[int, TrackStats] = field(default_factory=dict)
    missed: int = 0
    filled: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def of(self, number: int) -> TrackStats:
        """Return the counts of a track."""
        return self.tracks.setdefault(number, TrackStats())

    def fill(self, frame: np.ndarray, reason: str) -> np.ndarray:
        """Count a frame, (H, W, 3) uint8, as filled, and return a uniform one of its size."""
        self.filled += 1
        self.errors[reason] += 1
        return np.full_like(frame, FILL)

    def save(self, path: Path) -> None:
        """Write the counts atomically. Raises ImageError if the disk refuses."""
        write_atomic(path, TypeAdapter(ClipStats).dump_json(self), overwrite=True)

    @classmethod
    def load(cls, paths: Iterable[Path]) -> Self:
        """Read and add the counts of several chunks."""
        total, schema = cls(), TypeAdapter(cls)
        for path in paths:
            part = schema.validate_json(path.read_bytes())
            total.missed += part.missed
            total.filled += part.filled
            total.errors += part.errors
            for number, stats in part.tracks.items():
                total.of(number).merge(stats)
        return total


def track_record(track: Track, stats: TrackStats, identity: TrackIdentity | None, *, keyed: bool) -> TrackRecord:
    """Return the record of a track; ``keyed``: seeds follow from a secret and are left out."""
    first, last = track.observed_frames
    best = track.at(track.best())
    shown = sum(stats.actions[name] for name in ("replaced", *SIMPLE))
    simple = [name for name in SIMPLE if stats.actions[name]]
    action: Action = "replaced" if shown else "covered"
    replaced = stats.actions["replaced"] > 0
    return TrackRecord(
        first,
        last,
        best.box,
        best.detector,
        best.score,
        "kept" if stats.actions["kept"] else simple[0] if simple else action,
        frames=sum(stats.actions.values()),
        seen=int(track.observed.sum()),
        replaced=shown,
        covered=stats.actions["covered"] - stats.around,
        covered_around=stats.around,
        kept=stats.actions["kept"],
        reasons=dict(stats.reasons),
        seed=identity.first_seed if identity is not None and replaced and not keyed else None,
        pseudonym=identity.pseudonym if identity is not None and replaced else None,
        similarity=stats.similarity,
        kept_attributes=stats.kept_attributes,
        changed_attributes=stats.changed_attributes,
    )
