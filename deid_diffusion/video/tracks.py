"""From detections to tracks without holes: between two sightings, and a little around them, a face is never bare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..faces.detected_face import DetectedFace
from ..faces.merge import overlaps
from .found import Found

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

    places: Found
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

    def at(self, frame: int) -> DetectedFace:
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
    found: Found, groups: Sequence[Sequence[int]], frames: int, rate: float, shape: tuple[int, int]
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


def join(found: Found, groups: Sequence[np.ndarray], limit: int) -> list[np.ndarray]:
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


def _goes_on(found: Found, earlier: np.ndarray, later: np.ndarray) -> bool:
    last, first = found.boxes[earlier[-1]], found.boxes[later[0]]
    away = int(found.frames[later[0]] - found.frames[earlier[-1]])
    carried = last + away * _speed(found, earlier[-_STEPS:])
    return bool((overlaps(first, np.stack([last, carried]))[0] >= _LEAST_OVERLAP).any())


def _speed(found: Found, rows: np.ndarray) -> np.ndarray:
    """(4,) change of a box from frame to frame, over some sightings."""
    passed = int(found.frames[rows[-1]] - found.frames[rows[0]])
    return (found.boxes[rows[-1]] - found.boxes[rows[0]]) / passed if passed else np.zeros(4, np.float32)


def _whole(found: Found, rows: np.ndarray, frames: int, margin: int, shape: tuple[int, int]) -> Track:
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
    return Track(Found(at, boxes.astype(np.float32), scores, points.reshape(-1, 5, 2).astype(np.float32), names), seen)


def _without_doubles(track: Track, found: Found) -> Track:
    """The track without its guesses at places where another face was seen: that one is dealt with there."""
    keep = track.seen.copy()
    for row in np.flatnonzero(~keep):
        first, last = np.searchsorted(found.frames, [track.places.frames[row], track.places.frames[row] + 1])
        box, others = track.places.boxes[row], found.boxes[first:last]
        sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
        keep[row] = not (np.prod(sides.clip(0), axis=1) >= _DOUBLE * np.prod(box[2:] - box[:2])).any()
    return Track(Found(*(column[keep] for column in track.places.columns())), track.seen[keep])


def _sorted(found: Found, group: Sequence[int]) -> np.ndarray:
    rows = np.array(group, np.int64)
    return rows[np.argsort(found.frames[rows], kind="stable")]
