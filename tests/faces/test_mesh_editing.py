from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.attributes.selection import MAP_ATTRIBUTES
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.faces.landmarks import MESH_EYES, MESH_IRISES, MESH_NOSE, MESH_OVAL, measure
from deid_diffusion.faces.mesh_editing import (
    close_lids,
    estimate_expression,
    fit_mean_face,
    hide_far_side,
    keep_irises_inside,
    mean_face_in_box,
    neutralize_mesh,
    project_shape,
    raise_brows,
    reshape_mesh,
    shape_lids,
    shape_mouth,
    turn_eyes,
    with_expression,
)
from deid_diffusion.faces.semantic_map import mean_faces, mean_mesh

SIZE = 128


def rest(turn: int = 0) -> np.ndarray:
    """Return the mean face of a step of yaw, -6 to 6."""
    return mean_faces()[6 + turn] * SIZE


@pytest.mark.parametrize("turn", range(-6, 7))
def test_fit_mean_face(turn: int) -> None:
    moved = rest(turn) @ np.array([[0.9, 0.2], [-0.2, 0.9]], np.float32) * 1.3 + 20
    np.testing.assert_allclose(fit_mean_face(moved), moved, atol=1.5)


@pytest.mark.parametrize("frontal", [True, False])
def test_mean_face_in_box(frontal: bool) -> None:
    mesh = rest(2) * (1.2, 0.8) + 5
    mean = mean_face_in_box(mesh, frontal=frontal)
    np.testing.assert_allclose([mean.min(0), mean.max(0)], [mesh.min(0), mesh.max(0)], atol=0.1)
    assert (abs(measure(mean).yaw) < 0.1) == frontal


@pytest.mark.parametrize("turn", [-2, 0, 2])
def test_expression_is_estimated(turn: int) -> None:
    mesh = rest(turn)
    shape_mouth(mesh, 0.2, 0.4)
    raise_brows(mesh, 0.05)
    turn_eyes(mesh, (0.15, -0.1))
    params = estimate_expression(mesh, rest(turn))
    assert (params.smile, params.mouth_open) == (pytest.approx(0.2), pytest.approx(0.4))
    assert (params.brow_raise, params.eyes_open) == (pytest.approx(0.05), 1.0)
    assert params.gaze == (pytest.approx(0.15), pytest.approx(-0.1))


def test_expression_is_quantised_and_bounded(rng: np.random.Generator) -> None:
    mesh = rest()
    raise_brows(mesh, 0.015)
    shape_lids(mesh, 0.1)
    assert measure(mesh).eyes_open < 0.1
    params = estimate_expression(mesh, rest())
    assert params.brow_raise == 0
    assert params.eyes_open < 0.5
    params = estimate_expression(rng.random((478, 2), np.float32) * SIZE, rest())
    assert abs(params.smile) < 0.26
    assert 0 <= params.mouth_open < 0.71
    assert 0 < params.eyes_open <= 1.5


def face(turn: int = 0, mouth: str = "smiling", gaze: float = 0.0) -> np.ndarray:
    """Return the mean face with an expression and irises moved to the right, in pixels."""
    mesh = neutralize_mesh(rest(turn), ("pose", "gaze"), {"expression": mouth})
    for iris in MESH_IRISES:
        mesh[list(iris), 0] += gaze
    return mesh


def gaze_of(mesh: np.ndarray) -> float:
    pairs = zip(MESH_IRISES, MESH_EYES, strict=True)
    return float(np.mean([mesh[list(iris), 0].mean() - mesh[list(eye), 0].mean() for iris, eye in pairs]))


def test_all_kept_returns_the_mesh() -> None:
    mesh = face()
    assert neutralize_mesh(mesh, MAP_ATTRIBUTES, {}) is mesh


@pytest.mark.parametrize("turn", [-2, 0, 2])
def test_expression_is_removed(turn: int) -> None:
    keep = ("pose", "gaze")
    smiling, gaping = (neutralize_mesh(face(turn, mouth), keep, {}) for mouth in ("smiling", "mouth open"))
    np.testing.assert_allclose(smiling, gaping, atol=0.5)
    assert measure(gaping).mouth_open < 0.15


@pytest.mark.parametrize("keep", [("expression",), ("pose", "expression"), ("gaze", "expression")])
def test_expression_is_kept(keep: tuple[str, ...]) -> None:
    mesh = face(2, "mouth open")
    assert measure(neutralize_mesh(mesh, keep, {})).mouth_open == pytest.approx(measure(mesh).mouth_open, abs=0.08)


def test_pose_is_removed() -> None:
    mesh = face(2)
    frontal = neutralize_mesh(mesh, ("expression", "gaze"), {})
    assert abs(measure(frontal).yaw) < 0.1 < abs(measure(mesh).yaw)
    np.testing.assert_allclose(frontal[list(MESH_OVAL)].min(0), mesh.min(0), atol=3)
    np.testing.assert_allclose(frontal[list(MESH_OVAL)].max(0), mesh.max(0), atol=3)


@pytest.mark.parametrize(
    ("keep", "offset", "tolerance"), [(("pose", "expression"), 0, 0.4), (("pose", "gaze"), 3, 0.4), (("gaze",), 3, 0.8)]
)
def test_gaze_is_kept_or_removed(keep: tuple[str, ...], offset: int, tolerance: float) -> None:
    edited = neutralize_mesh(face(gaze=3.0), keep, {})
    assert gaze_of(edited) == pytest.approx(gaze_of(face()) + offset, abs=tolerance)


def test_nothing_kept_gives_the_same_face() -> None:
    serious, smiling = face(mouth="serious"), face(mouth="smiling", gaze=2)
    np.testing.assert_allclose(neutralize_mesh(serious, (), {}), neutralize_mesh(smiling, (), {}), atol=0.5)


@pytest.mark.parametrize("word", VOCABULARY["expression"])
def test_expression_is_changed(word: str) -> None:
    smile, mouth_open = {
        "smiling": (0.15, None),
        "serious": (0.0, 0.0),
        "neutral": (0.06, 0.0),
        "mouth open": (None, 0.35),
        "teeth showing": (0.1, 0.2),
        "mouth closed": (None, 0.0),
    }[word]
    measures = measure(neutralize_mesh(face(mouth="neutral"), ("pose",), {"expression": word}))
    assert smile is None or measures.smile == pytest.approx(smile, abs=0.03)
    assert mouth_open is None or measures.mouth_open == pytest.approx(mouth_open, abs=0.03)


def test_eyes_are_closed_and_opened() -> None:
    assert set(VOCABULARY["gaze"]) == {"eyes closed", "eyes open"}
    closed = neutralize_mesh(face(), ("pose",), {"gaze": "eyes closed"})
    assert measure(closed).eyes_open < 0.16
    assert measure(neutralize_mesh(closed, ("pose", "gaze"), {})).eyes_open < 0.16  # the gaze keeps them closed
    assert measure(neutralize_mesh(closed, ("pose",), {})).eyes_open > 0.2
    assert measure(neutralize_mesh(closed, ("pose",), {"gaze": "eyes open"})).eyes_open > 0.2


def test_privacy_removes_proportions_and_keeps_the_expression() -> None:
    odd = face(mouth="mouth open")
    odd[:, 1] = 64 + 1.2 * (odd[:, 1] - 64) + 0.002 * (odd[:, 0] - 64) ** 2  # a long face with a hanging jaw
    meshes = [neutralize_mesh(odd, MAP_ATTRIBUTES, {}, privacy) for privacy in (0.0, 0.5, 1.0)]
    distances = [float(np.abs(mesh - odd).mean()) for mesh in meshes]
    assert distances[0] == 0 < distances[1] < distances[2]
    assert measure(meshes[2]).mouth_open == pytest.approx(measure(odd).mouth_open, abs=0.05)


@pytest.mark.parametrize("turn", [-6, 6])
@pytest.mark.parametrize("keep", [(), ("pose",), ("expression",), ("gaze", "pose")])
def test_profiles_are_neutralised(turn: int, keep: tuple[str, ...]) -> None:
    edited = neutralize_mesh(rest(turn), keep, {"expression": "smiling"} if "expression" not in keep else {}, 0.5)
    assert edited.shape == (478, 2)
    assert edited.dtype == np.float32
    assert np.isfinite(edited).all()
    assert -SIZE < edited.min() < edited.max() < 2 * SIZE


INNER = [6, 195, 4, 197, 122, 351, 193, 417]  # of the nose and the inner eye corners
SHAPE = np.column_stack([mean_mesh(1), np.linspace(-0.1, 0.1, 478)]).astype(np.float32)


def wide(factor: float) -> np.ndarray:
    shape = SHAPE.copy()
    shape[:, 0] = (shape[:, 0] - 0.5) * factor + 0.5
    return shape


def test_shape_is_projected_into_the_pose() -> None:
    turn = np.array([(0.8, -0.6), (0.6, 0.8)])
    mesh = mean_mesh(1) @ turn.T * 200 + 40
    assert np.abs(project_shape(SHAPE, mesh) - mesh).max() < 1


def test_own_shape_changes_nothing() -> None:
    mesh = mean_mesh(200)
    assert np.abs(reshape_mesh(mesh, SHAPE, 200) - mesh).max() < 1


def test_reshaping_keeps_the_outline() -> None:
    mesh = mean_mesh(200)
    moved = np.linalg.norm(reshape_mesh(mesh, wide(0.8), 200) - mesh, axis=1)
    assert not moved[list(MESH_OVAL)].any()
    assert moved[33] > 3
    half = np.linalg.norm(reshape_mesh(mesh, wide(0.8), 200, share=0.5) - mesh, axis=1)
    assert half[33] == pytest.approx(moved[33] / 2, rel=0.05)


def test_own_eyes_keep_the_lids() -> None:
    mesh, shape = mean_mesh(200), SHAPE.copy()
    mesh[[159, 386], 1] += 5  # closed eyes
    mesh[[145, 374], 1] -= 2
    open_lids = measure(reshape_mesh(mesh, shape, 200, own_eyes=True)).eyes_open
    assert open_lids > measure(reshape_mesh(mesh, shape, 200)).eyes_open + 0.02


@pytest.mark.parametrize("turn", [-2, 0, 2])
def test_reshaping_keeps_pose_and_expression(anonymizer, turn: int) -> None:
    shapes = anonymizer.pipeline.identity_model.shapes.float().numpy()
    mesh = mean_faces()[6 + turn] * 200
    mesh[14, 1] += 8  # an open mouth
    before = measure(mesh)
    after = [measure(reshape_mesh(mesh, shape, 200)) for shape in shapes[:40]]
    for name, tolerance in (("yaw", 0.08), ("mouth_open", 0.05), ("pitch", 0.08)):
        assert abs(np.mean([getattr(measures, name) for measures in after]) - getattr(before, name)) < tolerance


def test_smiles_are_amplified() -> None:
    mesh = mean_mesh(200)
    smiling, sad = mesh.copy(), mesh.copy()
    shape_mouth(smiling, 0.1, None)
    shape_mouth(sad, -0.1, None)
    assert measure(with_expression(smiling, mesh)).smile == pytest.approx(0.14, abs=0.01)
    assert measure(with_expression(sad, mesh)).smile == pytest.approx(-0.1, abs=0.01)


def test_wide_smiles_keep_their_width() -> None:
    smiling, resting = mean_mesh(200), mean_mesh(200)
    shape_mouth(smiling, 0.15, 0.2)

    def width(mesh: np.ndarray) -> float:
        return float(np.linalg.norm(mesh[291] - mesh[61]))

    narrow = wide(0.8)
    assert width(reshape_mesh(smiling, narrow, 200)) > 0.97 * width(smiling)
    assert width(reshape_mesh(resting, narrow, 200)) < 0.95 * width(resting)


def test_profiles_are_reshaped_less() -> None:
    def share(turn: int) -> float:
        """Return the share of the displacement to the other shape that is taken, over the inner points."""
        mesh, shape = mean_faces()[6 + turn] * 200, wide(0.95)
        full = np.linalg.norm(with_expression(mesh, project_shape(shape, mesh)) - mesh, axis=1)
        taken = np.linalg.norm(reshape_mesh(mesh, shape, 200) - mesh, axis=1) / full.clip(1e-3)
        across = mean_mesh(1)[:, 0] - mean_mesh(1)[10, 0]
        near = [point for point in INNER if turn * across[point] <= 0]  # the far side is hidden
        return float(taken[near].mean())

    assert abs(measure(mean_faces()[1]).yaw) > 0.9
    assert share(0) > 0.6
    assert share(-5) < 0.7 * share(0)


@pytest.mark.parametrize(("scale", "low", "high"), [(0.3, 0.0, 0.02), (1.0, 0.27, 0.4)])
def test_nearly_closed_eyes_are_shut(scale: float, low: float, high: float) -> None:
    mesh = mean_mesh(200)
    shape_lids(mesh, scale)
    close_lids(mesh)
    assert low <= measure(mesh).eyes_open <= high


def test_misplaced_irises_are_moved_back() -> None:
    mesh = mean_mesh(200)
    moved = mesh.copy()
    keep_irises_inside(moved)
    assert np.array_equal(moved, mesh)
    rows, width = list(MESH_IRISES[0]), float(np.linalg.norm(mesh[133] - mesh[33]))
    moved[rows, 0] -= width
    keep_irises_inside(moved)
    position = (moved[rows].mean(0) - mesh[33]) @ (mesh[133] - mesh[33]) / width**2
    assert 0.2 < position < 0.35


def test_far_side_of_a_profile_is_hidden() -> None:
    profile = mean_faces()[-1] * 200
    mesh = profile.copy()
    side = np.sign(measure(mesh).yaw)
    far = list(MESH_EYES[1] if side > 0 else MESH_EYES[0])
    mesh[far, 0] += side * 20  # in front of the bridge of the nose
    hide_far_side(mesh, 200)
    assert (side * (mesh[far, 0] - mesh[168, 0]) < 0).all()
    near = list(MESH_EYES[0] if side > 0 else MESH_EYES[1])
    assert np.array_equal(mesh[near], profile[near])
    frontal = mean_mesh(200)
    hide_far_side(frontal, 200)
    assert np.array_equal(frontal, mean_mesh(200))


def test_exaggeration_is_bounded() -> None:
    mesh, shape = mean_mesh(200), SHAPE.copy()
    shape[list(MESH_NOSE)] += (0.03, 0, 0)
    steps = [np.abs(reshape_mesh(mesh, shape, 200, share=share) - mesh).max() for share in (1.0, 1.3, 3.0)]
    assert 0.5 < steps[1] - steps[0] < steps[2] - steps[0] < 4


def test_depth_does_not_change_profiles() -> None:
    angle = np.deg2rad(80)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0]])
    solid = np.column_stack([mean_mesh(1), 0.5 - 3 * np.abs(mean_mesh(1)[:, 0] - 0.5) ** 2]).astype(np.float32)
    mesh = (solid @ turn.T * 200 + 100).astype(np.float32)
    flat = solid * (1, 1, 0.5)
    assert np.abs(project_shape(flat, mesh) - mesh).max() < 1
