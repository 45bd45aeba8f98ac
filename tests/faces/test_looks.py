import numpy as np

from deid_diffusion.faces.looks import LOOK_DIM, paint_look
from deid_diffusion.faces.semantic_map import control_image, draw_semantic_map, mean_mesh

SIZE = 96


def painted(look: np.ndarray, shift: tuple[int, int] = (0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """The control image without a look, and what the look adds to it, of a face moved by some pixels."""
    mesh = mean_mesh(SIZE) + np.float32(shift)
    plain = control_image(draw_semantic_map(mesh, SIZE))
    return plain, paint_look(plain, mesh, look).astype(int) - plain


def test_no_look_leaves_the_map_as_it_is() -> None:
    _, light = painted(np.zeros(LOOK_DIM))
    assert not light.any()


def test_a_look_shows_inside_the_face_only() -> None:
    plain, light = painted(np.random.default_rng(0).standard_normal(LOOK_DIM))
    seen = plain.any(2)
    assert np.abs(light[seen]).mean() > 5
    outside = np.abs(light[~seen]).max(1)
    assert (outside > 3).mean() < 0.02  # the texture ends where the mesh does, within a pixel


def test_a_look_moves_with_the_face() -> None:
    look = np.random.default_rng(1).standard_normal(LOOK_DIM)
    here, there = painted(look)[1], painted(look, (4, 2))[1]
    moved = np.roll(here, (2, 4), (0, 1))
    assert np.corrcoef(moved[8:-8, 8:-8].ravel(), there[8:-8, 8:-8].ravel())[0, 1] > 0.97


def test_looks_differ() -> None:
    rng = np.random.default_rng(2)
    one, two = (painted(rng.standard_normal(LOOK_DIM))[1].ravel() for _ in range(2))
    assert np.corrcoef(one, two)[0, 1] < 0.8
