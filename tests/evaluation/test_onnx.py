import json
import re

import numpy as np
import pytest

from deid_diffusion.errors import UsageError
from deid_diffusion.evaluation.onnx import ARCFACE_POINTS, OnnxAgeGender, OnnxRecogniser, face_square
from tests.evaluation.tiny_onnx import write_mean_colour

ORANGE = np.full((90, 120, 3), (200, 100, 0), np.uint8)
BOX = (40.0, 20.0, 80.0, 70.0)


@pytest.fixture
def path(tmp_path):
    write_mean_colour(tmp_path / "net.onnx", 16)
    return tmp_path / "net.onnx"


def settings(path, values: object) -> None:
    path.with_suffix(".json").write_text(json.dumps(values))


def test_embedding(path):
    recogniser = OnnxRecogniser(path)
    points = np.array(ARCFACE_POINTS) * 40 + 20
    colour = (np.array([200, 100, 0]) - 127.5) / 127.5
    np.testing.assert_allclose(recogniser(ORANGE, points), colour / np.linalg.norm(colour), atol=1e-3)
    assert recogniser.name == "net"
    assert np.isnan(recogniser.threshold)


def test_settings_of_recogniser(path):
    settings(path, {"colour": "bgr", "mean": 0, "scale": 100.0, "threshold": 0.3})
    recogniser = OnnxRecogniser(path)
    expected = np.array([0, 1, 2]) / 5**0.5
    np.testing.assert_allclose(recogniser(ORANGE, np.array(ARCFACE_POINTS) * 40), expected, atol=1e-3)
    assert recogniser.threshold == 0.3


def test_age_and_sex_reading(path):
    picture = np.full((90, 120, 3), (50, 150, 100), np.uint8)
    logits = 1 / (1 + np.e)  # of 0.5 and 1.5
    for values, age, female in (({"scale": 200.0, "age_scale": 80.0}, 40, 0.25), ({"scale": 100.0}, 100, logits)):
        settings(path, {"colour": "rgb", **values})
        reading = OnnxAgeGender(path)(picture, BOX)
        assert (reading.age, reading.female) == pytest.approx((age, female), abs=0.01)


def test_face_square():
    picture = np.zeros((90, 120, 3), np.uint8)
    picture[20:70, 35:85] = 255
    assert face_square(picture, BOX, 0.9, 20).min() > 250
    assert face_square(picture, BOX, 2.0, 20)[:4].max() < 5


def test_dynamic_input_size(path):
    write_mean_colour(path, "side")
    with pytest.raises(UsageError, match=r'has an input of dynamic size: set "size" in .*net\.json'):
        OnnxRecogniser(path)
    settings(path, {"size": 24})
    assert np.isfinite(OnnxRecogniser(path)(ORANGE, np.array(ARCFACE_POINTS) * 40)).all()


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
    settings(path, values)
    with pytest.raises(UsageError, match=re.escape(words)):
        OnnxRecogniser(path)


@pytest.mark.parametrize("evaluator", [OnnxRecogniser, OnnxAgeGender])
def test_unusable_files(path, evaluator):
    path.with_name("junk.onnx").write_bytes(b"junk")
    path.with_suffix(".json").write_text("{")
    messages = {"none.onnx": "does not exist", "junk.onnx": "cannot be loaded", "net.onnx": "net.json: cannot be read"}
    for name, message in messages.items():
        with pytest.raises(UsageError, match=message):
            evaluator(path.with_name(name))
