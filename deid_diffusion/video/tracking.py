"""Tracking: group detections by face with ByteTrack (Zhang et al., ECCV 2022) and fill the gaps of each track."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import supervision
from ..faces.boxes import Detection, overlaps
from ..io.files import write_atomic

if TYPE_CHECKING:
    from typing_extensions import Self


GAP_S = 1.0
"""Longest time between two detections of a track, in seconds."""

MARGIN_S, MARGIN = 0.1, 3
"""Extension of a track before its first and after its last detection: in seconds, and the least number of frames."""

GUESS = "track"
"""Detector's name of an interpolated or extrapolated box."""

_MIN_IOU = 0.2  # IoU of a track's box, extrapolated, and the box that continues it
_MAX_CONTAINED = 0.8  # share of an interpolated box inside a detected one, from which it is that face
_SPEED_DETECTIONS = 3  # detections that a track's speed is measured on


@dataclass(frozen=True, eq=False)
class Track:
    """One face through n frames.

    Attributes:
        places: its box in each of them, one row per frame.
        observed: (n,) bool, whether a detector saw it there; other boxes are interpolated or extrapolated.
    """

    places: ClipDetections
    observed: np.ndarray

    @property
    def observed_frames(self) -> tuple[int, int]:
        """Numbers of the frames of its first and last detection."""
        frames = self.places.frames[self.observed]
        return int(frames[0]), int(frames[-1])

    def has(self, frame: int) -> bool:
        """Return whether it has a box in a frame."""
        row = self._row(frame)
        return row < len(self.observed) and int(self.places.frames[row]) == frame

    def at(self, frame: int) -> Detection:
        """Return its box in one of its frames."""
        return self.places.face(self._row(frame))

    def observed_at(self, frame: int) -> bool:
        """Return whether it was detected in one of its frames."""
        return bool(self.observed[self._row(frame)])

    def best(self) -> int:
        """Return the number of the frame in which it is large and has a high score."""
        sides = self.places.boxes[:, 2:] - self.places.boxes[:, :2]
        return int(self.places.frames[(np.sqrt(sides.prod(1)) * self.places.scores * self.observed).argmax()])

    def _row(self, frame: int) -> int:
        return int(np.searchsorted(self.places.frames, frame))


def make_tracks(
    detections: ClipDetections, groups: Sequence[Sequence[int]], frames: int, rate: float, shape: tuple[int, int]
) -> list[Track]:
    """Build tracks without gaps, in the order in which they begin.

    Args:
        detections: of the clip.
        groups: rows of ``detections`` by face, as `follow` returns them.
        frames: number of frames of the clip.
        rate: frames per second.
        shape: (height, width) of the upright frames.
    """
    limit, margin = max(1, round(GAP_S * rate)), max(MARGIN, round(MARGIN_S * rate))
    joined = join(detections, [_sorted(detections, group) for group in groups if len(group)], limit)
    tracks = [_interpolated(detections, rows, frames, margin, shape) for rows in joined]
    return sorted(
        (_without_doubles(track, detections) for track in tracks), key=lambda track: int(track.places.frames[0])
    )


def join(detections: ClipDetections, groups: Sequence[np.ndarray], limit: int) -> list[np.ndarray]:
    """Join groups of rows that continue each other, which a tracker left separate.

    A group continues another that ends at most ``limit`` frames before it if the other's last box, unmoved or
    extrapolated at its speed, overlaps its first box. Of several groups, the one that ended last is taken.
    """
    joined: list[list[np.ndarray]] = []
    recent: list[list[np.ndarray]] = []
    for group in sorted(groups, key=lambda rows: int(detections.frames[rows[0]])):
        begin = int(detections.frames[group[0]])
        recent = [pieces for pieces in recent if begin - int(detections.frames[pieces[-1][-1]]) <= limit]
        before = [
            pieces
            for pieces in recent
            if detections.frames[pieces[-1][-1]] < begin and _continues(detections, pieces[-1], group)
        ]
        if before:
            max(before, key=lambda pieces: int(detections.frames[pieces[-1][-1]])).append(group)
        else:
            joined.append([group])
            recent.append(joined[-1])
    return [np.concatenate(pieces) for pieces in joined]


def _continues(detections: ClipDetections, earlier: np.ndarray, later: np.ndarray) -> bool:
    last, first = detections.boxes[earlier[-1]], detections.boxes[later[0]]
    away = int(detections.frames[later[0]] - detections.frames[earlier[-1]])
    carried = last + away * _speed(detections, earlier[-_SPEED_DETECTIONS:])
    return bool((overlaps(first, np.stack([last, carried]))[0] >= _MIN_IOU).any())


def _speed(detections: ClipDetections, rows: np.ndarray) -> np.ndarray:
    """Return (4,) the change of a box from frame to frame over some rows."""
    passed = int(detections.frames[rows[-1]] - detections.frames[rows[0]])
    return (detections.boxes[rows[-1]] - detections.boxes[rows[0]]) / passed if passed else np.zeros(4, np.float32)


def _interpolated(
    detections: ClipDetections, rows: np.ndarray, frames: int, margin: int, shape: tuple[int, int]
) -> Track:
    """Return the track of some rows, its box interpolated between them, and extrapolated and enlarged around them."""
    known = detections.frames[rows]
    first, last = int(known[0]), int(known[-1])
    at = np.arange(max(0, first - margin), min(frames, last + margin + 1))
    boxes = np.stack([np.interp(at, known, detections.boxes[rows, side]) for side in range(4)], 1)
    for outside, edge, speed in (
        (at < first, rows[0], _speed(detections, rows[:_SPEED_DETECTIONS])),
        (at > last, rows[-1], _speed(detections, rows[-_SPEED_DETECTIONS:])),
    ):
        carried = detections.boxes[edge] + np.outer(at[outside] - detections.frames[edge], speed)
        boxes[outside, :2] = np.minimum(detections.boxes[edge, :2], carried[:, :2])
        boxes[outside, 2:] = np.maximum(detections.boxes[edge, 2:], carried[:, 2:])
    boxes = boxes.clip(0, [shape[1], shape[0], shape[1], shape[0]])
    flat = detections.points[rows].reshape(len(rows), 10)
    points = np.stack([np.interp(at, known, flat[:, k], np.nan, np.nan) for k in range(10)], 1)
    observed = np.isin(at, known)
    scores = np.zeros(len(at), np.float32)
    names = np.full(len(at), GUESS, np.promote_types(detections.names.dtype, f"<U{len(GUESS)}"))
    scores[observed], names[observed] = detections.scores[rows], detections.names[rows]
    return Track(
        ClipDetections(at, boxes.astype(np.float32), scores, points.reshape(-1, 5, 2).astype(np.float32), names),
        observed,
    )


def _without_doubles(track: Track, detections: ClipDetections) -> Track:
    """Drop interpolated boxes inside detected ones, which other tracks replace."""
    keep = track.observed.copy()
    for row in np.flatnonzero(~keep):
        first, last = np.searchsorted(detections.frames, [track.places.frames[row], track.places.frames[row] + 1])
        box, others = track.places.boxes[row], detections.boxes[first:last]
        sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
        keep[row] = not (np.prod(sides.clip(0), axis=1) >= _MAX_CONTAINED * np.prod(box[2:] - box[:2])).any()
    return Track(ClipDetections(*(column[keep] for column in track.places)), track.observed[keep])


def _sorted(detections: ClipDetections, group: Sequence[int]) -> np.ndarray:
    rows = np.array(group, np.int64)
    return rows[np.argsort(detections.frames[rows], kind="stable")]


class ClipDetections(NamedTuple):
    """M detections, in the order of their frames.

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
        """Build from faces and the ascending numbers of their frames."""
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
        """Concatenate the detections of one or more successive chunks."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def face(self, row: int) -> Detection:
        """Return one detection."""
        points = self.points[row]
        return Detection(
            tuple(self.boxes[row].tolist()),
            float(self.scores[row]),
            str(self.names[row]),
            None if np.isnan(points).any() else points,
        )


@dataclass(frozen=True, eq=False)
class Chunk:
    """Results of the first pass over N frames.

    Attributes:
        detections: of the frames.
        times: (N,) float64 presentation times, in units of the clip's time base; NaN if unspecified.
        unsearched: (K,) int64, numbers of the frames in which detection failed.
    """

    detections: ClipDetections
    times: np.ndarray
    unsearched: np.ndarray

    def save(self, path: Path) -> None:
        """Write the arrays atomically. Raises ImageError if the disk refuses."""
        buffer = io.BytesIO()
        np.savez(buffer, *self.detections, self.times, self.unsearched)
        write_atomic(path, buffer.getvalue(), overwrite=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file of `save`."""
        with np.load(path, allow_pickle=False) as file:
            columns = [file[f"arr_{k}"] for k in range(7)]
        return cls(ClipDetections(*columns[:5]), *columns[5:])


def follow(detections: ClipDetections, frames: int, limit: int) -> list[list[int]]:
    """Group the rows of ``detections`` by face; every row is in one group, of its own if the tracker leaves it out.

    All detections are tracked, with equal scores.

    Args:
        detections: of the clip.
        frames: number of frames of the clip.
        limit: frames after which a lost face's track ends.
    """
    if not len(detections.frames):
        return []
    module = supervision()
    tracker = module.ByteTrack(lost_track_buffer=limit, frame_rate=30)  # at 30 the buffer is counted in frames
    groups: dict[int, list[int]] = {}
    left: list[list[int]] = []
    ends = np.searchsorted(detections.frames, np.arange(frames + 1))
    for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        rows = np.arange(first, last)
        observations = module.Detections(
            xyxy=detections.boxes[rows], confidence=np.ones(len(rows), np.float32), data={"row": rows}
        )
        taken = tracker.update_with_detections(observations)
        numbers = (
            {} if not len(taken) else dict(zip(taken.data["row"].tolist(), taken.tracker_id.tolist(), strict=True))
        )
        for row in rows.tolist():
            if row in numbers:
                groups.setdefault(numbers[row], []).append(row)
            else:
                left.append([row])
    return [*groups.values(), *left]
