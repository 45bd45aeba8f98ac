import numpy as np
import pytest

from deid_diffusion.attributes.selection import MAP_ATTRIBUTES
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.faces import mesh_editing as editing
from deid_diffusion.faces.landmarks import MESH_EYES, MESH_IRISES, MESH_NOSE, MESH_OVAL, measure
from deid_diffusion.faces.mesh_editing import neutralize_mesh, reshape_mesh, shape_mouth
from deid_diffusion.faces.semantic_map import mean_faces, mean_mesh

SIZE = 128


def rest(turn: int = 0) -> np.ndarray:
    """Return the mean face of a step of yaw, -6 to 6."""
    return mean_faces()[6 + turn] * SIZE


@pytest.mark.parametrize("turn", range(-6, 7))
def test_fit_mean_face(turn: int) -> None:
    moved = rest(turn) @ np.array([[0.9, 0.2], [-0.2, 0.9]], np.float32) * 1.3 + 20
    np.testing.assert_allclose(editing.fit_mean_face(moved), moved, atol=1.5)


@pytest.mark.parametrize("frontal", [True, False])
def test_mean_face_in_box(frontal: bool) -> None:
    mesh = rest(2) * (1.2, 0.8) + 5
    mean = editing.mean_face_in_box(mesh, frontal=frontal)
    np.testing.assert_allclose([mean.min(0), mean.max(0)], [mesh.min(0), mesh.max(0)], atol=0.1)
    assert (abs(measure(mean).yaw) < 0.1) == frontal


@pytest.mark.parametrize("turn", [-2, 0, 2])
def test_expression_is_estimated(turn: int) -> None:
    mesh = rest(turn)
    shape_mouth(mesh, 0.2, 0.4)
    editing.raise_brows(mesh, 0.05)
    editing.turn_eyes(mesh, (0.15, -0.1))
    params = editing.estimate_expression(mesh, rest(turn))
    values = params.smile, params.mouth_open, params.brow_raise, params.eyes_open, *params.gaze
    assert values == pytest.approx((0.2, 0.4, 0.05, 1.0, 0.15, -0.1))


def test_expression_bounds(rng: np.random.Generator) -> None:
    mesh = rest()
    editing.raise_brows(mesh, 0.015)
    editing.shape_lids(mesh, 0.1)
    assert measure(mesh).eyes_open < 0.1
    params = editing.estimate_expression(mesh, rest())
    assert params.brow_raise == 0
    assert params.eyes_open < 0.5
    params = editing.estimate_expression(rng.random((478, 2), np.float32) * SIZE, rest())
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
    oval = frontal[list(MESH_OVAL)]
    np.testing.assert_allclose([oval.min(0), oval.max(0)], [mesh.min(0), mesh.max(0)], atol=3)


@pytest.mark.parametrize(
    ("keep", "offset", "tolerance"), [(("pose", "expression"), 0, 0.4), (("pose", "gaze"), 3, 0.4), (("gaze",), 3, 0.8)]
)
def test_gaze_is_kept_or_removed(keep: tuple[str, ...], offset: int, tolerance: float) -> None:
    edited = neutralize_mesh(face(gaze=3.0), keep, {})
    assert gaze_of(edited) == pytest.approx(gaze_of(face()) + offset, abs=tolerance)


def test_all_or_nothing_kept() -> None:
    serious, smiling = face(mouth="serious"), face(mouth="smiling", gaze=2)
    assert neutralize_mesh(smiling, MAP_ATTRIBUTES, {}) is smiling
    np.testing.assert_allclose(neutralize_mesh(serious, (), {}), neutralize_mesh(smiling, (), {}), atol=0.5)


EXPRESSIONS = {
    "smiling": {"smile": 0.15},
    "serious": {"smile": 0.0, "mouth_open": 0.0},
    "neutral": {"smile": 0.06, "mouth_open": 0.0},
    "mouth open": {"mouth_open": 0.35},
    "teeth showing": {"smile": 0.1, "mouth_open": 0.2},
    "mouth closed": {"mouth_open": 0.0},
}


@pytest.mark.parametrize("word", VOCABULARY["expression"])
def test_expression_is_changed(word: str) -> None:
    measures = vars(measure(neutralize_mesh(face(mouth="neutral"), ("pose",), {"expression": word})))
    assert {name: measures[name] for name in EXPRESSIONS[word]} == pytest.approx(EXPRESSIONS[word], abs=0.03)


def test_eyes_are_closed_and_opened() -> None:
    assert set(VOCABULARY["gaze"]) == {"eyes closed", "eyes open"}
    closed = neutralize_mesh(face(), ("pose",), {"gaze": "eyes closed"})
    kept = neutralize_mesh(closed, ("pose", "gaze"), {})
    opened = [neutralize_mesh(closed, ("pose",), change) for change in ({}, {"gaze": "eyes open"})]
    assert max(measure(mesh).eyes_open for mesh in (closed, kept)) < 0.16
    assert min(measure(mesh).eyes_open for mesh in opened) > 0.2


def test_map_privacy() -> None:
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
    assert (edited.shape, edited.dtype) == ((478, 2), np.float32)
    assert -SIZE < edited.min() < edited.max() < 2 * SIZE  # finite


INNER = [6, 195, 4, 197, 122, 351, 193, 417]  # of the nose and the inner eye corners
SHAPE = np.column_stack([mean_mesh(1), np.linspace(-0.1, 0.1, 478)]).astype(np.float32)


def wide(factor: float) -> np.ndarray:
    shape = SHAPE.copy()
    shape[:, 0] = (shape[:, 0] - 0.5) * factor + 0.5
    return shape


def test_reshaping_keeps_the_outline() -> None:
    turned = mean_mesh(1) @ np.array([(0.8, 0.6), (-0.6, 0.8)]) * 200 + 40
    assert np.abs(editing.project_shape(SHAPE, turned) - turned).max() < 1  # in its pose
    mesh = mean_mesh(200)
    assert np.abs(reshape_mesh(mesh, SHAPE, 200) - mesh).max() < 1  # its own shape
    moved = np.linalg.norm(reshape_mesh(mesh, wide(0.8), 200) - mesh, axis=1)
    assert not moved[list(MESH_OVAL)].any()
    assert moved[33] > 3
    half = np.linalg.norm(reshape_mesh(mesh, wide(0.8), 200, share=0.5) - mesh, axis=1)
    assert half[33] == pytest.approx(moved[33] / 2, rel=0.05)


def test_own_eyes_keep_the_lids() -> None:
    mesh = mean_mesh(200)
    mesh[[159, 386], 1] += 5  # closed eyes
    mesh[[145, 374], 1] -= 2
    own, closed = (measure(reshape_mesh(mesh, SHAPE, 200, own_eyes=own)).eyes_open for own in (True, False))
    assert own > closed + 0.02


@pytest.mark.parametrize("turn", [-2, 0, 2])
def test_reshaping_keeps_pose(anonymizer, turn: int) -> None:
    shapes = anonymizer.pipeline.identity_model.shapes.float().numpy()
    mesh = mean_faces()[6 + turn] * 200
    mesh[14, 1] += 8  # an open mouth
    before = measure(mesh)
    after = [measure(reshape_mesh(mesh, shape, 200)) for shape in shapes[:40]]
    for name, tolerance in (("yaw", 0.08), ("mouth_open", 0.05), ("pitch", 0.08)):
        assert abs(np.mean([getattr(measures, name) for measures in after]) - getattr(before, name)) < tolerance


def test_smiles_are_amplified() -> None:
    mesh = mean_mesh(200)
    for smile, amplified in ((0.1, 0.14), (-0.1, -0.1)):
        expressive = mesh.copy()
        shape_mouth(expressive, smile, None)
        assert measure(editing.with_expression(expressive, mesh)).smile == pytest.approx(amplified, abs=0.01)


def test_wide_smiles_keep_their_width() -> None:
    smiling, resting = mean_mesh(200), mean_mesh(200)
    shape_mouth(smiling, 0.15, 0.2)

    def share(mesh: np.ndarray) -> float:
        """Return the share of the mouth's width that is left in a narrow face."""
        before, after = (np.linalg.norm(m[291] - m[61]) for m in (mesh, reshape_mesh(mesh, wide(0.8), 200)))
        return float(after / before)

    assert share(smiling) > 0.97
    assert share(resting) < 0.95


def test_profiles_are_reshaped_less() -> None:
    def share(turn: int) -> float:
        """Return the share of the displacement to the other shape that is taken, over the inner points."""
        mesh, shape = mean_faces()[6 + turn] * 200, wide(0.95)
        full = np.linalg.norm(editing.with_expression(mesh, editing.project_shape(shape, mesh)) - mesh, axis=1)
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
    editing.shape_lids(mesh, scale)
    editing.close_lids(mesh)
    assert low <= measure(mesh).eyes_open <= high


def test_misplaced_irises_are_moved_back() -> None:
    mesh = mean_mesh(200)
    moved = mesh.copy()
    editing.keep_irises_inside(moved)
    assert np.array_equal(moved, mesh)
    rows, width = list(MESH_IRISES[0]), float(np.linalg.norm(mesh[133] - mesh[33]))
    moved[rows, 0] -= width
    editing.keep_irises_inside(moved)
    position = (moved[rows].mean(0) - mesh[33]) @ (mesh[133] - mesh[33]) / width**2
    assert 0.2 < position < 0.35


def test_far_side_of_a_profile_is_hidden() -> None:
    profile = mean_faces()[-1] * 200
    mesh = profile.copy()
    side = np.sign(measure(mesh).yaw)
    far = list(MESH_EYES[1] if side > 0 else MESH_EYES[0])
    mesh[far, 0] += side * 20  # in front of the bridge of the nose
    editing.hide_far_side(mesh, 200)
    assert (side * (mesh[far, 0] - mesh[168, 0]) < 0).all()
    near = list(MESH_EYES[0] if side > 0 else MESH_EYES[1])
    assert np.array_equal(mesh[near], profile[near])
    for turned in (mean_mesh(200), mean_faces()[9] * 200):
        kept = turned.copy()
        editing.hide_far_side(kept, 200)
        assert np.array_equal(kept, turned)


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
    assert np.abs(editing.project_shape(flat, mesh) - mesh).max() < 1
