"""The mean face in a face's place, and a few numbers."""

import numpy as np
import pytest

from deid_diffusion.faces.measures import measure
from deid_diffusion.faces.resting_face import (
    boxed_face,
    few_numbers,
    fitted_face,
    raise_brows,
    shape_lids,
    shape_mouth,
    turn_eyes,
)
from deid_diffusion.faces.semantic_map import mean_faces

SIZE = 128


def rest(turn: int = 0) -> np.ndarray:
    return mean_faces()[6 + turn] * SIZE


@pytest.mark.parametrize("turn", range(-6, 7))
def test_a_mean_face_is_found_and_fitted_wherever_it_is(turn: int) -> None:
    moved = rest(turn) @ np.array([[0.9, 0.2], [-0.2, 0.9]], np.float32) * 1.3 + 20
    np.testing.assert_allclose(fitted_face(moved), moved, atol=1.5)


@pytest.mark.parametrize("frontal", [True, False])
def test_a_boxed_face_has_the_meshs_width_and_height(frontal: bool) -> None:
    mesh = rest(2) * (1.2, 0.8) + 5
    made = boxed_face(mesh, frontal=frontal)
    np.testing.assert_allclose([made.min(0), made.max(0)], [mesh.min(0), mesh.max(0)], atol=0.1)
    assert (abs(measure(made).yaw) < 0.1) == frontal


@pytest.mark.parametrize("turn", [-2, 0, 2])
def test_numbers_say_what_was_shaped(turn: int) -> None:
    mesh = rest(turn)
    shape_mouth(mesh, 0.2, 0.4)
    raise_brows(mesh, 0.05)
    turn_eyes(mesh, (0.15, -0.1))
    told = few_numbers(mesh, rest(turn))
    assert (told.smile, told.gap) == (pytest.approx(0.2), pytest.approx(0.4))
    assert (told.brows, told.lids) == (pytest.approx(0.05), 1.0)
    assert told.glance == (pytest.approx(0.15), pytest.approx(-0.1))


def test_closed_eyes_are_told() -> None:
    mesh = rest()
    shape_lids(mesh, 0.1)
    assert measure(mesh).eyes_open < 0.1
    assert few_numbers(mesh, rest()).lids < 0.5


def test_numbers_are_coarse_and_bounded() -> None:
    """Small differences between people are not told, and a mesh that went wrong is no grimace."""
    mesh = rest()
    raise_brows(mesh, 0.015)
    assert few_numbers(mesh, rest()).brows == 0
    wild = np.random.default_rng(0).random((478, 2), np.float32) * SIZE
    told = few_numbers(wild, rest())
    assert abs(told.smile) < 0.26
    assert 0 <= told.gap < 0.71
    assert 0 < told.lids <= 1.5
