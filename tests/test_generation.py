"""Generator inputs, donors, candidates and their choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.attributes.selection import make_selection
from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.compositing import FILL
from deid_diffusion.faces.face import Face, PreparedImage
from deid_diffusion.faces.semantic_map import mean_faces
from deid_diffusion.generation import (
    Candidate,
    FaceGenerator,
    GeneratorInput,
    best_candidate,
    choose_donors,
    compose,
    denoise,
    generate,
    prepare_inputs,
)
from deid_diffusion.identity.assignment import SEED_STEP
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


def inputs_of(pipeline, photo: np.ndarray, analysis: FaceAnalysis, *keep: str) -> GeneratorInput:
    image = PreparedImage(photo)
    image.faces.append(Face(image, 0, analysis.detection, make_selection(keep), analysis.mask, analysis))
    image.mask_faces()
    (inputs,) = prepare_inputs(pipeline, image.faces)
    return inputs


def generated(pipeline, inputs: GeneratorInput, seed: int = 5) -> np.ndarray | None:
    (crop,) = generate(pipeline, [inputs], [choose_donors(pipeline, inputs, seed)], [seed], Options())
    return crop


def other_face(photo: np.ndarray, face: FaceAnalysis) -> np.ndarray:
    """The photo with other pixels under the mask."""
    other, gone = photo.copy(), face.mask.full() > 0
    other[gone] = np.random.default_rng(0).integers(0, 256, (int(gone.sum()), 3), np.uint8)
    return other


def test_nothing_kept_leaves_no_trace(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    photos = astronaut, other_face(astronaut, face)
    first, second = (inputs_of(tiny_pipeline, photo, face) for photo in photos)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.features, tiny_pipeline.attribute_adapter.centre)
    assert np.array_equal(first.context, second.context)
    assert np.array_equal(first.light.coefficients, second.light.coefficients)
    assert first.camera is second.camera is first.teeth is second.teeth is None
    assert np.array_equal(*(generated(tiny_pipeline, inputs) for inputs in (first, second)))


def test_masked_pixels_act_through_listed_numbers_only(
    tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis
) -> None:
    keep = ("age", "gender", "light", "skin", "expression", "pose", "gaze")
    kept = inputs_of(tiny_pipeline, astronaut, face, *keep)
    other = inputs_of(tiny_pipeline, other_face(astronaut, face), face, *keep)
    assert not np.array_equal(kept.light.coefficients, other.light.coefficients)
    held = replace(other, features=kept.features, light=kept.light, camera=kept.camera, teeth=kept.teeth)
    assert np.array_equal(generated(tiny_pipeline, kept), generated(tiny_pipeline, held))
    assert not np.array_equal(generated(tiny_pipeline, kept), generated(tiny_pipeline, other))


def test_inputs_hold_kept_attributes_only(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    features = tiny_pipeline.encode_attributes(torch.rand(1, 3, 32, 32), [face.semantic_map])
    inputs = inputs_of(tiny_pipeline, astronaut, face, "gender")
    assert inputs.features.shape == features.shape[1:]
    assert tiny_pipeline.subspace().dimensions(["gender"]) == 1
    rank = torch.linalg.matrix_rank(inputs.features - tiny_pipeline.attribute_adapter.centre, tol=1e-4)
    assert int(rank) <= 1
    assert not np.allclose(inputs.mesh, face.map_mesh, atol=0.5)
    assert inputs_of(tiny_pipeline, astronaut, face, "pose", "gaze", "expression").mesh is face.map_mesh


def test_every_bit_of_a_seed_draws(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    inputs = inputs_of(tiny_pipeline, astronaut, face)
    donors = [choose_donors(tiny_pipeline, inputs, seed) for seed in (1, 1, 1 + 2**32, 1 + 2**62)]
    assert donors[0] == donors[1]
    assert len(set(donors)) > 1


def test_known_donors_are_shown_whatever_the_seed(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    inputs = inputs_of(tiny_pipeline, astronaut, face)
    donors = choose_donors(tiny_pipeline, inputs, 1, steady=True)
    again = choose_donors(tiny_pipeline, inputs, 99, donors)
    assert replace(again, inner=donors.inner) == donors  # teeth follow the photo's expression


def test_crops_have_at_most_three_times_the_size(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    assert face.magnification < 0.5  # of a tiny pipeline
    inputs = inputs_of(tiny_pipeline, astronaut, face, "age")
    assert inputs.context.shape == (96, 96, 3)
    assert generated(tiny_pipeline, inputs).shape == (96, 96, 3)


def test_what_the_pipeline_returns_is_pasted(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    inputs = inputs_of(tiny_pipeline, astronaut, face, "age", "light")
    composites, (mesh,) = compose(tiny_pipeline, [inputs], [choose_donors(tiny_pipeline, inputs, 1)])
    assert not np.allclose(mesh, inputs.mesh, atol=0.2)  # no map shows the original's proportions
    (picture,) = denoise(tiny_pipeline, [replace(inputs, mesh=mesh)], composites, [1], Options())
    assert np.abs(np.round(picture * 255) - generated(tiny_pipeline, inputs, 1)).max() <= 1


@pytest.mark.parametrize("value", [np.nan, 0.5])
def test_flat_or_nan_pictures_are_no_candidates(
    value: float, tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(tiny_pipeline, astronaut, face, "age")
    flat = np.full(inputs.context.shape, value, np.float32)
    monkeypatch.setattr("deid_diffusion.generation.denoise", lambda *args: [flat])
    assert generated(tiny_pipeline, inputs) is None


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


def test_only_failing_faces_get_more_candidates(
    tiny_pipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = painted(tiny_pipeline, monkeypatch)
    verifier = FakeVerifier(lambda n: FAIL if n in (0, 2) else PASS)  # the first face twice
    first, second = make(tiny_pipeline, verifier, FACE, OTHER)(astronaut, Options(seed=3, num_candidates=4)).faces
    assert sum(sizes) == 4
    assert (first.action, first.attempts, second.action, second.attempts) == ("replaced", 3, "replaced", 1)
    assert first.seed == (3 + 2 * SEED_STEP) % 2**63
    assert second.seed == 4


def test_passing_candidate_is_pasted(tiny_pipeline, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier(lambda n: FAIL if n == 0 else PASS)
    model = make(tiny_pipeline, verifier, FACE)
    result = model(astronaut, Options(seed=3, num_candidates=4))
    window = model.analyse(astronaut)[0].mask.window
    assert np.array_equal(np.asarray(result.image)[window], verifier.seen[1])
    assert not np.array_equal(verifier.seen[0], verifier.seen[1])


def test_face_without_passing_candidate_is_covered(tiny_pipeline, astronaut: np.ndarray) -> None:
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


def test_verifier_sees_final_image(tiny_pipeline, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier()
    model = make(tiny_pipeline, verifier, FACE)
    result = np.asarray(model(astronaut).image)
    assert np.array_equal(verifier.seen[0], result[model.analyse(astronaut)[0].mask.window])


LIKE = VerificationResult(0.92, None, ambiguous=True)


def test_ambiguous_face_gets_more_candidates(tiny_pipeline, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier(lambda n: PASS if n == 2 else LIKE)
    (face,) = make(tiny_pipeline, verifier, FACE)(astronaut, Options(seed=3)).faces
    assert (face.action, face.attempts, face.similarity) == ("replaced", 3, PASS.similarity)
    assert face.seed == (3 + 2 * SEED_STEP) % 2**63


def test_least_similar_of_ambiguous_candidates(tiny_pipeline, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier(lambda n: VerificationResult((0.92, 0.91, 0.93)[n], None, ambiguous=True))
    (face,) = make(tiny_pipeline, verifier, FACE)(astronaut, Options(seed=3)).faces
    assert (face.action, face.similarity) == ("replaced", 0.91)


def test_steady_face_uses_all_candidates(tiny_pipeline, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier(lambda n: PASS if n == 4 else LIKE)
    model = make(tiny_pipeline, verifier, FACE)
    options = Options(seed=3, num_candidates=6)
    image = model.prepare(astronaut, options)
    FaceGenerator(tiny_pipeline, verifier)(image.pending, options, steady=True)
    assert len(image.faces[0].candidates) == 5


def test_best_candidate() -> None:
    """The first clear one; else, of the ambiguous ones, one that shows a face, then the least similar."""
    crop = np.zeros((8, 8, 3), np.uint8)

    def candidates(*results: VerificationResult) -> list[Candidate]:
        return [Candidate(crop, k, None, result) for k, result in enumerate(results)]

    fail, clear = VerificationResult(0.99, "too like"), VerificationResult(0.5, None)
    faceless = VerificationResult(0.1, None, ambiguous=True, detected=False)
    ambiguous = [VerificationResult(value, None, ambiguous=True) for value in (0.93, 0.91)]
    assert best_candidate(candidates(fail, *ambiguous, clear, clear)).seed == 3
    assert best_candidate(candidates(fail, faceless, *ambiguous)).seed == 3
    assert best_candidate(candidates(faceless, fail)).seed == 0
    assert best_candidate(candidates(fail, fail)) is None


def test_pseudonym_keeps_donors_across_selections(tiny_pipeline, astronaut: np.ndarray, tmp_path) -> None:
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


def test_pseudonym_shared_within_batch(tiny_pipeline, astronaut: np.ndarray, tmp_path) -> None:
    """Photos are begun before the first of them has chosen who stands in the person's place."""
    key = Pseudonyms(Key(bytes(range(32))), tmp_path / "people", dimension=8, threshold=0.9, recogniser="fake")
    model = make(tiny_pipeline, FakeVerifier(lambda n: PASS, np.eye(8, dtype=np.float32)[0]), FACE)
    kept = (("gender", "age"), ("glasses",), (), ("expression",))
    images = [model.prepare(astronaut, Options(pseudonyms=key, keep=keep)) for keep in kept]
    assert all(image.faces[0].identity.donors is None for image in images)
    model.generate(images, Options(pseudonyms=key))
    assert len({replace(image.faces[0].chosen.donors, inner=0) for image in images}) == 1


def test_ambiguous_pseudonym_is_not_redrawn(tiny_pipeline, astronaut: np.ndarray, tmp_path) -> None:
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


def test_callback_after_each_step_of_each_run(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    steps: list[tuple[int, int]] = []

    def callback(pipeline, step: int, timestep, tensors: dict) -> None:
        steps.append((step + 1, pipeline.num_timesteps))

    tiny(astronaut, Options(seed=1, num_inference_steps=5), callback_on_step_end=callback)
    assert steps == [(1, 3), (2, 3), (3, 3)]
    steps.clear()
    tiny.verifier = FakeVerifier(lambda n: FAIL)
    options = Options(seed=1, num_inference_steps=4, num_candidates=3)
    tiny(astronaut, options, callback_on_step_end=callback)
    assert steps == [(1, 2), (2, 2)] * 3


def test_callback_changes_nothing(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    plain = tiny(astronaut, Options(seed=1))
    watched = tiny(astronaut, Options(seed=1), callback_on_step_end=lambda *args: None)
    assert np.array_equal(np.asarray(plain.image), np.asarray(watched.image))


def test_callback_error_ends_the_call(tiny: Anonymizer, astronaut: np.ndarray) -> None:
    """It does not merely cover a face, as a stage's exception does."""

    def stop(*args) -> None:
        raise Stop("enough")

    with pytest.raises(Stop, match="enough"):
        tiny(astronaut, Options(seed=1), callback_on_step_end=stop)
    assert tiny(astronaut, Options(seed=1)).faces[0].action == "replaced"


def test_images_share_batches(tiny_pipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = painted(tiny_pipeline, monkeypatch)
    model = make(tiny_pipeline, FakeVerifier(), FACE, OTHER)
    output = model([astronaut, astronaut[:, ::-1].copy()], Options(seed=3))
    assert sizes == [4]
    assert [[face.action for face in faces] for faces in output.faces] == [["replaced"] * 2] * 2
    alone = np.asarray(model(astronaut, Options(seed=3)).image).astype(int)
    assert np.abs(np.asarray(output.images[0]) - alone).max() <= 2
