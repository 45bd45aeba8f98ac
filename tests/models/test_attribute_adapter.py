from pathlib import Path

import pytest
import torch

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
