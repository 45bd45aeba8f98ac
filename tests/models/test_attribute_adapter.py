from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deid_diffusion.models.attribute_adapter import AttributeAdapter


@pytest.fixture
def adapter() -> AttributeAdapter:
    return AttributeAdapter(feature_dim=24, num_tokens=3, bottleneck_dim=4, cross_attention_dim=32)


def test_token_shape(adapter: AttributeAdapter) -> None:
    assert adapter(torch.randn(5, 3, 24)).shape == adapter.null(5).shape == (5, 3, 32)
    for shape in ((5, 3, 23), (5, 2, 24), (3, 24)):
        with pytest.raises(ValueError, match=r"expected \(B, 3, 24\)"):
            adapter(torch.zeros(shape))


def test_bottleneck_rank() -> None:
    adapter = AttributeAdapter(feature_dim=24, num_tokens=1, bottleneck_dim=4, cross_attention_dim=32)
    narrow = adapter.down(torch.eye(24)[:, None])
    assert torch.linalg.matrix_rank(narrow[:, 0] - adapter.down.bias) == 4


def test_save_and_load(adapter: AttributeAdapter, tmp_path: Path) -> None:
    adapter.save_pretrained(tmp_path)
    again = AttributeAdapter.from_pretrained(tmp_path)
    features = torch.randn(2, 3, 24)
    assert torch.equal(adapter(features), again(features))
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".json"] == [".safetensors"]


def test_weights_without_buffers(adapter: AttributeAdapter, tmp_path: Path) -> None:
    old = {name: value for name, value in adapter.state_dict().items() if name not in dict(adapter.named_buffers())}
    adapter.save_pretrained(tmp_path)
    save_file(old, tmp_path / "diffusion_pytorch_model.safetensors")
    again = AttributeAdapter.from_pretrained(tmp_path)
    assert torch.equal(again.erasure, torch.eye(24))
    assert float(again.phrase_scale) == 1
    assert not again.centre.any()
