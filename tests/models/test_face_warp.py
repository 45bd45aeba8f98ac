"""Faces as they would be on the mean face."""

import numpy as np
import torch

from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.models.face_warp import FaceWarp


def ramp(size: int, across: float, down: float) -> torch.Tensor:
    """(1, 1, S, S) picture whose values are linear in the place."""
    line = torch.arange(size, dtype=torch.float32)
    return (across * line + down * line[:, None])[None, None]


def test_a_part_of_the_face_has_the_same_texel_wherever_its_mesh_lies() -> None:
    warp, mesh = FaceWarp(16), torch.from_numpy(mean_mesh(64).astype(np.float32))[None]
    moved = mesh * torch.tensor([0.8, 1.1]) + torch.tensor([5.0, -2.0])
    before = warp(ramp(64, 1, 2), mesh)[0, 0]
    after = warp(ramp(64, 1 / 0.8, 2 / 1.1), moved)[0, 0]  # the same picture, as the moved mesh has it
    assert torch.allclose(after - before, torch.full_like(before, 5 / 0.8 - 2 * 2 / 1.1), atol=1e-3)


def test_outside_the_face_the_square_is_empty() -> None:
    warp = FaceWarp(16)
    texels = int(warp.inside.sum())
    assert 0.6 * 256 < texels < 256
    square = warp.square(torch.ones(2, 3, texels))
    assert square.shape == (2, 3, 16, 16)
    assert torch.equal(square[0, 0] > 0, warp.inside)


def test_gradients_reach_the_picture() -> None:
    picture = torch.rand(1, 3, 32, 32, requires_grad=True)
    FaceWarp(8)(picture, torch.from_numpy(mean_mesh(32).astype(np.float32))[None]).sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0
