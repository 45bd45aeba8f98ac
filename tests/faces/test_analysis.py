from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.faces.alignment import frame_from_box, invert, transform
from deid_diffusion.faces.analysis import FaceAnalysis, analyse_face
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.landmarks import FaceMesh, five_points
from deid_diffusion.faces.semantic_map import mean_mesh

POINTS = np.array([(200, 105), (242, 105), (222, 130), (205, 155), (240, 155)], np.float32)


def no_mesh(crop: np.ndarray) -> None:
    return None


def covers(face: FaceAnalysis, points: np.ndarray) -> bool:
    """Return whether the mask is opaque at points of the photo."""
    columns, rows = np.floor(points).astype(int).T
    return bool((face.mask.full()[rows, columns] == 1).all())


def error(face: FaceAnalysis, points: np.ndarray) -> float:
    """Return the mean distance of the mesh's five points from points of the photo."""
    return float(np.linalg.norm(five_points(transform(face.mesh, invert(face.matrix))) - points, axis=1).mean())


@pytest.fixture
def with_points(detection: Detection) -> Detection:
    return replace(detection, points=POINTS)


def test_mask_from_box(astronaut: np.ndarray, detection: Detection) -> None:
    face = analyse_face(astronaut, detection, no_mesh, 64)
    assert face.mesh is None
    assert set(np.unique(face.semantic_map)) > {0, 1, 2}
    x0, y0, x1, y1 = (int(side) for side in detection.box)
    assert (face.mask.full()[(y0 + y1) // 2, x0:x1] == 1).all()
    assert (face.mask.full()[y0:y1, (x0 + x1) // 2] == 1).all()


class Doubtful(FaceMesh):
    """Sure of nothing; has meshes with low scores, one of which may lie on the detector's points."""

    def __init__(self, box: tuple[float, ...], *shifts: float) -> None:
        super().__init__()
        self.box, self.shifts = box, shifts

    def __call__(self, crop: np.ndarray) -> None:
        return None

    def low_score_meshes(self, picture: np.ndarray) -> list[np.ndarray]:
        points = transform(POINTS, frame_from_box(self.box, POINTS, len(picture)))
        return [mean_mesh(len(picture), points) + shift for shift in self.shifts]


def test_low_score_mesh(astronaut, detection: Detection, with_points: Detection) -> None:
    face = analyse_face(astronaut, with_points, Doubtful(detection.box, 100.0, 4.0, 60.0), 64)
    assert error(face, POINTS) < 10
    assert analyse_face(astronaut, with_points, Doubtful(detection.box, 100.0), 64).mesh is None
    assert analyse_face(astronaut, detection, Doubtful(detection.box, 0.0), 64).mesh is None


def test_mask_from_points(astronaut: np.ndarray, detection: Detection) -> None:
    """A profile's box holds the ear and hair as well; where the points disagree with it the box is believed."""
    near, shrunk, unknown = (
        analyse_face(astronaut, replace(detection, points=points), no_mesh, 64)
        for points in (POINTS, 0.3 * (POINTS - POINTS.mean(0)) + POINTS.mean(0), None)
    )
    masks = [face.mask.full() for face in (near, shrunk, unknown)]
    assert (masks[0] > 0).sum() < (masks[2] > 0).sum()
    assert covers(near, POINTS)
    assert (masks[1][masks[2] == 1] > 0).mean() > 0.95


def test_mesh_sets_crop_map_and_mask(astronaut: np.ndarray, detection: Detection) -> None:
    face = analyse_face(astronaut, detection, lambda crop: mean_mesh(320), 64)
    assert covers(face, transform(face.mesh, invert(face.matrix)))
    other_face = analyse_face(astronaut, detection, lambda crop: mean_mesh(80), 64)
    assert other_face.mesh is None


def test_mask_includes_detector_points(astronaut: np.ndarray, detection: Detection) -> None:
    points = np.array([(200, 100), (245, 100), (222, 130), (205, 155), (262, 185)], np.float32)
    face = analyse_face(astronaut, replace(detection, points=points), lambda crop: 0.9 * mean_mesh(320), 64)
    assert face.mesh is not None
    assert covers(face, points)


def test_cut_face_uses_mirror_image(astronaut: np.ndarray) -> None:
    """Half of a face at the left edge: the landmarker finds a mesh only where the mirror image shows the other half."""
    photo, points = np.ascontiguousarray(astronaut[:, 225:]), POINTS - np.float32((225, 0))
    photo[:, :30] = np.linspace(0, 250, 30).astype(np.uint8)[None, :, None]  # repeated borders are not like its mirror
    face = Detection((0.0, 60.0, 45.0, 190.0), 0.9, "given", points)

    def landmarker(crop: np.ndarray) -> np.ndarray | None:
        matrix = frame_from_box(face.box, face.points, len(crop))
        ends = transform(np.array([(-22, 180), (21, 180)], np.float32), matrix).round().astype(int)
        left, right = (crop[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1)) for x, y in ends)
        mirrored = np.abs(left - right).max() < 8
        return mean_mesh(len(crop), transform(points, matrix)) if mirrored else None

    assert error(analyse_face(photo, face, landmarker, 64), points) < 10
    crops: list[np.ndarray] = []
    analyse_face(photo, replace(face, box=(8.0, 60.0, 45.0, 190.0)), crops.append, 64)
    assert len(crops) == 1  # no edge cuts it off


def test_guessed_mask_ends_near_box(astronaut: np.ndarray) -> None:
    points = np.array([(175, 100), (205, 100), (165, 130), (170, 160), (205, 160)], np.float32)  # as of a wide profile
    face = Detection((160.0, 60.0, 215.0, 190.0), 0.9, "given", points)
    mask = analyse_face(astronaut, face, no_mesh, 64).mask.full()
    assert (mask[70:180, 165:210] == 1).mean() > 0.9
    assert not mask[:, 235:].any()
