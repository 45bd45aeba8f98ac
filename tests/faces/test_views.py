"""The pieces of a photo that detectors look at."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.faces.views import OVERLAP, TILE, View, framed, mirrored, pyramid, turned


@pytest.mark.parametrize("size", [(448, 448), (3000, 4000), (700, 12000), (8, 9), (1025, 683)])
def test_tiles_cover_the_photo_and_overlap(size):
    height, width = size
    views = list(pyramid(height, width))
    for scale in {round(view.width / (view.x1 - view.x0), 2) for view in views}:
        level = [view for view in views if round(view.width / (view.x1 - view.x0), 2) == scale]
        seen = np.zeros(size, bool)
        for view in level:
            assert max(view.width, view.height) <= TILE
            assert 0 <= view.x0 < view.x1 <= width
            assert 0 <= view.y0 < view.y1 <= height
            seen[view.y0 : view.y1, view.x0 : view.x1] = True
        assert seen.all()
        columns = sorted({(view.x0, view.x1) for view in level})
        assert all(a[1] - b[0] >= OVERLAP / scale - 2 for a, b in pairwise(columns))
    assert (views[-1].x0, views[-1].y0, views[-1].x1, views[-1].y1) == (0, 0, width, height)


@pytest.mark.parametrize("view", [*turned(30, 50), framed(30, 50), mirrored(30, 50), View(10, 5, 40, 25, 60, 40)])
def test_what_is_found_in_a_view_lies_there_in_the_photo(view):
    photo = np.zeros((30, 50, 3), np.uint8)
    photo[12:18, 20:30] = 255
    rows, columns = np.nonzero(view.take(photo)[..., 0] > 127)  # the frame's mirror image does not reach so far in
    box = float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)
    points = np.array([[box[0], box[1]], [box[2], box[3]]] * 2 + [[box[0], box[1]]], np.float32)
    face = view.back(DetectedFace(box, 0.5, "own", points))
    assert face.box == pytest.approx((20, 12, 30, 18), abs=0.6)
    assert face.points.dtype == np.float32
    assert sorted(face.points[0] + face.points[1]) == pytest.approx([30, 50], abs=0.9)


def test_boxes_are_clipped_to_the_view():
    face = framed(100, 100).back(DetectedFace((0.0, 0.0, 160.0, 160.0), 0.5, "own"))
    assert face.box == (0, 0, 100, 100)
    assert face.points is None


def test_mirrored_edges():
    view = mirrored(60, 30)
    photo = np.arange(60 * 30 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 30, 3)
    picture = view.take(photo)
    assert (picture[10:70, 10:40] == photo).all()
    assert (picture[10:70, :10] == photo[:, 9::-1]).all()
    assert view.share_inside(DetectedFace((0.0, 20.0, 20.0, 40.0), 0.5, "own")) == 0.5
    assert view.share_inside(DetectedFace((0.0, 20.0, 8.0, 40.0), 0.5, "own")) == 0
