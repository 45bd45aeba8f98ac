"""Places on another face."""

import numpy as np
import pytest

from deid_diffusion.faces.mesh_warp import places_on
from deid_diffusion.faces.semantic_map import mean_faces, mean_mesh


@pytest.mark.parametrize("step", [1, 2])
def test_each_pixel_lies_where_the_other_mesh_has_it(step: int) -> None:
    mesh = mean_mesh(64)
    places = places_on(3 * mesh + 5, mesh, 64, step)
    assert places.shape == (64 // step, 64 // step, 2)
    inside = places[..., 0] >= 0
    assert 0.1 < inside.mean() < 0.6
    middles = np.arange(step / 2, 64, step)
    expected = 3 * np.stack(np.meshgrid(middles, middles), -1) + 5
    assert np.abs(places - expected)[inside].max() < 1e-3
    assert (places[~inside] == -1).all()


def test_what_a_turned_head_hides_is_left_out() -> None:
    turned = mean_faces()[0] * 64
    places = places_on(mean_mesh(64), turned, 64)
    inside = places[..., 0] >= 0
    assert 0.05 < inside.mean() < 0.6
    x = places[..., 0][inside]
    low, high = mean_mesh(64)[:468, 0].min(), mean_mesh(64)[:468, 0].max()
    middle = (low + high) / 2
    assert min((x < middle).mean(), (x > middle).mean()) < 0.35  # most of what is seen is one half of the face
    assert x.min() >= low - 1
    assert x.max() <= high + 1


def test_a_face_outside_the_picture_has_no_place() -> None:
    assert (places_on(mean_mesh(64), mean_mesh(64) + 1000, 64) == -1).all()
