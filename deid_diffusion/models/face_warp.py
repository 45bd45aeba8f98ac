"""FaceWarp: pictures of faces as they would be on the mean face, so that one place is one part of every face."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..faces.looks import texture_corners
from ..faces.mesh_warp import POINTS
from ..faces.semantic_map import mean_mesh


class FaceWarp(nn.Module):
    """Carries pictures from a face's mesh to the mean face's, triangle by triangle.

    The texture of active appearance models (Cootes et al., ECCV 1998). Its square is the one around the mean mesh.

    Args:
        size: T, side of the square in texels.
    """

    inside: torch.Tensor
    triangles: torch.Tensor
    shares: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        from scipy.spatial import Delaunay  # takes long to import

        points = mean_mesh(1)[:POINTS]
        mesh = Delaunay(points)
        rows = [np.linspace(low, high, size) for low, high in zip(*texture_corners(), strict=True)]
        texels = np.stack(np.meshgrid(*rows), -1).reshape(-1, 2)
        found = mesh.find_simplex(texels)
        texels, hit = texels[found >= 0], found[found >= 0]
        affine = mesh.transform[hit]
        first = np.einsum("nij,nj->ni", affine[:, :2], texels - affine[:, 2])
        shares = np.column_stack([first, 1 - first.sum(1)])
        # none of these is in a checkpoint: they follow from the mean face
        for name, value in (
            ("inside", torch.from_numpy((found >= 0).reshape(size, size))),
            ("triangles", torch.from_numpy(mesh.simplices[hit].astype(np.int64))),
            ("shares", torch.from_numpy(shares.astype(np.float32))),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: torch.Tensor, meshes: torch.Tensor) -> torch.Tensor:
        """(B, C, P) values at the P texels inside the face, of (B, C, S, S) pictures and their (B, 478, 2) meshes."""
        places = (meshes[:, self.triangles] * self.shares[..., None]).sum(2)
        grid = (2 * places + 1) / images.shape[-1] - 1
        return F.grid_sample(images, grid[:, None], padding_mode="border", align_corners=False)[:, :, 0]

    def square(self, values: torch.Tensor) -> torch.Tensor:
        """(B, C, T, T) of (B, C, P): 0 outside the face."""
        size = self.inside.shape[0]
        whole = values.new_zeros(*values.shape[:2], size * size)
        whole[:, :, self.inside.flatten()] = values
        return whole.unflatten(2, (size, size))
