"""FaceEncoder: the image side of the attribute encoder."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # the name must stand here: diffusers looks it up when loading
from torch import nn

from ..faces.landmarks import MESH_EYES
from ..faces.semantic_map import LABEL, REGIONS, draw_semantic_map, mean_mesh
from ..identity.recognition import CHIP_POINTS, fit_similarity, model_file
from .dlib_resnet import EMBEDDING_DIM, SIDE, DlibFaceNetwork, load

_FINE, _COARSE = 128, 256  # channels of the trunk's maps that regions are pooled from, finest first
_INPUTS = EMBEDDING_DIM + _FINE + _COARSE
_FINE_BLOCK, _COARSE_BLOCK = 9, 12  # index of the last residual block of each


@cache
def face_trunk() -> DlibFaceNetwork:
    """Return the frozen trunk, from the package that carries it. Raises DeidError when that is not installed."""
    return load(model_file())


class FaceEncoder(ModelMixin, ConfigMixin):
    """Encode face crops as unit-variance features of the face and its regions, in a joint space of images and texts.

    A small head is trained on a frozen trunk, dlib's recogniser, which is not saved with the model.

    Args:
        projection_dim: D, width of the joint space.
        hidden_dim: width of the projection's nonlinear branch.
    """

    if TYPE_CHECKING:  # diffusers' part, which mypy cannot see
        config: Any
        device: torch.device
        dtype: torch.dtype
        save_pretrained: Any
        from_pretrained: Any

    @register_to_config
    def __init__(self, projection_dim: int = 192, hidden_dim: int = 256) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm1d(_INPUTS, affine=False)
        self.linear = nn.Linear(_INPUTS, projection_dim, bias=False)
        self.hidden = nn.Sequential(
            nn.Linear(_INPUTS, hidden_dim), nn.GELU(), nn.Dropout(0.3), nn.Linear(hidden_dim, projection_dim)
        )
        # centred, or the features of all faces would point the same way and their directions would say little
        self.centre = nn.BatchNorm1d(projection_dim, affine=False)

    def forward(self, pixels: torch.Tensor, meshes: torch.Tensor, both_ways: bool = False) -> torch.Tensor:
        """Return the features of faces.

        Args:
            pixels: (B, 3, S, S) crops in -1..1.
            meshes: (B, 478, 2) crop pixels.
            both_ways: average a face's features and its mirror image's.

        Returns:
            (B, 1 + R, D): the whole face, then each region in the order of ``semantic_map.REGIONS``.
        """
        return self.project(self.activations(pixels, meshes, both_ways)).to(pixels.dtype)

    @torch.no_grad()
    def activations(self, pixels: torch.Tensor, meshes: torch.Tensor, both_ways: bool = False) -> torch.Tensor:
        """Return the frozen trunk's activations, (B, 1 + R, 512) float32; arguments as ``forward``."""
        chips = face_chips(pixels.float(), meshes.float())
        pooled = self._pool(chips)
        return (pooled + self._pool(chips.flip(3))) / 2 if both_ways else pooled

    def project(self, activations: torch.Tensor) -> torch.Tensor:
        """Return (B, 1 + R, D) features of (B, 1 + R, 512) activations."""
        values = _standardise(self.normalise, activations.flatten(0, 1)).to(self.linear.weight)
        projected = self.linear(values) + self.hidden(values)
        return _standardise(self.centre, projected).unflatten(0, activations.shape[:2])

    def _pool(self, chips: torch.Tensor) -> torch.Tensor:
        """Return (B, 1 + R, 512): the trunk's output beside its maps, averaged over the face and over each region."""
        trunk = face_trunk().to(chips.device)
        x = F.max_pool2d(F.relu(trunk.stem((chips - trunk.mean) / 256)), 3, stride=2)
        maps = []
        for index, block in enumerate(trunk.blocks):
            x = block(x)
            if index in (_FINE_BLOCK, _COARSE_BLOCK):
                maps.append(x)
        embedding = trunk.head(x.mean((2, 3)))
        weights = [_region_weights(grid.shape[-1]).to(grid) for grid in maps]
        pooled = [torch.einsum("bchw,rhw->brc", grid, weight) for grid, weight in zip(maps, weights, strict=True)]
        return torch.cat([embedding[:, None].expand(-1, len(weights[0]), -1), *pooled], -1)


def _standardise(layer: nn.BatchNorm1d, values: torch.Tensor) -> torch.Tensor:
    """Apply a normalisation in float32, whatever type its statistics are kept in."""
    if layer.training:
        return layer(values.float())
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return (values.float() - layer.running_mean.float()) / (layer.running_var.float() + layer.eps).sqrt()


def face_chips(pixels: torch.Tensor, meshes: torch.Tensor) -> torch.Tensor:
    """Align faces as the trunk expects them, by eyes, nose tip and mouth corners.

    Args:
        pixels: (B, 3, S, S) crops in -1..1.
        meshes: (B, 478, 2) crop pixels.

    Returns:
        (B, 3, 150, 150) in 0..255.
    """
    points = torch.stack([*(meshes[:, list(eye)].mean(1) for eye in MESH_EYES), *meshes[:, [1, 61, 291]].unbind(1)], 1)
    matrices = np.stack([fit_similarity(CHIP_POINTS, face) for face in points.detach().cpu().numpy()])
    size = pixels.shape[-1]
    rows = torch.arange(SIDE, dtype=torch.float32)
    chip = torch.stack([*torch.meshgrid(rows, rows, indexing="xy"), torch.ones(SIDE, SIDE)], -1)
    grid = torch.einsum("hwk,bjk->bhwj", chip, torch.from_numpy(matrices)).to(pixels.device)
    chips = F.grid_sample(pixels, (2 * grid + 1) / size - 1, padding_mode="border", align_corners=False)
    return (chips + 1) * 127.5


@cache
def _region_weights(grid: int) -> torch.Tensor:
    """Return (1 + R, grid, grid) weights that sum to 1: the whole face, then each region, as they lie in a chip."""
    mesh = mean_mesh(SIDE)
    points = np.stack([*(mesh[list(eye)].mean(0) for eye in MESH_EYES), *mesh[[1, 61, 291]]])
    matrix = fit_similarity(points, CHIP_POINTS)
    labels = draw_semantic_map((mesh @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32), SIDE)
    groups = [labels > 0, *(np.isin(labels, [LABEL[name] for name in names]) for names in REGIONS.values())]
    areas = F.adaptive_avg_pool2d(torch.from_numpy(np.stack(groups)).float(), grid)
    return areas / areas.sum((1, 2), keepdim=True)
