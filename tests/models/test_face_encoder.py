"""Our small models without diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.errors import DeidError
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.models.attribute_adapter import AttributeAdapter, AttributeTokens
from deid_diffusion.models.face_encoder import FaceEncoder, FaceNetwork, load_plain


def test_an_adapter_is_the_same_without_diffusers(tmp_path: Path) -> None:
    adapter = AttributeAdapter(24, 3, 4, 32).half().eval()
    adapter.save_pretrained(tmp_path)
    plain, features = load_plain(AttributeTokens, tmp_path), torch.randn(2, 3, 24)
    assert type(plain) is AttributeTokens
    assert torch.equal(plain(features), adapter.float()(features))
    assert torch.equal(plain.null(2), adapter.null(2))


def test_a_face_encoder_is_the_same_without_diffusers(tmp_path: Path) -> None:
    encoder = FaceEncoder(16, 8).eval()
    encoder.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 32, 32)
    mesh = torch.from_numpy(mean_mesh(32).astype(np.float32))[None]
    assert torch.equal(load_plain(FaceNetwork, tmp_path)(pixels, mesh), encoder(pixels, mesh))


def test_another_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match="no AttributeTokens can be loaded"):
        load_plain(AttributeTokens, tmp_path)
    FaceEncoder(16, 8).save_pretrained(tmp_path)
    with pytest.raises(DeidError, match="no AttributeTokens can be loaded"):
        load_plain(AttributeTokens, tmp_path)
    AttributeAdapter(24, 3, 4, 32).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_tokens": 4}))
    with pytest.raises(DeidError, match="size mismatch") as caught:
        load_plain(AttributeTokens, tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    with pytest.raises(DeidError):
        load_plain(AttributeTokens, tmp_path)
