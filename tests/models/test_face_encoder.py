from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.faces.semantic_map import REGIONS, mean_mesh
from deid_diffusion.models.face_encoder import FaceEncoder


@pytest.fixture
def faces() -> tuple[torch.Tensor, torch.Tensor]:
    """Crops (2, 3, 32, 32) and meshes (2, 478, 2)."""
    mesh = torch.from_numpy(mean_mesh(32).astype(np.float32))
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), mesh.expand(2, -1, -1)


def test_save_and_load(tmp_path: Path, faces: tuple[torch.Tensor, torch.Tensor]) -> None:
    encoder = FaceEncoder(16, 8).eval()
    encoder.save_pretrained(tmp_path)
    features = FaceEncoder.from_pretrained(tmp_path)(*faces)
    assert features.shape == (2, 1 + len(REGIONS), 16)
    assert torch.equal(features, encoder(*faces))
    assert (tmp_path / "diffusion_pytorch_model.safetensors").stat().st_size < 200_000  # without the frozen trunk


def test_both_ways(faces: tuple[torch.Tensor, torch.Tensor]) -> None:
    encoder = FaceEncoder(16, 8).eval()
    assert not torch.equal(encoder(*faces), encoder(*faces, both_ways=True))
