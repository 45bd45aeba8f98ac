"""What the gate decides becomes what stands in the picture."""

from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.anonymizer import _NEXT_ATTEMPT, Anonymizer
from deid_diffusion.faces.blend import FILL
from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.identity.keys import Key
from deid_diffusion.identity.pseudonyms import Pseudonyms
from deid_diffusion.identity.verify import Verdict
from deid_diffusion.options import Options
from deid_diffusion.replacement import replace_faces

from .fake_gate import FAIL, PASS, FakeGate

FACE = DetectedFace((170.0, 60.0, 270.0, 190.0), 0.9, "given")
OTHER = DetectedFace((300.0, 300.0, 360.0, 380.0), 0.9, "given")
CORE = (slice(90, 170), slice(190, 250))


def make(tiny_pipeline, gate: FakeGate, *faces: DetectedFace) -> Anonymizer:
    return Anonymizer(tiny_pipeline, detector=lambda image: list(faces), landmarker=lambda crop: None, gate=gate)


def painted(pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of faces of each denoising run."""
    sizes: list[int] = []
    original = type(pipeline).__call__

    def counting(self, **given):
        sizes.append(len(given["image"]))
        return original(self, **given)

    monkeypatch.setattr(type(pipeline), "__call__", counting)
    return sizes


def test_only_faces_that_fail_get_further_candidates(
    tiny_pipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = painted(tiny_pipeline, monkeypatch)
    gate = FakeGate(lambda n: FAIL if n in (0, 2) else PASS)  # the first face twice
    first, second = make(tiny_pipeline, gate, FACE, OTHER)(astronaut, Options(seed=3, attempts=4)).faces
    assert sum(sizes) == 4
    assert (first.action, first.attempts, second.action, second.attempts) == ("replaced", 3, "replaced", 1)
    assert first.seed == (3 + 2 * _NEXT_ATTEMPT) % 2**63
    assert second.seed == 4


def test_the_candidate_that_passed_is_what_stands_in_the_picture(tiny_pipeline, astronaut: np.ndarray) -> None:
    gate = FakeGate(lambda n: FAIL if n == 0 else PASS)
    model = make(tiny_pipeline, gate, FACE)
    result = model(astronaut, Options(seed=3, attempts=4))
    window = model.analyse(astronaut)[0].mask.window
    assert np.array_equal(np.asarray(result.image)[window], gate.seen[1])
    assert not np.array_equal(gate.seen[0], gate.seen[1])


def test_a_face_of_which_no_candidate_passes_is_opaque_and_says_why(tiny_pipeline, astronaut: np.ndarray) -> None:
    model = make(tiny_pipeline, FakeGate(lambda n: FAIL), FACE)
    result = model(astronaut, Options(attempts=2, fill_colour="grey"))
    (face,) = result.faces
    assert (face.action, face.seed, face.attempts, face.similarity) == ("covered", None, 2, 0.99)
    assert face.reason == FAIL.reason
    mask = model.analyse(astronaut)[0].mask.full()
    assert (np.asarray(result.image)[mask > 0] == FILL).all()


def test_one_attempt_is_one(tiny_pipeline, astronaut: np.ndarray) -> None:
    gate = FakeGate(lambda n: FAIL)
    make(tiny_pipeline, gate, FACE)(astronaut, Options(attempts=1))
    assert len(gate.seen) == 1


def test_the_gate_sees_the_picture_as_it_will_be(tiny_pipeline, astronaut: np.ndarray) -> None:
    gate = FakeGate()
    model = make(tiny_pipeline, gate, FACE)
    result = np.asarray(model(astronaut).image)
    assert np.array_equal(gate.seen[0], result[model.analyse(astronaut)[0].mask.window])


LIKE = Verdict(0.92, None, alike=True)


def test_a_face_that_passes_but_is_alike_gets_other_candidates(tiny_pipeline, astronaut: np.ndarray) -> None:
    gate = FakeGate(lambda n: PASS if n == 2 else LIKE)
    (face,) = make(tiny_pipeline, gate, FACE)(astronaut, Options(seed=3)).faces
    assert (face.action, face.attempts, face.similarity) == ("replaced", 3, PASS.similarity)
    assert face.seed == (3 + 2 * _NEXT_ATTEMPT) % 2**63


def test_of_faces_that_are_all_alike_the_least_alike_is_taken(tiny_pipeline, astronaut: np.ndarray) -> None:
    gate = FakeGate(lambda n: Verdict((0.92, 0.91, 0.93)[n], None, alike=True))
    (face,) = make(tiny_pipeline, gate, FACE)(astronaut, Options(seed=3)).faces
    assert (face.action, face.similarity) == ("replaced", 0.91)


def test_a_person_for_many_frames_is_sought_with_all_attempts(tiny_pipeline, astronaut: np.ndarray) -> None:
    gate = FakeGate(lambda n: PASS if n == 4 else LIKE)
    model = make(tiny_pipeline, gate, FACE)
    begun = model.begin(astronaut, Options(seed=3, attempts=6))
    (made,) = replace_faces(tiny_pipeline, gate, [begun.scene], Options(seed=3, attempts=6), steady=True)
    assert made[0].attempts == 5


def test_a_pseudonym_is_the_same_person_with_other_attributes(tiny_pipeline, astronaut: np.ndarray, tmp_path) -> None:
    """Who stands in somebody's place is chosen in the first photo and kept in the store, by whatever process."""
    place = (Key(bytes(range(32))), tmp_path / "people")
    known = {"dimension": 8, "threshold": 0.9, "recogniser": "fake"}
    drawn = []
    for keep in (("gender", "age"), ("glasses",), ()):
        gate = FakeGate(lambda n: PASS, np.eye(8, dtype=np.float32)[0])
        model = make(tiny_pipeline, gate, FACE)
        model(astronaut, Options(pseudonyms=Pseudonyms(*place, **known), keep=keep))
        drawn.append(Pseudonyms(*place, **known).person(np.eye(8)[0]).donors)
    assert len(drawn[0]) == 12
    assert drawn[0] == drawn[1] == drawn[2]


def test_photos_of_one_batch_show_one_person_for_a_pseudonym(tiny_pipeline, astronaut: np.ndarray, tmp_path) -> None:
    """Photos are begun before the first of them has chosen who stands in the person's place."""
    key = Pseudonyms(Key(bytes(range(32))), tmp_path / "people", dimension=8, threshold=0.9, recogniser="fake")
    model = make(tiny_pipeline, FakeGate(lambda n: PASS, np.eye(8, dtype=np.float32)[0]), FACE)
    kept = (("gender", "age"), ("glasses",), (), ("expression",))
    begun = [model.begin(astronaut, Options(pseudonyms=key, keep=keep)) for keep in kept]
    assert not any(photo.scene.people for photo in begun)
    shown = {replace(photo[0].donors, inner=0) for photo in model.replace(begun)}
    assert len(shown) == 1


def test_a_pseudonym_is_not_drawn_again_because_it_is_alike(tiny_pipeline, astronaut: np.ndarray, tmp_path) -> None:
    key = Pseudonyms(Key(bytes(range(32))), tmp_path / "people", dimension=8, threshold=0.9, recogniser="fake")
    gate = FakeGate(lambda n: LIKE, np.eye(8, dtype=np.float32)[0])
    (face,) = make(tiny_pipeline, gate, FACE)(astronaut, Options(pseudonyms=key)).faces
    assert (face.action, face.attempts) == ("replaced", 1)
