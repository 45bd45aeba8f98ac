from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.faces.landmarks import FaceMesh, five_points
from deid_diffusion.identity.recognition import face_chip, model_file
from deid_diffusion.models.dlib_resnet import EMBEDDING_DIM, SIDE, DlibFaceNetwork, load


@pytest.fixture(scope="module")
def network() -> DlibFaceNetwork:
    return load(model_file())


@pytest.fixture(scope="module")
def chips(astronaut: np.ndarray) -> np.ndarray:
    """(6, 150, 150, 3) uint8: a face, its mirror image, two darker or shifted ones, and two pictures of nothing."""
    mesh = FaceMesh()(astronaut[20:220, 120:320])
    assert mesh is not None
    face = face_chip(astronaut, five_points(mesh) + np.array((120, 20), np.float32))
    noise = np.random.default_rng(0).integers(0, 256, face.shape, np.uint8)
    return np.stack([face, face[:, ::-1], face // 3, np.roll(face, 12, 0), noise, np.zeros_like(face)])


def embed(network: DlibFaceNetwork, chips: np.ndarray) -> np.ndarray:
    """Return the (N, 128) embeddings of chips (N, 150, 150, 3)."""
    with torch.inference_mode():
        return network(torch.from_numpy(chips.astype(np.float32)).permute(0, 3, 1, 2)).numpy()


def test_equals_dlib(network: DlibFaceNetwork, chips: np.ndarray) -> None:
    dlib = pytest.importorskip("dlib")
    theirs = dlib.face_recognition_model_v1(str(model_file()))
    expected = np.array([theirs.compute_face_descriptor(np.ascontiguousarray(chip)) for chip in chips])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(embed(network, chips), expected, atol=1e-5)


def test_known_embedding(network: DlibFaceNetwork) -> None:
    """Compare with dlib's own embedding of a chip of one colour, for machines without dlib."""
    embedding = embed(network, np.full((1, SIDE, SIDE, 3), (200, 150, 100), np.uint8))[0]
    assert embedding.shape == (EMBEDDING_DIM,)
    np.testing.assert_allclose(embedding[:4], (-0.048827, 0.126099, 0.046338, -0.002038), atol=1e-5)


def test_network(network: DlibFaceNetwork, chips: np.ndarray) -> None:
    alone = np.concatenate([embed(network, chip[None]) for chip in chips])
    np.testing.assert_allclose(embed(network, chips), alone, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected \(N, 3, 150, 150\), got \(1, 3, 160, 160\)"):
        network(torch.zeros(1, 3, 160, 160))
    assert not any([network.training, *(weights.requires_grad for weights in network.parameters())])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\1\0",
        lambda data: data[:300] + b"x" + data[301:],
        lambda data: b"<!DOCTYPE html>\n<p>not found",
    ],
)
def test_other_file_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "other.dat"
    path.write_bytes(damage(model_file().read_bytes()))
    with pytest.raises(ValueError, match=r"other\.dat is not dlib's face recognition network") as caught:
        load(path)
    assert "\n" not in str(caught.value)
