"""What the generator gets of a face, and what it does not."""

import numpy as np
import pytest
import torch

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.attributes.choice import choose
from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.faces.semantic_map import mean_faces
from deid_diffusion.generation import generate, read_conditions
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
    return read_conditions(pipeline, photo, gone, [face], [choose(keep)])


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
    both = read_conditions(tiny_pipeline, astronaut, gone, [face] * 2, [choose(["age"]), choose(())])
    swapped = both.rows([1, 0, 1])
    assert swapped.choices == (choose(()), choose(["age"]), choose(()))
    assert torch.equal(swapped.features[1], both.features[0])


def test_every_bit_of_a_seed_counts(tiny_pipeline, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    """Noise is made of the low 32 alone, on a CPU; proportions of all."""
    both = conditions(tiny_pipeline, astronaut, face, "age").rows([0, 0, 0])
    one, same, other = generate(tiny_pipeline, both, [1, 1, 1 + 2**32], Options())
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
