"""Networks from ONNX files, with their conventions in a JSON file."""

from __future__ import annotations

import json

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


def test_an_embedding_is_the_networks_output(path):
    recogniser = OnnxRecogniser(path)
    points = np.array(ARCFACE_POINTS) * 40 + 20
    wanted = (np.array([200, 100, 0]) - 127.5) / 127.5
    np.testing.assert_allclose(recogniser(RED, points), wanted / np.linalg.norm(wanted), atol=1e-3)
    assert recogniser.name == "net"
    assert np.isnan(recogniser.threshold)


def test_conventions_come_from_the_file_beside_it(path):
    settings(path, colour="bgr", mean=0, scale=100.0, threshold=0.3)
    recogniser = OnnxRecogniser(path)
    wanted = np.array([0, 1, 2]) / 5**0.5
    np.testing.assert_allclose(recogniser(RED, np.array(ARCFACE_POINTS) * 40), wanted, atol=1e-3)
    assert recogniser.threshold == 0.3


def test_age_and_sex(path):
    settings(path, colour="rgb", scale=200.0, age_scale=80.0)
    picture = np.full((90, 120, 3), (50, 150, 100), np.uint8)
    reading = OnnxAgeGender(path)(picture, BOX)
    assert (reading.age, reading.female) == pytest.approx((40, 0.25), abs=0.01)
    settings(path, colour="rgb", scale=100.0)
    reading = OnnxAgeGender(path)(picture, BOX)  # 0.5 and 1.5 are no probabilities
    assert reading.female == pytest.approx(1 / (1 + np.e), abs=0.01)
    assert reading.age == pytest.approx(100, abs=1)


def test_the_square_is_centred_on_the_box():
    picture = np.zeros((90, 120, 3), np.uint8)
    picture[20:70, 35:85] = 255
    assert face_square(picture, BOX, 0.9, 20).min() > 250
    assert face_square(picture, BOX, 2.0, 20)[:4].max() < 5


def test_a_free_size_is_named(path):
    write_mean_colour(path, "side")
    with pytest.raises(UsageError, match=r'leaves its input\'s size open: say it in .*net\.json as "size"'):
        OnnxRecogniser(path)
    settings(path, size=24)
    assert OnnxRecogniser(path)._net.size == 24


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
def test_settings_that_do_not_do(path, values, words):
    path.with_suffix(".json").write_text(json.dumps(values))
    with pytest.raises(UsageError) as caught:
        OnnxRecogniser(path)
    assert words in str(caught.value)


def test_files_that_do_not_do(path, tmp_path):
    with pytest.raises(UsageError, match=r"none\.onnx: is not there"):
        OnnxRecogniser(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"junk\.onnx: cannot be loaded"):
        OnnxAgeGender(tmp_path / "junk.onnx")
    path.with_suffix(".json").write_text("{")
    with pytest.raises(UsageError, match=r"net\.json: cannot be read as JSON"):
        OnnxAgeGender(path)
