import numpy as np

from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.training.augment import random_look, random_view


def test_a_view_moves_the_mesh_with_the_picture() -> None:
    crop, mesh = np.zeros((128, 128, 3), np.uint8), mean_mesh(128)
    x, y = np.round(mesh[1]).astype(int)  # the nose's tip
    crop[y - 2 : y + 3, x - 2 : x + 3] = 255
    view, moved = random_view(crop, mesh, np.random.default_rng(1))
    rows, columns = np.nonzero(view[..., 0] > 128)
    assert abs(columns.mean() - moved[1, 0]) < 1
    assert abs(rows.mean() - moved[1, 1]) < 1
    assert not np.allclose(moved, mesh)


def test_a_look_changes_the_picture_repeatably() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    one, same, other = (random_look(crop, np.random.default_rng(seed), grey=False) for seed in (1, 1, 2))
    assert one.dtype == np.uint8
    assert one.shape == crop.shape
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_grey_look_has_no_colour_but_where_it_is_covered() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    looks = [random_look(crop, np.random.default_rng(seed), grey=True).astype(int) for seed in range(8)]
    spreads = [np.median(look.max(2) - look.min(2)) for look in looks]
    assert max(spreads) < 40
