"""Tests of face recognition: robustness, alignment, missing weights and the cohort."""

from __future__ import annotations

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
from deid_diffusion.identity.recognition import (
    CHIP_POINTS,
    CHIP_SIZE,
    NEAREST,
    DlibRecogniser,
    Recogniser,
    dlib_cohort,
    face_chip,
    fit_similarity,
    similarity_of_strangers,
)
from deid_diffusion.options import Options

MIRRORED = [1, 0, 2, 4, 3]  # order of the five points in the mirror image


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return DlibRecogniser()


@pytest.fixture(scope="module")
def points(astronaut: np.ndarray) -> np.ndarray:
    """(5, 2) pixels of the astronaut's photo."""
    mesh = FaceMesh()(astronaut[20:220, 120:320])
    assert mesh is not None
    return five_points(mesh) + np.array((120, 20), np.float32)


@pytest.fixture(scope="module")
def known(recogniser: Recogniser, astronaut: np.ndarray, points: np.ndarray) -> np.ndarray:
    return recogniser(astronaut, points)


def test_embeddings_are_unit_vectors(known: np.ndarray):
    assert known.shape == (128,)
    assert known.dtype == np.float32
    assert np.linalg.norm(known) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_same_person_at_other_scales(recogniser, astronaut, points, known, scale: float):
    photo = cv2.resize(
        astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    assert recogniser(photo, points * scale) @ known > recogniser.threshold


def test_same_person_rotated_and_compressed(recogniser, astronaut, points, known):
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


def test_fit_similarity_of_equal_points():
    matrix = fit_similarity(np.full((5, 2), 7), CHIP_POINTS)
    np.testing.assert_allclose(transform(np.full((5, 2), 7), matrix), [CHIP_POINTS.mean(0)] * 5, atol=1e-3)


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.zeros((4, 2)), np.full((5, 2), np.nan)])
def test_invalid_points(points: np.ndarray):
    with pytest.raises(ValueError, match="points: expected five"):
        face_chip(np.zeros((9, 9, 3), np.uint8), points)


def test_dlib_is_not_required(monkeypatch: pytest.MonkeyPatch, known: np.ndarray):
    monkeypatch.setitem(sys.modules, "dlib", None)
    chips = np.zeros((1, CHIP_SIZE, CHIP_SIZE, 3), np.uint8)
    assert DlibRecogniser().embed_chips(chips).shape == (1, *known.shape)


def test_batches_do_not_matter(recogniser, astronaut, points, known, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recognition, "BATCH", 2)
    chip = face_chip(astronaut, points)
    chips = np.stack([chip, chip[::-1], np.roll(chip, 9, 1), 255 - chip, chip])
    separate = np.concatenate([recogniser.embed_chips(single[None]) for single in chips])
    batched = recogniser.embed_chips(chips)
    np.testing.assert_allclose(batched, separate, atol=1e-5)
    np.testing.assert_allclose(batched[[0, 4]], np.stack([known, known]), atol=1e-5)


def test_empty_batch(recogniser):
    assert recogniser.embed_chips(np.zeros((0, CHIP_SIZE, CHIP_SIZE, 3), np.uint8)).shape == (0, 128)


def test_damaged_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (damaged := tmp_path / "network.dat").write_bytes(b"<!DOCTYPE html>\n<p>not found")
    monkeypatch.setattr(recognition, "model_file", lambda: damaged)
    with pytest.raises(DeidError, match=r"network\.dat is not dlib's .* pip install") as caught:
        DlibRecogniser()
    assert "\n" not in str(caught.value)


def test_missing_weights(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recognition, "find_spec", lambda name: None)
    with pytest.raises(DeidError, match="face_recognition_models is not installed") as caught:
        DlibRecogniser()
    assert "\n" not in str(caught.value)


def test_similarity_of_nearest_strangers() -> None:
    face = np.array([1, 0], np.float32)
    cosines = np.concatenate([np.full(50, 0.1), np.linspace(0.5, 0.95, NEAREST)])
    cohort = np.column_stack([cosines, np.sqrt(1 - cosines**2)]).astype(np.float32)
    assert similarity_of_strangers(face, cohort) == pytest.approx(0.725, abs=1e-6)


def test_cohort_has_unit_vectors() -> None:
    cohort = dlib_cohort()
    assert cohort.shape[1] == 128
    assert cohort.dtype == np.float32
    assert np.allclose(np.linalg.norm(cohort, axis=1), 1, atol=1e-2)
