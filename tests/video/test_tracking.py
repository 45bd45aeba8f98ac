"""Tracks: interpolated between detections, and a little longer than them."""

import numpy as np
import pytest

from deid_diffusion.faces.boxes import Detection, overlaps
from deid_diffusion.video.tracking import GUESS, Chunk, ClipDetections, Track, follow, make_tracks

SIZE = (240, 320)


def detected(
    *paths: tuple[range, tuple[float, float], tuple[float, float]], but: tuple[int, ...] = ()
) -> ClipDetections:
    """Return faces of 40 pixels: frames, (x, y) in frame 0, and speed; none is detected in the frames ``but``."""
    rows = sorted(((frame, path) for path in paths for frame in path[0] if frame not in but), key=lambda row: row[0])
    faces = []
    for frame, (_, (x, y), (dx, dy)) in rows:
        left, top = x + frame * dx, y + frame * dy
        points = np.array([(left + 10, top + 10)] * 5, np.float32)
        faces.append(Detection((left, top, left + 40, top + 40), 0.3, "cf", points))
    return ClipDetections.of([frame for frame, _ in rows], faces)


def tracks(detections: ClipDetections, frames: int, rate: float = 25) -> list[Track]:
    groups = follow(detections, frames, round(rate))
    assert sorted(row for group in groups for row in group) == list(range(len(detections.frames)))
    return make_tracks(detections, groups, frames, rate, SIZE)


def test_gaps_are_interpolated():
    (track,) = tracks(detected((range(50), (10, 50), (2, 1)), but=(0, 20, 21, 22)), 50)
    assert track.places.frames.tolist() == list(range(50))
    assert track.observed_frames == (1, 49)
    np.testing.assert_allclose(track.at(21).box, (52, 71, 92, 111), atol=1e-3)
    np.testing.assert_allclose(track.at(21).points[0], (62, 81), atol=1e-3)
    assert (track.at(21).detector, track.at(21).score, track.observed_at(21)) == (GUESS, 0.0, False)
    assert (track.at(20).detector, track.at(23).detector) == (GUESS, "cf")


def test_ends_grow_along_the_way():
    (track,) = tracks(detected((range(10, 30), (100, 80), (2, 0))), 60)
    assert track.places.frames.tolist() == list(range(7, 33))
    assert track.at(8).box == pytest.approx((116, 80, 160, 120))  # from the extrapolated place to the detected one
    assert track.at(31).box == pytest.approx((158, 80, 202, 120))
    assert track.at(31).points is None
    (track,) = tracks(detected((range(10, 30), (100, 80), (2, 0))), 60, rate=60)
    assert len(track.places.frames) == 20 + 2 * 6


def test_two_people_are_two_tracks():
    detections = detected(
        (range(30), (10, 10), (1, 0)), (range(5, 25), (200, 100), (0, -1)), (range(12, 13), (280, 190), (0, 0))
    )
    people = tracks(detections, 30)
    assert [int(track.observed.sum()) for track in people] == [30, 20, 1]
    assert [track.observed_frames for track in people] == [(0, 29), (5, 24), (12, 12)]


def test_lost_track_ends_after_gap():
    for stop, number in ((40, 2), (30, 1)):
        detections = detected((range(50), (100, 50), (0, 0)), but=tuple(range(10, stop)))
        assert len(tracks(detections, 50)) == number


def test_all_detections_are_tracked():
    fast = tracks(detected((range(8), (0, 50), (39, 0))), 8)
    frames = sorted(frame for track in fast for frame in track.places.frames[track.observed].tolist())
    assert frames == list(range(8))


def test_interpolated_box_yields_to_detection():
    detections = detected((range(20), (100, 50), (0, 0)), (range(5, 10), (101, 50), (0, 0)))
    groups = [[row for row in range(len(detections.frames)) if detections.boxes[row, 0] == x] for x in (100, 101)]
    _, second = make_tracks(detections, groups, 20, 25, SIZE)
    assert second.places.frames.tolist() == list(range(5, 10))


def test_best_frame_is_observed():
    detections = detected((range(20), (100, 50), (0, 0)), but=(8,))
    detections.scores[11] = 0.9
    (track,) = tracks(detections, 20)
    assert track.best() == 12


def test_guesses_lie_in_the_picture():
    (track,) = tracks(detected((range(10, 20), (-30, 100), (6, 0))), 30)
    boxes = track.places.boxes[~track.observed]
    assert (boxes[:, 0] >= 0).all()
    assert (boxes[:, 2] > boxes[:, 0]).all()


def test_chunk_round_trip(tmp_path):
    detections = detected((range(4), (10, 10), (1, 0)))
    detections.points[2] = np.nan
    chunk = Chunk(detections, np.array([0, np.nan, 2.0]), np.array([3]))
    chunk.save(tmp_path / "a.npz")
    again = Chunk.load(tmp_path / "a.npz")
    assert [again.detections.face(k).box for k in range(4)] == [detections.face(k).box for k in range(4)]
    assert again.detections.face(2).points is None
    np.testing.assert_array_equal(again.times, chunk.times)
    assert again.unsearched.tolist() == [3]
    joined = ClipDetections.joined([detections, again.detections])
    assert len(joined.frames) == 8
    assert overlaps(joined.boxes[0], joined.boxes[4:5])[0] == pytest.approx(1)
