"""Known people are recognised, strangers are not, and a photo that cannot be used is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.errors import DeidError
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.detectors import CenterFaceDetector
from deid_diffusion.identity.known_people import (
    CALIBRATED,
    MEASURED,
    MIN_THRESHOLD,
    PEOPLE_WARNING,
    ConsentList,
    threshold_for,
)
from deid_diffusion.identity.recognition import SAME_PERSON, DlibRecogniser
from deid_diffusion.io import images

POINTS = np.array([(2, 2), (5, 2), (3, 4), (2, 6), (5, 6)], np.float32)


def _photo(path: Path, person: int, faces: int = 1) -> Path:
    """A photo whose first pixel tells the fakes how many faces there are, and whose."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0, :2] = person, faces
    images.write(path, pixels)
    return path


PROFILE = np.array([(3, 2), (5, 2), (6, 4), (3, 6), (5, 6)], np.float32)
NO_POINTS, TURNED = 98, 99


def _detector(image: np.ndarray) -> list[Detection]:
    count = int(image[0, 0, 1])
    points = {NO_POINTS: None, TURNED: PROFILE}.get(count, POINTS)
    return [Detection((1, 1, 7, 7), 0.9, "fake", points)] * (1 if count >= NO_POINTS else count)


class _Recogniser:
    """Everybody is at right angles to everybody else; person 0 has no embedding, and 1 is refused."""

    name = CALIBRATED
    threshold = 0.5

    def __call__(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        person = int(photo[0, 0, 0])
        if person == 1:
            raise ValueError("points: expected five different points\nand more")
        return _vector(person)


def _vector(person: int, length: float = 1.0) -> np.ndarray:
    vector = np.zeros(16, np.float32)
    vector[person] = length if person else 0
    return vector


def _enrol(folder: Path, **options: float) -> ConsentList:
    return ConsentList.from_folder(folder, _detector, _Recogniser(), **options)


def test_people_in_folders_and_sub_folders_are_known(tmp_path):
    _photo(tmp_path / "anna.png", 2)
    _photo(tmp_path / "bela" / "one.png", 3)
    _photo(tmp_path / "bela" / "two.PNG", 4)
    _photo(tmp_path / ".trash" / "cleo.png", 5)
    _photo(tmp_path / ".dora.png", 6)
    (tmp_path / "notes.txt").write_text("who is who")
    known = _enrol(tmp_path)
    assert [known.matches(_vector(person)) for person in range(2, 8)] == [True, True, True, False, False, False]
    assert known.threshold == threshold_for(3)


def test_near_is_not_enough_and_length_does_not_count(tmp_path):
    _photo(tmp_path / "anna.png", 2)
    known = _enrol(tmp_path, threshold=0.9)
    for length in (0.01, 1.0, 50.0):
        assert known.matches(length * (_vector(2) + 0.45 * _vector(3)))  # cosine 0.912
        assert not known.matches(length * (_vector(2) + 0.55 * _vector(3)))  # 0.876
    assert not known.matches(-_vector(2))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_embedding_that_is_none_is_nobodys(tmp_path, value: float):
    _photo(tmp_path / "anna.png", 2)
    assert not _enrol(tmp_path, threshold=-1.0).matches(np.full(16, value, np.float32))


def test_an_embedding_of_another_recogniser_is_refused(tmp_path):
    _photo(tmp_path / "anna.png", 2)
    with pytest.raises(ValueError, match=r"embedding: \(8,\), expected \(16,\)"):
        _enrol(tmp_path).matches(np.ones(8, np.float32))


@pytest.mark.parametrize(
    ("person", "faces", "message"),
    [
        (2, 0, r"bad\.png: no face is found"),
        (2, 3, r"bad\.png: 3 faces are found"),
        (2, NO_POINTS, r"bad\.png: its face is not seen from the front"),
        (2, TURNED, r"bad\.png: its face is not seen from the front"),
        (0, 1, r"bad\.png: the recogniser makes nothing"),
        (1, 1, r"bad\.png: its face cannot be used \(points: expected five different points and more\)"),
    ],
)
def test_a_photo_without_exactly_one_face_is_named(tmp_path, person: int, faces: int, message: str):
    _photo(tmp_path / "anna.png", 2)
    _photo(tmp_path / "x" / "bad.png", person, faces)
    with pytest.raises(DeidError, match=message) as caught:
        _enrol(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "x" / "bad.png"))
    assert "\n" not in str(caught.value)


def test_a_photo_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    with pytest.raises(DeidError, match=r"bad\.jpg: ") as caught:
        _enrol(tmp_path)
    assert "\n" not in str(caught.value)


def test_folders_without_photos_are_refused(tmp_path):
    with pytest.raises(DeidError, match="holds no photo"):
        _enrol(tmp_path)
    with pytest.raises(DeidError, match="none: is no folder"):
        _enrol(tmp_path / "none")
    with pytest.raises(DeidError, match="is no folder"):
        _enrol(_photo(tmp_path / "anna.png", 2))


def test_the_threshold_is_stricter_than_the_recognisers_and_rises_with_every_photo():
    assert MEASURED[0][1] == SAME_PERSON
    many = [threshold_for(number) for number in (1, 2, 10, 100, 10**9)]
    assert many[0] == MIN_THRESHOLD > MEASURED[1][1] > SAME_PERSON
    assert many[2] == pytest.approx(0.9563)  # 1e-5 for each of ten
    assert many == sorted(many)
    assert many[-1] <= 1
    assert "\n" not in PEOPLE_WARNING


def test_a_recogniser_that_nobody_measured_needs_a_threshold(tmp_path, monkeypatch: pytest.MonkeyPatch):
    assert DlibRecogniser.name == CALIBRATED
    _photo(tmp_path / "anna.png", 2)
    monkeypatch.setattr(_Recogniser, "name", "other")
    with pytest.raises(ValueError, match="nothing is measured for the recogniser other"):
        _enrol(tmp_path)
    assert _enrol(tmp_path, threshold=0.8).threshold == 0.8
    for wrong in (1.5, float("nan")):
        with pytest.raises(ValueError, match="expected a cosine"):
            _enrol(tmp_path, threshold=wrong)


def test_a_real_face_is_known_again_in_another_picture_of_it(tmp_path, astronaut: np.ndarray):
    detector, recogniser = CenterFaceDetector(), DlibRecogniser()
    images.write(tmp_path / "eileen.png", astronaut[:300, 60:400])
    known = ConsentList.from_folder(tmp_path, detector, recogniser)
    darker = (0.7 * astronaut[::2, ::2]).astype(np.uint8)
    (face,) = detector(darker)
    assert face.points is not None
    assert known.matches(recogniser(darker, face.points))
    assert not known.matches(recogniser(darker, face.points[[1, 0, 2, 4, 3]]))  # upside down it is nobody
