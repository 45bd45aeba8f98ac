"""A portrait's features in the light of another picture."""

import numpy as np

from deid_diffusion.faces.landmarks import MESH_IRISES, MESH_MOUTH
from deid_diffusion.faces.portrait import Portrait, _without_holes, carry_portrait
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


def test_irises_go_where_the_mesh_looks_and_corners_stay() -> None:
    size = 256
    mesh = mean_mesh(size)
    looking = mesh.copy()
    iris = list(MESH_IRISES[0])
    width = np.linalg.norm(mesh[33] - mesh[133])
    looking[iris] += np.array([0.15 * width, 0], np.float32)
    across, down = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)

    def eye(middle: np.ndarray) -> np.ndarray:
        return np.exp(-((across - middle[0]) ** 2 + (down - middle[1]) ** 2) / (2 * 3.0**2))

    drawn = np.repeat((0.8 - 0.6 * eye(mesh[iris].mean(0)))[..., None], 3, 2).astype(np.float32)
    plain = np.full((size, size, 3), 0.7, np.float32)
    straight, aside = (carry_portrait(Portrait(drawn, mesh), plain, to) for to in (mesh, looking))
    darkest = [np.array(np.unravel_index(one.mean(2).argmin(), (size, size)))[::-1] for one in (straight, aside)]
    moved = darkest[1] - darkest[0]
    assert 0.5 * 0.15 * width < moved[0] < 1.5 * 0.15 * width
    assert abs(moved[1]) <= 1
    corner = np.round(mesh[33]).astype(int)
    assert np.allclose(straight[corner[1], corner[0]], aside[corner[1], corner[0]], atol=0.02)


def test_light_skin_does_not_burn_out() -> None:
    bright = Portrait(1 - spot(MESH), MESH)
    made = carry_portrait(bright, np.full((SIZE, SIZE, 3), 0.9, np.float32), MESH)
    assert 0.92 < made.max() < 0.999


def test_a_forehead_keeps_its_own_skin() -> None:
    striped = np.full((SIZE, SIZE, 3), 0.5, np.float32)
    top, brow = MESH[10, 1], MESH[63, 1]
    striped[round(top) : round(0.8 * top + 0.2 * brow)] = 0.2  # a fringe, on the faces that the portrait is made from
    plain = np.full((SIZE, SIZE, 3), 0.6, np.float32)
    assert carry_portrait(Portrait(striped, MESH), plain, MESH)[: round(0.5 * (top + brow))].min() > 0.45


def test_teeth_are_those_that_were_painted() -> None:
    opened = MESH.copy()
    opened[list(MESH_MOUTH)[1:10], 1] += 5  # the lower lip
    opened[14, 1] = max(opened[14, 1], opened[13, 1] + 4)
    middle = opened[[13, 14]].mean(0)
    picture = np.full((SIZE, SIZE, 3), 0.5, np.float32)
    row, column = (int(v) for v in middle[::-1])
    picture[row - 1 : row + 2, column - 2 : column + 3] = 0.9
    plain = Portrait(np.full((SIZE, SIZE, 3), 0.5, np.float32), MESH)
    assert carry_portrait(plain, picture, opened)[row, column].min() > 0.8
    assert carry_portrait(plain, picture, MESH)[row, column].max() < 0.65


def test_no_hole_is_left_where_the_mesh_folds() -> None:
    places = np.full((SIZE, SIZE, 2), -1, np.float32)
    places[10:50, 10:50] = np.mgrid[10:50, 10:50].transpose(1, 2, 0)
    folded = places.copy()
    folded[30, 20:40] = -1
    made = _without_holes(folded)
    assert np.abs(made - places).max() == 1  # from the row beside
    assert np.array_equal(made[places < 0], places[places < 0])
