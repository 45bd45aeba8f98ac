import numpy as np
import pytest

from deid_diffusion.faces.landmarks import MESH_IRISES, MESH_OVAL
from deid_diffusion.faces.measures import measure
from deid_diffusion.faces.reshaping import (
    close_lids,
    keep_irises_inside,
    project_shape,
    reshape_mesh,
    with_expression,
)
from deid_diffusion.faces.resting_face import shape_lids, shape_mouth
from deid_diffusion.faces.semantic_map import mean_faces, mean_mesh

SHAPE = np.column_stack([mean_mesh(1), np.linspace(-0.1, 0.1, 478)]).astype(np.float32)


def wide(factor: float) -> np.ndarray:
    shape = SHAPE.copy()
    shape[:, 0] = (shape[:, 0] - 0.5) * factor + 0.5
    return shape


def test_a_shape_is_projected_into_the_pose() -> None:
    turn = np.array([(0.8, -0.6), (0.6, 0.8)])
    mesh = mean_mesh(1) @ turn.T * 200 + 40
    assert np.abs(project_shape(SHAPE, mesh) - mesh).max() < 1


def test_the_same_shape_changes_nothing() -> None:
    mesh = mean_mesh(200)
    assert np.abs(reshape_mesh(mesh, SHAPE, 200) - mesh).max() < 1


def test_another_shape_moves_the_features_and_keeps_the_outline() -> None:
    mesh = mean_mesh(200)
    moved = np.linalg.norm(reshape_mesh(mesh, wide(0.8), 200) - mesh, axis=1)
    assert not moved[list(MESH_OVAL)].any()
    assert moved[33] > 3
    half = np.linalg.norm(reshape_mesh(mesh, wide(0.8), 200, share=0.5) - mesh, axis=1)
    assert half[33] == pytest.approx(moved[33] / 2, rel=0.05)


def test_lids_and_brows_behind_glasses_keep_their_own_form() -> None:
    mesh, shape = mean_mesh(200), SHAPE.copy()
    mesh[[159, 386], 1] += 5  # closed eyes
    mesh[[145, 374], 1] -= 2
    open_lids = measure(reshape_mesh(mesh, shape, 200, own_eyes=True)).eyes_open
    assert open_lids > measure(reshape_mesh(mesh, shape, 200)).eyes_open + 0.02


def test_pose_and_expression_stay(anonymizer) -> None:
    shapes = anonymizer.pipeline.identity_model.shapes.float().numpy()
    for yaw in (4, 6, 8):
        mesh = mean_faces()[yaw] * 200
        mesh[14, 1] += 8  # an open mouth
        before = measure(mesh)
        after = [measure(reshape_mesh(mesh, shape, 200)) for shape in shapes[:40]]
        assert abs(np.mean([one.yaw for one in after]) - before.yaw) < 0.08
        assert abs(np.mean([one.mouth_open for one in after]) - before.mouth_open) < 0.05
        assert abs(np.mean([one.pitch for one in after]) - before.pitch) < 0.08


def test_expressions_are_put_between_the_corners() -> None:
    smile, rest = mean_mesh(200), mean_mesh(200)
    smile[[61, 291], 1] -= 6
    assert measure(with_expression(smile, rest)).smile > measure(rest).smile + 0.02


def test_smiles_are_widened_and_sadness_is_not() -> None:
    mesh = mean_mesh(200)
    smiling, sad = mesh.copy(), mesh.copy()
    shape_mouth(smiling, 0.1, None)
    shape_mouth(sad, -0.1, None)
    assert measure(with_expression(smiling, mesh)).smile == pytest.approx(0.14, abs=0.01)
    assert measure(with_expression(sad, mesh)).smile == pytest.approx(-0.1, abs=0.01)


def test_wide_smiles_stay_as_wide_and_resting_mouths_do_not() -> None:
    smiling, resting = mean_mesh(200), mean_mesh(200)
    shape_mouth(smiling, 0.15, 0.2)

    def width(mesh: np.ndarray) -> float:
        return float(np.linalg.norm(mesh[291] - mesh[61]))

    narrow = wide(0.8)
    assert width(reshape_mesh(smiling, narrow, 200)) > 0.97 * width(smiling)
    assert width(reshape_mesh(resting, narrow, 200)) < 0.95 * width(resting)


def test_profiles_keep_more_of_their_proportions(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(yaw: int) -> float:
        mesh = mean_faces()[yaw] * 200
        return float(np.linalg.norm(reshape_mesh(mesh, wide(0.95), 200) - mesh, axis=1).mean())

    assert abs(measure(mean_faces()[1]).yaw) > 0.9
    less = [away(yaw) for yaw in (1, 6)]
    monkeypatch.setattr("deid_diffusion.faces.reshaping._KEPT_IN_PROFILES", 0.0)
    assert less[0] < 0.6 * away(1)
    assert less[1] == away(6)


def test_nearly_closed_eyes_are_shut_and_narrow_ones_stay_open() -> None:
    mesh = mean_mesh(200)
    for share, least, most in ((0.3, 0.0, 0.02), (1.0, 0.27, 0.4)):
        eyes = mesh.copy()
        shape_lids(eyes, share)
        before = measure(eyes).eyes_open
        close_lids(eyes)
        assert least <= measure(eyes).eyes_open <= most, before


def test_irises_past_a_corner_are_moved_back_and_others_stay() -> None:
    mesh = mean_mesh(200)
    moved = mesh.copy()
    keep_irises_inside(moved)
    assert np.array_equal(moved, mesh)
    rows, width = list(MESH_IRISES[0]), float(np.linalg.norm(mesh[133] - mesh[33]))
    moved[rows, 0] -= width
    keep_irises_inside(moved)
    place = (moved[rows].mean(0) - mesh[33]) @ (mesh[133] - mesh[33]) / width**2
    assert 0.2 < place < 0.35
