from pathlib import Path

import numpy as np
import torch

from deid_diffusion.faces.semantic_map import REGIONS, mean_mesh
from deid_diffusion.models.face_encoder import FaceEncoder


def test_save_and_load(tmp_path: Path) -> None:
    mesh = torch.from_numpy(mean_mesh(32).astype(np.float32))
    faces = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), mesh.expand(2, -1, -1)
    encoder = FaceEncoder(16, 8).eval()
    encoder.save_pretrained(tmp_path)
    features = FaceEncoder.from_pretrained(tmp_path)(*faces)
    assert features.shape == (2, 1 + len(REGIONS), 16)
    assert torch.equal(features, encoder(*faces))
    assert not torch.equal(features, encoder(*faces, both_ways=True))
    assert (tmp_path / "diffusion_pytorch_model.safetensors").stat().st_size < 100_000  # without the trunk of 22 MB
