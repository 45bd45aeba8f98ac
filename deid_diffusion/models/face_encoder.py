"""FaceEncoder: the small face network as a diffusers model, which loads, saves and travels with a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # the name must stand here: diffusers looks it up when loading

from .face_network import FaceNetwork


class FaceEncoder(FaceNetwork, ModelMixin, ConfigMixin):
    """`FaceNetwork` with diffusers' ``from_pretrained`` and ``save_pretrained``.

    Args:
        image_size: side of the square that faces are warped to, in pixels.
        stem_width: channels after the first convolution.
        widths: channels of each stage; each halves the grid once more.
        projection_dim: D, width of the joint space.
    """

    if TYPE_CHECKING:  # diffusers' part, which mypy cannot see
        config: Any
        device: torch.device
        dtype: torch.dtype
        save_pretrained: Any

    @register_to_config
    def __init__(
        self,
        image_size: int = 64,
        stem_width: int = 32,
        widths: tuple[int, ...] = (48, 96, 192),
        projection_dim: int = 192,
    ) -> None:
        super().__init__(image_size, stem_width, widths, projection_dim)
