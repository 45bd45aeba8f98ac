import numpy as np
import pytest

from deid_diffusion.faces.alignment import extract, frame_from_box, similarity, transform
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.landmarks import FaceMesh, five_points, measure
from deid_diffusion.faces.semantic_map import mean_mesh


def test_mesh_of_a_face(astronaut: np.ndarray, detection: Detection, landmarker: FaceMesh) -> None:
    mesh = landmarker(extract(astronaut, frame_from_box(detection.box, None, 320), 320))
    assert landmarker(np.full((320, 320, 3), 90, np.uint8)) is None
    assert mesh is not None
    assert mesh.shape == (478, 2)
    right, left, nose, right_mouth, left_mouth = five_points(mesh)
    assert right[0] < nose[0] < left[0]
    assert right_mouth[0] < left_mouth[0]
    assert right[1] < nose[1] < right_mouth[1]


def test_measures_of_the_mean_face() -> None:
    measures = measure(mean_mesh(128))
    assert abs(measures.yaw) < 0.15
    assert measures.mouth_open < 0.15
    assert 0.15 < measures.eyes_open < 0.45
    degenerate = measure(np.zeros((478, 2), np.float32))
    assert np.isfinite(list(vars(degenerate).values())).all()


def test_measures_ignore_similarity() -> None:
    mesh = mean_mesh(128)
    moved = transform(mesh, similarity((30, 90), 40, 0.7, 300))
    for name, value in vars(measure(mesh)).items():
        assert getattr(measure(moved), name) == pytest.approx(value, abs=2e-3), name


@pytest.mark.parametrize(
    ("name", "points", "axis", "shift", "change"),
    [("smile", [61, 291], 1, -5, 0.05), ("mouth_open", [14], 1, 8, 0.1), ("yaw", [1], 0, 15, 0.2)],
)
def test_measures_follow_the_mesh(name: str, points: list[int], axis: int, shift: int, change: float) -> None:
    mesh = mean_mesh(128)
    moved = mesh.copy()
    moved[points, axis] += shift
    assert getattr(measure(moved), name) > getattr(measure(mesh), name) + change
