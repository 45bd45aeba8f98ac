"""Finalisation: covers, the residual scan, and records."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.compositing import FILL
from deid_diffusion.faces.detection import DetectionResult, EnsembleDetector
from deid_diffusion.faces.finalization import shows_face_through_alpha
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.options import Options
from tests.fake_verifier import FakeVerifier

FACE = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")
MISSED = Detection((300.0, 300.0, 360.0, 380.0), 0.8, "given")
BESIDE = Detection((285.0, 150.0, 313.0, 185.0), 0.8, "given")  # the mask of the first one reaches into it


class Later:
    """A detector that sees other faces each time it looks."""

    def __init__(self, *looks: list[Detection]) -> None:
        self.looks, self.count = looks, 0

    def __call__(self, image: np.ndarray) -> list[Detection]:
        self.count += 1
        return list(self.looks[min(self.count, len(self.looks)) - 1])


def run(tiny_pipeline, picture: np.ndarray, detector: Later, options: Options | None = None, **given):
    model = Anonymizer(tiny_pipeline, detector=detector, landmarker=lambda crop: None, verifier=FakeVerifier())
    return model(picture, options or Options(fill_colour="grey"), **given)


def test_missed_face_is_covered(tiny_pipeline, astronaut: np.ndarray) -> None:
    for missed in (MISSED, BESIDE):
        result = run(tiny_pipeline, astronaut, Later([FACE], [FACE, missed]))
        assert [face.action for face in result.faces] == ["replaced", "covered"]
        assert "residual scan" in result.faces[1].reason
        x0, y0, x1, y1 = map(int, missed.box)
        assert (np.asarray(result.image)[y0:y1, x0:x1] == FILL).all()


def test_faces_revealed_by_covers(tiny_pipeline, astronaut: np.ndarray) -> None:
    detector = Later([FACE], [MISSED], [Detection((400.0, 400.0, 450.0, 460.0), 0.7, "given")], [])
    assert len(run(tiny_pipeline, astronaut, detector).faces) == 3
    assert detector.count == 4


def test_kept_faces_are_not_covered(tiny_pipeline, astronaut: np.ndarray) -> None:
    result = run(tiny_pipeline, astronaut, Later([FACE, MISSED]), Options(min_face=70))
    assert [face.action for face in result.faces] == ["replaced", "kept"]
    only = run(tiny_pipeline, astronaut, Later([FACE], [FACE, MISSED]), only=[FACE])
    assert [face.action for face in only.faces] == ["replaced"]
    x0, y0, x1, y1 = map(int, MISSED.box)
    for one in (result, only):
        assert np.array_equal(np.asarray(one.image)[y0:y1, x0:x1], astronaut[y0:y1, x0:x1])


def test_scan_runs_with_given_detections(tiny_pipeline, astronaut: np.ndarray) -> None:
    detector = Later([FACE, MISSED])
    result = run(tiny_pipeline, astronaut, detector, detections=[FACE])
    assert [face.action for face in result.faces] == ["replaced", "covered"]
    nobody = run(tiny_pipeline, astronaut, Later([MISSED]), detections=[])
    assert [face.action for face in nobody.faces] == ["covered"]


def test_small_kept_box_inside_face(tiny_pipeline, astronaut: np.ndarray) -> None:
    speck = Detection((214.0, 118.0, 226.0, 132.0), 0.9, "given")
    result = run(tiny_pipeline, astronaut, Later([speck], [FACE]), Options(min_face=20))
    assert [face.action for face in result.faces] == ["kept", "covered"]


def test_kept_region_is_not_missed(tiny_pipeline, astronaut: np.ndarray) -> None:
    model = Anonymizer(tiny_pipeline, detector=Later([FACE]), landmarker=FaceMesh(), verifier=FakeVerifier())
    result = model(astronaut, Options(keep_regions=frozenset({"skin", "nose"})))
    assert [face.action for face in result.faces] == ["replaced"]


@pytest.mark.parametrize("ground", [0, 255])
def test_face_visible_through_alpha(astronaut: np.ndarray, ground: int) -> None:
    flat, alpha = np.full_like(astronaut, 255 - ground), astronaut[..., 0]

    def detector(image: np.ndarray) -> list[Detection]:
        return [FACE] if image.std() > 5 else []

    wishes = {"min_face": 0, "only": None}
    assert shows_face_through_alpha(detector, flat, alpha, [], **wishes)
    assert not shows_face_through_alpha(detector, flat, alpha, [FACE.box], **wishes)
    assert not shows_face_through_alpha(detector, flat, alpha, [], min_face=101, only=None)
    assert not shows_face_through_alpha(detector, flat, np.full_like(alpha, 7), [], **wishes)


def test_heads_that_lie_are_sought_once(tiny_pipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the photo; where somebody else found its faces, in the finished picture."""
    searches = []

    def search(self, image: np.ndarray, *, upright_only: bool = False) -> DetectionResult:
        searches.append(upright_only)
        return DetectionResult([FACE] if len(searches) == 1 else [], [])

    monkeypatch.setattr(EnsembleDetector, "search", search)
    model = Anonymizer(
        tiny_pipeline, detector=EnsembleDetector(), landmarker=lambda crop: None, verifier=FakeVerifier()
    )
    model(astronaut)
    assert searches == [False, True]
    model(astronaut, detections=[FACE])
    assert searches == [False, True, False]


@pytest.mark.parametrize("faces", [[], [FACE]])
def test_confirmed_weak_detection_is_covered(
    tiny_pipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch, faces: list[Detection]
) -> None:
    faint = Detection((400.0, 20.0, 470.0, 100.0), 0.2, "centerface")
    asked = []

    def confirmed(photo, one, landmarker, known):
        asked.append(known(FACE.box))
        return MISSED if one is faint and not known(MISSED.box) else None

    monkeypatch.setattr(EnsembleDetector, "search", lambda self, image, **_: DetectionResult(faces, [faint]))
    monkeypatch.setattr("deid_diffusion.faces.finalization.confirm_by_mesh", confirmed)
    result = run(tiny_pipeline, astronaut, EnsembleDetector())
    assert [face.action for face in result.faces] == ["replaced"] * len(faces) + ["covered"]
    assert asked[0] is bool(faces)
    x0, y0, x1, y1 = map(int, MISSED.box)
    assert (np.asarray(result.image)[y0:y1, x0:x1] == FILL).all()


def test_finished_image_is_freed_at_once(tiny_pipeline, astronaut: np.ndarray) -> None:
    """Without the garbage collector, which may run late: images are large."""
    model = Anonymizer(
        tiny_pipeline, detector=lambda image: [FACE], landmarker=lambda crop: None, verifier=FakeVerifier()
    )
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
