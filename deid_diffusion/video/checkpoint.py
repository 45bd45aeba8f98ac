"""What was done to each track in a stretch of frames, counted while the frames go by and kept beside the segment."""

from __future__ import annotations

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

from .._version import __version__
from ..errors import VideoError
from ..faces.compositing import FILL
from ..io.files import refusal, write_atomic
from ..io.video_reader import Encoding
from ..options import options_digest
from ..results import SIMPLE, Action, FaceRecord, TrackRecord

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..options import Options
    from .identities import TrackIdentity
    from .tracking import Track


STRETCH = 120
"""Frames of a stretch: what a kill costs at most."""

_VERSION = 2  # of what lies in the folder
_MODE = 0o700  # boxes, seeds and attribute features are nobody else's business


@dataclass(frozen=True)
class ClipCheckpoint:
    """Names of what lies in the folder; a file that has its name is complete.

    Attributes:
        folder: made by `open`; its name holds the target's name and a digest of everything that shapes the result.
    """

    folder: Path

    @classmethod
    def open(cls, target: Path, **shaping: str) -> ClipCheckpoint:
        """The folder of a result; what an earlier run with the same values left in it is still there.

        Raises VideoError if it cannot be made.
        """
        text = json.dumps({"version": _VERSION, "program": __version__, "stretch": STRETCH, **shaping}, sort_keys=True)
        folder = target.with_name(f"{_prefix(target)}{hashlib.sha256(text.encode()).hexdigest()[:16]}")
        try:
            folder.mkdir(mode=_MODE, exist_ok=True)
        except OSError as error:
            raise VideoError(refusal(folder, error)) from error
        return cls(folder)

    def found(self, number: int) -> Path:
        """What the detectors found in a stretch."""
        return self.folder / f"found-{number:05}.npz"

    @property
    def roles(self) -> Path:
        """Who is who."""
        return self.folder / "roles.npz"

    def tally(self, number: int) -> Path:
        """What was done in a stretch; written before its segment."""
        return self.folder / f"tally-{number:05}.json"

    def segment(self, number: int) -> Path:
        """The finished pictures of a stretch."""
        return self.folder / f"segment-{number:05}.mkv"

    def result(self, suffix: str) -> Path:
        """The whole clip, until it gets its name."""
        return self.folder / f"result{suffix}"

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def clear(target: Path) -> None:
    """Delete what runs with other options or another input left for a result that is finished now."""
    for folder in target.parent.glob(f"{_escaped(_prefix(target))}*"):
        shutil.rmtree(folder, ignore_errors=True)


def fingerprint(options: Options, encoding: Encoding) -> str:
    """A text that differs where results may differ."""
    return json.dumps([options_digest(options), encoding.codec, encoding.pixels, encoding.options], sort_keys=True)


def _prefix(target: Path) -> str:
    return f".{target.name}.deid-"


def _escaped(name: str) -> str:
    """A name with glob's special letters made plain."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


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
        """Count what another tally of the same track has counted."""
        self.actions += other.actions
        self.reasons += other.reasons
        self.around += other.around
        known = [one.similarity for one in (self, other) if one.similarity is not None]
        self.similarity = max(known, default=None)
        if other.actions["replaced"]:
            self.kept_attributes, self.changed_attributes = other.kept_attributes, other.changed_attributes


@dataclass
class ClipStats:
    """Counts of a stretch of frames.

    Attributes:
        tracks: by the tracks' numbers.
        missed: faces that only the second look found.
        filled: frames that were filled altogether.
        errors: kinds of the exceptions because of which they were.
    """

    tracks: dict[int, TrackStats] = field(default_factory=dict)
    missed: int = 0
    filled: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def of(self, number: int) -> TrackStats:
        """The tally of a track."""
        return self.tracks.setdefault(number, TrackStats())

    def fill(self, frame: np.ndarray, why: str) -> np.ndarray:
        """Count a frame, (H, W, 3) uint8, as filled, and return one of its size that shows nothing."""
        self.filled += 1
        self.errors[why] += 1
        return np.full_like(frame, FILL)

    def save(self, path: Path) -> None:
        """Write it atomically. Raises ImageError if the disk refuses."""
        rows = {str(number): vars(one) for number, one in self.tracks.items()}
        whole = {"tracks": rows, "missed": self.missed, "filled": self.filled, "errors": self.errors}
        write_atomic(path, json.dumps(whole).encode(), overwrite=True)

    @classmethod
    def load(cls, paths: Iterable[Path]) -> Self:
        """The counts of several stretches together."""
        total = cls()
        for path in paths:
            whole = json.loads(path.read_bytes())
            total.missed += whole["missed"]
            total.filled += whole["filled"]
            total.errors += Counter(whole["errors"])
            for number, row in whole["tracks"].items():
                counted = TrackStats(
                    Counter(row["actions"]),
                    row["around"],
                    Counter(row["reasons"]),
                    row["similarity"],
                    tuple(row["kept_attributes"]),
                    row["changed_attributes"],
                )
                total.of(int(number)).merge(counted)
        return total


def track_record(track: Track, tally: TrackStats, role: TrackIdentity | None, *, keyed: bool) -> TrackRecord:
    """The record of a track; ``keyed``: seeds follow from a secret, and are not told."""
    first, last = track.sighted
    best = track.at(track.best())
    shown = sum(tally.actions[one] for one in ("replaced", *SIMPLE))
    simple = [one for one in SIMPLE if tally.actions[one]]
    action: Action = "replaced" if shown else "covered"
    replaced = tally.actions["replaced"] > 0
    return TrackRecord(
        first,
        last,
        best.box,
        best.detector,
        best.score,
        "kept" if tally.actions["kept"] else simple[0] if simple else action,
        frames=sum(tally.actions.values()),
        seen=int(track.seen.sum()),
        replaced=shown,
        covered=tally.actions["covered"] - tally.around,
        covered_around=tally.around,
        kept=tally.actions["kept"],
        reasons=dict(tally.reasons),
        seed=role.seed if role is not None and replaced and not keyed else None,
        pseudonym=role.pseudonym if role is not None and replaced else None,
        similarity=tally.similarity,
        kept_attributes=tally.kept_attributes,
        changed_attributes=tally.changed_attributes,
    )
