"""What the gate decides becomes what stands in the picture."""

import numpy as np
import pytest

from deid_diffusion.anonymizer import _NEXT_ATTEMPT, Anonymizer
from deid_diffusion.faces.blend import FILL
from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.identity.keys import Key
from deid_diffusion.identity.pseudonyms import Pseudonyms
from deid_diffusion.identity.verify import Verdict
from deid_diffusion.options import Options

from .fake_gate import FAIL, PASS, FakeGate

FACE = DetectedFace((170.0, 60.0, 270.0, 190.0), 0.9, "given")
OTHER = DetectedFace((300.0, 300.0, 360.0, 380.0), 0.8, "given")
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


def test_a_face_that_fails_gets_all_further_candidates_in_one_batch(
    tiny_pipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = painted(tiny_pipeline, monkeypatch)
    gate = FakeGate(lambda n: FAIL if n == 0 else PASS)
    first, second = make(tiny_pipeline, gate, FACE, OTHER)(astronaut, Options(seed=3, attempts=4)).faces
    assert sizes == [2, 3]
    assert (first.action, first.attempts, second.action, second.attempts) == ("replaced", 4, "replaced", 1)
    assert first.seed in {(3 + attempt * _NEXT_ATTEMPT) % 2**63 for attempt in (1, 2, 3)}
    assert second.seed == 4


def test_where_features_are_drawn_further_candidates_need_no_further_painting(
    tiny_pipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = painted(tiny_pipeline, monkeypatch)
    gate = FakeGate(lambda n: FAIL if n == 0 else PASS)
    tiny_pipeline.register_to_config(draws_features=True)
    (face,) = make(tiny_pipeline, gate, FACE)(astronaut, Options(seed=3, attempts=4)).faces
    tiny_pipeline.register_to_config(draws_features=False)
    assert (face.action, face.attempts, runs) == ("replaced", 4, [1])
    assert not np.array_equal(gate.seen[1], gate.seen[2])


def test_of_those_that_pass_the_one_nearest_in_attributes_is_taken(
    tiny_pipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = FakeGate(lambda n: FAIL if n in (0, 2) else PASS)
    model = make(tiny_pipeline, gate, FACE)
    monkeypatch.setattr("deid_diffusion.replacement._most_alike", lambda pipeline, passed, *rest: passed[1])
    result = model(astronaut, Options(seed=3, attempts=4))
    assert result.faces[0].seed == (3 + 3 * _NEXT_ATTEMPT) % 2**63  # candidates 1 and 3 passed
    window = model.analyse(astronaut)[0].mask.window
    assert np.array_equal(np.asarray(result.image)[window], gate.seen[3])  # exactly what was judged


def test_a_face_of_which_no_candidate_passes_is_opaque_and_says_why(tiny_pipeline, astronaut: np.ndarray) -> None:
    model = make(tiny_pipeline, FakeGate(lambda n: FAIL), FACE)
    result = model(astronaut, Options(attempts=2))
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


def test_the_embedded_model_chooses_by_attributes(anonymizer: Anonymizer, astronaut: np.ndarray) -> None:
    strict = Anonymizer(anonymizer.pipeline, gate=FakeGate(lambda n: FAIL if n == 0 else PASS))
    (face,) = strict(astronaut, Options(seed=3)).faces
    assert (face.action, face.attempts) == ("replaced", 3)


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


def test_a_pseudonym_is_not_drawn_again_because_it_is_alike(tiny_pipeline, astronaut: np.ndarray, tmp_path) -> None:
    key = Pseudonyms(Key(bytes(range(32))), tmp_path / "people", dimension=8, threshold=0.9, recogniser="fake")
    gate = FakeGate(lambda n: LIKE, np.eye(8, dtype=np.float32)[0])
    (face,) = make(tiny_pipeline, gate, FACE)(astronaut, Options(pseudonyms=key)).faces
    assert (face.action, face.attempts) == ("replaced", 1)
