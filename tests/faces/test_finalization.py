import gc
import weakref

import numpy as np
import pytest

from deid_diffusion.anonymizer import AnonymizedImage, Anonymizer
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.compositing import FILL
from deid_diffusion.faces.detection import DetectionResult, EnsembleDetector
from deid_diffusion.faces.finalization import shows_face_through_alpha
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.options import Options
from tests.fake_verifier import FakeVerifier

FACE = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")
MISSED = Detection((300.0, 300.0, 360.0, 380.0), 0.8, "given")
BESIDE = Detection((285.0, 150.0, 313.0, 185.0), 0.8, "given")  # the mask of FACE reaches into it
GREY = Options(fill_colour="grey")


class Later:
    """A detector that returns other faces on every call."""

    def __init__(self, *results: list[Detection]) -> None:
        self.results, self.count = results, 0

    def __call__(self, image: np.ndarray) -> list[Detection]:
        self.count += 1
        return list(self.results[min(self.count, len(self.results)) - 1])


@pytest.fixture
def make(tiny_pipeline):
    """Make an anonymizer with a detector, by default without a mesh of any face."""
    return lambda detector, landmarker=lambda crop: None: Anonymizer(
        tiny_pipeline, detector=detector, landmarker=landmarker, verifier=FakeVerifier()
    )


def actions(result: AnonymizedImage) -> list[str]:
    return [face.action for face in result.faces]


def pixels(image: object, face: Detection) -> np.ndarray:
    x0, y0, x1, y1 = map(int, face.box)
    return np.asarray(image)[y0:y1, x0:x1]


@pytest.mark.parametrize("missed", [MISSED, BESIDE])
def test_missed_face_is_covered(make, astronaut: np.ndarray, missed: Detection) -> None:
    result = make(Later([FACE], [FACE, missed]))(astronaut, GREY)
    assert actions(result) == ["replaced", "covered"]
    assert "residual scan" in result.faces[1].reason
    assert (pixels(result.image, missed) == FILL).all()


def test_faces_revealed_by_covers(make, astronaut: np.ndarray) -> None:
    detector = Later([FACE], [MISSED], [Detection((400.0, 400.0, 450.0, 460.0), 0.7, "given")], [])
    assert len(make(detector)(astronaut, GREY).faces) == 3
    assert detector.count == 4


def test_kept_faces_are_not_covered(make, astronaut: np.ndarray) -> None:
    small = make(Later([FACE, MISSED]))(astronaut, Options(min_face=70))
    excluded = make(Later([FACE], [FACE, MISSED]))(astronaut, only=[FACE])
    assert (actions(small), actions(excluded)) == (["replaced", "kept"], ["replaced"])
    for result in (small, excluded):
        assert np.array_equal(pixels(result.image, MISSED), pixels(astronaut, MISSED))
    region = make(Later([FACE]), FaceMesh())(astronaut, Options(keep_regions=frozenset({"skin", "nose"})))
    assert actions(region) == ["replaced"]


def test_scan_runs_with_given_detections(make, astronaut: np.ndarray) -> None:
    assert actions(make(Later([FACE, MISSED]))(astronaut, detections=[FACE])) == ["replaced", "covered"]
    assert actions(make(Later([MISSED]))(astronaut, detections=[])) == ["covered"]


def test_small_kept_box_inside_face(make, astronaut: np.ndarray) -> None:
    speck = Detection((214.0, 118.0, 226.0, 132.0), 0.9, "given")
    assert actions(make(Later([speck], [FACE]))(astronaut, Options(min_face=20))) == ["kept", "covered"]


@pytest.mark.parametrize("ground", [0, 255])
def test_face_visible_through_alpha(astronaut: np.ndarray, ground: int) -> None:
    flat, alpha = np.full_like(astronaut, 255 - ground), astronaut[..., 0]

    def detector(image: np.ndarray) -> list[Detection]:
        return [FACE] if image.std() > 5 else []

    def shows(alpha: np.ndarray, known: list, min_face: int = 0) -> bool:
        return shows_face_through_alpha(detector, flat, alpha, known, min_face=min_face, only=None)

    assert shows(alpha, [])
    assert not shows(alpha, [FACE.box])
    assert not shows(alpha, [], min_face=101)
    assert not shows(np.full_like(alpha, 7), [])


def test_rotated_heads_are_searched_once(make, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the photo; with given detections, in the finished picture."""
    searches = []

    def search(self, image: np.ndarray, *, upright_only: bool = False) -> DetectionResult:
        searches.append(upright_only)
        return DetectionResult([FACE] if len(searches) == 1 else [], [])

    monkeypatch.setattr(EnsembleDetector, "search", search)
    model = make(EnsembleDetector())
    model(astronaut)
    assert searches == [False, True]
    model(astronaut, detections=[FACE])
    assert searches == [False, True, False]


@pytest.mark.parametrize("faces", [[], [FACE]])
def test_weak_detection_is_covered(make, astronaut: np.ndarray, monkeypatch, faces: list[Detection]) -> None:
    faint = Detection((400.0, 20.0, 470.0, 100.0), 0.2, "centerface")
    known_faces = []

    def confirm(photo, detection, landmarker, known):
        known_faces.append(known(FACE.box))
        return MISSED if detection is faint and not known(MISSED.box) else None

    monkeypatch.setattr(EnsembleDetector, "search", lambda self, image, **_: DetectionResult(faces, [faint]))
    monkeypatch.setattr("deid_diffusion.faces.finalization.confirm_by_mesh", confirm)
    result = make(EnsembleDetector())(astronaut, GREY)
    assert actions(result) == ["replaced"] * len(faces) + ["covered"]
    assert known_faces[0] is bool(faces)
    assert (pixels(result.image, MISSED) == FILL).all()


def test_finished_image_is_freed_at_once(make, astronaut: np.ndarray) -> None:
    """Without the garbage collector, which may run late: images are large."""
    model = make(lambda image: [FACE])
    image = model.prepare(astronaut)
    model.generate([image])
    gc.collect()
    gc.disable()
    try:
        model.finalize(image)
        reference = weakref.ref(image)
        del image
        assert reference() is None
    finally:
        gc.enable()
