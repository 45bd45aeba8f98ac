import numpy as np

from deid_diffusion.faces.inpainting import fill_from_surroundings


def test_nothing_inside_the_hole_is_read() -> None:
    rng = np.random.default_rng(0)
    picture, hole = rng.random((40, 50, 3)).astype(np.float32), np.zeros((40, 50), bool)
    hole[10:30, 15:40] = True
    other = picture.copy()
    other[hole] = rng.random((int(hole.sum()), 3))
    filled = fill_from_surroundings(picture, hole)
    assert np.array_equal(filled, fill_from_surroundings(other, hole))
    assert np.array_equal(filled[~hole], picture[~hole])


def test_each_side_is_carried_inwards() -> None:
    picture, hole = np.zeros((40, 40, 3), np.float32), np.zeros((40, 40), bool)
    picture[:, 20:] = 1
    hole[8:32, 8:32] = True
    filled = fill_from_surroundings(picture, hole)
    assert filled[20, 9].max() < 0.1
    assert filled[20, 30].min() > 0.9


def test_holes_without_surroundings_are_grey() -> None:
    assert (fill_from_surroundings(np.ones((4, 4, 3), np.float32), np.ones((4, 4), bool)) == 0.5).all()
    picture = np.random.default_rng(0).random((4, 4, 3)).astype(np.float32)
    assert np.array_equal(fill_from_surroundings(picture, np.zeros((4, 4), bool)), picture)
