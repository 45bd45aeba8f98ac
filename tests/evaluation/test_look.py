"""One photo and its result, seen by judges that know squares."""

from pathlib import Path

import numpy as np
import pytest
from looks import NO_METER

from deid_diffusion.evaluation.look import Judges, look
from deid_diffusion.evaluation.onnx_judges import Reading
from deid_diffusion.evaluation.pairing import Pair
from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.faces.semantic_map import mean_mesh

PAIR = Pair("a", "a", Path("a"), Path("a"))
SIDE = 40
POINTS = np.array([(12, 15), (28, 15), (20, 22), (14, 30), (26, 30)], np.float32)


def squares(image: np.ndarray) -> list[DetectedFace]:
    """A face of 40 x 40 pixels wherever a tile of 50 pixels is coloured; the second tile's is a little smaller."""
    faces = []
    for k in range(image.shape[1] // 50):
        if image[25, 50 * k + 25, 0]:
            box = (50 * k + 5, 5, 50 * k + 5 + SIDE - k, 5 + SIDE - k)
            faces.append(
                DetectedFace(
                    box, 0.8 - 0.4 * (image[25, 50 * k + 25, 0] > 150), "tiles", POINTS + np.float32((50 * k, 0))
                )
            )
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


class Meter:
    missing = NO_METER.missing
    fid = kid = staticmethod(lambda: None)

    def add(self, first, second):
        return 0.25


def judges(landmarker=lambda crop: None) -> Judges:
    return Judges(squares, landmarker, (Colour(),), Reader(), Meter())


def picture(*levels: int) -> np.ndarray:
    """Tiles of 50 pixels with a square of each level, in a texture of its own, or none for 0."""
    image = np.full((50, 50 * len(levels), 3), 0, np.uint8)
    for k, level in enumerate(levels):
        if level:
            noise = np.random.default_rng(level).integers(0, 30, (SIDE, SIDE, 1))
            image[5:45, 50 * k + 5 : 50 * k + 45] = (np.array([level, 60, 90]) + noise).astype(np.uint8)
            image[24:27, 50 * k + 24 : 50 * k + 27] = (level, 60, 90)
    return image


def test_a_replaced_and_a_left_face():
    found = look(PAIR, picture(100, 100), picture(200, 100), judges())
    assert (found.faces, found.left, found.resized) == (2, 1, False)
    assert found.outside.largest == 0
    face = found.face
    assert not face.left
    assert face.found
    assert face.score_ratio == pytest.approx(0.5)
    assert (face.readings[0].age, face.readings[1].age) == (100, 200)
    assert face.lpips == 0.25
    assert 0.5 < face.sharpness_ratio < 2
    assert face.before is face.after is face.errors is face.shown is None
    before, after = face.embeddings[0]
    assert before @ after < 0.99


def test_a_face_that_is_gone_is_read_at_its_place():
    face = look(PAIR, picture(100), picture(0), judges()).face
    assert not face.found
    assert face.ssim is face.lpips is face.readings is face.score_ratio is None
    assert np.isfinite(face.embeddings[0][0]).all()
    np.testing.assert_allclose(face.embeddings[0][1], np.ones(3) / 3**0.5)  # black
    nobody = look(PAIR, picture(0), picture(100), judges())
    assert (nobody.face, nobody.faces) == (None, 0)


def test_meshes_are_compared_where_both_have_one():
    mesh = mean_mesh(320, None) * (1, 1)
    face = look(PAIR, picture(100), picture(200), judges(lambda crop: mesh.astype(np.float32))).face
    assert face.errors.landmarks == pytest.approx(0, abs=1e-6)
    assert face.before.pose == face.after.pose


def test_other_sizes_are_scaled_and_pictures_are_kept_on_demand():
    large = np.repeat(np.repeat(picture(100), 2, 0), 2, 1)
    found = look(PAIR, picture(100), large, judges(), keep_pictures=True)
    assert found.resized
    assert found.left == 1
    assert [crop.shape for crop in found.face.shown] == [(160, 160, 3)] * 2


def test_boxes_of_the_record_are_not_outside():
    result = picture(200, 0, 0, 0)
    result[20:24, 150:154] = 255
    assert look(PAIR, picture(100, 0, 0, 0), result, judges()).outside.largest == 255
    assert look(PAIR, picture(100, 0, 0, 0), result, judges(), more_boxes=[(150, 20, 154, 24)]).outside.largest == 0
