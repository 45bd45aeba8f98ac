"""Places on another face."""

import numpy as np
import pytest

from deid_diffusion.faces.mesh_warp import places_on
from deid_diffusion.faces.semantic_map import mean_mesh


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
