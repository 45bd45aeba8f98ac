"""Evaluators from ONNX files with JSON settings."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from deid_diffusion.errors import UsageError
from deid_diffusion.evaluation.onnx import ARCFACE_POINTS, OnnxAgeGender, OnnxRecogniser, face_square
from tests.evaluation.tiny_onnx import write_mean_colour

RED = np.full((90, 120, 3), (200, 100, 0), np.uint8)
BOX = (40.0, 20.0, 80.0, 70.0)


@pytest.fixture
def path(tmp_path):
    write_mean_colour(tmp_path / "net.onnx", 16)
    return tmp_path / "net.onnx"


def settings(path, **values):
    path.with_suffix(".json").write_text(json.dumps(values))


def test_embedding(path):
    recogniser = OnnxRecogniser(path)
    points = np.array(ARCFACE_POINTS) * 40 + 20
    colour = (np.array([200, 100, 0]) - 127.5) / 127.5
    np.testing.assert_allclose(recogniser(RED, points), colour / np.linalg.norm(colour), atol=1e-3)
    assert recogniser.name == "net"
    assert np.isnan(recogniser.threshold)


def test_settings_of_recogniser(path):
    settings(path, colour="bgr", mean=0, scale=100.0, threshold=0.3)
    recogniser = OnnxRecogniser(path)
    expected = np.array([0, 1, 2]) / 5**0.5
    np.testing.assert_allclose(recogniser(RED, np.array(ARCFACE_POINTS) * 40), expected, atol=1e-3)
    assert recogniser.threshold == 0.3


def test_age_and_sex_reading(path):
    settings(path, colour="rgb", scale=200.0, age_scale=80.0)
    picture = np.full((90, 120, 3), (50, 150, 100), np.uint8)
    reading = OnnxAgeGender(path)(picture, BOX)
    assert (reading.age, reading.female) == pytest.approx((40, 0.25), abs=0.01)
    settings(path, colour="rgb", scale=100.0)
    reading = OnnxAgeGender(path)(picture, BOX)  # 0.5 and 1.5 are logits
    assert reading.female == pytest.approx(1 / (1 + np.e), abs=0.01)
    assert reading.age == pytest.approx(100, abs=1)


def test_face_square():
    picture = np.zeros((90, 120, 3), np.uint8)
    picture[20:70, 35:85] = 255
    assert face_square(picture, BOX, 0.9, 20).min() > 250
    assert face_square(picture, BOX, 2.0, 20)[:4].max() < 5


def test_dynamic_input_size(path):
    write_mean_colour(path, "side")
    with pytest.raises(UsageError, match=r'has an input of dynamic size: set "size" in .*net\.json'):
        OnnxRecogniser(path)
    settings(path, size=24)
    assert np.isfinite(OnnxRecogniser(path)(RED, np.array(ARCFACE_POINTS) * 40)).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"color": "rgb"}, "expected a JSON object with some of: colour, mean"),
        ({"colour": "grey"}, 'colour: expected "rgb" or "bgr", got grey'),
        ({"mean": "half"}, "mean: expected a number, got half"),
        ({"points": [[0, 0]]}, "points: expected five pairs of numbers"),
        ([1], "expected a JSON object"),
    ],
)
def test_invalid_settings(path, values, words):
    path.with_suffix(".json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match=re.escape(words)):
        OnnxRecogniser(path)


def test_unusable_files(path, tmp_path):
    with pytest.raises(UsageError, match=r"none\.onnx: does not exist"):
        OnnxRecogniser(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"junk\.onnx: cannot be loaded"):
        OnnxAgeGender(tmp_path / "junk.onnx")
    path.with_suffix(".json").write_text("{")
    with pytest.raises(UsageError, match=r"net\.json: cannot be read as JSON"):
        OnnxAgeGender(path)
