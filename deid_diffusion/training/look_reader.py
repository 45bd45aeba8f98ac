"""Looks are found in training faces, and learned by being read again in what is painted with them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..faces.looks import LOOK_DIM, look_basis
from ..faces.measures import measure
from ..models.face_warp import FaceWarp

_GREY = (0.299, 0.587, 0.114)
_TURNED = 0.45  # `measures.FaceMeasures.yaw` beyond which half of a face is hidden
_COMPONENTS = 200  # principal components in which people are told apart
_SHAPES = 6  # principal components of meshes that tell pose and expression
_FITTED, _VIEWS = 4000, 3  # faces at most that a reader is fitted on, and disturbed views of each
_RIDGE = 1.0  # mean variances that are added to that within a person, so that looks are not fine detail alone
_TOLD = 10.0  # weight, beside that, of the variance that known attributes explain


class LookReader(nn.Module):
    """Reads the look of a face: a few numbers of its grey texture, in which people differ and photos of one do not.

    The texture is free of shape: the picture as it would be on the mean face (active appearance models; Cootes et al.,
    ECCV 1998), without its brightness and contrast. The numbers are Fisherfaces (Belhumeur et al., PAMI 1997): linear,
    with the largest variance over faces for the least under other light, blur and small errors of the mesh, and for
    little that follows from known attributes; made by
    `fit_looks`, and fixed from then on.

    Args:
        size: side of the square that holds the texture, in texels.
    """

    middle: torch.Tensor
    directions: torch.Tensor

    def __init__(self, size: int = 40) -> None:
        super().__init__()
        self.warp = FaceWarp(size)
        texels = int(self.warp.inside.sum())
        self.register_buffer("middle", torch.zeros(texels))
        self.register_buffer("directions", torch.zeros(LOOK_DIM, texels))

    @classmethod
    def fitted(cls) -> LookReader:
        """The reader of the package's own looks."""
        basis = look_basis()
        reader = cls(basis["textures"].shape[1])
        reader.middle.copy_(torch.from_numpy(basis["middle"]))
        reader.directions.copy_(torch.from_numpy(basis["directions"]))
        return reader

    def textures(self, images: torch.Tensor, meshes: torch.Tensor) -> torch.Tensor:
        """(B, P) grey textures, mean 0 and variance 1 each, of (B, 3, S, S) crops and their (B, 478, 2) meshes."""
        grey = (images * images.new_tensor(_GREY).view(1, 3, 1, 1)).sum(1, keepdim=True).float()
        values = self.warp(grey, meshes)[:, 0]
        values = values - values.mean(1, keepdim=True)
        return values / values.square().mean(1, keepdim=True).sqrt().clamp(min=0.02)

    def forward(self, images: torch.Tensor, meshes: torch.Tensor) -> torch.Tensor:
        """(B, L) looks of (B, 3, S, S) crops in -1..1 whose faces have (B, 478, 2) meshes, in crop pixels."""
        return (self.textures(images, meshes) - self.middle) @ self.directions.T


@torch.no_grad()
def fit_looks(crops: np.ndarray, meshes: np.ndarray, known: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Looks whose numbers have mean 0 and variance 1 over faces, say nothing of shape and little of known attributes.

    Args:
        crops: (N, S, S, 3) uint8 face crops.
        meshes: (N, 478, 2) crop pixels.
        known: (N, K) attributes of the faces, as numbers; what they explain is no look.
        seed: of the choice of faces and of the disturbances.

    Returns:
        What `faces.looks.look_basis` tells of, float16.
    """
    reader, rng = LookReader(), np.random.default_rng(seed)
    torch_rng = torch.Generator().manual_seed(seed)
    rows = np.array([row for row in rng.permutation(len(crops)) if is_seen(meshes[row])][:_FITTED], int)
    rows.sort()
    plain, apart = [], []
    for part in np.array_split(rows, max(1, len(rows) // 64)):
        images = torch.from_numpy(crops[part]).permute(0, 3, 1, 2).float() / 127.5 - 1
        places = torch.from_numpy(meshes[part])
        still = reader.textures(images, places)
        plain.append(still)
        apart += [reader.textures(*disturbed(images, places, torch_rng)) - still for _ in range(_VIEWS)]
    textures, within = torch.cat(plain).double(), torch.cat(apart).double()
    middle = textures.mean(0)
    textures -= middle
    shapes = torch.pca_lowrank(torch.from_numpy(meshes[rows]).flatten(1).double(), _SHAPES, niter=4)[0]
    _, sizes, shown = torch.linalg.svd(_effects(shapes, textures), full_matrices=False)
    shown = shown[sizes / sizes[0] > 1e-6]
    textures, within = (one - one @ shown.T @ shown for one in (textures, within))
    facts = torch.from_numpy(known[rows]).double()
    told = (facts - facts.mean(0)) @ _effects(facts, textures)
    _, _, basis = torch.pca_lowrank(textures, min(_COMPONENTS, len(rows) - 1), center=False, niter=4)
    spread, noise, due = ((one @ basis).T @ (one @ basis) / len(one) for one in (textures, within, told))
    noise += _TOLD * due + _RIDGE * spread.diagonal().mean() * torch.eye(len(noise), dtype=noise.dtype)
    lower = torch.linalg.inv(torch.linalg.cholesky(noise))
    _, vectors = torch.linalg.eigh(lower @ spread @ lower.T)
    directions = (basis @ lower.T @ vectors[:, -LOOK_DIM:]).T
    directions /= (textures @ directions.T).std(0)[:, None]
    patterns = torch.zeros(LOOK_DIM, *reader.warp.inside.shape, dtype=textures.dtype)
    patterns[:, reader.warp.inside] = (textures @ directions.T).T @ textures / len(textures)
    found = {"textures": patterns, "directions": directions, "middle": middle}
    return {name: one.numpy().astype(np.float16) for name, one in found.items()}


def _effects(causes: torch.Tensor, effects: torch.Tensor) -> torch.Tensor:
    """(K, P) what (N, K) causes explain of (N, P) effects of mean 0, by linear regression."""
    return torch.linalg.lstsq(causes - causes.mean(0), effects, driver="gelsd").solution


def is_seen(mesh: np.ndarray) -> bool:
    """Whether a (478, 2) mesh is turned to the camera so far that both halves of the face are seen."""
    return abs(measure(mesh).yaw) < _TURNED


def disturbed(
    images: torch.Tensor, meshes: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """What another photo of the same person might differ by: light from a side, softness, noise, a shifted mesh.

    Args:
        images: (B, 3, S, S) in -1..1.
        meshes: (B, 478, 2) crop pixels.
        generator: of all that is drawn.

    Returns:
        Of the same shapes.
    """
    count, size = len(images), images.shape[-1]

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    line = torch.linspace(-1, 1, size)
    across, down = 0.4 * draw(2, count, 1, 1, 1)
    light = across * line + down * line.view(-1, 1)
    bent = (images.clamp(-1, 1) / 2 + 0.5 + 1e-3) ** (0.3 * draw(count, 1, 1, 1)).exp() * 2 - 1
    side = int(torch.randint(size // 3, size + 1, (), generator=generator))
    soft = F.interpolate(F.interpolate(bent, (side, side), mode="bilinear", antialias=True), (size, size))
    moved = meshes + 0.012 * size * draw(count, 1, 2)
    middle = moved.mean(1, keepdim=True)
    return soft + light + 0.05 * draw(*images.shape), middle + (moved - middle) * (0.03 * draw(count, 1, 2)).exp()
