from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.faces.boxes import Detection, merge_faces, overlaps, same_face, suppress


def test_overlaps():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [2, 2, 4, 4], [50, 50, 60, 60]])
    iou, contained = overlaps(boxes[0], boxes)
    assert iou == pytest.approx([1, 1 / 3, 0.04, 0])
    assert contained == pytest.approx([1, 0.5, 1, 0])


def test_suppress():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [40, 40, 50, 50]], dtype=float)
    assert suppress(boxes, np.array([0.5, 0.9, 0.4]), iou=0.3).tolist() == [1, 2]
    assert suppress(np.zeros((0, 4)), np.zeros(0), iou=0.3).tolist() == []


@pytest.mark.parametrize(
    ("other", "as_other", "as_best"),
    [
        ((20, 20, 120, 120), True, True),  # shifted
        ((90, 0, 190, 100), False, False),  # a neighbour
        ((0, 0, 50, 100), True, True),  # the half that a tile's border left
        ((40, 40, 60, 60), True, False),  # the nose of a sure face; a face inside an unsure one
        ((75, 75, 98, 98), False, False),  # a child before a parent
    ],
)
def test_same_face(other, as_other, as_best):
    large = (0.0, 0.0, 100.0, 100.0)
    assert same_face(large, other) is as_other
    assert same_face(other, large) is as_best


def test_merge_box_and_points():
    ours, theirs = np.full((5, 2), 1, np.float32), np.full((5, 2), 2, np.float32)
    faces = [
        Detection((200, 0, 300, 100), 0.4, "centerface"),
        Detection((0, 10, 100, 110), 0.7, "centerface", ours),
        Detection((5, 0, 105, 100), 0.9, "mediapipe", theirs),
    ]
    first, second = merge_faces(faces)
    assert first.box == (0, 0, 105, 110)
    assert (first.score, first.detector) == (0.9, "centerface+mediapipe")
    assert first.points is ours
    assert second == faces[0]
    without = [replace(faces[1], points=None), faces[2]]
    assert merge_faces(without)[0].points is theirs
    assert merge_faces([]) == []
