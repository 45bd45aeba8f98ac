import numpy as np
import pytest
import torch

from deid_diffusion.faces.looks import LOOK_DIM, look_basis
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.training.look_reader import LookReader, disturbed, fit_looks, is_seen

SIZE = 32


def people(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Crops, meshes, what is known, and what is not: cheeks and nose differ from face to face, a grey chin is known."""
    meshes = np.stack([mean_mesh(SIZE) + rng.normal(0, 1, 2) for _ in range(count)]).astype(np.float32)
    looks, known = rng.normal(size=(count, 2)), rng.integers(0, 2, (count, 1)).astype(np.float32)
    crops = np.full((count, SIZE, SIZE, 3), 128.0)
    for crop, mesh, look, told in zip(crops, meshes, looks, known, strict=True):
        for point, value in ((50, look[0]), (280, look[0]), (4, look[1]), (152, 3 * told[0])):
            x, y = mesh[point].round().astype(int)
            crop[y - 2 : y + 3, x - 2 : x + 3] += 25 * value
    crops += rng.normal(0, 3, crops.shape)
    return crops.clip(0, 255).astype(np.uint8), meshes, known, looks


@pytest.fixture(scope="module")
def fitted() -> LookReader:
    found = fit_looks(*people(400, np.random.default_rng(0))[:3], 0)
    assert found["textures"].shape == (LOOK_DIM, 40, 40)
    reader = LookReader()
    reader.middle.copy_(torch.from_numpy(found["middle"]))
    reader.directions.copy_(torch.from_numpy(found["directions"]))
    return reader


def read(reader: LookReader, crops: np.ndarray, meshes: np.ndarray) -> np.ndarray:
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    return reader(images, torch.from_numpy(meshes)).numpy()[:, -2:]  # the two that tell most


def test_what_faces_differ_in_is_read_and_what_is_known_is_not(fitted: LookReader) -> None:
    crops, meshes, known, looks = people(200, np.random.default_rng(1))
    seen = read(fitted, crops, meshes)
    told = np.column_stack([seen, np.ones(len(seen))])
    for look in looks.T:
        guess = told @ np.linalg.lstsq(told, look, rcond=None)[0]
        assert np.corrcoef(guess, look)[0, 1] > 0.8
    assert max(abs(np.corrcoef(known[:, 0], one)[0, 1]) for one in seen.T) < 0.4


def test_a_look_stays_in_another_light_and_place(fitted: LookReader) -> None:
    crops, meshes, _, _ = people(100, np.random.default_rng(2))
    other = np.roll(crops, 2, axis=2).astype(float) * 0.7 + 20
    seen = read(fitted, crops, meshes)
    again = read(fitted, other.astype(np.uint8), meshes + np.float32((2, 0)))
    for one, two in zip(seen.T, again.T, strict=True):
        assert np.corrcoef(one, two)[0, 1] > 0.9


def test_what_the_package_paints_is_what_its_reader_reads() -> None:
    reader, basis = LookReader.fitted(), look_basis()
    textures = torch.from_numpy(basis["textures"])[:, reader.warp.inside]
    assert torch.allclose(textures @ reader.directions.T, torch.eye(LOOK_DIM), atol=0.3)


def test_gradients_reach_the_pictures() -> None:
    images = torch.zeros(2, 3, SIZE, SIZE).normal_().requires_grad_()
    LookReader.fitted()(images, torch.from_numpy(np.stack([mean_mesh(SIZE)] * 2))).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_a_turned_face_is_not_read() -> None:
    frontal = mean_mesh(SIZE)
    turned = frontal.copy()
    turned[1, 0] = frontal[454, 0] - 1  # the nose's tip beside the ear
    assert is_seen(frontal)
    assert not is_seen(turned)


def test_disturbed_pictures_differ_and_are_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    images, meshes = torch.rand(3, 3, 24, 24) * 2 - 1, torch.rand(3, 478, 2) * 24
    seen, moved = disturbed(images, meshes, generator)
    assert seen.shape == images.shape
    assert moved.shape == meshes.shape
    assert torch.isfinite(seen).all()
    assert not torch.allclose(seen, disturbed(images, meshes, generator)[0])
