"""Appearance is found in training faces: what explains their textures, and how they differ beyond that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..faces.appearance import SEX, Traits, causes
from ..faces.measures import measure
from ..faces.semantic_map import draw_semantic_map
from ..faces.skin_colour import skin_colour
from ..models.face_warp import FaceWarp

SIZE, NUMBERS = 160, 40  # texels a side, directions of each sex
_GREY = (0.299, 0.587, 0.114)
_TURNED = 0.45  # `measures.FaceMeasures.yaw` beyond which half of a face is hidden
_FLAT = 0.03  # least contrast that a texture is divided by


@torch.no_grad()
def fit_appearance(
    crops: np.ndarray, meshes: np.ndarray, rows: Sequence[Mapping[str, Any]], most: int = 10_000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Regression of textures on their causes, and principal components of what is left, of women and of men.

    Args:
        crops: (N, S, S, 3) uint8 face crops; those without colour and of turned heads are left out.
        meshes: (N, 478, 2) crop pixels.
        rows: N, with what is known of each: ``grey``, and ``predicted_male``, 0 to 1, and ``predicted_age``, in years.
        most: faces that are used.
        seed: of the choice of those, and of the components' computation.

    Returns:
        What `faces.appearance.appearance_basis` tells of, float16.
    """
    torch.manual_seed(seed)
    chosen = [k for k in range(len(crops)) if not rows[k].get("grey") and abs(measure(meshes[k]).yaw) < _TURNED]
    chosen = sorted(np.random.default_rng(seed).permutation(chosen)[:most].tolist())
    warp = FaceWarp(SIZE)
    values, told = [], []
    for k in chosen:
        image = torch.from_numpy(np.array(crops[k])).permute(2, 0, 1)[None].float() / 255
        values.append(warp(image, torch.from_numpy(meshes[k])[None])[0])
        told.append(causes(_traits(rows[k], crops[k], meshes[k]), measure(meshes[k])))
    textures = torch.stack(values)
    contrast = (textures * torch.tensor(_GREY)[:, None]).sum(1).std(1)
    colour = textures.mean(2)
    textures = (textures - colour[..., None]) / contrast.clamp(min=_FLAT)[:, None, None]
    flat, known = textures.flatten(1), torch.from_numpy(np.stack(told))
    effects = torch.linalg.lstsq(known, flat, driver="gelsd").solution
    rest, man = flat - known @ effects, known[:, SEX] > 0
    women, men = _components(rest[~man]), _components(rest[man])
    directions = torch.cat([women, _turned_to(women, men)])
    squares = {
        name: warp.square(one.unflatten(1, (3, -1))).permute(0, 2, 3, 1).numpy().astype(np.float16)
        for name, one in (("effects", effects), ("directions", directions))
    }
    middle = {"colour": colour.median(0).values, "contrast": contrast.median()}
    return {
        **squares,
        **{name: one.numpy().astype(np.float16) for name, one in middle.items()},
        "inside": warp.inside.numpy(),
    }


def _components(rest: torch.Tensor) -> torch.Tensor:
    """(NUMBERS, P) principal components of (N, P) textures, each as long as one standard deviation along it."""
    found = torch.zeros(NUMBERS, rest.shape[1])
    count = min(NUMBERS, len(rest) - 1)
    if count > 0:
        _, sizes, directions = torch.pca_lowrank(rest, count, center=False, niter=3)
        found[:count] = directions.T * sizes[:, None] / len(rest) ** 0.5
    return found


def _turned_to(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``other``'s (K, P) directions turned among themselves until they are as like ``one``'s as can be.

    So the same numbers make a woman and a man who are alike (orthogonal Procrustes; Schoenemann, 1966).
    """
    left, _, right = torch.linalg.svd(one @ other.T)
    return left @ right @ other


def _traits(row: Mapping[str, Any], crop: np.ndarray, mesh: np.ndarray) -> Traits:
    male, age = (float(row.get(name) or usual) for name, usual in (("predicted_male", 0.5), ("predicted_age", 35)))
    return Traits(2 * male - 1, age, skin_colour(crop, draw_semantic_map(mesh, len(crop))))
