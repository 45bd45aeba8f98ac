from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.faces.analysis import FaceAnalysis, analyse_face
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.identity.recognition import ALIKE, SAME_PERSON, dlib_cohort, similarity_of_strangers
from deid_diffusion.identity.verification import FaceVerifier, VerificationResult, shows_one_face_there

Box = tuple[float, float, float, float]
HERE, NAN = (56.0, 50.0, 136.0, 150.0), float("nan")
POINTS = np.array([(70, 80), (120, 80), (96, 105), (76, 130), (116, 130)], np.float32)


class Scripted:
    """A recogniser whose embeddings have given cosines to the first one, in this order."""

    name, threshold = "scripted", 0.9

    def __init__(self, *cosines: float) -> None:
        self.cosines = [1.0, *cosines]

    def __call__(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        cosine = self.cosines.pop(0)
        return np.array((cosine, np.sqrt(1 - cosine**2)), np.float32)


class Views:
    """A detector that finds other boxes in each view."""

    def __init__(self, *views: list[Box]) -> None:
        self.views = list(views)

    def __call__(self, image: np.ndarray) -> list[Detection]:
        return [Detection(box, 0.9, "views", POINTS) for box in self.views.pop(0)]


@pytest.fixture(scope="module")
def face(astronaut: np.ndarray) -> FaceAnalysis:
    return analyse_face(astronaut, Detection((176.0, 62.0, 274.0, 180.0), 0.9, "given"), FaceMesh(), 128)


@pytest.fixture
def verify(face: FaceAnalysis, astronaut: np.ndarray):
    """Verify a result by cosines to the original and boxes of faces before, after, and without the face."""

    def verify(*cosines: float, before=(HERE,), after=(HERE,), empty=(), strangers=-1.0, **options: float):
        verifier = FaceVerifier(Scripted(*cosines, 0.0), Views(before, after, empty), **options)
        return verifier.verify(astronaut, face, replace(verifier.reference(astronaut, face), strangers=strangers))

    return verify


@pytest.mark.parametrize(("cosine", "ambiguous"), [(0.5, False), (0.85, True)])
def test_other_person_passes(verify, cosine: float, ambiguous: bool) -> None:
    assert verify(cosine, ambiguous=0.8) == VerificationResult(pytest.approx(cosine), None, ambiguous)
    assert not verify(cosine).ambiguous  # a recogniser of one's own has no threshold for it


def test_ambiguous_below_threshold() -> None:
    assert FaceVerifier().ambiguous == ALIKE < SAME_PERSON


def test_thresholds_rise_with_strangers(verify) -> None:
    """Small children: 0.95 to the original says nothing where strangers have 0.96."""
    assert verify(0.95, strangers=0.7).reason is not None
    assert verify(0.95, strangers=0.96) == VerificationResult(pytest.approx(0.95), None, True)
    assert not verify(0.92, strangers=0.96).ambiguous
    assert verify(0.97, strangers=0.96).reason is not None


def test_strangers_in_reference(face: FaceAnalysis, astronaut: np.ndarray) -> None:
    original = FaceVerifier().reference(astronaut, face)
    assert original.embedding is not None
    assert original.strangers == similarity_of_strangers(original.embedding, dlib_cohort())
    assert FaceVerifier(Scripted(), Views([HERE])).reference(astronaut, face).strangers == -1


@pytest.mark.parametrize(
    ("cosine", "boxes", "words"),
    [
        (0.95, {}, "too like the original"),
        (NAN, {}, "too like the original"),
        (0.5, {"after": [HERE, (60.0, 60.0, 120.0, 140.0)]}, "two faces"),
        (0.95, {"after": []}, "too like"),
        (0.95, {"before": [], "after": []}, "too like"),
    ],
    ids=["same person", "no embedding", "two faces", "undetected", "undetected before and after"],
)
def test_refused_results(verify, cosine: float, boxes: dict[str, list[Box]], words: str) -> None:
    assert words in verify(cosine, **boxes).reason


@pytest.mark.parametrize(
    ("without", "empty", "passes"),
    [(0.96, [], True), (0.94, [], False), (0.99, [], False), (0.96, [HERE], False), (NAN, [], False)],
)
def test_similarity_without_face_excuses(verify, without: float, empty: list[Box], passes: bool) -> None:
    """Not where the picture without the face still shows a face, or the original: then the mask missed it."""
    assert (verify(0.95, without, empty=empty).reason is None) == passes


def test_empty_view_shows_no_face(face: FaceAnalysis, astronaut: np.ndarray) -> None:
    other = astronaut.copy()
    other[face.mask.full() > 0] = 7
    first, second = (
        FaceVerifier(Scripted(), Views([HERE])).reference(picture, face).empty.astype(int)
        for picture in (astronaut, other)
    )
    assert np.abs(first - second).max() <= 1
    assert first[96, 96].sum() > 30


@pytest.mark.parametrize("elsewhere", [(96.0, 50.0, 176.0, 150.0), (86.0, 90.0, 106.0, 110.0)])
@pytest.mark.parametrize(
    ("cosines", "passes"), [((0.5, 0.6), True), ((0.95, 0.5), False), ((0.5, 0.95), False), ((0.5, NAN), False)]
)
def test_misplaced_face_is_compared_twice(verify, elsewhere: Box, cosines: tuple[float, float], passes: bool) -> None:
    result = verify(*cosines, after=[elsewhere])
    assert (result.reason is None) == passes
    assert passes == (result.ambiguous and not result.detected)


def test_undetected_face(verify) -> None:
    result = verify(0.5, after=[])
    assert (result.reason, result.ambiguous, result.detected) == (None, True, False)  # another candidate is tried
    assert verify(0.5, before=[], after=[]).reason is None  # a face undetected before need not be detected


def test_astronaut_matches_itself(face: FaceAnalysis, astronaut: np.ndarray) -> None:
    verifier = FaceVerifier()
    original = verifier.reference(astronaut, face)
    assert (original.faces, original.box is not None) == (1, True)
    assert "too like" in verifier.verify(astronaut, face, original).reason
    assert not verifier.verify(np.full_like(astronaut, 128), face, original).detected
    assert "FMR 0.001" in verifier.description


@pytest.mark.parametrize(
    ("boxes", "certain"),
    [([HERE], True), ([], True), ([HERE, (90.0, 60.0, 150.0, 140.0)], False), ([(90, 80, 110, 100)], False)],
)
def test_shows_one_face_there(face: FaceAnalysis, astronaut: np.ndarray, boxes: list[Box], certain: bool) -> None:
    original = FaceVerifier(Scripted(), Views(boxes)).reference(astronaut, face)
    assert shows_one_face_there(face, original) == certain
