import sys
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType

import cv2
import numpy as np
import pytest

from deid_diffusion.faces import semantic_map as module
from deid_diffusion.faces.alignment import similarity, transform
from deid_diffusion.faces.landmarks import five_points, measure
from deid_diffusion.faces.semantic_map import LABEL, LABELS, PALETTE, control_image, draw_semantic_map, mean_mesh


def test_map_of_the_mean_face() -> None:
    labels = draw_semantic_map(mean_mesh(256), 256)
    names = {LABELS[i] for i in np.unique(labels)}
    assert names >= {"skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "u_lip", "l_lip", "iris"}
    y, x = ({name: np.nonzero(labels == LABEL[name])[axis].mean() for name in names} for axis in (0, 1))
    assert y["r_brow"] < y["r_eye"] < y["nose"] < y["u_lip"] < y["l_lip"]
    assert x["r_eye"] < x["nose"] < x["l_eye"]  # the subject's right is the picture's left


def test_control_image_can_be_decoded() -> None:
    labels = np.arange(len(LABELS), dtype=np.uint8)[None].repeat(4, 0)
    colours = control_image(labels)
    assert colours.shape == (4, len(LABELS), 3)
    assert (np.abs(colours[..., None, :].astype(int) - PALETTE).sum(-1).argmin(-1) == labels).all()
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == len(LABELS)


def test_mean_mesh_fits_five_points() -> None:
    points = transform(five_points(mean_mesh(128)), similarity((70, 60), 140, 0.3, 128))
    assert np.abs(five_points(mean_mesh(128, points)) - points).max() < 1


def test_mean_mesh_follows_the_yaw() -> None:
    frontal = mean_mesh(128)
    points = five_points(frontal)
    centre = points[:, 0].mean()
    points[:, 0] = centre + 0.3 * (points[:, 0] - centre) + np.array([0, 0, 22, 0, 0])  # near eyes, nose far right
    assert measure(mean_mesh(128, points)).yaw > measure(frontal).yaw + 0.4
    assert np.array_equal(mean_mesh(128, np.full((5, 2), 3, np.float32)), mean_mesh(128))  # degenerate


@pytest.fixture(scope="module")
def mediapipe_face() -> Iterator[ModuleType]:
    """controlnet_aux's module, imported without the rest of the package."""
    spec = find_spec("controlnet_aux")
    if spec is None:
        pytest.skip("controlnet_aux is not installed")
    package = ModuleType("controlnet_aux")
    package.__path__ = list(spec.submodule_search_locations)
    loaded = set(sys.modules) - {"controlnet_aux"}
    sys.modules["controlnet_aux"] = package
    import controlnet_aux.mediapipe_face as module

    yield module
    for name in set(sys.modules) - loaded:
        if name.startswith("controlnet_aux"):
            del sys.modules[name]


@pytest.mark.parametrize(
    "window", [(0, 512, 0, 512), (20, 276, 90, 346), (60, 190, 190, 320)], ids=["small", "large", "cut"]
)
def test_mediapipe_face(mediapipe_face: ModuleType, astronaut: np.ndarray, window: tuple[int, ...]) -> None:
    top, bottom, left, right = window
    crop = cv2.resize(np.ascontiguousarray(astronaut[top:bottom, left:right]), (512, 512))
    expected = mediapipe_face.MediapipeFaceDetector()(crop, output_type="np")
    graph = mediapipe_face.mediapipe_face_common.mp_face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.5
    )
    with graph:
        points = graph.process(crop).multi_face_landmarks[0].landmark
    mesh = np.array([(point.x, point.y) for point in points], np.float32) * 512
    assert expected.any()
    assert np.array_equal(module.draw_mediapipe_face(mesh, 512), expected)


def test_draw_control() -> None:
    mesh = mean_mesh(64)
    assert {module.draw_control(mesh, 64, kind).shape for kind in module.CONTROLS} == {(64, 64, 3)}
    assert np.array_equal(module.draw_control(mesh, 64), control_image(draw_semantic_map(mesh, 64)))
    with pytest.raises(ValueError, match="expected one of semantic_map, mediapipe_face, got 'canny'"):
        module.draw_control(mesh, 64, "canny")
    assert not module.draw_mediapipe_face(mean_mesh(64) + 1000, 64).any()
