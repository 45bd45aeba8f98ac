"""Which of pose, gaze and expression a map shows."""

import numpy as np
import pytest

from deid_diffusion.attributes.choice import MAP_BORNE
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.faces.chosen_mesh import _LIDS, _MOUTHS, chosen_mesh
from deid_diffusion.faces.landmarks import MESH_EYES, MESH_IRISES, MESH_OVAL
from deid_diffusion.faces.measures import measure
from deid_diffusion.faces.semantic_map import mean_faces

SIZE = 128


def face(turn: int = 0, mouth: str = "smiling", glance: float = 0.0) -> np.ndarray:
    """The mean face of some yaw, with a mouth, looking to one side by so many pixels."""
    mesh = mean_faces()[6 + turn] * SIZE
    mesh = chosen_mesh(mesh, ("pose", "gaze"), {"expression": mouth})
    for iris in MESH_IRISES:
        mesh[list(iris), 0] += glance
    return mesh


def glance_of(mesh: np.ndarray) -> float:
    pairs = zip(MESH_IRISES, MESH_EYES, strict=True)
    return float(np.mean([mesh[list(iris), 0].mean() - mesh[list(eye), 0].mean() for iris, eye in pairs]))


def test_everything_kept_is_the_mesh_itself() -> None:
    mesh = face()
    assert chosen_mesh(mesh, MAP_BORNE, {}) is mesh


@pytest.mark.parametrize("turn", [-2, 0, 2])
def test_an_expression_that_is_not_kept_leaves_no_trace(turn: int) -> None:
    keep = ("pose", "gaze")
    smiling, gaping = (chosen_mesh(face(turn, mouth), keep, {}) for mouth in ("smiling", "mouth open"))
    np.testing.assert_allclose(smiling, gaping, atol=0.5)
    assert measure(gaping).mouth_open < 0.15


@pytest.mark.parametrize("keep", [("expression",), ("pose", "expression"), ("gaze", "expression")])
def test_an_expression_that_is_kept_stays_on_any_face(keep: tuple[str, ...]) -> None:
    mesh = face(2, "mouth open")
    assert measure(chosen_mesh(mesh, keep, {})).mouth_open == pytest.approx(measure(mesh).mouth_open, abs=0.08)


def test_a_pose_that_is_not_kept_is_frontal_in_the_same_place() -> None:
    mesh = face(2)
    made = chosen_mesh(mesh, ("expression", "gaze"), {})
    assert abs(measure(made).yaw) < 0.1 < abs(measure(mesh).yaw)
    np.testing.assert_allclose(made[list(MESH_OVAL)].min(0), mesh.min(0), atol=3)
    np.testing.assert_allclose(made[list(MESH_OVAL)].max(0), mesh.max(0), atol=3)


def test_a_glance_stays_or_goes() -> None:
    mesh = face(glance=3.0)
    rest = glance_of(face())
    assert glance_of(chosen_mesh(mesh, ("pose", "expression"), {})) == pytest.approx(rest, abs=0.4)
    assert glance_of(chosen_mesh(mesh, ("pose", "gaze"), {})) == pytest.approx(rest + 3, abs=0.4)
    assert glance_of(chosen_mesh(mesh, ("gaze",), {})) == pytest.approx(rest + 3, abs=0.8)


def test_nothing_kept_is_one_face() -> None:
    made = [chosen_mesh(face(mouth=mouth, glance=g), (), {}) for mouth, g in (("serious", 0), ("smiling", 2))]
    np.testing.assert_allclose(made[0], made[1], atol=0.5)


@pytest.mark.parametrize("word", VOCABULARY["expression"])
def test_an_expression_can_be_put_on(word: str) -> None:
    smile, gap = _MOUTHS[word]
    found = measure(chosen_mesh(face(mouth="neutral"), ("pose",), {"expression": word}))
    assert smile is None or found.smile == pytest.approx(smile, abs=0.03)
    assert gap is None or found.mouth_open == pytest.approx(gap, abs=0.03)


def test_eyes_can_be_closed_and_opened() -> None:
    closed = chosen_mesh(face(), ("pose",), {"gaze": "eyes closed"})
    assert measure(closed).eyes_open < 0.16
    assert measure(chosen_mesh(closed, ("pose", "gaze"), {})).eyes_open < 0.16  # the gaze keeps them closed
    assert measure(chosen_mesh(closed, ("pose",), {})).eyes_open > 0.2
    assert measure(chosen_mesh(closed, ("pose",), {"gaze": "eyes open"})).eyes_open > 0.2


def test_every_word_has_a_shape() -> None:
    assert set(_MOUTHS) == set(VOCABULARY["expression"])
    assert set(_LIDS) == set(VOCABULARY["gaze"])


def test_privacy_takes_proportions_and_leaves_the_expression() -> None:
    mesh = face(mouth="mouth open")
    odd = mesh.copy()
    odd[:, 1] = 64 + 1.2 * (odd[:, 1] - 64) + 0.002 * (odd[:, 0] - 64) ** 2  # a long face with a hanging jaw
    away = [float(np.abs(chosen_mesh(odd, MAP_BORNE, {}, s) - odd).mean()) for s in (0.0, 0.5, 1.0)]
    assert away[0] == 0 < away[1] < away[2]
    made = chosen_mesh(odd, MAP_BORNE, {}, 1.0)
    assert measure(made).mouth_open == pytest.approx(measure(odd).mouth_open, abs=0.05)


def test_a_full_profile_is_no_trouble() -> None:
    for turn in (-6, 6):
        mesh = mean_faces()[6 + turn] * SIZE
        for keep in ((), ("pose",), ("expression",), ("gaze", "pose")):
            made = chosen_mesh(mesh, keep, {"expression": "smiling"} if "expression" not in keep else {}, 0.5)
            assert made.shape == (478, 2)
            assert made.dtype == np.float32
            assert np.isfinite(made).all()
            assert -SIZE < made.min() < made.max() < 2 * SIZE
