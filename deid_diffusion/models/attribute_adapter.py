"""AttributeAdapter: region features of a face become extra tokens beside the text embedding."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # the name must stand here: diffusers looks it up when loading
from torch import nn


class AttributeAdapter(ModelMixin, ConfigMixin):
    """Maps (B, N, D) attribute features to (B, N, W) tokens through a narrow bottleneck.

    The bottleneck bounds what a token can carry of a face besides its attributes. Each token gets the embedding of its
    region, so that cross-attention can tell the eyes' token from the mouth's. No attention processor is replaced: the
    tokens are appended to the text embedding, where any sampler, LoRA or ControlNet finds them.

    Args:
        feature_dim: D, width of the attribute features (CLIP's joint space).
        num_tokens: N, the whole face and its regions.
        bottleneck_dim: numbers that remain of each feature.
        cross_attention_dim: W, width of the text embedding.
    """

    @register_to_config
    def __init__(
        self, feature_dim: int = 192, num_tokens: int = 6, bottleneck_dim: int = 16, cross_attention_dim: int = 192
    ) -> None:
        super().__init__()
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
        """(B, N, D) unit features -> (B, N, W) tokens.

        Raises:
            ValueError: when N or D is not the adapter's.
        """
        expected = (self.config.num_tokens, self.config.feature_dim)
        if features.ndim != 3 or tuple(features.shape[1:]) != expected:
            raise ValueError(f"features: expected (B, {expected[0]}, {expected[1]}), got {tuple(features.shape)}")
        # Unit vectors in D dimensions have components of size 1 / sqrt(D); the bottleneck wants them of size 1.
        narrow = torch.tanh(self.down(features * features.shape[-1] ** 0.5))
        return self.up(narrow) + self.region_embedding

    def null(self, batch: int) -> torch.Tensor:
        """(batch, N, W) learned tokens that say nothing, for the negative side of guidance and for dropped faces."""
        return self.null_tokens.expand(batch, -1, -1)
