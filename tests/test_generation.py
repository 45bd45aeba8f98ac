"""What the generator gets of a face, what it does not, and who is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deid_diffusion.anonymizer import _NEXT_ATTEMPT, Anonymizer
from deid_diffusion.attributes.selection import make_selection
from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.compositing import FILL
from deid_diffusion.faces.semantic_map import mean_faces
from deid_diffusion.generation import compose, denoise, draw_people, generate, prepare_inputs, replace_faces
from deid_diffusion.identity.keys import Key
from deid_diffusion.identity.pseudonyms import Pseudonyms
from deid_diffusion.identity.verification import VerificationResult
from deid_diffusion.options import Options
from tests.fake_verifier import FAIL, PASS, FakeVerifier

FACE = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")


@pytest.fixture
def face(tiny_pipeline, astronaut: np.ndarray) -> FaceAnalysis:
    """A face that is turned to one side."""
    mesh = mean_faces()[8] * 200 + np.array([120, 20], np.float32)
    frame = lambda crop: mesh_in(crop, mesh)  # noqa: E731
    model = Anonymizer(tiny_pipeline, detector=lambda image: [FACE], landmarker=frame, verifier=FakeVerifier())
    return model.analyse(astronaut)[0]


def mesh_in(crop: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    low, high = mesh.min(0), mesh.max(0)
    return (mesh - low) / (high - low) * 0.6 * len(crop) + 0.2 * len(crop)


def conditions(pipeline, photo: np.ndarray, face: FaceAnalysis, *keep: str):
    gone = face.mask.full() > 0
    return prepare_inputs(pipeline, [photo], [gone], [face], [make_selection(keep)])


def other_face(photo: np.ndarray, face: FaceAnalysis) -> np.ndarray:
    """The photo with other pixels under the mask."""
    other, gone = photo.copy(), face.mask.full() > 0
    other[gone] = np.random.default_rng(0).integers(0, 256, (int(gone.sum()), 3), np.uint8)
    return other


def test_nothing_kept_leaves_no_trace_of_the_face(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    photos = astronaut, other_face(astronaut, face)
    first, second = (conditions(tiny_pipeline, photo, face) for photo in photos)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.features[0], tiny_pipeline.attribute_adapter.centre)
    assert np.array_equal(first.contexts[0], second.contexts[0])
    assert np.array_equal(first.lights[0].coefficients, second.lights[0].coefficients)
    assert first.cameras == second.cameras == (None,)
    made = [generate(tiny_pipeline, given, [5], Options())[0] for given in (first, second)]
    assert np.array_equal(*made)


def test_masked_pixels_act_through_the_listed_numbers_alone(
    tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis
) -> None:
    keep = ("age", "gender", "light", "skin", "expression", "pose", "gaze")
    kept = conditions(tiny_pipeline, astronaut, face, *keep)
    other = conditions(tiny_pipeline, other_face(astronaut, face), face, *keep)
    assert not np.array_equal(kept.lights[0].coefficients, other.lights[0].coefficients)
    held = replace(other, features=kept.features, lights=kept.lights, cameras=kept.cameras)
    crops = [generate(tiny_pipeline, given, [5], Options())[0] for given in (kept, held)]
    assert np.array_equal(*crops)
    assert not np.array_equal(crops[0], generate(tiny_pipeline, other, [5], Options())[0])


def test_what_is_not_kept_is_in_no_condition(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    """Not the features as they were read, and not the mesh."""
    features = tiny_pipeline.encode_attributes(torch.rand(1, 3, 32, 32), [face.semantic_map])
    made = conditions(tiny_pipeline, astronaut, face, "gender")
    assert made.features.shape == features.shape
    assert tiny_pipeline.subspace().dimensions(["gender"]) == 1
    rank = torch.linalg.matrix_rank(made.features[0] - tiny_pipeline.attribute_adapter.centre, tol=1e-4)
    assert int(rank) <= 1
    assert not np.allclose(made.meshes[0], face.drawn, atol=0.5)
    assert conditions(tiny_pipeline, astronaut, face, "pose", "gaze", "expression").meshes[0] is face.drawn


def test_rows_keep_choices_beside_their_faces(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    gone = face.mask.full() > 0
    both = prepare_inputs(
        tiny_pipeline, [astronaut] * 2, [gone] * 2, [face] * 2, [make_selection(["age"]), make_selection(())]
    )
    swapped = both.rows([1, 0, 1])
    assert swapped.choices == (make_selection(()), make_selection(["age"]), make_selection(()))
    assert torch.equal(swapped.features[1], both.features[0])
    assert swapped.lights == (both.lights[1], both.lights[0], both.lights[1])


def test_every_bit_of_a_seed_draws(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    seeds = [1, 1, 1 + 2**32, 1 + 2**62]
    people = draw_people(tiny_pipeline, conditions(tiny_pipeline, astronaut, face).rows([0] * 4), seeds)
    assert people[0] == people[1]
    assert len(set(people)) > 1


def test_people_chosen_before_are_shown_whatever_the_seed(
    tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis
) -> None:
    given = conditions(tiny_pipeline, astronaut, face)
    (person,) = draw_people(tiny_pipeline, given, [1], steady=True)
    (again,) = draw_people(tiny_pipeline, replace(given, people=(person,)), [99])
    assert replace(again, inner=person.inner) == person  # teeth are the photo's expression's


def test_small_faces_in_the_photo_are_not_drawn_with_more_pixels_than_it_has(
    tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis
) -> None:
    assert face.magnification < 0.5  # of a tiny pipeline
    large = conditions(tiny_pipeline, astronaut, face, "age")
    assert large.contexts[0].shape == (96, 96, 3)  # at most three times as many a side
    (crop,) = generate(tiny_pipeline, large, [1], Options())
    assert crop.shape == (96, 96, 3)


def test_what_the_pipeline_returns_is_what_is_pasted(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    given = conditions(tiny_pipeline, astronaut, face, "age", "light")
    composites, meshes = compose(tiny_pipeline, given, [1])
    assert not np.allclose(meshes[0], given.meshes[0], atol=0.2)  # no map shows the original's proportions
    (picture,) = denoise(tiny_pipeline, replace(given, meshes=tuple(meshes)), composites, [1], Options())
    (crop,) = generate(tiny_pipeline, given, [1], Options())
    assert np.abs(np.round(picture * 255) - crop).max() <= 1


@pytest.mark.parametrize("value", [np.nan, 0.5])
def test_a_picture_of_nothing_is_no_face(
    value: float, tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = conditions(tiny_pipeline, astronaut, face, "age")
    flat = np.full(given.contexts[0].shape, value, np.float32)
    monkeypatch.setattr("deid_diffusion.generation.denoise", lambda *args: [flat])
    assert generate(tiny_pipeline, given, [1], Options()) == [None]


OTHER = Detection((300.0, 300.0, 360.0, 380.0), 0.9, "given")
CORE = (slice(90, 170), slice(190, 250))


def make(tiny_pipeline, verifier: FakeVerifier, *faces: Detection) -> Anonymizer:
    return Anonymizer(
        tiny_pipeline, detector=lambda image: list(faces), landmarker=lambda crop: None, verifier=verifier
    )


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
    verifier = FakeVerifier(lambda n: FAIL if n in (0, 2) else PASS)  # the first face twice
    first, second = make(tiny_pipeline, verifier, FACE, OTHER)(astronaut, Options(seed=3, num_candidates=4)).faces
    assert sum(sizes) == 4
    assert (first.action, first.attempts, second.action, second.attempts) == ("replaced", 3, "replaced", 1)
    assert first.seed == (3 + 2 * _NEXT_ATTEMPT) % 2**63
    assert second.seed == 4


def test_the_candidate_that_passed_is_what_stands_in_the_picture(tiny_pipeline, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier(lambda n: FAIL if n == 0 else PASS)
    model = make(tiny_pipeline, verifier, FACE)
    result = model(astronaut, Options(seed=3, num_candidates=4))
    window = model.analyse(astronaut)[0].mask.window
    assert np.array_equal(np.asarray(result.image)[window], verifier.seen[1])
    assert not np.array_equal(verifier.seen[0], verifier.seen[1])


def test_a_face_of_which_no_candidate_passes_is_opaque_and_says_why(tiny_pipeline, astronaut: np.ndarray) -> None:
    model = make(tiny_pipeline, FakeVerifier(lambda n: FAIL), FACE)
    result = model(astronaut, Options(num_candidates=2, fill_colour="grey"))
    (face,) = result.faces
    assert (face.action, face.seed, face.attempts, face.similarity) == ("covered", None, 2, 0.99)
    assert face.reason == FAIL.reason
    mask = model.analyse(astronaut)[0].mask.full()
    assert (np.asarray(result.image)[mask > 0] == FILL).all()


def test_one_attempt_is_one(tiny_pipeline, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier(lambda n: FAIL)
    make(tiny_pipeline, verifier, FACE)(astronaut, Options(num_candidates=1))
    assert len(verifier.seen) == 1


def test_the_gate_sees_the_picture_as_it_will_be(tiny_pipeline, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier()
    model = make(tiny_pipeline, verifier, FACE)
    result = np.asarray(model(astronaut).image)
    assert np.array_equal(verifier.seen[0], result[model.analyse(astronaut)[0].mask.window])


LIKE = VerificationResult(0.92, None, ambiguous=True)


def test_a_face_that_passes_but_is_alike_gets_other_candidates(tiny_pipeline, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier(lambda n: PASS if n == 2 else LIKE)
    (face,) = make(tiny_pipeline, verifier, FACE)(astronaut, Options(seed=3)).faces
    assert (face.action, face.attempts, face.similarity) == ("replaced", 3, PASS.similarity)
    assert face.seed == (3 + 2 * _NEXT_ATTEMPT) % 2**63


def test_of_faces_that_are_all_alike_the_least_alike_is_taken(tiny_pipeline, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier(lambda n: VerificationResult((0.92, 0.91, 0.93)[n], None, ambiguous=True))
    (face,) = make(tiny_pipeline, verifier, FACE)(astronaut, Options(seed=3)).faces
    assert (face.action, face.similarity) == ("replaced", 0.91)


def test_a_person_for_many_frames_is_sought_with_all_attempts(tiny_pipeline, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier(lambda n: PASS if n == 4 else LIKE)
    model = make(tiny_pipeline, verifier, FACE)
    begun = model.begin(astronaut, Options(seed=3, num_candidates=6))
    (made,) = replace_faces(tiny_pipeline, verifier, [begun.scene], Options(seed=3, num_candidates=6), steady=True)
    assert made[0].attempts == 5


def test_a_pseudonym_is_the_same_person_with_other_attributes(tiny_pipeline, astronaut: np.ndarray, tmp_path) -> None:
    """Who stands in somebody's place is chosen in the first photo and kept in the store, by whatever process."""
    place = (Key(bytes(range(32))), tmp_path / "people")
    known = {"dimension": 8, "threshold": 0.9, "recogniser": "fake"}
    drawn = []
    for keep in (("gender", "age"), ("glasses",), ()):
        verifier = FakeVerifier(lambda n: PASS, np.eye(8, dtype=np.float32)[0])
        model = make(tiny_pipeline, verifier, FACE)
        model(astronaut, Options(pseudonyms=Pseudonyms(*place, **known), keep=keep))
        drawn.append(Pseudonyms(*place, **known).person(np.eye(8)[0]).donors)
    assert len(drawn[0]) == 12
    assert drawn[0] == drawn[1] == drawn[2]


def test_photos_of_one_batch_show_one_person_for_a_pseudonym(tiny_pipeline, astronaut: np.ndarray, tmp_path) -> None:
    """Photos are begun before the first of them has chosen who stands in the person's place."""
    key = Pseudonyms(Key(bytes(range(32))), tmp_path / "people", dimension=8, threshold=0.9, recogniser="fake")
    model = make(tiny_pipeline, FakeVerifier(lambda n: PASS, np.eye(8, dtype=np.float32)[0]), FACE)
    kept = (("gender", "age"), ("glasses",), (), ("expression",))
    begun = [model.begin(astronaut, Options(pseudonyms=key, keep=keep)) for keep in kept]
    assert not any(photo.scene.people for photo in begun)
    shown = {replace(photo[0].donors, inner=0) for photo in model.replace(begun)}
    assert len(shown) == 1


def test_a_pseudonym_is_not_drawn_again_because_it_is_alike(tiny_pipeline, astronaut: np.ndarray, tmp_path) -> None:
    key = Pseudonyms(Key(bytes(range(32))), tmp_path / "people", dimension=8, threshold=0.9, recogniser="fake")
    verifier = FakeVerifier(lambda n: LIKE, np.eye(8, dtype=np.float32)[0])
    (face,) = make(tiny_pipeline, verifier, FACE)(astronaut, Options(pseudonyms=key)).faces
    assert (face.action, face.attempts) == ("replaced", 1)


class Stop(Exception):
    pass


@pytest.fixture
def tiny(tiny_pipeline) -> Anonymizer:
    return Anonymizer(
        tiny_pipeline, detector=lambda image: [FACE], landmarker=lambda crop: None, verifier=FakeVerifier()
    )


def test_each_step_of_each_run_is_told(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    told: list[tuple[int, int]] = []
    tiny(astronaut, Options(seed=1, num_inference_steps=5), on_step=lambda done, steps: told.append((done, steps)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    tiny.verifier = FakeVerifier(lambda n: FAIL)
    tiny(
        astronaut,
        Options(seed=1, num_inference_steps=4, num_candidates=3),
        on_step=lambda done, steps: told.append((done, steps)),
    )
    assert told == [(1, 2), (2, 2)] * 3


def test_watching_changes_nothing(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    unwatched = tiny(astronaut, Options(seed=1))
    watched = tiny(astronaut, Options(seed=1), on_step=lambda done, steps: None)
    assert np.array_equal(np.asarray(unwatched.image), np.asarray(watched.image))


def test_what_a_watcher_raises_ends_the_call(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    """It does not merely cover a face, as a station's exception does."""

    def stop(done: int, steps: int) -> None:
        raise Stop("enough")

    with pytest.raises(Stop, match="enough"):
        tiny(astronaut, Options(seed=1), on_step=stop)
    assert tiny(astronaut, Options(seed=1)).faces[0].action == "replaced"
