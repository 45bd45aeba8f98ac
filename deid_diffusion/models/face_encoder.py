"""FaceEncoder: the attribute encoder's image side as a diffusers model which travels with a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # the name must stand here: diffusers looks it up when loading

from .face_network import FaceNetwork


class FaceEncoder(FaceNetwork, ModelMixin, ConfigMixin):
    """`FaceNetwork` with diffusers' ``from_pretrained`` and ``save_pretrained``; the frozen trunk is not saved.

    Args:
        projection_dim: D, width of the joint space.
        hidden_dim: width of the projection's nonlinear branch.
    """

    if TYPE_CHECKING:  # diffusers' part, which mypy cannot see
        config: Any
        device: torch.device
        dtype: torch.dtype
        save_pretrained: Any

    @register_to_config
    def __init__(self, projection_dim: int = 192, hidden_dim: int = 256) -> None:
        super().__init__(projection_dim, hidden_dim)
