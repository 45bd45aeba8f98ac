"""A head that is turned by known angles, eyes that look aside by a known share."""

import numpy as np
import pytest

from deid_diffusion.evaluation.mesh_errors import _CANONICAL, face_state, head_pose, mesh_errors
from deid_diffusion.faces.landmarks import MESH_IRISES
from deid_diffusion.faces.semantic_map import mean_mesh


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(478, 2): canonical points of a head that looks right by yaw, up by pitch, leans right by roll, in degrees."""
    a, b, c = np.radians((yaw, pitch, roll))
    across = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    up = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    lean = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    model = np.array(list(_CANONICAL.values())) * (1, -1, -1)
    mesh = np.zeros((478, 2))
    mesh[list(_CANONICAL)] = 7 * (model @ (lean @ across @ up).T)[:, :2] + (200, 90)
    return mesh


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 0, 0), (-50, 0, 0), (0, 20, 0), (0, -25, 0), (0, 0, 15)])
def test_one_turn_is_read_back(angles):
    pose = head_pose(turned(*angles))
    np.testing.assert_allclose((pose.yaw, pose.pitch, pose.roll), angles, atol=1e-4)


def test_turns_together_keep_their_signs():
    pose = head_pose(turned(25, 10, -12))
    np.testing.assert_allclose((pose.yaw, pose.pitch, pose.roll), (25, 10, -12), atol=6)
    found = mesh_errors(turned(10, 0, 0), turned(-10, 5, 0))
    assert found.yaw == pytest.approx(20, abs=0.5)
    assert found.pitch == pytest.approx(5, abs=0.5)


def test_gaze_is_in_eye_widths():
    mesh = mean_mesh(256, None)
    aside = mesh.copy()
    widths = [np.linalg.norm(mesh[b] - mesh[a]) for a, b in ((33, 133), (362, 263))]
    for iris, width in zip(MESH_IRISES, widths, strict=True):
        aside[list(iris), 0] += 0.1 * width
    assert mesh_errors(mesh, aside).gaze == pytest.approx(0.1, abs=0.005)
    assert mesh_errors(mesh, mesh).gaze == 0
    x, y = np.subtract(face_state(aside).gaze, face_state(mesh).gaze)
    assert (x, y) == pytest.approx((0.1, 0), abs=0.01)


def test_closed_eyes_look_nowhere():
    mesh = mean_mesh(256, None)
    closed = mesh.copy()
    for upper, lower in ((159, 145), (386, 374)):
        closed[upper] = closed[lower]
    assert face_state(closed).gaze is None
    assert mesh_errors(mesh, closed).gaze is None
    assert mesh_errors(mesh, closed).eyes_open > 0.1


def test_landmarks_are_in_shares_of_the_eyes_distance():
    mesh = mean_mesh(256, None)
    span = np.linalg.norm(mesh[263] - mesh[33])
    found = mesh_errors(mesh, mesh + np.array([0.03, 0.04]) * span)
    assert found.landmarks == pytest.approx(0.05, rel=1e-4)
    assert max(found.yaw, found.smile, found.mouth_open) < 1e-3
    open_mouth = mesh.copy()
    width = np.linalg.norm(mesh[291] - mesh[61])
    open_mouth[14, 1] += 0.2 * width
    assert mesh_errors(mesh, open_mouth).mouth_open == pytest.approx(0.2, abs=0.01)
