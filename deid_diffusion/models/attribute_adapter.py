"""AttributeAdapter: region features of a face, and a look that is nobody's, become tokens beside the text embedding."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # the name must stand here: diffusers looks it up when loading
from torch import nn

_LOOK_TOKENS = 2


class AttributeAdapter(ModelMixin, ConfigMixin):
    """Maps (B, N, D) attribute features through a narrow bottleneck, and (B, L) looks, to tokens.

    The bottleneck bounds what a token can carry of a face besides its attributes, and directions that tell people
    apart are erased before it. Each token gets the embedding of its region, so that cross-attention can tell the eyes'
    token from the mouth's. A look is a draw of the standard normal distribution: it says which of all the people with
    these attributes is painted, and the same look in another photo gives the same person. No attention processor is
    replaced: the tokens are appended to the text embedding, where any sampler, LoRA or ControlNet finds them.

    Args:
        feature_dim: D, width of the attribute features (CLIP's joint space).
        num_tokens: N, the whole face and its regions.
        bottleneck_dim: numbers that remain of each feature.
        cross_attention_dim: W, width of the text embedding.
        look_dim: L, numbers of a look, which becomes two tokens more; 0 for an adapter that knows none.

    Attributes:
        centre: (N, D) buffer, the mean features of the faces it was trained on.
        erasure: (D, D) buffer, removes directions of identity; the identity matrix where none was fitted.
        phrase_scale: () buffer, length of the directions between faces against those between their captions.
    """

    @register_to_config
    def __init__(
        self,
        feature_dim: int = 192,
        num_tokens: int = 6,
        bottleneck_dim: int = 16,
        cross_attention_dim: int = 192,
        look_dim: int = 0,
    ) -> None:
        super().__init__()
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
        if look_dim:
            self.looks = nn.ModuleList([_token_layers(look_dim, cross_attention_dim) for _ in range(_LOOK_TOKENS)])
            self.null_looks = nn.Parameter(torch.randn(_LOOK_TOKENS, cross_attention_dim) * 0.02)

    def forward(self, features: torch.Tensor, looks: torch.Tensor | None = None) -> torch.Tensor:
        """(B, N, D) features and (B, L) looks -> (B, N, W) tokens, or (B, N + 2, W) where the adapter knows looks.

        Looks may be None: then any person with these attributes may come.

        Raises:
            ValueError: when a shape is not the adapter's.
        """
        expected = (self.config.num_tokens, self.config.feature_dim)
        if features.ndim != 3 or tuple(features.shape[1:]) != expected:
            raise ValueError(f"features: expected (B, {expected[0]}, {expected[1]}), got {tuple(features.shape)}")
        return torch.cat([self.up(self.narrow(features)) + self.region_embedding, *self._seen(looks, features)], 1)

    def narrow(self, features: torch.Tensor) -> torch.Tensor:
        """(B, N, D) features -> (B, N, bottleneck_dim) in -1..1: all that the tokens carry of a face."""
        # Unit vectors in D dimensions have components of size 1 / sqrt(D); the bottleneck wants them of size 1.
        erased = (features - self.centre) @ self.erasure.T
        return torch.tanh(self.down(erased * features.shape[-1] ** 0.5))

    def null(self, batch: int) -> torch.Tensor:
        """Learned tokens that say nothing, for the negative side of guidance; the shape is ``forward``'s."""
        null = torch.cat([self.null_tokens, self.null_looks]) if self.config.look_dim else self.null_tokens
        return null.expand(batch, -1, -1)

    def _seen(self, looks: torch.Tensor | None, like: torch.Tensor) -> list[torch.Tensor]:
        """The looks' tokens, (B, 2, W), in a list that is empty where the adapter knows none."""
        known = self.config.look_dim
        if looks is not None and (not known or tuple(looks.shape) != (len(like), known)):
            raise ValueError(f"looks: expected ({len(like)}, {known}), got {tuple(looks.shape)}")
        if not known:
            return []
        if looks is None:
            return [self.null_looks.expand(len(like), -1, -1)]
        return [torch.stack([layers(looks) for layers in self.looks], 1)]


def _token_layers(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width), nn.LayerNorm(width))
