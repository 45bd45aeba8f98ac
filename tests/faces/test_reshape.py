"""Other proportions, the same expression and pose."""

import numpy as np
import pytest

from deid_diffusion.faces.landmarks import MESH_EYES, MESH_IRISES, MESH_OVAL
from deid_diffusion.faces.measures import measure
from deid_diffusion.faces.reshape import reshape_mesh
from deid_diffusion.faces.semantic_map import draw_semantic_map, mean_mesh


def made(mesh: np.ndarray, seed: int) -> np.ndarray:
    return reshape_mesh(mesh, np.random.default_rng(seed))


def test_one_state_gives_one_person_at_any_size_and_turn() -> None:
    mesh = mean_mesh(128)
    again, other = made(mesh, 1), made(mesh, 2)
    np.testing.assert_array_equal(made(mesh, 1), again)
    assert np.abs(again - other).max() > 1
    turn = np.array([[0.8, -0.6], [0.6, 0.8]], np.float32)
    np.testing.assert_allclose(made(3 * mesh @ turn.T + 50, 1), 3 * again @ turn.T + 50, atol=1e-2)


def test_the_outline_stays() -> None:
    mesh = mean_mesh(128)
    np.testing.assert_allclose(made(mesh, 3)[list(MESH_OVAL)], mesh[list(MESH_OVAL)], atol=1e-3)


@pytest.mark.parametrize("seed", range(12))
def test_expression_pose_and_gaze_stay_nearly_the_same(seed: int) -> None:
    mesh = mean_mesh(128)
    before, after = measure(mesh), measure(made(mesh, seed))
    assert after.yaw == pytest.approx(before.yaw, abs=0.05)
    assert after.eyes_open == pytest.approx(before.eyes_open, abs=0.02)
    assert after.smile == pytest.approx(before.smile, abs=0.06)
    for eye, iris in zip(MESH_EYES, MESH_IRISES, strict=True):
        gaze = [
            (m[list(iris)].mean(0) - m[list(eye)].mean(0)) / np.ptp(m[list(eye), 0]) for m in (mesh, made(mesh, seed))
        ]
        np.testing.assert_allclose(gaze[0], gaze[1], atol=0.02)


@pytest.mark.parametrize("yaw", [-1, 0, 1])
@pytest.mark.parametrize("seed", range(6))
def test_a_map_still_has_every_part(yaw: int, seed: int) -> None:
    points = None
    if yaw:
        points = np.array([(60, 50), (60 + 4 * abs(yaw), 50), (62 + 16 * yaw, 68), (60, 80), (62, 80)], np.float32)
    labels = draw_semantic_map(made(mean_mesh(128, points), seed), 128)
    assert {1, 2, 11, 12} <= set(np.unique(labels))
