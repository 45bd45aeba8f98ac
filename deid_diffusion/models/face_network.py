"""FaceNetwork: a small residual network for CLIP's image side, for when there are thousands of faces, not millions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .face_warp import FaceWarp


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class FaceNetwork(nn.Module):
    """Face crops -> features in a joint space of images and texts, one for each cell of a grid.

    It sees each face as it would be on the mean face (`FaceWarp`), without its brightness and contrast, and beside that
    the brightness. So one cell is one part of every face, and thousands of faces are enough to learn from. What it is
    not told is the shape: with the mesh's displacements beside the colours, it read the sex of people who live
    elsewhere much worse. A region's feature and the whole face's are averages over the grid, so they lie in
    one space.

    Args:
        image_size: side of the square that faces are warped to, in pixels.
        stem_width: channels after the first convolution.
        widths: channels of each stage; each halves the grid once more.
        projection_dim: D, width of the joint space.
    """

    def __init__(self, image_size: int, stem_width: int, widths: Sequence[int], projection_dim: int) -> None:
        super().__init__()
        self.image_size, self.projection_dim = image_size, projection_dim
        self.warp = FaceWarp(image_size)
        layers: list[nn.Module] = [nn.Conv2d(4, stem_width, 5, 2, 2, bias=False), nn.BatchNorm2d(stem_width), nn.ReLU()]
        before = stem_width
        for width in widths:
            layers += [ResidualBlock(before, width, 2), ResidualBlock(width, width, 1)]
            before = width
        self.layers = nn.Sequential(*layers)
        # centred, or the features of all faces would point the same way and their directions would say little
        self.projection = nn.Sequential(
            nn.Conv2d(before, projection_dim, 1, bias=False), nn.BatchNorm2d(projection_dim, affine=False)
        )

    def forward(self, pixels: torch.Tensor, meshes: torch.Tensor, both_ways: bool = False) -> torch.Tensor:
        """Features of each cell of the square.

        Args:
            pixels: (B, 3, S, S) crops in -1..1.
            meshes: (B, 478, 2) crop pixels.
            both_ways: the mean of a face's features and its mirror image's. Of people whom it never saw it reads sex
                and age a little better so.

        Returns:
            (B, D, h, w).
        """
        seen = self.normalised(pixels.float(), meshes.float()).to(pixels.dtype)
        found = self.projection(self.layers(seen))
        return (found + self.projection(self.layers(seen.flip(3))).flip(3)) / 2 if both_ways else found

    def normalised(self, pixels: torch.Tensor, meshes: torch.Tensor) -> torch.Tensor:
        """(B, 4, T, T): colours without their brightness and contrast, and the brightness."""
        colours = self.warp(pixels, meshes)
        level = colours.mean((1, 2), keepdim=True)
        colours = colours - level
        colours = colours / colours.square().mean((1, 2), keepdim=True).sqrt().clamp(min=0.02)
        return self.warp.square(torch.cat([colours, level.expand(-1, 1, colours.shape[2])], 1))
