from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from deid_diffusion.faces.detectors import STRIDE, CenterFaceDetector, decode


@pytest.fixture(scope="module")
def images(astronaut: np.ndarray) -> list[np.ndarray]:
    """The same face at three sizes, none of them a multiple of the network's."""
    return [cv2.resize(astronaut, size, interpolation=cv2.INTER_AREA) for size in [(333, 300), (500, 490), (250, 270)]]


def test_centerface_any_size(images: list[np.ndarray]) -> None:
    detector = CenterFaceDetector()
    first = [detector(image) for image in images]
    for image, faces in zip(images, first, strict=True):
        assert len(faces) == 1
        relative = np.array(faces[0].box) / (image.shape[1::-1] * 2)
        assert relative == pytest.approx((0.33, 0.12, 0.53, 0.37), abs=0.04)
    with ThreadPoolExecutor(3) as pool:
        again = list(pool.map(detector, images * 3))
    assert [faces[0].box for faces in again] == [faces[0].box for faces in first] * 3


def test_decode() -> None:
    """One cell: a box of 8 x 16 px around its centre, and points at the corner, the centre and the far corner."""
    heat, sizes, offsets, points = (np.zeros((1, n, 4, 4), np.float32) for n in (1, 2, 2, 10))
    heat[0, 0, 1, 2] = 0.9
    sizes[0, :, 1, 2] = np.log([4, 2])  # h, w in cells
    points[0, :, 1, 2] = [0, 0, 0.5, 0.5, 1, 1, 0, 1, 1, 0]
    boxes, scores, places = decode([heat, sizes, offsets, points], 0.5)
    x, y = 2.5 * STRIDE, 1.5 * STRIDE
    np.testing.assert_allclose(boxes, [(x - 4, y - 8, x + 4, y + 8)], atol=1e-5)
    expected = [(x - 4, y - 8), (x, y), (x + 4, y + 8), (x + 4, y - 8), (x - 4, y + 8)]
    np.testing.assert_allclose(places[0], expected, atol=1e-5)
    assert scores == pytest.approx([0.9])
    assert len(decode([heat, sizes, offsets, points], 0.95)[0]) == 0
