"""What the generator gets of a face, what it does not, and who is drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.attributes.choice import choose
from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.faces.semantic_map import mean_faces
from deid_diffusion.generation import compose, denoise, draw_people, generate, read_conditions
from deid_diffusion.options import Options

from .fake_gate import FakeGate

FACE = DetectedFace((170.0, 60.0, 270.0, 190.0), 0.9, "given")


@pytest.fixture
def face(tiny_pipeline, astronaut: np.ndarray) -> FaceAnalysis:
    """A face that is turned to one side."""
    mesh = mean_faces()[8] * 200 + np.array([120, 20], np.float32)
    frame = lambda crop: mesh_in(crop, mesh)  # noqa: E731
    model = Anonymizer(tiny_pipeline, detector=lambda image: [FACE], landmarker=frame, gate=FakeGate())
    return model.analyse(astronaut)[0]


def mesh_in(crop: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    low, high = mesh.min(0), mesh.max(0)
    return (mesh - low) / (high - low) * 0.6 * len(crop) + 0.2 * len(crop)


def conditions(pipeline, photo: np.ndarray, face: FaceAnalysis, *keep: str):
    gone = face.mask.full() > 0
    return read_conditions(pipeline, [photo], [gone], [face], [choose(keep)])


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
    both = read_conditions(tiny_pipeline, [astronaut] * 2, [gone] * 2, [face] * 2, [choose(["age"]), choose(())])
    swapped = both.rows([1, 0, 1])
    assert swapped.choices == (choose(()), choose(["age"]), choose(()))
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
