"""Which sightings are of one face: ByteTrack, over all frames of a clip (Zhang et al., "ByteTrack", ECCV 2022)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import supervision
from ..faces.boxes import Detection, overlaps
from ..io.files import write_atomic

if TYPE_CHECKING:
    from typing_extensions import Self


GAP_S = 1.0
"""Longest time between two sightings, in seconds, over which a track goes on."""

MARGIN_S, MARGIN = 0.1, 3
"""How long before its first and after its last sighting a face is still dealt with: in seconds, and frames at least."""

GUESS = "track"
"""What a guessed place says instead of the detector's name."""

_LEAST_OVERLAP = 0.2  # intersection over union of a track's box, carried on, and the one that goes on with it
_DOUBLE = 0.8  # share of a guessed box that lies in one where a face was seen, from which on it is that face
_STEPS = 3  # sightings from which a track's speed is taken


@dataclass(frozen=True, eq=False)
class Track:
    """One face through n frames.

    Attributes:
        places: where it is in each of them, one row a frame.
        seen: (n,) bool, whether a detector saw it there; elsewhere its place is a guess.
    """

    places: ClipDetections
    seen: np.ndarray

    @property
    def sighted(self) -> tuple[int, int]:
        """Numbers of the frames in which a detector saw it first and last."""
        frames = self.places.frames[self.seen]
        return int(frames[0]), int(frames[-1])

    def has(self, frame: int) -> bool:
        """Whether it has a place in a frame."""
        row = self._row(frame)
        return row < len(self.seen) and int(self.places.frames[row]) == frame

    def at(self, frame: int) -> Detection:
        """Where it is in one of its frames."""
        return self.places.face(self._row(frame))

    def seen_at(self, frame: int) -> bool:
        """Whether a detector saw it there."""
        return bool(self.seen[self._row(frame)])

    def best(self) -> int:
        """Number of the frame in which it was seen best: large, and surely."""
        sides = self.places.boxes[:, 2:] - self.places.boxes[:, :2]
        return int(self.places.frames[(np.sqrt(sides.prod(1)) * self.places.scores * self.seen).argmax()])

    def _row(self, frame: int) -> int:
        return int(np.searchsorted(self.places.frames, frame))


def make_tracks(
    found: ClipDetections, groups: Sequence[Sequence[int]], frames: int, rate: float, shape: tuple[int, int]
) -> list[Track]:
    """Tracks without holes, in the order in which they begin.

    Args:
        found: the sightings.
        groups: rows of ``found`` that a tracker holds for one face each; every row is in one of them.
        frames: number of frames of the clip.
        rate: frames a second.
        shape: (height, width) of the upright frames.
    """
    limit, margin = max(1, round(GAP_S * rate)), max(MARGIN, round(MARGIN_S * rate))
    joined = join(found, [_sorted(found, group) for group in groups if len(group)], limit)
    tracks = [_whole(found, rows, frames, margin, shape) for rows in joined]
    return sorted((_without_doubles(track, found) for track in tracks), key=lambda track: int(track.places.frames[0]))


def join(found: ClipDetections, groups: Sequence[np.ndarray], limit: int) -> list[np.ndarray]:
    """Groups of rows, those united that go on with each other.

    A group goes on with another that ends at most ``limit`` frames before it, if the other's last box, left where it is
    or carried on at its speed, overlaps this one's first. Of several the one that ended last is taken. A tracker that
    needs a second sighting before it believes in a face, or loses one, leaves such pieces.
    """
    whole: list[list[np.ndarray]] = []
    open_ones: list[list[np.ndarray]] = []
    for group in sorted(groups, key=lambda rows: int(found.frames[rows[0]])):
        begin = int(found.frames[group[0]])
        open_ones = [one for one in open_ones if begin - int(found.frames[one[-1][-1]]) <= limit]
        before = [one for one in open_ones if found.frames[one[-1][-1]] < begin and _goes_on(found, one[-1], group)]
        if before:
            max(before, key=lambda one: int(found.frames[one[-1][-1]])).append(group)
        else:
            whole.append([group])
            open_ones.append(whole[-1])
    return [np.concatenate(pieces) for pieces in whole]


def _goes_on(found: ClipDetections, earlier: np.ndarray, later: np.ndarray) -> bool:
    last, first = found.boxes[earlier[-1]], found.boxes[later[0]]
    away = int(found.frames[later[0]] - found.frames[earlier[-1]])
    carried = last + away * _speed(found, earlier[-_STEPS:])
    return bool((overlaps(first, np.stack([last, carried]))[0] >= _LEAST_OVERLAP).any())


def _speed(found: ClipDetections, rows: np.ndarray) -> np.ndarray:
    """(4,) change of a box from frame to frame, over some sightings."""
    passed = int(found.frames[rows[-1]] - found.frames[rows[0]])
    return (found.boxes[rows[-1]] - found.boxes[rows[0]]) / passed if passed else np.zeros(4, np.float32)


def _whole(found: ClipDetections, rows: np.ndarray, frames: int, margin: int, shape: tuple[int, int]) -> Track:
    """The track of some sightings: between them its box moves evenly, around them it grows along its way."""
    known = found.frames[rows]
    first, last = int(known[0]), int(known[-1])
    at = np.arange(max(0, first - margin), min(frames, last + margin + 1))
    boxes = np.stack([np.interp(at, known, found.boxes[rows, side]) for side in range(4)], 1)
    for here, edge, speed in (
        (at < first, rows[0], _speed(found, rows[:_STEPS])),
        (at > last, rows[-1], _speed(found, rows[-_STEPS:])),
    ):
        carried = found.boxes[edge] + np.outer(at[here] - found.frames[edge], speed)
        boxes[here, :2] = np.minimum(found.boxes[edge, :2], carried[:, :2])
        boxes[here, 2:] = np.maximum(found.boxes[edge, 2:], carried[:, 2:])
    boxes = boxes.clip(0, [shape[1], shape[0], shape[1], shape[0]])
    flat = found.points[rows].reshape(len(rows), 10)
    points = np.stack([np.interp(at, known, flat[:, k], np.nan, np.nan) for k in range(10)], 1)
    seen = np.isin(at, known)
    scores, names = (
        np.zeros(len(at), np.float32),
        np.full(len(at), GUESS, np.promote_types(found.names.dtype, f"<U{len(GUESS)}")),
    )
    scores[seen], names[seen] = found.scores[rows], found.names[rows]
    return Track(
        ClipDetections(at, boxes.astype(np.float32), scores, points.reshape(-1, 5, 2).astype(np.float32), names), seen
    )


def _without_doubles(track: Track, found: ClipDetections) -> Track:
    """The track without its guesses at places where another face was seen: that one is dealt with there."""
    keep = track.seen.copy()
    for row in np.flatnonzero(~keep):
        first, last = np.searchsorted(found.frames, [track.places.frames[row], track.places.frames[row] + 1])
        box, others = track.places.boxes[row], found.boxes[first:last]
        sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
        keep[row] = not (np.prod(sides.clip(0), axis=1) >= _DOUBLE * np.prod(box[2:] - box[:2])).any()
    return Track(ClipDetections(*(column[keep] for column in track.places.columns())), track.seen[keep])


def _sorted(found: ClipDetections, group: Sequence[int]) -> np.ndarray:
    rows = np.array(group, np.int64)
    return rows[np.argsort(found.frames[rows], kind="stable")]


@dataclass(frozen=True, eq=False)
class ClipDetections:
    """M faces in some frames, in the order of the frames.

    Attributes:
        frames: (M,) int64, number of the frame in the clip.
        boxes: (M, 4) float32, x0, y0, x1, y1 in pixels of the upright frame.
        scores: (M,) float32.
        points: (M, 5, 2) float32, as `Detection.points`; NaN where they are unknown.
        names: (M,) str, the detectors.
    """

    frames: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray
    names: np.ndarray

    @classmethod
    def of(cls, frames: Sequence[int], faces: Sequence[Detection]) -> Self:
        """Faces and the numbers of their frames, ascending."""
        unknown = np.full((5, 2), np.nan)
        points = [unknown if face.points is None else face.points for face in faces]
        return cls(
            np.array(frames, np.int64),
            np.array([face.box for face in faces], np.float32).reshape(-1, 4),
            np.array([face.score for face in faces], np.float32),
            np.array(points, np.float32).reshape(-1, 5, 2),
            np.array([face.detector for face in faces], np.str_),
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The faces of successive stretches, of which there is at least one."""
        return cls(*(np.concatenate(columns) for columns in zip(*(part.columns() for part in parts), strict=True)))

    def columns(self) -> tuple[np.ndarray, ...]:
        """The arrays, in the order of the attributes."""
        return self.frames, self.boxes, self.scores, self.points, self.names

    def face(self, row: int) -> Detection:
        """One of the faces."""
        points = self.points[row]
        return Detection(
            tuple(self.boxes[row].tolist()),
            float(self.scores[row]),
            str(self.names[row]),
            None if np.isnan(points).any() else points,
        )


@dataclass(frozen=True, eq=False)
class Chunk:
    """Everything that the first pass learns of a stretch of N frames.

    Attributes:
        found: the faces.
        times: (N,) float64, when each frame is shown, in units of the clip's time base; NaN if the file does not say.
        unsearched: (K,) int64, numbers of the frames in which the search itself failed.
    """

    found: ClipDetections
    times: np.ndarray
    unsearched: np.ndarray

    def save(self, path: Path) -> None:
        """Write it atomically. Raises ImageError if the disk refuses."""
        buffer = io.BytesIO()
        np.savez(buffer, *self.found.columns(), self.times, self.unsearched)
        write_atomic(path, buffer.getvalue(), overwrite=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            columns = [file[f"arr_{k}"] for k in range(7)]
        return cls(ClipDetections(*columns[:5]), *columns[5:])


def follow(found: ClipDetections, frames: int, limit: int) -> list[list[int]]:
    """Rows of ``found``, grouped by face; every row is in one group.

    Scores play no part: whatever a detector took for a face is dealt with, and followed as well as any other. What the
    tracker does not take up is a group of its own.

    Args:
        found: the sightings.
        frames: number of frames of the clip.
        limit: frames for which a face that is not seen is waited for.
    """
    if not len(found.frames):
        return []
    module = supervision()
    tracker = module.ByteTrack(lost_track_buffer=limit, frame_rate=30)  # at 30 the buffer is counted in frames
    groups: dict[int, list[int]] = {}
    left: list[list[int]] = []
    ends = np.searchsorted(found.frames, np.arange(frames + 1))
    for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        rows = np.arange(first, last)
        seen = module.Detections(xyxy=found.boxes[rows], confidence=np.ones(len(rows), np.float32), data={"row": rows})
        taken = tracker.update_with_detections(seen)
        numbers = (
            {} if not len(taken) else dict(zip(taken.data["row"].tolist(), taken.tracker_id.tolist(), strict=True))
        )
        for row in rows.tolist():
            if row in numbers:
                groups.setdefault(numbers[row], []).append(row)
            else:
                left.append([row])
    return [*groups.values(), *left]
