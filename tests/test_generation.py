"""Generator inputs, donors, candidates and their choice."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.attributes.selection import make_selection
from deid_diffusion.faces.analysis import FaceAnalysis
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
from deid_diffusion.identity.pseudonyms import Pseudonyms
from deid_diffusion.identity.verification import VerificationResult
from deid_diffusion.options import Options
from tests.failures import raising
from tests.fake_verifier import FAIL, PASS, FakeVerifier
from tests.given_faces import FACE, given_anonymizer

LIKE = VerificationResult(0.92, None, ambiguous=True)


@pytest.fixture
def face(tiny_pipeline, astronaut: np.ndarray) -> FaceAnalysis:
    """A face that is turned to one side."""
    mesh = mean_faces()[8] * 200 + np.array([120, 20], np.float32)
    model = given_anonymizer(tiny_pipeline, FACE, landmarker=lambda crop: mesh_in(crop, mesh))
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
    """Return the photo with other pixels under the mask."""
    other, masked = photo.copy(), face.mask.full() > 0
    other[masked] = np.random.default_rng(0).integers(0, 256, (int(masked.sum()), 3), np.uint8)
    return other


def test_nothing_kept_leaves_no_trace(tiny_pipeline, astronaut, face):
    photos = astronaut, other_face(astronaut, face)
    first, second = (inputs_of(tiny_pipeline, photo, face) for photo in photos)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.features, tiny_pipeline.attribute_adapter.centre)
    assert np.array_equal(first.context, second.context)
    assert np.array_equal(first.light.coefficients, second.light.coefficients)
    assert first.camera is second.camera is first.teeth is second.teeth is None
    assert np.array_equal(*(generated(tiny_pipeline, inputs) for inputs in (first, second)))


def test_masked_pixels_act_through_kept_attributes(tiny_pipeline, astronaut, face):
    keep = ("age", "gender", "light", "skin", "expression", "pose", "gaze")
    kept = inputs_of(tiny_pipeline, astronaut, face, *keep)
    other = inputs_of(tiny_pipeline, other_face(astronaut, face), face, *keep)
    assert not np.array_equal(kept.light.coefficients, other.light.coefficients)
    held = replace(other, features=kept.features, light=kept.light, camera=kept.camera, teeth=kept.teeth)
    assert np.array_equal(generated(tiny_pipeline, kept), generated(tiny_pipeline, held))
    assert not np.array_equal(generated(tiny_pipeline, kept), generated(tiny_pipeline, other))


def test_inputs_hold_kept_attributes_only(tiny_pipeline, astronaut, face):
    features = tiny_pipeline.encode_attributes(torch.rand(1, 3, 32, 32), [face.semantic_map])
    inputs = inputs_of(tiny_pipeline, astronaut, face, "gender")
    assert inputs.features.shape == features.shape[1:]
    assert tiny_pipeline.subspace().dimensions(["gender"]) == 1
    rank = torch.linalg.matrix_rank(inputs.features - tiny_pipeline.attribute_adapter.centre, tol=1e-4)
    assert int(rank) <= 1
    assert not np.allclose(inputs.mesh, face.map_mesh, atol=0.5)
    assert inputs_of(tiny_pipeline, astronaut, face, "pose", "gaze", "expression").mesh is face.map_mesh


def test_all_bits_of_seed_draw_donors(tiny_pipeline, astronaut, face):
    inputs = inputs_of(tiny_pipeline, astronaut, face)
    donors = [choose_donors(tiny_pipeline, inputs, seed) for seed in (1, 1, 1 + 2**32, 1 + 2**62)]
    assert donors[0] == donors[1]
    assert len(set(donors)) > 1


def test_known_donors_ignore_seed(tiny_pipeline, astronaut, face):
    inputs = inputs_of(tiny_pipeline, astronaut, face)
    donors = choose_donors(tiny_pipeline, inputs, 1, steady=True)
    again = choose_donors(tiny_pipeline, inputs, 99, donors)
    assert replace(again, inner=donors.inner) == donors  # teeth follow the photo's expression


def test_crop_size_is_limited(tiny_pipeline, astronaut, face):
    assert face.magnification < 0.5  # of a tiny pipeline
    inputs = inputs_of(tiny_pipeline, astronaut, face, "age")
    assert inputs.context.shape == (96, 96, 3)
    assert generated(tiny_pipeline, inputs).shape == (96, 96, 3)


def test_generate_returns_denoised_pictures(tiny_pipeline, astronaut, face):
    inputs = inputs_of(tiny_pipeline, astronaut, face, "age", "light")
    composites, (mesh,) = compose(tiny_pipeline, [inputs], [choose_donors(tiny_pipeline, inputs, 1)])
    assert not np.allclose(mesh, inputs.mesh, atol=0.2)  # no map shows the original's proportions
    (picture,) = denoise(tiny_pipeline, [replace(inputs, mesh=mesh)], composites, [1], Options())
    assert np.abs(np.round(picture * 255) - generated(tiny_pipeline, inputs, 1)).max() <= 1


@pytest.mark.parametrize("value", [np.nan, 0.5])
def test_flat_or_nan_picture_is_no_candidate(value, tiny_pipeline, astronaut, face, monkeypatch):
    inputs = inputs_of(tiny_pipeline, astronaut, face, "age")
    flat = np.full(inputs.context.shape, value, np.float32)
    monkeypatch.setattr("deid_diffusion.generation.denoise", lambda *args: [flat])
    assert generated(tiny_pipeline, inputs) is None


def test_only_failing_faces_get_more_candidates(tiny, astronaut, batch_sizes):
    tiny.verifier = FakeVerifier(lambda n: FAIL if n in (0, 2) else PASS)  # twice the face of the lower score
    first, second = tiny(astronaut, Options(seed=3, num_candidates=4)).faces
    assert sum(batch_sizes) == 4
    assert (first.action, first.attempts, second.action, second.attempts) == ("replaced", 1, "replaced", 3)
    assert first.seed == 3
    assert second.seed == (4 + 2 * SEED_STEP) % 2**63


def test_passing_candidate_is_pasted(tiny_pipeline, astronaut):
    """The verifier compares crops of the final image."""
    verifier = FakeVerifier(lambda n: FAIL if n == 0 else PASS)
    model = given_anonymizer(tiny_pipeline, FACE, verifier=verifier)
    result = model(astronaut, Options(seed=3, num_candidates=4))
    window = model.analyse(astronaut)[0].mask.window
    assert np.array_equal(np.asarray(result.image)[window], verifier.verified[1])
    assert not np.array_equal(verifier.verified[0], verifier.verified[1])


@pytest.mark.parametrize("candidates", [1, 2])
def test_face_without_passing_candidate_is_covered(tiny_pipeline, astronaut, candidates):
    model = given_anonymizer(tiny_pipeline, FACE, verifier=FakeVerifier(lambda n: FAIL))
    result = model(astronaut, Options(num_candidates=candidates, fill_colour="grey"))
    (face,) = result.faces
    assert (face.action, face.seed, face.attempts, face.similarity) == ("covered", None, candidates, 0.99)
    assert face.reason == FAIL.reason
    assert len(model.verifier.verified) == candidates
    mask = model.analyse(astronaut)[0].mask.full()
    assert (np.asarray(result.image)[mask > 0] == FILL).all()


@pytest.mark.parametrize(
    ("verdicts", "attempts", "similarity"),
    [
        ((LIKE, LIKE, PASS), 3, PASS.similarity),
        (tuple(replace(LIKE, similarity=value) for value in (0.92, 0.91, 0.93)), None, 0.91),
    ],
    ids=["clear", "least similar"],
)
def test_ambiguous_face_gets_more_candidates(tiny_pipeline, astronaut, verdicts, attempts, similarity):
    model = given_anonymizer(tiny_pipeline, FACE, verifier=FakeVerifier(lambda n: verdicts[n]))
    (face,) = model(astronaut, Options(seed=3)).faces
    assert (face.action, face.similarity) == ("replaced", similarity)
    if attempts is not None:
        assert (face.attempts, face.seed) == (attempts, (3 + 2 * SEED_STEP) % 2**63)


def test_steady_face_uses_all_candidates(tiny_pipeline, astronaut):
    verifier = FakeVerifier(lambda n: PASS if n == 4 else LIKE)
    options = Options(seed=3, num_candidates=6)
    image = given_anonymizer(tiny_pipeline, FACE, verifier=verifier).prepare(astronaut, options)
    FaceGenerator(tiny_pipeline, verifier)(image.pending, options, steady=True)
    assert len(image.faces[0].candidates) == 5


def test_best_candidate():
    """The first clear candidate; else, of the ambiguous ones, one that shows a face, then the least similar."""
    crop = np.zeros((8, 8, 3), np.uint8)

    def best(*results: VerificationResult) -> int | None:
        candidate = best_candidate([Candidate(crop, k, None, result) for k, result in enumerate(results)])
        return candidate and candidate.seed

    clear, faceless = VerificationResult(0.5, None), VerificationResult(0.1, None, ambiguous=True, detected=False)
    ambiguous = [VerificationResult(value, None, ambiguous=True) for value in (0.93, 0.91)]
    assert best(FAIL, *ambiguous, clear, clear) == 3
    assert best(FAIL, faceless, *ambiguous) == 3
    assert best(faceless, FAIL) == 0
    assert best(FAIL, FAIL) is None


@pytest.fixture
def store(key, tmp_path):
    """Open the same store of pseudonyms, as another process does."""
    return lambda: Pseudonyms(key, tmp_path / "people", dimension=8, threshold=0.9, recogniser="fake")


@pytest.fixture
def known(tiny_pipeline) -> Anonymizer:
    """Recognises the same person in every face, and finds every result ambiguous."""
    embedding = np.eye(8, dtype=np.float32)[0]
    return given_anonymizer(tiny_pipeline, FACE, verifier=FakeVerifier(lambda n: LIKE, embedding))


def test_pseudonym_keeps_donors_across_selections(known, astronaut, store):
    """Donors are chosen in the first photo and kept in the store, for all processes."""
    donors = []
    for keep in (("gender", "age"), ("glasses",), ()):
        known(astronaut, Options(pseudonyms=store(), keep=keep))
        donors.append(store().person(np.eye(8)[0]).donors)
    assert len(donors[0]) == 12
    assert donors[0] == donors[1] == donors[2]


def test_pseudonym_shared_within_batch(known, astronaut, store):
    """All photos are prepared before donors are chosen for the first."""
    options = Options(pseudonyms=store())
    keeps = (("gender", "age"), ("glasses",), (), ("expression",))
    images = [known.prepare(astronaut, replace(options, keep=keep)) for keep in keeps]
    assert all(image.faces[0].identity.donors is None for image in images)
    known.generate(images, options)
    assert len({replace(image.faces[0].chosen.donors, inner=0) for image in images}) == 1


def test_ambiguous_pseudonym_is_not_redrawn(known, astronaut, store):
    (face,) = known(astronaut, Options(pseudonyms=store())).faces
    assert (face.action, face.attempts) == ("replaced", 1)


class Stop(Exception):
    pass


def test_callback_after_each_step_of_each_run(tiny_pipeline, astronaut):
    steps: list[tuple[int, int]] = []

    def callback(pipeline, step: int, timestep, tensors: dict) -> None:
        steps.append((step + 1, pipeline.num_timesteps))

    model = given_anonymizer(tiny_pipeline, FACE)
    watched = model(astronaut, Options(seed=1, num_inference_steps=5), callback_on_step_end=callback)
    assert steps == [(1, 3), (2, 3), (3, 3)]
    plain = model(astronaut, Options(seed=1, num_inference_steps=5))
    assert np.array_equal(np.asarray(plain.image), np.asarray(watched.image))
    steps.clear()
    model.verifier = FakeVerifier(lambda n: FAIL)
    model(astronaut, Options(seed=1, num_inference_steps=4, num_candidates=3), callback_on_step_end=callback)
    assert steps == [(1, 2), (2, 2)] * 3


def test_callback_error_ends_the_call(tiny, astronaut):
    """It does not merely cover a face, as a stage's exception does."""
    with pytest.raises(Stop, match="enough"):
        tiny(astronaut, Options(seed=1), callback_on_step_end=raising(Stop("enough")))
    assert tiny(astronaut, Options(seed=1)).faces[0].action == "replaced"


def test_images_share_batches(tiny, astronaut, batch_sizes):
    output = tiny([astronaut, astronaut[:, ::-1].copy()], Options(seed=3))
    assert batch_sizes == [4]
    assert [[face.action for face in faces] for faces in output.faces] == [["replaced"] * 2] * 2
    alone = np.asarray(tiny(astronaut, Options(seed=3)).image).astype(int)
    assert np.abs(np.asarray(output.images[0]) - alone).max() <= 2
