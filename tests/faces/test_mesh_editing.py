"""The mean face in a face's place, and a few numbers."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.attributes.selection import MAP_ATTRIBUTES
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.faces.landmarks import MESH_EYES, MESH_IRISES, MESH_OVAL, measure
from deid_diffusion.faces.mesh_editing import (
    _LIDS,
    _MOUTHS,
    close_lids,
    estimate_expression,
    fit_mean_face,
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
    return mean_faces()[6 + turn] * SIZE


@pytest.mark.parametrize("turn", range(-6, 7))
def test_a_mean_face_is_found_and_fitted_wherever_it_is(turn: int) -> None:
    moved = rest(turn) @ np.array([[0.9, 0.2], [-0.2, 0.9]], np.float32) * 1.3 + 20
    np.testing.assert_allclose(fit_mean_face(moved), moved, atol=1.5)


@pytest.mark.parametrize("frontal", [True, False])
def test_a_boxed_face_has_the_meshs_width_and_height(frontal: bool) -> None:
    mesh = rest(2) * (1.2, 0.8) + 5
    made = mean_face_in_box(mesh, frontal=frontal)
    np.testing.assert_allclose([made.min(0), made.max(0)], [mesh.min(0), mesh.max(0)], atol=0.1)
    assert (abs(measure(made).yaw) < 0.1) == frontal


@pytest.mark.parametrize("turn", [-2, 0, 2])
def test_numbers_say_what_was_shaped(turn: int) -> None:
    mesh = rest(turn)
    shape_mouth(mesh, 0.2, 0.4)
    raise_brows(mesh, 0.05)
    turn_eyes(mesh, (0.15, -0.1))
    told = estimate_expression(mesh, rest(turn))
    assert (told.smile, told.gap) == (pytest.approx(0.2), pytest.approx(0.4))
    assert (told.brows, told.lids) == (pytest.approx(0.05), 1.0)
    assert told.glance == (pytest.approx(0.15), pytest.approx(-0.1))


def test_closed_eyes_are_told() -> None:
    mesh = rest()
    shape_lids(mesh, 0.1)
    assert measure(mesh).eyes_open < 0.1
    assert estimate_expression(mesh, rest()).lids < 0.5


def test_numbers_are_coarse_and_bounded() -> None:
    """Small differences between people are not told, and a mesh that went wrong is no grimace."""
    mesh = rest()
    raise_brows(mesh, 0.015)
    assert estimate_expression(mesh, rest()).brows == 0
    wild = np.random.default_rng(0).random((478, 2), np.float32) * SIZE
    told = estimate_expression(wild, rest())
    assert abs(told.smile) < 0.26
    assert 0 <= told.gap < 0.71
    assert 0 < told.lids <= 1.5


def face(turn: int = 0, mouth: str = "smiling", glance: float = 0.0) -> np.ndarray:
    """The mean face of some yaw, with a mouth, looking to one side by so many pixels."""
    mesh = mean_faces()[6 + turn] * SIZE
    mesh = neutralize_mesh(mesh, ("pose", "gaze"), {"expression": mouth})
    for iris in MESH_IRISES:
        mesh[list(iris), 0] += glance
    return mesh


def glance_of(mesh: np.ndarray) -> float:
    pairs = zip(MESH_IRISES, MESH_EYES, strict=True)
    return float(np.mean([mesh[list(iris), 0].mean() - mesh[list(eye), 0].mean() for iris, eye in pairs]))


def test_everything_kept_is_the_mesh_itself() -> None:
    mesh = face()
    assert neutralize_mesh(mesh, MAP_ATTRIBUTES, {}) is mesh


@pytest.mark.parametrize("turn", [-2, 0, 2])
def test_an_expression_that_is_not_kept_leaves_no_trace(turn: int) -> None:
    keep = ("pose", "gaze")
    smiling, gaping = (neutralize_mesh(face(turn, mouth), keep, {}) for mouth in ("smiling", "mouth open"))
    np.testing.assert_allclose(smiling, gaping, atol=0.5)
    assert measure(gaping).mouth_open < 0.15


@pytest.mark.parametrize("keep", [("expression",), ("pose", "expression"), ("gaze", "expression")])
def test_an_expression_that_is_kept_stays_on_any_face(keep: tuple[str, ...]) -> None:
    mesh = face(2, "mouth open")
    assert measure(neutralize_mesh(mesh, keep, {})).mouth_open == pytest.approx(measure(mesh).mouth_open, abs=0.08)


def test_a_pose_that_is_not_kept_is_frontal_in_the_same_place() -> None:
    mesh = face(2)
    made = neutralize_mesh(mesh, ("expression", "gaze"), {})
    assert abs(measure(made).yaw) < 0.1 < abs(measure(mesh).yaw)
    np.testing.assert_allclose(made[list(MESH_OVAL)].min(0), mesh.min(0), atol=3)
    np.testing.assert_allclose(made[list(MESH_OVAL)].max(0), mesh.max(0), atol=3)


def test_a_glance_stays_or_goes() -> None:
    mesh = face(glance=3.0)
    rest = glance_of(face())
    assert glance_of(neutralize_mesh(mesh, ("pose", "expression"), {})) == pytest.approx(rest, abs=0.4)
    assert glance_of(neutralize_mesh(mesh, ("pose", "gaze"), {})) == pytest.approx(rest + 3, abs=0.4)
    assert glance_of(neutralize_mesh(mesh, ("gaze",), {})) == pytest.approx(rest + 3, abs=0.8)


def test_nothing_kept_is_one_face() -> None:
    made = [neutralize_mesh(face(mouth=mouth, glance=g), (), {}) for mouth, g in (("serious", 0), ("smiling", 2))]
    np.testing.assert_allclose(made[0], made[1], atol=0.5)


@pytest.mark.parametrize("word", VOCABULARY["expression"])
def test_an_expression_can_be_put_on(word: str) -> None:
    smile, gap = _MOUTHS[word]
    found = measure(neutralize_mesh(face(mouth="neutral"), ("pose",), {"expression": word}))
    assert smile is None or found.smile == pytest.approx(smile, abs=0.03)
    assert gap is None or found.mouth_open == pytest.approx(gap, abs=0.03)


def test_eyes_can_be_closed_and_opened() -> None:
    closed = neutralize_mesh(face(), ("pose",), {"gaze": "eyes closed"})
    assert measure(closed).eyes_open < 0.16
    assert measure(neutralize_mesh(closed, ("pose", "gaze"), {})).eyes_open < 0.16  # the gaze keeps them closed
    assert measure(neutralize_mesh(closed, ("pose",), {})).eyes_open > 0.2
    assert measure(neutralize_mesh(closed, ("pose",), {"gaze": "eyes open"})).eyes_open > 0.2


def test_every_word_has_a_shape() -> None:
    assert set(_MOUTHS) == set(VOCABULARY["expression"])
    assert set(_LIDS) == set(VOCABULARY["gaze"])


def test_privacy_takes_proportions_and_leaves_the_expression() -> None:
    mesh = face(mouth="mouth open")
    odd = mesh.copy()
    odd[:, 1] = 64 + 1.2 * (odd[:, 1] - 64) + 0.002 * (odd[:, 0] - 64) ** 2  # a long face with a hanging jaw
    away = [float(np.abs(neutralize_mesh(odd, MAP_ATTRIBUTES, {}, s) - odd).mean()) for s in (0.0, 0.5, 1.0)]
    assert away[0] == 0 < away[1] < away[2]
    made = neutralize_mesh(odd, MAP_ATTRIBUTES, {}, 1.0)
    assert measure(made).mouth_open == pytest.approx(measure(odd).mouth_open, abs=0.05)


def test_a_full_profile_is_no_trouble() -> None:
    for turn in (-6, 6):
        mesh = mean_faces()[6 + turn] * SIZE
        for keep in ((), ("pose",), ("expression",), ("gaze", "pose")):
            made = neutralize_mesh(mesh, keep, {"expression": "smiling"} if "expression" not in keep else {}, 0.5)
            assert made.shape == (478, 2)
            assert made.dtype == np.float32
            assert np.isfinite(made).all()
            assert -SIZE < made.min() < made.max() < 2 * SIZE


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
    monkeypatch.setattr("deid_diffusion.faces.mesh_editing._KEPT_IN_PROFILES", 0.0)
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
