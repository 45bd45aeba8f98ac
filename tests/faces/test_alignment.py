import numpy as np
import pytest

from deid_diffusion.faces import alignment
from deid_diffusion.faces.semantic_map import mean_mesh


@pytest.mark.parametrize("angle", [0.0, 0.4, -2.0])
@pytest.mark.parametrize("side", [24.0, 200.0, 900.0])
def test_inverse(rng: np.random.Generator, angle: float, side: float) -> None:
    matrix = alignment.similarity((150.5, 80.25), side, angle, 128)
    points = rng.uniform(-50, 900, (40, 2)).astype(np.float32)
    back = alignment.transform(alignment.transform(points, matrix), alignment.invert(matrix))
    assert np.abs(back - points).max() < 2e-2


def test_crop_levels_and_centres_a_mesh() -> None:
    turned = alignment.transform(mean_mesh(128), alignment.similarity((64, 64), 50, 0.5, 300))
    upright = alignment.transform(turned, alignment.frame_from_mesh(turned, 128))
    assert abs(upright[[33, 133], 1].mean() - upright[[362, 263], 1].mean()) < 2
    assert np.ptp(upright, 0).max() == pytest.approx(128 / alignment.CROP_MARGIN, rel=0.05)


def test_extract(astronaut: np.ndarray) -> None:
    matrix = alignment.similarity((220, 120), 160, 0.2, 128)
    warped = alignment.warp(astronaut, matrix, (128, 128)).astype(int)
    assert np.abs(alignment.extract(astronaut, matrix, 128) - warped).max() <= 1
    outside = alignment.similarity((-400, 900), 100, 0.0, 32)
    assert alignment.extract(astronaut, outside, 32).shape == (32, 32, 3)
    checkerboard = (np.indices((600, 600)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert alignment.extract(checkerboard, alignment.similarity((300, 300), 500, 0.0, 32), 32).std() < 8  # antialiased


def test_profile_has_no_roll() -> None:
    points = np.array([(50, 50), (52, 60), (70, 70), (55, 80), (56, 80)], np.float32)
    assert alignment.frame_from_box((20, 20, 120, 120), points, 64)[0, 1] == pytest.approx(0)
