"""Changes of known size, and structural similarity against torchmetrics."""

import cv2
import numpy as np
import pytest

from deid_diffusion.evaluation.changes import left_as_it_was, outside_faces, rim_step, sharpness, ssim

FACE = (175.0, 65.0, 275.0, 195.0)  # of the astronaut


def test_left_replaced_and_blurred_faces(astronaut):
    assert left_as_it_was(astronaut, astronaut, FACE)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", astronaut, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    assert left_as_it_was(astronaut, jpeg, FACE)
    assert not left_as_it_was(astronaut, cv2.GaussianBlur(astronaut, (0, 0), 8), FACE)
    mirrored = astronaut.copy()
    mirrored[65:195, 175:275] = mirrored[65:195, 175:275][:, ::-1]
    assert not left_as_it_was(astronaut, mirrored, FACE)
    covered = astronaut.copy()
    covered[65:195, 175:275] = 0
    assert not left_as_it_was(astronaut, covered, FACE)
    assert left_as_it_was(astronaut, covered, (0, 300, 100, 400))
    assert left_as_it_was(astronaut, astronaut, (510, 510, 510.2, 510.2))


def test_ssim_is_that_of_torchmetrics(astronaut):
    metrics = pytest.importorskip("torchmetrics.functional.image")
    import torch

    astronaut = astronaut[50:250, 100:300]
    other = cv2.GaussianBlur(astronaut, (0, 0), 2)
    pair = [torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)) for image in (other, astronaut)]
    known = metrics.structural_similarity_index_measure(*pair, data_range=255.0, sigma=1.5, return_full_image=True)[1]
    inner = known[..., 5:-5, 5:-5]  # where the window lies within the picture; torchmetrics averages over all
    assert ssim(astronaut, other) == pytest.approx(float(inner.mean()), abs=1e-3)
    assert ssim(astronaut, astronaut) == 1


def test_outside_is_beyond_the_grown_boxes():
    photo = np.zeros((100, 100, 3), np.uint8)
    result = photo.copy()
    result[40:60, 40:60] = 200
    assert outside_faces(photo, result, [(40, 40, 60, 60)]) == outside_faces(photo, photo, [])
    result[0, 0, 1] = 30
    found = outside_faces(photo, result, [(40, 40, 60, 60)])
    assert found.largest == 30
    assert found.mean == pytest.approx(30 / ((100 * 100 - 45 * 45) * 3), rel=0.02)
    assert outside_faces(photo, result, [(-50, -50, 150, 150)]).largest == 0


def test_rim_is_the_step_in_lab():
    photo = np.full((120, 120, 3), 119, np.uint8)  # L 50
    result = photo.copy()
    cv2.circle(result, (60, 60), 30, (144, 144, 144), -1)  # L 60
    assert rim_step(photo, result) == pytest.approx(9.75, abs=0.3)
    assert rim_step(result, photo) == pytest.approx(-9.75, abs=0.3)
    assert rim_step(photo, photo) is None
    y, x = np.mgrid[:120, :120]
    away = np.clip(1 - np.hypot(x - 60, y - 60) / 50, 0, 1)[..., None]
    soft = np.repeat(119 + 60 * away * away, 3, axis=2).astype(np.uint8)
    assert abs(rim_step(photo, soft)) < 2.5
    whole = np.full_like(photo, 30)
    assert rim_step(photo, whole) is None  # no rim within the picture


def test_sharpness_falls_with_blur(astronaut):
    face = astronaut[65:195, 175:275]
    assert sharpness(np.full((9, 9, 3), 7, np.uint8)) == 0
    assert sharpness(cv2.GaussianBlur(face, (0, 0), 2)) < sharpness(face) / 4
