from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.faces.alignment import extract, frame_from_box, similarity, transform
from deid_diffusion.faces.landmarks import FaceMesh, five_points, measure
from deid_diffusion.faces.semantic_map import mean_mesh


def test_the_astronauts_mesh_lies_on_her_face(astronaut: np.ndarray) -> None:
    crop = extract(astronaut, frame_from_box((170, 60, 270, 190), None, 320), 320)
    mesh = FaceMesh()(crop)
    assert mesh is not None
    assert mesh.shape == (478, 2)
    right, left, nose, right_mouth, left_mouth = five_points(mesh)
    assert right[0] < nose[0] < left[0]
    assert right_mouth[0] < left_mouth[0]
    assert right[1] < nose[1] < right_mouth[1]


def test_no_face_gives_no_mesh() -> None:
    assert FaceMesh()(np.full((320, 320, 3), 90, np.uint8)) is None


def test_the_mean_face_is_at_rest_and_frontal() -> None:
    found = measure(mean_mesh(128))
    assert abs(found.yaw) < 0.15
    assert found.mouth_open < 0.15
    assert 0.15 < found.eyes_open < 0.45


def test_measures_are_free_of_scale_place_and_roll() -> None:
    mesh = mean_mesh(128)
    moved = transform(mesh, similarity((30, 90), 40, 0.7, 300))
    for name, value in vars(measure(mesh)).items():
        assert getattr(measure(moved), name) == pytest.approx(value, abs=2e-3), name


def test_each_measure_follows_its_change() -> None:
    mesh = mean_mesh(128)
    smiling, talking, turned = mesh.copy(), mesh.copy(), mesh.copy()
    smiling[[61, 291], 1] -= 5
    talking[14, 1] += 8
    turned[1, 0] += 15
    assert measure(smiling).smile > measure(mesh).smile + 0.05
    assert measure(talking).mouth_open > measure(mesh).mouth_open + 0.1
    assert measure(turned).yaw > measure(mesh).yaw + 0.2
    assert np.isfinite(list(vars(measure(np.zeros((478, 2), np.float32))).values())).all()
