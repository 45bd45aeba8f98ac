"""AttributeAdapter: the attribute tokens as a diffusers model, which loads, saves and travels with a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # the name must stand here: diffusers looks it up when loading
from torch import nn


class AttributeTokens(nn.Module):
    """Maps (B, N, D) attribute features through a narrow bottleneck to (B, N, W) tokens.

    The bottleneck bounds what a token can carry of a face besides its attributes, and directions that tell people
    apart are erased before it. Each token gets the embedding of its region, so that cross-attention can tell the eyes'
    token from the mouth's. No attention processor is replaced: the tokens are appended to the text embedding, where any
    sampler, LoRA or ControlNet finds them.

    Args:
        feature_dim: D, width of the attribute features (CLIP's joint space).
        num_tokens: N, the whole face and its regions.
        bottleneck_dim: numbers that remain of each feature.
        cross_attention_dim: W, width of the text embedding.

    Attributes:
        centre: (N, D) buffer, the mean features of the faces it was trained on.
        erasure: (D, D) buffer, removes directions of identity; the identity matrix where none was fitted.
        phrase_scale: () buffer, length of the directions between faces against those between their captions.
    """

    def __init__(self, feature_dim: int, num_tokens: int, bottleneck_dim: int, cross_attention_dim: int) -> None:
        super().__init__()
        self.feature_dim, self.num_tokens = feature_dim, num_tokens
        self.cross_attention_dim = cross_attention_dim
        self.centre: torch.Tensor
        self.erasure: torch.Tensor
        self.phrase_scale: torch.Tensor
        self.register_buffer("centre", torch.zeros(num_tokens, feature_dim))
        self.register_buffer("erasure", torch.eye(feature_dim))
        self.register_buffer("phrase_scale", torch.ones(()))
        self.down = nn.Linear(feature_dim, bottleneck_dim)
        self.up = _token_layers(bottleneck_dim, cross_attention_dim)
        self.region_embedding = nn.Parameter(torch.randn(num_tokens, cross_attention_dim) * 0.02)
        self.null_tokens = nn.Parameter(torch.randn(num_tokens, cross_attention_dim) * 0.02)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, N, D) features -> (B, N, W) tokens.

        Raises:
            ValueError: when the shape is not the adapter's.
        """
        expected = (self.num_tokens, self.feature_dim)
        if features.ndim != 3 or tuple(features.shape[1:]) != expected:
            raise ValueError(f"features: expected (B, {expected[0]}, {expected[1]}), got {tuple(features.shape)}")
        tokens: torch.Tensor = self.up(self.narrow(features)) + self.region_embedding
        return tokens

    def narrow(self, features: torch.Tensor) -> torch.Tensor:
        """(B, N, D) features -> (B, N, bottleneck_dim) in -1..1: all that the tokens carry of a face."""
        # Unit vectors in D dimensions have components of size 1 / sqrt(D); the bottleneck wants them of size 1.
        erased = (features - self.centre) @ self.erasure.T
        return torch.tanh(self.down(erased * features.shape[-1] ** 0.5))

    def null(self, batch: int) -> torch.Tensor:
        """Learned tokens that say nothing, for the negative side of guidance; the shape is ``forward``'s."""
        return self.null_tokens.expand(batch, -1, -1)


def _token_layers(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width), nn.LayerNorm(width))


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
