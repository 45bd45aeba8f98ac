"""Finding faces: real ones in a real photo, at every size and roll, and none where none is."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from skimage.data import astronaut, brick

from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.detection import (
    FACE as FACE_SCORE,
)
from deid_diffusion.faces.detection import (
    HINT,
    OVERLAP,
    TILE,
    CenterFaceDetector,
    EnsembleDetector,
    MediapipeDetector,
    View,
    add_cut,
    add_turned,
    confirm_by_mesh,
    framed,
    mirrored,
    pyramid,
    turned,
)
from deid_diffusion.faces.landmarks import FaceMesh

FACE = (180, 70, 270, 180)  # of the astronaut, by eye
EYES_NOSE_MOUTH = np.array([[203, 103], [247, 105], [223, 126], [204, 143], [242, 144]])


def centre_is_in(face: Detection, box: tuple[float, float, float, float]) -> bool:
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


@pytest.fixture(scope="module")
def photo():
    return astronaut()


@pytest.fixture(scope="module")
def detector():
    return EnsembleDetector()


@pytest.mark.parametrize("one", [CenterFaceDetector(), MediapipeDetector()])
def test_each_detector_finds_the_face_and_its_points(one, photo):
    (face,) = one(photo)
    assert centre_is_in(face, FACE)
    assert face.points is not None
    assert face.points.shape == (5, 2)
    assert face.points.dtype == np.float32
    assert np.abs(face.points - EYES_NOSE_MOUTH).max() < 12


@pytest.mark.parametrize("kind", [CenterFaceDetector, MediapipeDetector])
def test_threshold_is_the_lowest_score(kind, photo):
    (face,) = kind()(photo)
    assert len(kind(face.score - 0.01)(photo)) == 1
    assert kind(face.score + 0.01)(photo) == []


def test_union_merges_both_detectors(detector, photo):
    (face,) = detector(photo)
    assert face.detector == "centerface+mediapipe"
    assert 0.7 < face.score <= 1
    assert all(abs(a - b) < 30 for a, b in zip(face.box, FACE, strict=True))
    assert np.abs(face.points - EYES_NOSE_MOUTH).max() < 8


def test_two_faces_side_by_side(detector, photo):
    faces = detector(np.hstack([photo[:260, 120:340], photo[:260, 120:340][:, ::-1]]))
    assert sorted(face.box[0] > 220 for face in faces) == [False, True]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_head_has_points_that_turn_with_it(detector, photo, turns):
    (face,) = detector(np.rot90(photo, turns))
    x, y = EYES_NOSE_MOUTH.T
    expected = {1: (y, 512 - x), 2: (512 - x, 512 - y), 3: (512 - y, x)}[turns]
    assert np.abs(face.points - np.stack(expected, axis=1)).max() < 12


def test_faces_of_24_pixels_in_a_large_photo(detector, photo):
    ground = np.stack([np.tile(brick(), (6, 8))[:3000, :4000]] * 3, axis=2)
    scale = 24 / (FACE[3] - FACE[1])
    small = cv2.resize(photo[:256, 100:356], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    # in the corners, in the middle, and where tiles meet
    places = [(3, 3), (3000, 12), (1990, 1480), (655, 655), (30, 2900), (3930, 2930), (3300, 1700)]
    for x, y in places:
        ground[y : y + small.shape[0], x : x + small.shape[1]] = small
    faces = detector(ground)
    for x, y in places:
        box = x + 80 * scale, y + 70 * scale, x + 170 * scale, y + 180 * scale
        assert [face for face in faces if centre_is_in(face, box) and face.box[2] - face.box[0] < 40], (x, y)
    assert len(faces) == len(places)


def test_face_that_fills_the_photo_and_more(detector, photo):
    for size in (48, 400):
        faces = detector(cv2.resize(photo[90:160, 192:262], (size, size)))
        assert len(faces) == 1
        x0, y0, x1, y1 = faces[0].box
        assert x0 >= 0
        assert y0 >= 0
        assert max(x1, y1) <= size
        assert (x1 - x0) * (y1 - y0) > 0.5 * size * size


def test_grey_photo(detector, photo):
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    assert len(detector(np.stack([grey] * 3, axis=2))) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (7, 7), (8, 8), (64, 64), (9, 2000)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_and_tiny_pictures_have_no_face(detector, shape, level):
    assert detector(np.full((*shape, 3), level, np.uint8)) == []


def test_texture_has_no_face(detector):
    assert detector(np.stack([brick()] * 3, axis=2)) == []


@pytest.mark.parametrize(
    ("image", "came"),
    [
        (np.zeros((8, 8), np.uint8), r"\(8, 8\) of uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\) of uint8"),
        (np.zeros((8, 8, 3), np.float32), r"\(8, 8, 3\) of float32"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\) of uint8"),
        ([[0, 0, 0]], "list"),
    ],
)
@pytest.mark.parametrize("one", [CenterFaceDetector(), MediapipeDetector(), EnsembleDetector()])
def test_another_array_is_refused(one, image, came):
    with pytest.raises(ValueError, match=rf"^image: expected .*\(H, W, 3\) of uint8, RGB, got {came}$"):
        one(image)


def test_no_detector_is_refused():
    with pytest.raises(ValueError, match=r"^detectors: expected at least one"):
        EnsembleDetector([])


def test_a_detector_of_ones_own_sees_every_view():
    sides = []

    def own(image: np.ndarray) -> list[Detection]:
        sides.append(image.shape[:2])
        return [Detection((0.0, 0.0, 20.0, 20.0), 0.9, "own")] if image.shape[1] == 600 else []

    (face,) = EnsembleDetector([own])(np.zeros((100, 400, 3), np.uint8))
    assert face.detector == "own"
    assert face.box == pytest.approx((0, 0, 13.33, 13.33), abs=0.01)
    assert sides == [(150, 600), (400, 100), (100, 400), (400, 100), (234, 534)]
    sides.clear()
    EnsembleDetector([own]).search(np.zeros((100, 400, 3), np.uint8), upright_only=True)
    assert sides == [(150, 600), (234, 534)]


class TestAddTurned:
    upright = Detection((0, 0, 100, 100), 0.6, "centerface", np.zeros((5, 2), np.float32))

    def test_the_same_face_seen_again_changes_nothing(self):
        again = Detection((20, 0, 120, 100), 0.65, "centerface", np.ones((5, 2), np.float32))
        assert add_turned([self.upright], [again]) == [self.upright]

    def test_a_face_seen_clearly_better_gives_the_points_and_widens_the_box(self):
        better = Detection((20, 0, 120, 100), 0.9, "centerface", np.ones((5, 2), np.float32))
        (face,) = add_turned([self.upright], [better])
        assert face.box == (0, 0, 120, 100)
        assert face.score == 0.9
        assert (face.points == 1).all()

    def test_a_face_elsewhere_joins_when_sure(self):
        unsure = Detection((200, 0, 300, 100), 0.4, "centerface")
        sure = Detection((400, 0, 500, 100), 0.55, "centerface")
        assert add_turned([self.upright], [unsure, sure]) == [self.upright, sure]


def test_half_a_face_at_the_edge(detector, photo):
    half = photo[:, 224:]
    (face,) = detector(half)
    assert face.box[0] == 0
    assert 20 < face.box[2] < 70


def test_a_cut_face_joins_where_nothing_is_found():
    found = Detection((0, 0, 100, 100), 0.9, "own")
    again = Detection((0, 10, 40, 60), 0.8, "own")
    unsure = Detection((0, 300, 40, 400), 0.4, "own")
    new = Detection((0, 200, 40, 280), 0.6, "own")
    assert add_cut([found], [again, new, unsure]) == [found, new]
    assert add_cut([], [new]) == [new]


WHERE = (180.0, 70.0, 270.0, 180.0)  # the astronaut's face, by eye


def hint(*box: float) -> Detection:
    return Detection(box, 0.2, "centerface")


@pytest.fixture(scope="module")
def landmarker() -> FaceMesh:
    return FaceMesh()


def nothing(box: tuple[float, float, float, float]) -> bool:
    return False


def test_a_hint_at_a_face_is_confirmed_and_holds_the_mesh(astronaut: np.ndarray, landmarker: FaceMesh) -> None:
    face = confirm_by_mesh(astronaut, hint(205, 90, 255, 150), landmarker, nothing)
    assert face is not None
    assert face.detector == "centerface+mesh"
    assert np.abs(np.array(face.box) - WHERE).max() < 25


@pytest.mark.parametrize("cut", [225, 240])
def test_half_a_face_at_the_edge_is_completed_by_its_mirror_image(
    astronaut: np.ndarray, landmarker: FaceMesh, cut: int
) -> None:
    part = np.ascontiguousarray(astronaut[:, cut:])
    face = confirm_by_mesh(part, hint(0, 75, 268 - cut, 175), landmarker, nothing)
    assert face is not None
    x0, y0, x1, y1 = face.box
    assert 0 <= x0 < x1 <= part.shape[1]
    assert 0 <= y0 < y1 <= part.shape[0]


def test_where_no_mesh_fits_there_is_no_face(astronaut: np.ndarray, landmarker: FaceMesh) -> None:
    assert confirm_by_mesh(astronaut, hint(20, 20, 80, 90), landmarker, nothing) is None


def test_few_looks_tell_that_there_is_none(astronaut: np.ndarray) -> None:
    looks: list[np.ndarray] = []
    assert confirm_by_mesh(astronaut, hint(20, 20, 80, 90), looks.append, nothing) is None
    assert len(looks) == 4


def test_the_mesh_of_a_face_that_is_dealt_with_confirms_nothing(astronaut: np.ndarray, landmarker: FaceMesh) -> None:
    assert confirm_by_mesh(astronaut, hint(205, 90, 255, 150), landmarker, lambda box: True) is None
    assert confirm_by_mesh(astronaut, hint(275, 100, 330, 170), landmarker, nothing) is None  # beside the face


@pytest.mark.parametrize("box", [(10.0, 10.0, 24.0, 24.0), (10.0, 10.0, 13.0, 90.0), (10.0, 10.0, 10.0, 10.0)])
def test_specks_are_not_looked_at(astronaut: np.ndarray, box: tuple[float, float, float, float]) -> None:
    def never(look: np.ndarray) -> np.ndarray:
        raise AssertionError("looked")

    assert confirm_by_mesh(astronaut, hint(*box), never, nothing) is None


def test_hints_are_fainter_than_faces_and_apart_from_them(astronaut: np.ndarray) -> None:
    detector = EnsembleDetector()
    found = detector.search(astronaut)
    assert [face.box for face in found.faces] == [face.box for face in detector(astronaut)]
    assert all(face.score > FACE_SCORE for face in found.faces)
    assert found.hints
    assert all(HINT < one.score <= FACE_SCORE for one in found.hints)


def test_detectors_of_ones_own_give_no_hints(astronaut: np.ndarray) -> None:
    faint = Detection((20.0, 20.0, 80.0, 90.0), 0.05, "mine")
    found = EnsembleDetector([lambda image: [faint]]).search(np.zeros((200, 200, 3), np.uint8))
    assert found.faces  # what they find is a face, however faint
    assert found.hints == []


@pytest.mark.parametrize("size", [(448, 448), (3000, 4000), (700, 12000), (8, 9), (1025, 683)])
def test_tiles_cover_the_photo_and_overlap(size):
    height, width = size
    views = list(pyramid(height, width))
    for scale in {round(view.width / (view.x1 - view.x0), 2) for view in views}:
        level = [view for view in views if round(view.width / (view.x1 - view.x0), 2) == scale]
        seen = np.zeros(size, bool)
        for view in level:
            assert max(view.width, view.height) <= TILE
            assert 0 <= view.x0 < view.x1 <= width
            assert 0 <= view.y0 < view.y1 <= height
            seen[view.y0 : view.y1, view.x0 : view.x1] = True
        assert seen.all()
        columns = sorted({(view.x0, view.x1) for view in level})
        assert all(a[1] - b[0] >= OVERLAP / scale - 2 for a, b in pairwise(columns))
    assert (views[-1].x0, views[-1].y0, views[-1].x1, views[-1].y1) == (0, 0, width, height)


@pytest.mark.parametrize("view", [*turned(30, 50), framed(30, 50), mirrored(30, 50), View(10, 5, 40, 25, 60, 40)])
def test_what_is_found_in_a_view_lies_there_in_the_photo(view):
    photo = np.zeros((30, 50, 3), np.uint8)
    photo[12:18, 20:30] = 255
    rows, columns = np.nonzero(view.take(photo)[..., 0] > 127)  # the frame's mirror image does not reach so far in
    box = float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)
    points = np.array([[box[0], box[1]], [box[2], box[3]]] * 2 + [[box[0], box[1]]], np.float32)
    face = view.back(Detection(box, 0.5, "own", points))
    assert face.box == pytest.approx((20, 12, 30, 18), abs=0.6)
    assert face.points.dtype == np.float32
    assert sorted(face.points[0] + face.points[1]) == pytest.approx([30, 50], abs=0.9)


def test_boxes_are_clipped_to_the_view():
    face = framed(100, 100).back(Detection((0.0, 0.0, 160.0, 160.0), 0.5, "own"))
    assert face.box == (0, 0, 100, 100)
    assert face.points is None


def test_mirrored_edges():
    view = mirrored(60, 30)
    photo = np.arange(60 * 30 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 30, 3)
    picture = view.take(photo)
    assert (picture[10:70, 10:40] == photo).all()
    assert (picture[10:70, :10] == photo[:, 9::-1]).all()
    assert view.share_inside(Detection((0.0, 20.0, 20.0, 40.0), 0.5, "own")) == 0.5
    assert view.share_inside(Detection((0.0, 20.0, 8.0, 40.0), 0.5, "own")) == 0
