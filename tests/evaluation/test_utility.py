import cv2
import numpy as np
import pytest

from deid_diffusion.evaluation import utility
from deid_diffusion.evaluation.measure import CANONICAL_POINTS, face_state, head_pose, mesh_errors
from deid_diffusion.evaluation.onnx import Reading
from deid_diffusion.evaluation.pairing import Labels
from deid_diffusion.faces.landmarks import MESH_IRISES
from deid_diffusion.faces.semantic_map import mean_mesh
from tests.evaluation.measurements import errors, evaluators, face, photo, unit_vectors

MESH = {"yaw", "pitch", "gaze", "smile", "mouth_open", "eyes_open"}
ALL = MESH | {"sex", "age"}


@pytest.mark.parametrize(
    ("measured", "shown", "lost"),
    [
        (face(), MESH, set()),
        (face(mesh=errors(yaw=10.0, pitch=10.1, smile=0.05, gaze=0.2)), MESH, {"pitch", "gaze"}),
        (face(mesh=errors(gaze=None)), MESH - {"gaze"}, set()),
        (face(detected=False), ALL, ALL),
        (face(readings=(Reading(30, 0.9), Reading(40, 0.6))), ALL, set()),
        (face(readings=(Reading(30, 0.9), Reading(41, 0.4))), ALL, {"sex", "age"}),
    ],
)
def test_kept(measured, shown, lost):
    verdicts = utility.kept(measured, with_reader="age" in shown)
    assert verdicts == {name: name not in lost for name in shown}
    assert utility.share_kept(measured, with_reader="age" in shown) == pytest.approx(1 - len(lost) / len(shown))


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return a (478, 2) mesh of the canonical points, turned by angles in degrees."""
    a, b, c = np.radians((yaw, pitch, roll))
    rotations = [cv2.Rodrigues(angle * axis)[0] for angle, axis in zip((c, -a, -b), np.eye(3)[[2, 1, 0]], strict=True)]
    model = np.array(list(CANONICAL_POINTS.values())) * (1, -1, -1)
    mesh = np.zeros((478, 2))
    mesh[list(CANONICAL_POINTS)] = 7 * (model @ np.linalg.multi_dot(rotations).T)[:, :2] + (200, 90)
    return mesh


SINGLE = [(0, 0, 0), (30, 0, 0), (-50, 0, 0), (0, 20, 0), (0, -25, 0), (0, 0, 15)]


@pytest.mark.parametrize(("angles", "tolerance"), [*((angles, 1e-4) for angles in SINGLE), ((25, 10, -12), 6)])
def test_head_pose(angles, tolerance):
    pose = head_pose(turned(*angles))
    np.testing.assert_allclose((pose.yaw, pose.pitch, pose.roll), angles, atol=tolerance)


def test_gaze_in_eye_widths():
    mesh = mean_mesh(256, None)
    aside = mesh.copy()
    widths = [np.linalg.norm(mesh[b] - mesh[a]) for a, b in ((33, 133), (362, 263))]
    for iris, width in zip(MESH_IRISES, widths, strict=True):
        aside[list(iris), 0] += 0.1 * width
    assert mesh_errors(mesh, aside).gaze == pytest.approx(0.1, abs=0.005)
    assert mesh_errors(mesh, mesh).gaze == 0
    assert np.subtract(face_state(aside).gaze, face_state(mesh).gaze) == pytest.approx((0.1, 0), abs=0.01)
    closed = mesh.copy()
    for upper, lower in ((159, 145), (386, 374)):
        closed[upper] = closed[lower]
    assert face_state(closed).gaze is None
    assert mesh_errors(mesh, closed).gaze is None
    assert mesh_errors(mesh, closed).eyes_open > 0.1


def test_mesh_errors():
    mesh = mean_mesh(256, None)
    span = np.linalg.norm(mesh[263] - mesh[33])
    difference = mesh_errors(mesh, mesh + np.array([0.03, 0.04]) * span)
    assert difference.landmarks == pytest.approx(0.05, rel=1e-4)
    assert max(difference.yaw, difference.smile, difference.mouth_open) < 1e-3
    open_mouth = mesh.copy()
    open_mouth[14, 1] += 0.2 * np.linalg.norm(mesh[291] - mesh[61])
    assert mesh_errors(mesh, open_mouth).mouth_open == pytest.approx(0.2, abs=0.01)
    turn = mesh_errors(turned(10, 0, 0), turned(-10, 5, 0))
    assert (turn.yaw, turn.pitch) == pytest.approx((20, 5), abs=0.5)


NAMES = [f"p{k}" for k in range(10)]


def figures_of(section):
    return {figure.name: figure for figure in section.figures}


def test_coverage_section():
    photos = [photo(name, name, face(unchanged=k < 2), faces=3) for k, name in enumerate(NAMES)]
    figures = figures_of(utility.coverage_section([*photos, photo("none", "none", None, faces=0)]))
    assert {name: figure.value for name, figure in figures.items()} == {
        "faces in originals": 30,
        "unchanged faces": 2,
        "share of unchanged faces": pytest.approx(2 / 30),
        "photos with an unchanged face": pytest.approx(2 / 11),
        "photos without a face": 1,
    }
    assert figures["unchanged faces"].note == "p0, p1"


def test_attribute_section():
    readings = [(Reading(10.0 + 10 * k, 0.9), Reading(15.0 + 10 * k, 0.9 if k < 6 else 0.1)) for k in range(9)]
    faces = [face(readings=pair) for pair in readings] + [face(detected=False)]
    labels = Labels(("gender",), {name: {"gender": "Female" if k < 8 else "Male"} for k, name in enumerate(NAMES)})
    figures = figures_of(utility.attribute_section(faces, NAMES, NAMES, labels, "reader"))
    assert figures["sex agrees, all"].value == pytest.approx(6 / 9)
    assert figures["sex agrees, adults"].value == pytest.approx(5 / 8)
    assert (figures["age error"].value, figures["age drift"].value) == (5, 5)
    assert figures["reader's accuracy on originals, sex"].value == pytest.approx(8 / 9)
    assert figures["face detected in the result"].value == pytest.approx(0.9)
    assert "age 10 years" in figures["attributes kept"].note
    figures = figures_of(utility.attribute_section([face()], ["a"], ["a"], None, None))
    assert figures["age error"].value is None
    assert "--attributes" in figures["sex agrees"].note
    assert figures["attributes kept"].value == 1


def test_mesh_section():
    faces = [face(mesh=errors(yaw=2.0 * k, landmarks=0.05, gaze=None)) for k in range(3)] + [face(detected=False)]
    figures = figures_of(utility.mesh_section(faces, list("abcd")))
    yaw = figures["yaw error"]
    assert (yaw.value, yaw.trials, yaw.unit) == (2, 3, "degrees")
    assert figures["landmark error"].value == pytest.approx(5)
    assert figures["gaze error"].value is None


def test_quality_section():
    faces = [face(*row) for row in unit_vectors(40, 2, 8)]
    people = [str(k) for k in range(40)]
    photos = [photo(name, name, faces[k], outside=5.0 * (k == 3)) for k, name in enumerate(people)]
    figures = figures_of(utility.quality_section(photos, faces, people, evaluators()))
    expected = {
        "sharpness ratio": 2,
        "detector score ratio": 0.5,
        "rim step": 0.5,
        "SSIM of the face": 0.7,
        "photos unchanged outside faces": 39 / 40,
        "largest difference outside faces": 5,
        "mean difference outside faces": 0.5 / 40,
    }
    assert {name: figures[name].value for name in expected} == pytest.approx(expected)
    assert (figures["FID"].value, figures["FID"].note) == (None, "not here")
    distance = figures["Fréchet distance, planted"]
    assert distance.interval[0] <= distance.value <= distance.interval[1]
    assert "substitute for FID" in distance.note
    low, high = figures["kernel distance, planted"].interval
    assert low < 0 < high
    few = figures_of(utility.quality_section(photos[:5], faces[:5], people[:5], evaluators()))
    assert few["kernel distance, planted"].note == "needs 30 faces, there are 5"


def test_groups_in_natural_order():
    ages = ["10-19", "3-9", "", "70+", "3-9"]
    labels = Labels(("age",), {name: {"age": age} for name, age in zip(NAMES, ages, strict=False)})
    groups = utility.group_values(NAMES[:5], labels)
    counts = [(column, value, mask.tolist().count(True)) for column, value, mask in groups]
    assert counts == [("age", "3-9", 2), ("age", "10-19", 1), ("age", "70+", 1)]
    figures = utility.group_figures([face(), face(detected=False)], ["a", "b"], with_reader=True)
    names = ["attributes kept", "face detected in the result", "yaw error", "sex agrees", "age error"]
    assert [figure.name for figure in figures] == names
    assert figures[1].value == 0.5
