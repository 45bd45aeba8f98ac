from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.faces import alignment
from deid_diffusion.faces.semantic_map import mean_mesh


@pytest.mark.parametrize("angle", [0.0, 0.4, -2.0])
@pytest.mark.parametrize("side", [24.0, 200.0, 900.0])
def test_inverse(angle: float, side: float) -> None:
    matrix = alignment.similarity((150.5, 80.25), side, angle, 128)
    points = np.random.default_rng(0).uniform(-50, 900, (40, 2)).astype(np.float32)
    back = alignment.transform(alignment.transform(points, matrix), alignment.invert(matrix))
    assert np.abs(back - points).max() < 2e-2


def test_crop_levels_and_centres_a_mesh() -> None:
    turned = alignment.transform(mean_mesh(128), alignment.similarity((64, 64), 50, 0.5, 300))
    upright = alignment.transform(turned, alignment.frame_from_mesh(turned, 128))
    eyes = [upright[[33, 133]].mean(0), upright[[362, 263]].mean(0)]
    assert abs(eyes[1][1] - eyes[0][1]) < 2
    extent = upright.max(0) - upright.min(0)
    assert extent.max() == pytest.approx(128 / alignment.CROP_MARGIN, rel=0.05)


def test_extract_equals_full_warp(astronaut: np.ndarray) -> None:
    matrix = alignment.similarity((220, 120), 160, 0.2, 128)
    warped = alignment.warp(astronaut, matrix, (128, 128)).astype(int)
    assert np.abs(alignment.extract(astronaut, matrix, 128) - warped).max() <= 1


def test_extract_is_antialiased() -> None:
    checkerboard = (np.indices((600, 600)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    small = alignment.extract(checkerboard, alignment.similarity((300, 300), 500, 0.0, 32), 32)
    assert small.std() < 8


def test_extract_outside_the_photo(astronaut: np.ndarray) -> None:
    assert alignment.extract(astronaut, alignment.similarity((-400, 900), 100, 0.0, 32), 32).shape == (32, 32, 3)


def test_profile_has_no_roll() -> None:
    points = np.array([(50, 50), (52, 60), (70, 70), (55, 80), (56, 80)], np.float32)
    matrix = alignment.frame_from_box((20, 20, 120, 120), points, 64)
    assert matrix[0, 1] == pytest.approx(0)
