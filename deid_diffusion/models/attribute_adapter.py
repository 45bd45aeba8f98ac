"""AttributeAdapter: attribute features of a face become tokens beside the text embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # the name must stand here: diffusers looks it up when loading
from torch import nn


class AttributeAdapter(ModelMixin, ConfigMixin):
    """Map (B, N, D) attribute features through a narrow bottleneck to (B, N, W) tokens.

    The bottleneck bounds how much a token can carry of a face besides its attributes, and directions that tell people
    apart are erased before it. Each token gets the embedding of its region, so that cross-attention can tell the eyes'
    token from the mouth's. No attention processor is replaced: the tokens are appended to the text embedding, where any
    sampler, LoRA or ControlNet finds them.

    Args:
        feature_dim: D, width of the attribute features (CLIP's joint space).
        num_tokens: N, the whole face and its regions.
        bottleneck_dim: width of the bottleneck.
        cross_attention_dim: W, width of the text embedding.

    Attributes:
        centre: (N, D) buffer, the mean features of the faces it was trained on.
        erasure: (D, D) buffer, removes directions of identity; the identity matrix where none was fitted.
        phrase_scale: () buffer, length of the directions between faces against those between their captions.
    """

    if TYPE_CHECKING:  # diffusers' part, which mypy cannot see
        config: Any
        device: torch.device
        dtype: torch.dtype
        save_pretrained: Any
        from_pretrained: Any

    centre: torch.Tensor
    erasure: torch.Tensor
    phrase_scale: torch.Tensor

    @register_to_config
    def __init__(
        self,
        feature_dim: int = 192,
        num_tokens: int = 6,
        bottleneck_dim: int = 16,
        cross_attention_dim: int = 192,
    ) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(num_tokens, feature_dim))
        self.register_buffer("erasure", torch.eye(feature_dim))
        self.register_buffer("phrase_scale", torch.ones(()))
        self.down = nn.Linear(feature_dim, bottleneck_dim)
        self.up = nn.Sequential(
            nn.Linear(bottleneck_dim, cross_attention_dim),
            nn.SiLU(),
            nn.Linear(cross_attention_dim, cross_attention_dim),
            nn.LayerNorm(cross_attention_dim),
        )
        self.region_embedding = nn.Parameter(torch.randn(num_tokens, cross_attention_dim) * 0.02)
        self.null_tokens = nn.Parameter(torch.randn(num_tokens, cross_attention_dim) * 0.02)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the (B, N, W) tokens of (B, N, D) features. Raises ValueError for another shape."""
        expected = (self.config.num_tokens, self.config.feature_dim)
        if features.ndim != 3 or tuple(features.shape[1:]) != expected:
            raise ValueError(f"features: expected (B, {expected[0]}, {expected[1]}), got {tuple(features.shape)}")
        return self.up(self.narrow(features)) + self.region_embedding

    def narrow(self, features: torch.Tensor) -> torch.Tensor:
        """Return the (B, N, bottleneck_dim) numbers in -1..1 that the tokens of (B, N, D) features are made from."""
        # Unit vectors in D dimensions have components of size 1 / sqrt(D); the bottleneck expects size 1.
        erased = (features - self.centre) @ self.erasure.T
        return torch.tanh(self.down(erased * features.shape[-1] ** 0.5))

    def null(self, batch: int) -> torch.Tensor:
        """Return (B, N, W) learned tokens without content, for the negative side of guidance."""
        return self.null_tokens.expand(batch, -1, -1)
