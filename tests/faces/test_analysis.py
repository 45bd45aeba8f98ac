import numpy as np

from deid_diffusion.faces.alignment import frame_from_box, invert, transform
from deid_diffusion.faces.analysis import analyse_face
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.landmarks import FaceMesh, five_points
from deid_diffusion.faces.semantic_map import mean_mesh

FACE = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")


def test_mask_from_box(astronaut: np.ndarray) -> None:
    found = analyse_face(astronaut, FACE, lambda crop: None, 64)
    assert found.mesh is None
    assert set(np.unique(found.semantic_map)) > {0, 1, 2}
    x0, y0, x1, y1 = (int(v) for v in FACE.box)
    assert (found.mask.full()[(y0 + y1) // 2, x0:x1] == 1).all()
    assert (found.mask.full()[y0:y1, (x0 + x1) // 2] == 1).all()


POINTS = np.array([(200, 105), (242, 105), (222, 130), (205, 155), (240, 155)], np.float32)


class Doubtful(FaceMesh):
    """Sure of nothing; has meshes with low scores, one of which may lie on the detector's points."""

    def __init__(self, points: np.ndarray, *shifts: float) -> None:
        super().__init__()
        self.points, self.shifts = points, shifts

    def __call__(self, crop: np.ndarray) -> None:
        return None

    def low_score_meshes(self, picture: np.ndarray) -> list[np.ndarray]:
        look = frame_from_box(FACE.box, self.points, len(picture))
        return [mean_mesh(len(picture), transform(self.points, look)) + shift for shift in self.shifts]


def test_doubtful_mesh_must_agree_with_points(astronaut: np.ndarray) -> None:
    face = Detection(FACE.box, 0.9, "given", POINTS)
    found = analyse_face(astronaut, face, Doubtful(POINTS, 100.0, 4.0, 60.0), 64)
    assert found.mesh is not None
    away = five_points(transform(found.mesh, invert(found.matrix))) - POINTS
    assert np.linalg.norm(away, axis=1).mean() < 10
    assert analyse_face(astronaut, face, Doubtful(POINTS, 100.0), 64).mesh is None
    assert analyse_face(astronaut, FACE, Doubtful(POINTS, 0.0), 64).mesh is None


def test_mask_from_points(astronaut: np.ndarray) -> None:
    """A profile's box holds the ear and hair as well; where the points disagree with it the box is believed."""
    masks = [
        analyse_face(astronaut, Detection(FACE.box, 0.9, "given", points), lambda crop: None, 64).mask.full()
        for points in (POINTS, 0.3 * (POINTS - POINTS.mean(0)) + POINTS.mean(0), None)
    ]
    assert (masks[0] > 0).sum() < (masks[2] > 0).sum()
    assert (masks[0][POINTS[:, 1].astype(int), POINTS[:, 0].astype(int)] == 1).all()
    assert (masks[1][masks[2] == 1] > 0).mean() > 0.95


def test_mesh_of_another_face_is_rejected(astronaut: np.ndarray) -> None:
    assert analyse_face(astronaut, FACE, lambda crop: mean_mesh(80), 64).mesh is None


def test_mask_includes_detector_points(astronaut: np.ndarray) -> None:
    points = np.array([(200, 100), (245, 100), (222, 130), (205, 155), (262, 185)], np.float32)
    found = analyse_face(astronaut, Detection(FACE.box, 0.9, "given", points), lambda crop: 0.9 * mean_mesh(320), 64)
    assert found.mesh is not None
    assert (found.mask.full()[points[:, 1].astype(int), points[:, 0].astype(int)] == 1).all()


def test_a_mesh_sets_crop_map_and_mask(astronaut: np.ndarray) -> None:
    found = analyse_face(astronaut, FACE, lambda crop: mean_mesh(320), 64)
    assert found.mesh is not None
    photo_points = np.floor(transform(found.mesh, invert(found.matrix))).astype(int)
    assert (found.mask.full()[photo_points[:, 1], photo_points[:, 0]] == 1).all()


def test_cut_face_uses_mirror_image(astronaut: np.ndarray) -> None:
    """Half of a face at the left edge: the landmarker finds a mesh only where the mirror image shows the other half."""
    photo = np.ascontiguousarray(astronaut[:, 225:])
    points = POINTS - (225, 0)
    face = Detection((0.0, 60.0, 45.0, 190.0), 0.9, "given", points.astype(np.float32))

    def landmarker(crop: np.ndarray) -> np.ndarray | None:
        look = frame_from_box(face.box, face.points, len(crop))
        ends = [transform(np.array([(x, 180)], np.float32), look)[0].round().astype(int) for x in (-22, 21)]
        left, right = (crop[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1)) for x, y in ends)
        mirrored = np.abs(left - right).max() < 8
        return mean_mesh(len(crop), transform(points, look)) if mirrored else None

    photo[:, :30] = np.linspace(0, 250, 30).astype(np.uint8)[None, :, None]  # repeated borders are not like its mirror
    found = analyse_face(photo, face, landmarker, 64)
    assert found.mesh is not None
    away = five_points(transform(found.mesh, invert(found.matrix))) - points
    assert np.linalg.norm(away, axis=1).mean() < 10
    alone: list[int] = []
    analyse_face(photo, Detection((8.0, 60.0, 45.0, 190.0), 0.9, "given", points), lambda crop: alone.append(1), 64)
    assert len(alone) == 1  # no edge cuts that one off


def test_guessed_mask_ends_near_box(astronaut: np.ndarray) -> None:
    points = np.array([(175, 100), (205, 100), (165, 130), (170, 160), (205, 160)], np.float32)  # as of a wide profile
    box = (160.0, 60.0, 215.0, 190.0)
    mask = analyse_face(astronaut, Detection(box, 0.9, "given", points), lambda crop: None, 64).mask.full()
    assert (mask[70:180, 165:210] == 1).mean() > 0.9
    assert not mask[:, 235:].any()
