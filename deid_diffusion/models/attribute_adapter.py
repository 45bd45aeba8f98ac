"""AttributeAdapter: the attribute tokens as a diffusers model, which loads, saves and travels with a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # the name must stand here: diffusers looks it up when loading

from .attribute_tokens import AttributeTokens


class AttributeAdapter(AttributeTokens, ModelMixin, ConfigMixin):
    """`AttributeTokens` with diffusers' ``from_pretrained`` and ``save_pretrained``.

    Args:
        feature_dim: D, width of the attribute features (CLIP's joint space).
        num_tokens: N, the whole face and its regions.
        bottleneck_dim: numbers that remain of each feature.
        cross_attention_dim: W, width of the text embedding.
    """

    if TYPE_CHECKING:  # diffusers' part, which mypy cannot see
        config: Any
        device: torch.device
        dtype: torch.dtype
        save_pretrained: Any

    @register_to_config
    def __init__(
        self,
        feature_dim: int = 192,
        num_tokens: int = 6,
        bottleneck_dim: int = 16,
        cross_attention_dim: int = 192,
    ) -> None:
        super().__init__(feature_dim, num_tokens, bottleneck_dim, cross_attention_dim)
