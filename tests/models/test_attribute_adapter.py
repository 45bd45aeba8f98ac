from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deid_diffusion.models.attribute_adapter import AttributeAdapter


def test_tokens_have_the_text_embeddings_width() -> None:
    adapter = AttributeAdapter(feature_dim=24, num_tokens=3, bottleneck_dim=4, cross_attention_dim=32)
    assert adapter(torch.randn(5, 3, 24)).shape == (5, 3, 32)
    assert adapter.null(5).shape == (5, 3, 32)


@pytest.mark.parametrize("shape", [(5, 3, 23), (5, 2, 24), (3, 24)])
def test_features_of_another_model_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, 24\)"):
        AttributeAdapter(feature_dim=24, num_tokens=3)(torch.zeros(shape))


def test_no_more_than_the_bottleneck_passes() -> None:
    adapter = AttributeAdapter(feature_dim=24, num_tokens=1, bottleneck_dim=4, cross_attention_dim=32)
    narrow = adapter.down(torch.eye(24)[:, None])
    assert torch.linalg.matrix_rank(narrow[:, 0] - adapter.down.bias) == 4


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    adapter = AttributeAdapter(feature_dim=24, num_tokens=3, bottleneck_dim=4, cross_attention_dim=32)
    adapter.save_pretrained(tmp_path)
    again = AttributeAdapter.from_pretrained(tmp_path)
    features = torch.randn(2, 3, 24)
    assert torch.equal(adapter(features), again(features))
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".json"] == [".safetensors"]


def test_looks_are_two_tokens_more_and_may_be_left_out() -> None:
    adapter = AttributeAdapter(24, 3, 4, 32, look_dim=5)
    features, looks = torch.randn(2, 3, 24), torch.randn(2, 5)
    told, anybody = adapter(features, looks), adapter(features)
    assert told.shape == anybody.shape == adapter.null(2).shape == (2, 5, 32)
    assert torch.equal(told[:, :3], anybody[:, :3])
    assert torch.equal(anybody[0, 3:], anybody[1, 3:])
    assert not torch.equal(told[0, 3:], told[1, 3:])


@pytest.mark.parametrize(("look_dim", "shape"), [(5, (2, 4)), (5, (1, 5)), (0, (2, 5))])
def test_looks_of_another_model_are_refused(look_dim: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="looks: expected"):
        AttributeAdapter(24, 3, 4, 32, look_dim)(torch.zeros(2, 3, 24), torch.zeros(shape))


def test_weights_from_before_the_buffers_still_load(tmp_path: Path) -> None:
    adapter = AttributeAdapter(feature_dim=24, num_tokens=3)
    old = {name: value for name, value in adapter.state_dict().items() if name not in dict(adapter.named_buffers())}
    adapter.save_pretrained(tmp_path)
    save_file(old, tmp_path / "diffusion_pytorch_model.safetensors")
    again = AttributeAdapter.from_pretrained(tmp_path)
    assert torch.equal(again.erasure, torch.eye(24))
    assert float(again.phrase_scale) == 1
    assert not again.centre.any()
