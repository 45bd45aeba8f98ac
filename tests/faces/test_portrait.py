"""A portrait's features in the light of another picture."""

import numpy as np

from deid_diffusion.faces.portrait import Portrait, carry_portrait
from deid_diffusion.faces.semantic_map import mean_mesh

SIZE = 64
MESH = mean_mesh(SIZE)


def spot(mesh: np.ndarray) -> np.ndarray:
    """A grey face with a dark spot at its nose's tip."""
    x, y = mesh[1]
    across, down = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    dark = np.exp(-((across - x) ** 2 + (down - y) ** 2) / 8)
    return np.repeat((0.5 - 0.3 * dark)[..., None], 3, 2).astype(np.float32)


def test_features_move_with_the_mesh_and_light_stays() -> None:
    moved = MESH + np.array([6, 4], np.float32)
    picture = np.full((SIZE, SIZE, 3), (0.8, 0.6, 0.5), np.float32)
    made = carry_portrait(Portrait(spot(MESH), MESH), picture, moved)
    row, column = np.unravel_index(made.mean(2).argmin(), (SIZE, SIZE))
    assert np.abs(np.array([column, row]) + 0.5 - moved[1]).max() <= 1
    assert made.min() < 0.4
    assert np.abs(made.mean((0, 1)) - picture[0, 0]).max() < 0.02
    assert np.array_equal(made[0], picture[0])


def test_nothing_of_the_picture_s_own_features_is_left() -> None:
    plain = Portrait(np.full((SIZE, SIZE, 3), 0.5, np.float32), MESH)
    picture = spot(MESH)
    made = carry_portrait(plain, picture, MESH)
    inner = np.s_[SIZE // 2 - 6 : SIZE // 2 + 6, SIZE // 2 - 6 : SIZE // 2 + 6]
    assert picture[inner].std() > 0.05
    assert made[inner].std() < 0.02
