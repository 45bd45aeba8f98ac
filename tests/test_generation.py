"""What the generator gets of a face, and what it does not."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.attributes.choice import choose
from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.faces.semantic_map import mean_faces
from deid_diffusion.generation import finish, generate, paint, read_conditions, read_traits
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


def test_nothing_kept_is_the_same_for_every_face(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    other = np.random.default_rng(0).integers(0, 256, astronaut.shape, np.uint8)
    one, two = (conditions(tiny_pipeline, photo, face) for photo in (astronaut, other))
    assert torch.equal(one.features, two.features)
    assert torch.equal(one.features[0], tiny_pipeline.attribute_adapter.centre)


def test_what_is_not_kept_is_in_no_condition(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    """Not the features as they were read, and not the mesh."""
    features = tiny_pipeline.encode_attributes(torch.rand(1, 3, 32, 32), [face.semantic_map])
    made = conditions(tiny_pipeline, astronaut, face, "gender")
    assert made.features.shape == features.shape
    assert tiny_pipeline.subspace().dimensions(["gender"]) == 1
    rank = torch.linalg.matrix_rank(made.features[0] - tiny_pipeline.attribute_adapter.centre, tol=1e-4)
    assert int(rank) == 1
    assert not np.allclose(made.meshes[0], face.drawn, atol=0.5)
    assert conditions(tiny_pipeline, astronaut, face, "pose", "gaze", "expression").meshes[0] is face.drawn


def test_rows_keep_choices_beside_their_faces(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    gone = face.mask.full() > 0
    both = read_conditions(tiny_pipeline, [astronaut] * 2, [gone] * 2, [face] * 2, [choose(["age"]), choose(())])
    swapped = both.rows([1, 0, 1])
    assert swapped.choices == (choose(()), choose(["age"]), choose(()))
    assert torch.equal(swapped.features[1], both.features[0])


def test_every_bit_of_a_seed_counts(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    """Noise is made of the low 32 alone, on a CPU; proportions of all."""
    both = conditions(tiny_pipeline, astronaut, face, "age").rows([0, 0, 0])
    crops = generate(tiny_pipeline, both, [1, 1, 1 + 2**32], Options())
    one, same, other = (crop.astype(int) for crop in crops)
    assert np.abs(one - same).max() <= 1
    assert (one != same).mean() < 0.005  # rows of a batch may be summed up in another order, and then rounded
    assert (one != other).mean() > 0.03


def test_a_pseudonym_s_portrait_sees_no_photo_and_stands_in_all(
    tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    whole = type(tiny_pipeline).__call__

    def recorded(self, **given):
        calls.append(given)
        return whole(self, **given)

    monkeypatch.setattr(type(tiny_pipeline), "__call__", recorded)
    both = conditions(tiny_pipeline, astronaut, face, "age").rows([0, 0])
    named = Options(pseudonyms=object())
    generate(tiny_pipeline, both, [1, 2], named)
    photo, portrait, joined = calls
    assert photo["start_image"] is None
    assert photo["strength"] == 1
    assert bool((portrait["mask_image"] == 1).all())
    assert portrait["attribute_features"] is None
    assert joined["start_image"].shape == photo["image"].shape
    assert joined["strength"] < 1
    other = np.random.default_rng(0).integers(0, 256, astronaut.shape, np.uint8)
    calls.clear()
    generate(tiny_pipeline, conditions(tiny_pipeline, other, face, "age").rows([0, 0]), [1, 2], named)
    assert torch.equal(calls[1]["control_image"], portrait["control_image"])
    assert not torch.equal(calls[2]["start_image"], joined["start_image"])


@pytest.fixture
def with_appearance(tiny_pipeline):
    """A pipeline whose features are drawn, as the embedded model's."""
    tiny_pipeline.register_to_config(draws_features=True)
    yield tiny_pipeline
    tiny_pipeline.register_to_config(draws_features=False)


def test_the_same_painting_does_for_people_of_other_seeds(
    with_appearance, astronaut: np.ndarray, face: FaceAnalysis
) -> None:
    both = conditions(with_appearance, astronaut, face, "age").rows([0, 0])
    painted = paint(with_appearance, both, [1, 1], Options())
    one, other = finish(with_appearance, both, painted, [1, 2])
    assert np.abs(one.astype(int) - other).mean() > 1
    assert np.array_equal(finish(with_appearance, both, painted, [1, 2])[1], other)


def test_large_faces_are_finished_with_more_pixels(with_appearance, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    assert face.magnification < 0.5  # of a tiny pipeline
    large = conditions(with_appearance, astronaut, face, "age")
    assert large.details == (2,)
    (crop,) = generate(with_appearance, large, [1], Options())
    assert crop.shape == (64, 64, 3)
    (small,) = generate(with_appearance, replace(large, details=(1,)), [1], Options())
    assert np.abs(cv2.resize(crop, (32, 32), interpolation=cv2.INTER_AREA).astype(int) - small).mean() < 20


def test_painting_of_nan_is_no_face(with_appearance, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    both = conditions(with_appearance, astronaut, face, "age")
    assert finish(with_appearance, both, np.full((1, 32, 32, 3), np.nan, np.float32), [1]) == [None]


def test_what_is_not_kept_of_sex_age_and_skin_is_not_drawn(
    with_appearance, astronaut: np.ndarray, face: FaceAnalysis
) -> None:
    other = np.random.default_rng(0).integers(0, 256, astronaut.shape, np.uint8)
    traits = [read_traits(with_appearance, conditions(with_appearance, one, face))[0] for one in (astronaut, other)]
    assert traits[0] == traits[1]
    assert (traits[0].sex, traits[0].skin) == (0.0, None)
    kept = read_traits(with_appearance, conditions(with_appearance, astronaut, face, "gender", "skin"))[0]
    assert kept.skin is not None
    gone = face.mask.full() > 0
    for word, sign in (("woman", -1), ("man", 1)):
        asked = read_conditions(with_appearance, [astronaut], [gone], [face], [choose(("age",), {"gender": word})])
        assert read_traits(with_appearance, asked)[0].sex * sign > 0.7
