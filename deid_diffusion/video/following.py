"""Which sightings are of one face: ByteTrack, over all frames of a clip (Zhang et al., "ByteTrack", ECCV 2022)."""

from __future__ import annotations

import numpy as np

from .found import Found
from .packages import supervision


def follow(found: Found, frames: int, limit: int) -> list[list[int]]:
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
