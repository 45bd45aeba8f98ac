from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.errors import DeidError
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.detectors import CenterFaceDetector
from deid_diffusion.identity import known_people
from deid_diffusion.identity.known_people import CALIBRATED, MEASURED, ConsentList, threshold_for
from deid_diffusion.identity.recognition import SAME_PERSON, DlibRecogniser
from deid_diffusion.io import images

FRONTAL = np.array([(2, 2), (5, 2), (3, 4), (2, 6), (5, 6)], np.float32)
PROFILE = np.array([(3, 2), (5, 2), (6, 4), (3, 6), (5, 6)], np.float32)
NO_POINTS, TURNED = 98, 99


def write_photo(path: Path, person: int, faces: int = 1) -> Path:
    """Write a photo whose first pixel gives person and number of faces to the fakes."""
    path.parent.mkdir(exist_ok=True)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0, :2] = person, faces
    images.write(path, pixels)
    return path


def detect(image: np.ndarray) -> list[Detection]:
    count = int(image[0, 0, 1])
    points = {NO_POINTS: None, TURNED: PROFILE}.get(count, FRONTAL)
    return [Detection((1, 1, 7, 7), 0.9, "fake", points)] * (1 if count >= NO_POINTS else count)


class FakeRecogniser:
    """All people are orthogonal; person 0 has no embedding, and person 1 is refused."""

    name, threshold = CALIBRATED, 0.5

    def __call__(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        person = int(photo[0, 0, 0])
        if person == 1:
            raise ValueError("points: expected five different points\nand more")
        return embedding(person)


def embedding(person: int) -> np.ndarray:
    return np.eye(16, dtype=np.float32)[person] * bool(person)


def enrol(folder: Path, **options: float) -> ConsentList:
    return ConsentList.from_folder(folder, detect, FakeRecogniser(), **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a photo of person 2."""
    write_photo(tmp_path / "anna.png", 2)
    return tmp_path


def test_enrolment_of_sub_folders(folder: Path):
    for person, name in enumerate(("bela/1.png", "bela/2.PNG", ".trash/cleo.png", ".dora.png"), 3):
        write_photo(folder / name, person)
    (folder / "notes.txt").write_text("names")
    consent = enrol(folder)
    assert [consent.matches(embedding(person)) for person in range(2, 8)] == [True, True, True, False, False, False]
    assert consent.threshold == threshold_for(3)


def test_threshold_applies_to_cosine(folder: Path):
    consent = enrol(folder, threshold=0.9)
    for length in (0.01, 1.0, 50.0):
        assert consent.matches(length * (embedding(2) + 0.45 * embedding(3)))  # cosine 0.912
        assert not consent.matches(length * (embedding(2) + 0.55 * embedding(3)))  # 0.876
    assert not consent.matches(-embedding(2))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_invalid_embedding_matches_nobody(folder: Path, value: float):
    assert not enrol(folder, threshold=-1.0).matches(np.full(16, value, np.float32))
    with pytest.raises(ValueError, match=r"embedding: \(8,\), expected \(16,\)"):
        enrol(folder).matches(np.ones(8, np.float32))


@pytest.mark.parametrize(
    ("person", "faces", "message"),
    [
        (2, 0, r"no face was detected"),
        (2, 3, r"3 faces were detected"),
        (2, NO_POINTS, r"the face is not frontal"),
        (2, TURNED, r"the face is not frontal"),
        (0, 1, r"the recogniser returned no valid embedding"),
        (1, 1, r"the face cannot be embedded \(points: expected five different points and more\)"),
        (None, 0, r"is truncated or damaged"),
    ],
)
def test_unusable_photo_is_named(folder: Path, person: int | None, faces: int, message: str):
    path = write_photo(folder / "x" / "bad.png", person or 0, faces)
    if person is None:
        path.write_bytes(b"\xff\xd8\xff\xe0 cut off")
    with pytest.raises(DeidError, match=message) as caught:
        enrol(folder)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_folder_without_photos(folder: Path):
    (folder / "empty").mkdir()
    for name, message in (("empty", "contains no photo"), ("none", "is not a folder"), ("anna.png", "is not a folder")):
        with pytest.raises(DeidError, match=f"{name}: {message}"):
            enrol(folder / name)


def test_threshold_by_number_of_photos():
    assert MEASURED[0][1] == SAME_PERSON
    thresholds = [threshold_for(number) for number in (1, 2, 10, 100, 10**9)]
    assert thresholds[0] == known_people.MIN_THRESHOLD > MEASURED[1][1] > SAME_PERSON
    assert thresholds[2] == pytest.approx(0.9563)  # 1e-5 for every photo of ten
    assert thresholds == sorted(thresholds)
    assert thresholds[-1] <= 1
    assert "\n" not in known_people.CONSENT_WARNING


def test_uncalibrated_recogniser(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert DlibRecogniser.name == CALIBRATED
    monkeypatch.setattr(FakeRecogniser, "name", "other")
    with pytest.raises(ValueError, match="required for the recogniser other"):
        enrol(folder)
    assert enrol(folder, threshold=0.8).threshold == 0.8
    for threshold in (1.5, float("nan")):
        with pytest.raises(ValueError, match="expected a cosine"):
            enrol(folder, threshold=threshold)


def test_real_face(tmp_path: Path, astronaut: np.ndarray):
    detector, recogniser = CenterFaceDetector(), DlibRecogniser()
    images.write(tmp_path / "eileen.png", astronaut[:300, 60:400])
    consent = ConsentList.from_folder(tmp_path, detector, recogniser)
    darker = (0.7 * astronaut[::2, ::2]).astype(np.uint8)
    (face,) = detector(darker)
    assert face.points is not None
    assert consent.matches(recogniser(darker, face.points))
    assert not consent.matches(recogniser(darker, face.points[[1, 0, 2, 4, 3]]))  # upside down
