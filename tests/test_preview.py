"""The pictures of `inspect` and `demo`."""

from __future__ import annotations

import numpy as np

from deid_diffusion import preview
from deid_diffusion.faces.semantic_map import control_image

from .fake_anonymizer import analysis

PIXELS = np.full((80, 100, 3), 90, np.uint8)


def test_maps_lie_where_the_faces_are():
    drawn = preview.draw_maps(PIXELS, [analysis(PIXELS)])
    skin = control_image(np.array([[1]], np.uint8))[0, 0]
    coloured = np.argwhere((drawn == skin).all(axis=2))
    assert np.abs(coloured.min(axis=0) - [28, 18]).max() <= 1  # y, x
    assert np.abs(coloured.max(axis=0) - [43, 33]).max() <= 1
    assert (drawn[0] == 30).all()


def test_masks_tint_what_they_cover():
    drawn = preview.draw_masks(PIXELS, [analysis(PIXELS)])
    changed = (drawn != PIXELS).any(axis=2)
    np.testing.assert_array_equal(changed, analysis(PIXELS).mask.full() > 0)


def test_boxes_meshes_and_points():
    with_mesh = preview.draw_faces(PIXELS, [analysis(PIXELS)])
    without = preview.draw_faces(PIXELS, [analysis(PIXELS, mesh=False)])
    assert (with_mesh[52, 20] != 90).any()  # the box
    assert (with_mesh[36, 26] != 90).any()  # the mesh: crop (32, 32) is photo (26, 36)
    assert (without[30, 20] != 90).any()  # one of the five points
    assert (preview.draw_faces(PIXELS, []) == PIXELS).all()


def test_panels_are_one_row_of_bounded_size():
    row = preview.inspection(PIXELS, [analysis(PIXELS)])
    assert row.dtype == np.uint8
    assert row.shape[0] >= 80
    assert 3 * 100 <= row.shape[1] <= 3 * 100 + 40
    large = preview.side_by_side([("one", np.zeros((50, 3_200, 3), np.uint8))])
    assert large.shape[1] == preview.MAX_SIDE
    tiny = preview.inspection(PIXELS[:1, :1], [])
    assert tiny.shape[0] >= 1
