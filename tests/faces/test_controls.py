import sys
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType

import cv2
import numpy as np
import pytest

from deid_diffusion.faces.controls import CONTROLS, draw_control, draw_mediapipe_face
from deid_diffusion.faces.semantic_map import control_image, draw_semantic_map, mean_mesh


@pytest.fixture(scope="module")
def mediapipe_face() -> Iterator[ModuleType]:
    """controlnet_aux's module, without the twenty others that its package imports."""
    spec = find_spec("controlnet_aux")
    if spec is None:
        pytest.skip("controlnet_aux is not installed")
    package = ModuleType("controlnet_aux")
    package.__path__ = list(spec.submodule_search_locations)
    before = set(sys.modules) - {"controlnet_aux"}
    sys.modules["controlnet_aux"] = package
    import controlnet_aux.mediapipe_face as module

    yield module
    for name in set(sys.modules) - before:
        if name.startswith("controlnet_aux"):
            del sys.modules[name]


@pytest.mark.parametrize(
    "where", [(0, 512, 0, 512), (20, 276, 90, 346), (60, 190, 190, 320)], ids=["small", "large", "cut by the edge"]
)
def test_the_annotation_is_that_of_controlnet_aux(
    mediapipe_face: ModuleType, astronaut: np.ndarray, where: tuple[int, ...]
) -> None:
    top, bottom, left, right = where
    crop = cv2.resize(np.ascontiguousarray(astronaut[top:bottom, left:right]), (512, 512))
    theirs = mediapipe_face.MediapipeFaceDetector()(crop, output_type="np")
    graph = mediapipe_face.mediapipe_face_common.mp_face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.5
    )
    with graph:
        points = graph.process(crop).multi_face_landmarks[0].landmark
    mesh = np.array([(point.x, point.y) for point in points], np.float32) * 512
    assert theirs.any()
    assert np.array_equal(draw_mediapipe_face(mesh, 512), theirs)


def test_every_kind_can_be_drawn_and_others_are_refused() -> None:
    mesh = mean_mesh(64)
    assert {draw_control(mesh, 64, kind).shape for kind in CONTROLS} == {(64, 64, 3)}
    assert np.array_equal(draw_control(mesh, 64), control_image(draw_semantic_map(mesh, 64)))
    with pytest.raises(ValueError, match="expected one of semantic_map, mediapipe_face, got 'canny'"):
        draw_control(mesh, 64, "canny")


def test_a_mesh_outside_the_picture_leaves_it_black() -> None:
    assert not draw_mediapipe_face(mean_mesh(64) + 1000, 64).any()
