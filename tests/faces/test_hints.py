"""What is too faint to be a face is one where a face mesh fits, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.faces.detection import FACE, HINT, UnionDetector
from deid_diffusion.faces.hints import confirm
from deid_diffusion.faces.landmarks import FaceMesh

WHERE = (180.0, 70.0, 270.0, 180.0)  # the astronaut's face, by eye


def hint(*box: float) -> DetectedFace:
    return DetectedFace(box, 0.2, "centerface")


@pytest.fixture(scope="module")
def landmarker() -> FaceMesh:
    return FaceMesh()


def nothing(box: tuple[float, float, float, float]) -> bool:
    return False


def test_a_hint_at_a_face_is_confirmed_and_holds_the_mesh(astronaut: np.ndarray, landmarker: FaceMesh) -> None:
    face = confirm(astronaut, hint(205, 90, 255, 150), landmarker, nothing)
    assert face is not None
    assert face.detector == "centerface+mesh"
    assert np.abs(np.array(face.box) - WHERE).max() < 25


@pytest.mark.parametrize("cut", [225, 240])
def test_half_a_face_at_the_edge_is_completed_by_its_mirror_image(
    astronaut: np.ndarray, landmarker: FaceMesh, cut: int
) -> None:
    part = np.ascontiguousarray(astronaut[:, cut:])
    face = confirm(part, hint(0, 75, 268 - cut, 175), landmarker, nothing)
    assert face is not None
    x0, y0, x1, y1 = face.box
    assert 0 <= x0 < x1 <= part.shape[1]
    assert 0 <= y0 < y1 <= part.shape[0]


def test_where_no_mesh_fits_there_is_no_face(astronaut: np.ndarray, landmarker: FaceMesh) -> None:
    assert confirm(astronaut, hint(20, 20, 80, 90), landmarker, nothing) is None


def test_few_looks_tell_that_there_is_none(astronaut: np.ndarray) -> None:
    looks: list[np.ndarray] = []
    assert confirm(astronaut, hint(20, 20, 80, 90), looks.append, nothing) is None
    assert len(looks) == 4


def test_the_mesh_of_a_face_that_is_dealt_with_confirms_nothing(astronaut: np.ndarray, landmarker: FaceMesh) -> None:
    assert confirm(astronaut, hint(205, 90, 255, 150), landmarker, lambda box: True) is None
    assert confirm(astronaut, hint(275, 100, 330, 170), landmarker, nothing) is None  # beside the face


@pytest.mark.parametrize("box", [(10.0, 10.0, 24.0, 24.0), (10.0, 10.0, 13.0, 90.0), (10.0, 10.0, 10.0, 10.0)])
def test_specks_are_not_looked_at(astronaut: np.ndarray, box: tuple[float, float, float, float]) -> None:
    def never(look: np.ndarray) -> np.ndarray:
        raise AssertionError("looked")

    assert confirm(astronaut, hint(*box), never, nothing) is None


def test_hints_are_fainter_than_faces_and_apart_from_them(astronaut: np.ndarray) -> None:
    detector = UnionDetector()
    found = detector.search(astronaut)
    assert [face.box for face in found.faces] == [face.box for face in detector(astronaut)]
    assert all(face.score > FACE for face in found.faces)
    assert found.hints
    assert all(HINT < one.score <= FACE for one in found.hints)


def test_detectors_of_ones_own_give_no_hints(astronaut: np.ndarray) -> None:
    faint = DetectedFace((20.0, 20.0, 80.0, 90.0), 0.05, "mine")
    found = UnionDetector([lambda image: [faint]]).search(np.zeros((200, 200, 3), np.uint8))
    assert found.faces  # what they find is a face, however faint
    assert found.hints == []
