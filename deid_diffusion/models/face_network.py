"""FaceNetwork: a small residual network for CLIP's image side, for when there are thousands of faces, not millions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


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

    A vision transformer trained from nothing on thousands of faces learns next to nothing of them; a convolutional
    network does. A region's feature and the whole face's are averages over the grid, so they lie in one space.

    Args:
        image_size: side that crops are resized to, in pixels.
        stem_width: channels after the first convolution.
        widths: channels of each stage; each halves the grid once more.
        projection_dim: D, width of the joint space.
    """

    def __init__(self, image_size: int, stem_width: int, widths: Sequence[int], projection_dim: int) -> None:
        super().__init__()
        self.image_size, self.projection_dim = image_size, projection_dim
        layers: list[nn.Module] = [nn.Conv2d(3, stem_width, 5, 2, 2, bias=False), nn.BatchNorm2d(stem_width), nn.ReLU()]
        before = stem_width
        for width in widths:
            layers += [ResidualBlock(before, width, 2), ResidualBlock(width, width, 1)]
            before = width
        self.layers = nn.Sequential(*layers)
        # centred, or the features of all faces would point the same way and their directions would say little
        self.projection = nn.Sequential(
            nn.Conv2d(before, projection_dim, 1, bias=False), nn.BatchNorm2d(projection_dim, affine=False)
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, image_size, image_size), normalised as CLIP's -> (B, D, h, w)."""
        return self.projection(self.layers(pixels))
