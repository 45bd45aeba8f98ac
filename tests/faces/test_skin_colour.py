import cv2
import numpy as np
import pytest

from deid_diffusion.faces.labels import LABEL
from deid_diffusion.faces.skin_colour import SkinColour, keep_grey, match_skin, skin_colour

SIZE = 64


@pytest.fixture
def labels() -> np.ndarray:
    """A face in the middle with a nose and two dark eyes."""
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[12:52, 12:52] = LABEL["skin"]
    labels[28:40, 29:35] = LABEL["nose"]
    labels[22:26, 18:26], labels[22:26, 38:46] = LABEL["r_eye"], LABEL["l_eye"]
    return labels


def as_float(crop: np.ndarray) -> np.ndarray:
    return crop.astype(np.float32) / 255


def painted(labels: np.ndarray, lab: tuple[float, float, float]) -> np.ndarray:
    crop = np.zeros((SIZE, SIZE, 3), np.float32)
    crop[...] = lab
    crop[np.isin(labels, (LABEL["r_eye"], LABEL["l_eye"]))] = (10, 0, 0)
    return (cv2.cvtColor(crop, cv2.COLOR_LAB2RGB) * 255 + 0.5).astype(np.uint8)


def test_the_colour_is_the_skins_whatever_covers_a_smaller_part(labels: np.ndarray) -> None:
    crop = painted(labels, (65, 15, 20))
    crop[12:24] = 0  # a fringe
    found = skin_colour(crop, labels)
    assert found is not None
    np.testing.assert_allclose(found.middle, (65, 15, 20), atol=1)


def test_without_skin_there_is_no_colour(labels: np.ndarray) -> None:
    assert skin_colour(painted(labels, (65, 15, 20)), np.zeros_like(labels)) is None


def test_a_face_takes_the_colour_inside_the_mask_only(labels: np.ndarray) -> None:
    crop, mask = as_float(painted(labels, (45, 5, 5))), np.zeros((SIZE, SIZE), bool)
    mask[8:56, 8:56] = True
    made = match_skin(crop, labels, mask, SkinColour((60, 15, 20), (0, 0, 0)))
    np.testing.assert_allclose(skin_colour(made, labels).middle, (60, 15, 20), atol=1.5)
    np.testing.assert_array_equal(made[~mask], crop[~mask])


def test_a_harsh_shadow_is_softened_to_the_originals_contrast(labels: np.ndarray) -> None:
    mask = np.ones((SIZE, SIZE), bool)
    slope = np.linspace(30, 90, SIZE, dtype=np.float32)
    crop = np.stack([np.tile(slope, (SIZE, 1)), *np.full((2, SIZE, SIZE), 10, np.float32)], -1)
    harsh = (cv2.cvtColor(crop, cv2.COLOR_LAB2RGB) * 255 + 0.5).astype(np.uint8)
    made = match_skin(as_float(harsh), labels, mask, SkinColour((60, 10, 10), (3, 0, 0)))
    assert skin_colour(made, labels).spread[0] < 0.8 * skin_colour(harsh, labels).spread[0]


def test_what_cannot_be_skin_shifts_no_face_far(labels: np.ndarray) -> None:
    crop, mask = as_float(painted(labels, (60, 15, 20))), np.ones((SIZE, SIZE), bool)
    made = match_skin(crop, labels, mask, SkinColour((60, -80, 90), (0, 0, 0)))
    before, after = (np.array(skin_colour(one, labels).middle) for one in (crop, made))
    assert np.linalg.norm(after - before) < 31


def test_a_grey_photo_stays_grey_and_a_coloured_one_coloured(labels: np.ndarray) -> None:
    crop, mask = painted(labels, (60, 15, 20)), labels > 0
    grey = np.full_like(crop, 90)
    assert not np.ptp(keep_grey(crop, grey, mask), axis=2).any()
    grey[:8] = (140, 90, 60)
    assert np.array_equal(keep_grey(crop, grey, mask), crop)
    assert np.array_equal(keep_grey(crop, grey, np.ones_like(mask)), crop)
