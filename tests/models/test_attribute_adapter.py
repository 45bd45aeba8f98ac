from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deid_diffusion.models.attribute_adapter import AttributeAdapter


def test_token_shape() -> None:
    adapter = AttributeAdapter(feature_dim=24, num_tokens=3, bottleneck_dim=4, cross_attention_dim=32)
    assert adapter(torch.randn(5, 3, 24)).shape == (5, 3, 32)
    assert adapter.null(5).shape == (5, 3, 32)


@pytest.mark.parametrize("shape", [(5, 3, 23), (5, 2, 24), (3, 24)])
def test_other_feature_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, 24\)"):
        AttributeAdapter(feature_dim=24, num_tokens=3)(torch.zeros(shape))


def test_bottleneck_rank() -> None:
    adapter = AttributeAdapter(feature_dim=24, num_tokens=1, bottleneck_dim=4, cross_attention_dim=32)
    narrow = adapter.down(torch.eye(24)[:, None])
    assert torch.linalg.matrix_rank(narrow[:, 0] - adapter.down.bias) == 4


def test_save_and_load(tmp_path: Path) -> None:
    adapter = AttributeAdapter(feature_dim=24, num_tokens=3, bottleneck_dim=4, cross_attention_dim=32)
    adapter.save_pretrained(tmp_path)
    again = AttributeAdapter.from_pretrained(tmp_path)
    features = torch.randn(2, 3, 24)
    assert torch.equal(adapter(features), again(features))
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".json"] == [".safetensors"]


def test_weights_without_buffers(tmp_path: Path) -> None:
    adapter = AttributeAdapter(feature_dim=24, num_tokens=3)
    old = {name: value for name, value in adapter.state_dict().items() if name not in dict(adapter.named_buffers())}
    adapter.save_pretrained(tmp_path)
    save_file(old, tmp_path / "diffusion_pytorch_model.safetensors")
    again = AttributeAdapter.from_pretrained(tmp_path)
    assert torch.equal(again.erasure, torch.eye(24))
    assert float(again.phrase_scale) == 1
    assert not again.centre.any()
