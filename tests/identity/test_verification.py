"""The gate lets a face pass only where nothing speaks against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.faces.analysis import FaceAnalysis, analyse_face
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.identity.recognition import ALIKE, SAME_PERSON, dlib_cohort, similarity_of_strangers
from deid_diffusion.identity.verification import FaceVerifier, VerificationResult, shows_one_face_there

FACE = Detection((176.0, 62.0, 274.0, 180.0), 0.9, "given")


class Scripted:
    """A recogniser that gives one embedding after the other."""

    name, threshold = "scripted", 0.9

    def __init__(self, *embeddings: tuple[float, float]) -> None:
        self.embeddings = [np.array(one, np.float32) for one in embeddings]

    def __call__(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        return self.embeddings.pop(0)


class Views:
    """A detector that finds other boxes in each view."""

    def __init__(self, *found: list[tuple[float, float, float, float]]) -> None:
        self.found = list(found)

    def __call__(self, image: np.ndarray) -> list[Detection]:
        points = np.array([(70, 80), (120, 80), (96, 105), (76, 130), (116, 130)], np.float32)
        return [Detection(box, 0.9, "views", points) for box in self.found.pop(0)]


HERE = (56.0, 50.0, 136.0, 150.0)


@pytest.fixture(scope="module")
def face(astronaut: np.ndarray) -> FaceAnalysis:
    return analyse_face(astronaut, FACE, FaceMesh(), 128)


def verdict(face: FaceAnalysis, picture: np.ndarray, *, before, after, cosine: float):
    other = (cosine, float(np.sqrt(1 - cosine**2)))
    verifier = FaceVerifier(Scripted((1.0, 0.0), other, (0.0, 1.0)), Views(before, after, []))
    return verifier.verify(picture, face, verifier.reference(picture, face))


def test_other_person_passes(face: FaceAnalysis, astronaut: np.ndarray) -> None:
    found = verdict(face, astronaut, before=[HERE], after=[HERE], cosine=0.5)
    assert found.reason is None
    assert found.similarity == pytest.approx(0.5)


@pytest.mark.parametrize(("cosine", "alike"), [(0.5, False), (0.85, True)])
def test_one_that_passes_may_be_alike(face: FaceAnalysis, astronaut: np.ndarray, cosine: float, alike: bool) -> None:
    other = (cosine, float(np.sqrt(1 - cosine**2)))
    verifier = FaceVerifier(Scripted((1.0, 0.0), other), Views([HERE], [HERE]), ambiguous=0.8)
    found = verifier.verify(astronaut, face, verifier.reference(astronaut, face))
    assert (found.reason, found.ambiguous) == (None, alike)
    own = verdict(face, astronaut, before=[HERE], after=[HERE], cosine=cosine)
    assert not own.ambiguous  # a recogniser of one's own has no threshold for it


def test_ambiguous_below_threshold() -> None:
    assert FaceVerifier().ambiguous == ALIKE < SAME_PERSON


def test_thresholds_rise_with_strangers(face: FaceAnalysis, astronaut: np.ndarray) -> None:
    """As for small children: 0.95 to the original says nothing where strangers have 0.96."""

    def judged(cosine: float, strangers: float):
        other = (cosine, float(np.sqrt(1 - cosine**2)))
        verifier = FaceVerifier(Scripted((1.0, 0.0), other, (0.0, 1.0)), Views([HERE], [HERE], []))
        return verifier.verify(astronaut, face, replace(verifier.reference(astronaut, face), strangers=strangers))

    assert judged(0.95, 0.7).reason is not None
    assert judged(0.95, 0.96) == VerificationResult(pytest.approx(0.95), None, True)
    assert not judged(0.92, 0.96).ambiguous
    assert judged(0.97, 0.96).reason is not None


def test_similarity_of_strangers_in_reference(face: FaceAnalysis, astronaut: np.ndarray) -> None:
    original = FaceVerifier().reference(astronaut, face)
    assert original.embedding is not None
    assert original.strangers == similarity_of_strangers(original.embedding, dlib_cohort())
    assert FaceVerifier(Scripted((1.0, 0.0)), Views([HERE])).reference(astronaut, face).strangers == -1


@pytest.mark.parametrize("cosine", [0.95, float("nan")])
def test_the_same_person_does_not(face: FaceAnalysis, astronaut: np.ndarray, cosine: float) -> None:
    found = verdict(face, astronaut, before=[HERE], after=[HERE], cosine=cosine)
    assert "too like the original" in found.reason


@pytest.mark.parametrize(
    ("without", "seen", "passes"),
    [(0.96, [], True), (0.94, [], False), (0.99, [], False), (0.96, [HERE], False), (float("nan"), [], False)],
)
def test_similarity_without_face_excuses(
    face: FaceAnalysis, astronaut: np.ndarray, without: float, seen: list, passes: bool
) -> None:
    """But not where that still shows a face, or the original itself: then the mask missed it."""
    cosines = [(cosine, 0.0) for cosine in (0.95, without)]
    verifier = FaceVerifier(Scripted((1.0, 0.0), *cosines), Views([HERE], [HERE], seen))
    assert (verifier.verify(astronaut, face, verifier.reference(astronaut, face)).reason is None) == passes


def test_empty_view_shows_no_face(face: FaceAnalysis, astronaut: np.ndarray) -> None:
    original = FaceVerifier(Scripted((1.0, 0.0)), Views([HERE])).reference(astronaut, face)
    other = astronaut.copy()
    other[face.mask.full() > 0] = 7
    again = FaceVerifier(Scripted((1.0, 0.0)), Views([HERE])).reference(other, face)
    assert np.abs(original.empty.astype(int) - again.empty).max() <= 1
    assert original.empty[96, 96].astype(int).sum() > 30


def test_two_faces_do_not(face: FaceAnalysis, astronaut: np.ndarray) -> None:
    after = [HERE, (60.0, 60.0, 120.0, 140.0)]
    assert "two faces" in verdict(face, astronaut, before=[HERE], after=after, cosine=0.5).reason


@pytest.mark.parametrize("elsewhere", [(96.0, 50.0, 176.0, 150.0), (86.0, 90.0, 106.0, 110.0)])
def test_misplaced_face_is_compared_twice(
    face: FaceAnalysis, astronaut: np.ndarray, elsewhere: tuple[float, float, float, float]
) -> None:
    for one, other, passes in ((0.5, 0.6, True), (0.95, 0.5, False), (0.5, 0.95, False), (0.5, float("nan"), False)):
        cosines = [(cosine, 0.0) for cosine in (one, other)]
        verifier = FaceVerifier(Scripted((1.0, 0.0), *cosines, (0.0, 1.0)), Views([HERE], [elsewhere], []))
        found = verifier.verify(astronaut, face, verifier.reference(astronaut, face))
        assert (found.reason is None) == passes
        assert passes == (found.ambiguous and not found.detected)


def test_undetected_face_is_compared_in_place(face: FaceAnalysis, astronaut: np.ndarray) -> None:
    unseen = verdict(face, astronaut, before=[HERE], after=[], cosine=0.5)
    assert (unseen.reason, unseen.ambiguous, unseen.detected) == (None, True, False)  # another candidate is tried
    assert "too like" in verdict(face, astronaut, before=[HERE], after=[], cosine=0.95).reason


def test_face_undetected_before_need_not_be_detected(face: FaceAnalysis, astronaut: np.ndarray) -> None:
    assert verdict(face, astronaut, before=[], after=[], cosine=0.5).reason is None
    assert "too like" in verdict(face, astronaut, before=[], after=[], cosine=0.95).reason


def test_astronaut_matches_itself(face: FaceAnalysis, astronaut: np.ndarray) -> None:
    verifier = FaceVerifier()
    original = verifier.reference(astronaut, face)
    assert (original.faces, original.box is not None) == (1, True)
    assert "too like" in verifier.verify(astronaut, face, original).reason
    assert not verifier.verify(np.full_like(astronaut, 128), face, original).detected
    assert "FMR 0.001" in verifier.description


@pytest.mark.parametrize(
    ("found", "sure"),
    [([HERE], True), ([], True), ([HERE, (90.0, 60.0, 150.0, 140.0)], False), ([(90, 80, 110, 100)], False)],
)
def test_whose_embedding_it_is(face: FaceAnalysis, astronaut: np.ndarray, found: list, sure: bool) -> None:
    original = FaceVerifier(Scripted((1.0, 0.0)), Views(found)).reference(astronaut, face)
    assert shows_one_face_there(face, original) == sure
