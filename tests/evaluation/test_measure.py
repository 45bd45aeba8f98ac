import sys
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from deid_diffusion.evaluation import measure
from deid_diffusion.evaluation.measure import ALEXNET_FILE, INCEPTION_FILE, PerceptualMeter
from deid_diffusion.evaluation.onnx import Reading
from deid_diffusion.evaluation.pairing import Pair
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.semantic_map import mean_mesh

CROP = np.zeros((9, 9, 3), np.uint8)


def test_missing_metrics(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    meter = PerceptualMeter()
    assert set(meter.missing) == {"FID", "KID", "LPIPS"}
    assert meter.add(CROP, CROP) is meter.fid() is meter.kid() is None
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("deid_diffusion.evaluation.measure.find_spec", lambda name: None)
    assert PerceptualMeter().missing["LPIPS"] == "torchmetrics is not installed"


class Metric:
    """A metric that records its updates."""

    def __init__(self, **options) -> None:
        self.updates, self.subset_size = [], None

    def update(self, images, real):
        self.updates.append((tuple(images.shape), real))

    def __call__(self, first, second):
        return float((first - second).abs().mean())


class Fid(Metric):
    def compute(self):
        assert self.updates[:2] == [((1, 3, 9, 9), True), ((1, 3, 9, 9), False)]
        return len(self.updates)


class Kid(Metric):
    def compute(self):
        return self.subset_size, 0


def test_metrics_with_weights(tmp_path, monkeypatch):
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name in (INCEPTION_FILE, ALEXNET_FILE):
        (folder / name).touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("deid_diffusion.evaluation.measure.find_spec", lambda name: util.find_spec("json"))
    metrics = {
        "torchmetrics.image.fid": {"FrechetInceptionDistance": Fid},
        "torchmetrics.image.kid": {"KernelInceptionDistance": Kid},
        "torchmetrics.image.lpip": {"LearnedPerceptualImagePatchSimilarity": Metric},
    }
    for name, classes in {"torchmetrics": {}, "torchmetrics.image": {}, **metrics}.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**classes))
    meter = PerceptualMeter()
    assert meter.missing == {}
    assert meter.fid() is None
    assert [meter.add(CROP, CROP + 51) for _ in range(3)] == [pytest.approx(0.2)] * 3
    assert (meter.fid(), meter.kid()) == (6, 3)


PAIR = Pair("a", "a", Path("a"), Path("a"))
SIDE = 40
POINTS = np.array([(12, 15), (28, 15), (20, 22), (14, 30), (26, 30)], np.float32)


def squares(image: np.ndarray) -> list[Detection]:
    """Detect a face of 40 x 40 pixels in every coloured tile of 50 pixels, a little smaller in the second tile."""
    faces = []
    for k, level in enumerate(image[25, 25::50, 0]):
        if level:
            box = (50 * k + 5, 5, 50 * k + 5 + SIDE - k, 5 + SIDE - k)
            faces.append(Detection(box, 0.4 if level > 150 else 0.8, "tiles", POINTS + np.float32((50 * k, 0))))
    return faces


class Colour:
    name, threshold = "colour", 0.99

    def __call__(self, photo, points):
        x, y = points.mean(0).round().astype(int)
        return (photo[y, x] + 1.0) / np.linalg.norm(photo[y, x] + 1.0)


class Reader:
    name = "reader"

    def __call__(self, photo, box):
        x, y = int(box[0] + box[2]) // 2, int(box[1] + box[3]) // 2
        return Reading(float(photo[y, x, 0]), 0.5)


def evaluators(landmarker=lambda crop: None) -> measure.Evaluators:
    meter = SimpleNamespace(add=lambda original, result: 0.25)
    return measure.Evaluators(squares, landmarker, (Colour(),), Reader(), meter)


def picture(*levels: int) -> np.ndarray:
    """Draw tiles of 50 pixels with textured squares of some levels, or none for 0."""
    image = np.full((50, 50 * len(levels), 3), 0, np.uint8)
    for k, level in enumerate(levels):
        if level:
            noise = np.random.default_rng(level).integers(0, 30, (SIDE, SIDE, 1))
            image[5:45, 50 * k + 5 : 50 * k + 45] = (np.array([level, 60, 90]) + noise).astype(np.uint8)
            image[24:27, 50 * k + 24 : 50 * k + 27] = (level, 60, 90)
    return image


def test_replaced_and_unchanged_face():
    measured = measure.measure_pair(PAIR, picture(100, 100), picture(200, 100), evaluators())
    assert (measured.faces, measured.unchanged, measured.resized) == (2, 1, False)
    assert measured.outside.largest == 0
    face = measured.face
    assert not face.unchanged
    assert face.detected
    assert face.score_ratio == pytest.approx(0.5)
    assert (face.readings[0].age, face.readings[1].age) == (100, 200)
    assert face.lpips == 0.25
    assert 0.5 < face.sharpness_ratio < 2
    assert face.before is face.after is face.errors is face.crops is None
    assert np.dot(*face.embeddings[0]) < 0.99


def test_undetected_face():
    face = measure.measure_pair(PAIR, picture(100), picture(0), evaluators()).face
    assert not face.detected
    assert face.ssim is face.lpips is face.readings is face.score_ratio is None
    assert np.isfinite(face.embeddings[0][0]).all()
    np.testing.assert_allclose(face.embeddings[0][1], np.ones(3) / 3**0.5)  # black
    empty = measure.measure_pair(PAIR, picture(0), picture(100), evaluators())
    assert (empty.face, empty.faces) == (None, 0)


def test_mesh_comparison():
    with_mesh = evaluators(lambda crop: mean_mesh(320, None).astype(np.float32))
    face = measure.measure_pair(PAIR, picture(100), picture(200), with_mesh).face
    assert face.errors.landmarks == pytest.approx(0, abs=1e-6)
    assert face.before.pose == face.after.pose


def test_resized_result_and_crops():
    large = np.kron(picture(100), np.ones((2, 2, 1), np.uint8))
    measured = measure.measure_pair(PAIR, picture(100), large, evaluators(), keep_crops=True)
    assert (measured.resized, measured.unchanged) == (True, 1)
    assert [crop.shape for crop in measured.face.crops] == [(160, 160, 3)] * 2


def test_recorded_boxes_are_not_outside():
    result = picture(200, 0, 0, 0)
    result[20:24, 150:154] = 255
    for boxes, largest in (([], 255), ([(150, 20, 154, 24)], 0)):
        measured = measure.measure_pair(PAIR, picture(100, 0, 0, 0), result, evaluators(), more_boxes=boxes)
        assert measured.outside.largest == largest


FACE = (175.0, 65.0, 275.0, 195.0)  # of the astronaut


def test_is_unchanged(astronaut):
    assert measure.is_unchanged(astronaut, astronaut, FACE)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", astronaut, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    assert measure.is_unchanged(astronaut, jpeg, FACE)
    assert not measure.is_unchanged(astronaut, cv2.GaussianBlur(astronaut, (0, 0), 8), FACE)
    for replacement in (astronaut[65:195, 175:275][:, ::-1], 0):  # mirrored, covered
        replaced = astronaut.copy()
        replaced[65:195, 175:275] = replacement
        assert not measure.is_unchanged(astronaut, replaced, FACE)
        assert measure.is_unchanged(astronaut, replaced, (0, 300, 100, 400))
    assert measure.is_unchanged(astronaut, astronaut, (510, 510, 510.2, 510.2))


def test_ssim_matches_torchmetrics(astronaut):
    metrics = pytest.importorskip("torchmetrics.functional.image")
    import torch

    astronaut = astronaut[50:250, 100:300]
    other = cv2.GaussianBlur(astronaut, (0, 0), 2)
    pair = [torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)) for image in (other, astronaut)]
    known = metrics.structural_similarity_index_measure(*pair, data_range=255.0, sigma=1.5, return_full_image=True)[1]
    inner = known[..., 5:-5, 5:-5]  # where the window lies within the picture; torchmetrics averages over all
    assert measure.ssim(astronaut, other) == pytest.approx(float(inner.mean()), abs=1e-3)
    assert measure.ssim(astronaut, astronaut) == 1


def test_outside_faces():
    photo = np.zeros((100, 100, 3), np.uint8)
    result = photo.copy()
    result[40:60, 40:60] = 200
    assert measure.outside_faces(photo, result, [(40, 40, 60, 60)]) == measure.outside_faces(photo, photo, [])
    result[0, 0, 1] = 30
    outside = measure.outside_faces(photo, result, [(40, 40, 60, 60)])
    assert outside.largest == 30
    assert outside.mean == pytest.approx(30 / ((100 * 100 - 45 * 45) * 3), rel=0.02)
    assert measure.outside_faces(photo, result, [(-50, -50, 150, 150)]).largest == 0


def test_rim_step():
    photo = np.full((120, 120, 3), 119, np.uint8)  # L 50
    result = photo.copy()
    cv2.circle(result, (60, 60), 30, (144, 144, 144), -1)  # L 60
    assert measure.rim_step(photo, result) == pytest.approx(9.75, abs=0.3)
    assert measure.rim_step(result, photo) == pytest.approx(-9.75, abs=0.3)
    assert measure.rim_step(photo, photo) is None
    y, x = np.mgrid[:120, :120]
    fade = np.clip(1 - np.hypot(x - 60, y - 60) / 50, 0, 1)[..., None]
    soft = np.repeat(119 + 60 * fade * fade, 3, axis=2).astype(np.uint8)
    assert abs(measure.rim_step(photo, soft)) < 2.5
    assert measure.rim_step(photo, np.full_like(photo, 30)) is None  # no rim within the image


def test_sharpness(astronaut):
    face = astronaut[65:195, 175:275]
    assert measure.sharpness(np.full((9, 9, 3), 7, np.uint8)) == 0
    assert measure.sharpness(cv2.GaussianBlur(face, (0, 0), 2)) < measure.sharpness(face) / 4
