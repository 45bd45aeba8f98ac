"""What counts as kept, and what a face that is not found again keeps."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.evaluation.measure import _CANONICAL, face_state, head_pose, mesh_errors
from deid_diffusion.evaluation.onnx import Reading
from deid_diffusion.evaluation.pairing import Labels
from deid_diffusion.evaluation.utility import (
    attribute_section,
    coverage_section,
    group_figures,
    group_values,
    kept,
    mesh_section,
    quality_section,
    share_kept,
)
from deid_diffusion.faces.landmarks import MESH_IRISES
from deid_diffusion.faces.semantic_map import mean_mesh
from tests.evaluation.looks import errors, face, judges, photo


def test_within_the_tolerances():
    verdicts = kept(face(mesh=errors(yaw=10.0, pitch=10.1, smile=0.05, gaze=0.2)), read=False)
    assert verdicts == {
        "yaw": True, "pitch": False, "gaze": False, "smile": True, "mouth_open": True, "eyes_open": True
    }  # fmt: skip
    assert share_kept(face(mesh=errors(yaw=11.0)), read=False) == pytest.approx(5 / 6)


def test_what_the_original_does_not_show_is_left_out():
    assert "gaze" not in kept(face(mesh=errors(gaze=None)), read=False)
    assert share_kept(face(), read=False) == 1


def test_a_face_that_is_gone_keeps_nothing():
    gone = kept(face(found=False), read=True)
    assert set(gone) == {"yaw", "pitch", "gaze", "smile", "mouth_open", "eyes_open", "sex", "age"}
    assert not any(gone.values())


def test_age_and_sex():
    same = face(readings=(Reading(30, 0.9), Reading(40, 0.6)))
    other = face(readings=(Reading(30, 0.9), Reading(41, 0.4)))
    assert kept(same, read=True)["sex"]
    assert kept(same, read=True)["age"]
    assert not kept(other, read=True)["sex"]
    assert not kept(other, read=True)["age"]
    assert share_kept(other, read=True) == pytest.approx(6 / 8)


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


NAMES = [f"p{k}" for k in range(10)]


class Named:
    name = "planted"


def values(section):
    return {one.name: one for one in section.figures}


def test_coverage_counts_every_face():
    looks = [photo(name, name, face(left=k < 2), faces=3) for k, name in enumerate(NAMES)]
    found = values(coverage_section([*looks, photo("none", "none", None, faces=0)]))
    assert found["faces found in originals"].value == 30
    assert found["faces left as they were"].value == 2
    assert found["faces left as they were"].note == "p0, p1"
    assert found["share of faces left"].value == pytest.approx(2 / 30)
    assert found["photos with a face left"].value == pytest.approx(2 / 11)
    assert found["photos without any face"].value == 1


def test_attributes_by_a_reader():
    readings = [(Reading(10.0 + 10 * k, 0.9), Reading(15.0 + 10 * k, 0.9 if k < 6 else 0.1)) for k in range(9)]
    faces = [face(readings=pair) for pair in readings] + [face(found=False)]
    labels = Labels(("gender",), {name: {"gender": "Female" if k < 8 else "Male"} for k, name in enumerate(NAMES)})
    found = values(attribute_section(faces, NAMES, NAMES, labels, "reader"))
    assert found["sex agrees, everybody"].value == pytest.approx(6 / 9)
    assert found["sex agrees, adults"].value == pytest.approx(5 / 8)
    assert (found["age error"].value, found["age drift"].value) == (5, 5)
    assert found["reader agrees with the labels, originals"].value == pytest.approx(8 / 9)
    assert found["face found again"].value == pytest.approx(0.9)
    assert "age 10 years" in found["attributes kept"].note


def test_attributes_without_a_reader_are_missing_and_say_so():
    found = values(attribute_section([face()], ["a"], ["a"], None, None))
    assert found["age error"].value is None
    assert "--attributes" in found["sex agrees"].note
    assert found["attributes kept"].value == 1


def test_mesh_errors_are_means():
    faces = [face(mesh=errors(yaw=2.0 * k, landmarks=0.05, gaze=None)) for k in range(3)] + [face(found=False)]
    found = values(mesh_section(faces, list("abcd")))
    assert (found["yaw error"].value, found["yaw error"].trials, found["yaw error"].unit) == (2, 3, "degrees")
    assert found["landmark error"].value == pytest.approx(5)
    assert found["gaze error"].value is None


def test_quality_and_the_stand_ins():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 2, 8))
    faces = [face(*row / np.linalg.norm(row, axis=1, keepdims=True)) for row in rows]
    people = [str(k) for k in range(40)]
    looks = [photo(who, who, one, outside=5.0 * (who == "3")) for who, one in zip(people, faces, strict=True)]
    found = values(quality_section(looks, faces, people, judges(Named())))
    assert found["sharpness ratio"].value == pytest.approx(2)
    assert (found["detector score ratio"].value, found["rim step"].value, found["SSIM of the face"].value) == (
        0.5,
        0.5,
        0.7,
    )
    assert found["photos unchanged outside faces"].value == pytest.approx(39 / 40)
    assert found["largest difference outside faces"].value == 5
    assert found["mean difference outside faces"].value == pytest.approx(0.5 / 40)
    assert (found["FID"].value, found["FID"].note) == (None, "not here")
    distance = found["Fréchet distance, planted"]
    assert distance.interval[0] <= distance.value <= distance.interval[1]
    assert "stands in for FID" in distance.note
    low, high = found["kernel distance, planted"].interval
    assert low < 0 < high
    few = values(quality_section(looks[:5], faces[:5], people[:5], judges(Named())))
    assert few["kernel distance, planted"].note == "takes 30 faces, there are 5"


def test_groups_are_in_the_order_of_their_numbers():
    ages = ["10-19", "3-9", "", "70+", "3-9"]
    labels = Labels(("age",), {name: {"age": age} for name, age in zip(NAMES, ages, strict=False)})
    groups = group_values(NAMES[:5], labels)
    assert [(column, value, mask.tolist().count(True)) for column, value, mask in groups] == [
        ("age", "3-9", 2),
        ("age", "10-19", 1),
        ("age", "70+", 1),
    ]
    figures = group_figures([face(), face(found=False)], ["a", "b"], read=True)
    assert [one.name for one in figures] == [
        "attributes kept",
        "face found again",
        "yaw error",
        "sex agrees",
        "age error",
    ]
    assert figures[1].value == 0.5
