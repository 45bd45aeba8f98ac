import re
from itertools import pairwise

import cv2
import numpy as np
import pytest
from skimage.data import brick

from deid_diffusion.faces import detection
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.detectors import CenterFaceDetector, MediapipeDetector
from deid_diffusion.faces.landmarks import FaceMesh

Box = tuple[float, float, float, float]

FACE_BOX = (180, 70, 270, 180)  # of the astronaut, by eye
POINTS = np.array([[203, 103], [247, 105], [223, 126], [204, 143], [242, 144]])
BRICKS = np.stack([brick()] * 3, axis=2)


def has_centre_in(face: Detection, box: Box) -> bool:
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


@pytest.mark.parametrize("kind", [CenterFaceDetector, MediapipeDetector])
def test_single_detector(kind, astronaut):
    (face,) = kind()(astronaut)
    assert has_centre_in(face, FACE_BOX)
    assert (face.points.shape, face.points.dtype) == ((5, 2), np.float32)
    assert np.abs(face.points - POINTS).max() < 12
    assert len(kind(face.score - 0.01)(astronaut)) == 1
    assert kind(face.score + 0.01)(astronaut) == []


def test_ensemble_merges_detectors(ensemble, astronaut):
    result = ensemble.search(astronaut)
    assert [face.box for face in ensemble(astronaut)] == [face.box for face in result.faces]
    assert result.weak
    assert all(detection.HINT_SCORE < weak.score <= detection.FACE_SCORE for weak in result.weak)
    (face,) = result.faces
    assert face.detector == "centerface+mediapipe"
    assert max(0.7, detection.FACE_SCORE) < face.score <= 1
    assert all(abs(a - b) < 30 for a, b in zip(face.box, FACE_BOX, strict=True))
    assert np.abs(face.points - POINTS).max() < 8


def test_neighbouring_and_cut_faces(ensemble, astronaut):
    faces = ensemble(np.hstack([astronaut[:260, 120:340], astronaut[:260, 120:340][:, ::-1]]))
    assert sorted(face.box[0] > 220 for face in faces) == [False, True]
    (cut,) = ensemble(astronaut[:, 224:])
    assert cut.box[0] == 0
    assert 20 < cut.box[2] < 70


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotated_photo(ensemble, astronaut, turns):
    (face,) = ensemble(np.rot90(astronaut, turns))
    x, y = POINTS.T
    expected = {1: (y, 512 - x), 2: (512 - x, 512 - y), 3: (512 - y, x)}[turns]
    assert np.abs(face.points - np.stack(expected, axis=1)).max() < 12


def test_faces_of_24_pixels(ensemble, astronaut):
    photo = np.tile(BRICKS, (6, 8, 1))[:3000, :4000]
    scale = 24 / (FACE_BOX[3] - FACE_BOX[1])
    small = cv2.resize(astronaut[:256, 100:356], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    # in the corners, at the centre, and across tile borders
    corners = [(3, 3), (3000, 12), (1990, 1480), (655, 655), (30, 2900), (3930, 2930), (3300, 1700)]
    for x, y in corners:
        photo[y : y + small.shape[0], x : x + small.shape[1]] = small
    faces = ensemble(photo)
    for x, y in corners:
        box = x + 80 * scale, y + 70 * scale, x + 170 * scale, y + 180 * scale
        assert [face for face in faces if has_centre_in(face, box) and face.box[2] - face.box[0] < 40], (x, y)
    assert len(faces) == len(corners)


@pytest.mark.parametrize("size", [48, 400])
def test_face_larger_than_photo(ensemble, astronaut, size):
    (face,) = ensemble(cv2.resize(astronaut[90:160, 192:262], (size, size)))
    x0, y0, x1, y1 = face.box
    assert 0 <= min(face.box) < max(face.box) <= size
    assert (x1 - x0) * (y1 - y0) > 0.5 * size * size


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (7, 7), (8, 8), (64, 64), (9, 2000)])
def test_no_face_in_blank_photo(ensemble, shape):
    assert not any(ensemble(np.full((*shape, 3), level, np.uint8)) for level in (0, 128, 255))


def test_texture_and_grey_photo(ensemble, astronaut):
    assert ensemble(BRICKS) == []
    grey = cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)
    assert len(ensemble(np.stack([grey] * 3, axis=2))) == 1


INVALID = [np.zeros(shape, np.uint8) for shape in ((8, 8), (8, 8, 4), (0, 8, 3))] + [np.zeros((8, 8, 3), np.float32)]


@pytest.mark.parametrize("image", [*INVALID, [[0, 0, 0]]])
@pytest.mark.parametrize("kind", [CenterFaceDetector, MediapipeDetector, detection.EnsembleDetector])
def test_invalid_image(kind, image):
    description = f"{image.shape} of {image.dtype}" if isinstance(image, np.ndarray) else "list"
    message = re.escape(f"(H, W, 3) of uint8, RGB, got {description}")
    with pytest.raises(ValueError, match=f"^image: expected .*{message}$"):
        kind()(image)


def test_custom_detector():
    shapes = []

    def detect(image: np.ndarray) -> list[Detection]:
        shapes.append(image.shape[:2])
        return [Detection((0.0, 0.0, 20.0, 20.0), 0.05, "custom")] if image.shape[1] == 600 else []

    photo = np.zeros((100, 400, 3), np.uint8)
    (face,) = detection.EnsembleDetector([detect])(photo)
    assert face.detector == "custom"
    assert face.box == pytest.approx((0, 0, 13.33, 13.33), abs=0.01)
    assert shapes == [(150, 600), (400, 100), (100, 400), (400, 100), (234, 534)]
    shapes.clear()
    result = detection.EnsembleDetector([detect]).search(photo, upright_only=True)
    assert shapes == [(150, 600), (234, 534)]
    assert (len(result.faces), result.weak) == (1, [])  # faces at any score
    with pytest.raises(ValueError, match=r"^detectors: expected at least one"):
        detection.EnsembleDetector([])


@pytest.mark.parametrize(("score", "expected"), [(0.65, (0.6, (0, 0, 100, 100), 0)), (0.9, (0.9, (0, 0, 120, 100), 1))])
def test_add_rotated_same_face(score, expected):
    upright = Detection((0, 0, 100, 100), 0.6, "centerface", np.zeros((5, 2), np.float32))
    rotated = Detection((20, 0, 120, 100), score, "centerface", np.ones((5, 2), np.float32))
    (face,) = detection.add_rotated([upright], [rotated])
    assert (face.score, face.box, face.points.mean()) == expected


def test_add_other_faces():
    boxes = {(0, 0, 100, 100): 0.9, (0, 10, 40, 60): 0.8, (0, 300, 40, 400): 0.4, (0, 200, 40, 280): 0.6}
    known, repeated, weak, new = (Detection(box, score, "custom") for box, score in boxes.items())
    assert detection.add_cut([known], [repeated, new, weak]) == [known, new]
    assert detection.add_cut([], [new]) == [new]
    assert detection.add_rotated([known], [weak, new]) == [known, new]


def hint(*box: float) -> Detection:
    return Detection(box, 0.2, "centerface")


def unknown(box: Box) -> bool:
    return False


def test_mesh_confirms_a_face(astronaut: np.ndarray, landmarker: FaceMesh) -> None:
    face = detection.confirm_by_mesh(astronaut, hint(205, 90, 255, 150), landmarker, unknown)
    assert face is not None
    assert face.detector == "centerface+mesh"
    assert np.abs(np.array(face.box) - FACE_BOX).max() < 25


@pytest.mark.parametrize("cut", [225, 240])
def test_mesh_confirms_a_cut_face(astronaut: np.ndarray, landmarker: FaceMesh, cut: int) -> None:
    photo = np.ascontiguousarray(astronaut[:, cut:])
    face = detection.confirm_by_mesh(photo, hint(0, 75, 268 - cut, 175), landmarker, unknown)
    assert face is not None
    x0, y0, x1, y1 = face.box
    assert 0 <= x0 < x1 <= photo.shape[1]
    assert 0 <= y0 < y1 <= photo.shape[0]


@pytest.mark.parametrize(
    ("box", "known"),
    [((20, 20, 80, 90), False), ((205, 90, 255, 150), True), ((275, 100, 330, 170), False)],
    ids=["background", "known face", "next to a face"],
)
def test_mesh_does_not_confirm(astronaut: np.ndarray, landmarker: FaceMesh, box: Box, known: bool) -> None:
    assert detection.confirm_by_mesh(astronaut, hint(*box), landmarker, lambda mesh_box: known) is None


@pytest.mark.parametrize(
    ("box", "count"), [((20, 20, 80, 90), 4), ((10, 10, 24, 24), 0), ((10, 10, 13, 90), 0), ((10, 10, 10, 10), 0)]
)
def test_confirmation_stops_early(astronaut: np.ndarray, box: Box, count: int) -> None:
    crops: list[np.ndarray] = []
    assert detection.confirm_by_mesh(astronaut, hint(*box), crops.append, unknown) is None
    assert len(crops) == count


@pytest.mark.parametrize("size", [(448, 448), (3000, 4000), (700, 12000), (8, 9), (1025, 683)])
def test_tiles_cover_photo_and_overlap(size):
    height, width = size
    views = list(detection.tiled_views(height, width))
    for scale in {round(view.width / (view.x1 - view.x0), 2) for view in views}:
        level = [view for view in views if round(view.width / (view.x1 - view.x0), 2) == scale]
        covered = np.zeros(size, bool)
        for view in level:
            assert max(view.width, view.height) <= detection.TILE_SIDE
            assert 0 <= view.x0 < view.x1 <= width
            assert 0 <= view.y0 < view.y1 <= height
            covered[view.y0 : view.y1, view.x0 : view.x1] = True
        assert covered.all()
        columns = sorted({(view.x0, view.x1) for view in level})
        assert all(a[1] - b[0] >= detection.TILE_OVERLAP / scale - 2 for a, b in pairwise(columns))
    assert (views[-1].x0, views[-1].y0, views[-1].x1, views[-1].y1) == (0, 0, width, height)


VIEWS = *detection.rotated_views(30, 50), detection.padded_view(30, 50), detection.mirrored_view(30, 50)


@pytest.mark.parametrize("view", [*VIEWS, detection.View(10, 5, 40, 25, 60, 40)])
def test_view_to_photo(view):
    photo = np.zeros((30, 50, 3), np.uint8)
    photo[12:18, 20:30] = 255
    rows, columns = np.nonzero(view.render(photo)[..., 0] > 127)  # the mirrored padding does not reach the square
    box = float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)
    points = np.array([[box[0], box[1]], [box[2], box[3]]] * 2 + [[box[0], box[1]]], np.float32)
    face = view.to_photo(Detection(box, 0.5, "custom", points))
    assert face.box == pytest.approx((20, 12, 30, 18), abs=0.6)
    assert face.points.dtype == np.float32
    assert sorted(face.points[0] + face.points[1]) == pytest.approx([30, 50], abs=0.9)


def test_padded_and_mirrored_view():
    face = detection.padded_view(100, 100).to_photo(Detection((0.0, 0.0, 160.0, 160.0), 0.5, "custom"))
    assert (face.box, face.points) == ((0, 0, 100, 100), None)
    view = detection.mirrored_view(60, 30)
    photo = np.arange(60 * 30 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 30, 3)
    picture = view.render(photo)
    assert (picture[10:70, 10:40] == photo).all()
    assert (picture[10:70, :10] == photo[:, 9::-1]).all()
    for right, share in ((20.0, 0.5), (8.0, 0)):
        assert view.visible_share(Detection((0.0, 20.0, right, 40.0), 0.5, "custom")) == share
