"""What was done to each track in a stretch of frames, counted while the frames go by and kept beside the segment."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..faces.blend import FILL
from ..files import write_atomic
from ..report import Action, FaceRecord
from .record import SIMPLE, TrackRecord

if TYPE_CHECKING:
    from typing_extensions import Self

    from .roles import Role
    from .tracks import Track


@dataclass
class TrackTally:
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
class Tallies:
    """Counts of a stretch of frames.

    Attributes:
        tracks: by the tracks' numbers.
        missed: faces that only the second look found.
        filled: frames that were filled altogether.
        errors: kinds of the exceptions because of which they were.
    """

    tracks: dict[int, TrackTally] = field(default_factory=dict)
    missed: int = 0
    filled: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def of(self, number: int) -> TrackTally:
        """The tally of a track."""
        return self.tracks.setdefault(number, TrackTally())

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
                counted = TrackTally(
                    Counter(row["actions"]),
                    row["around"],
                    Counter(row["reasons"]),
                    row["similarity"],
                    tuple(row["kept_attributes"]),
                    row["changed_attributes"],
                )
                total.of(int(number)).merge(counted)
        return total


def track_record(track: Track, tally: TrackTally, role: Role | None, *, keyed: bool) -> TrackRecord:
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
