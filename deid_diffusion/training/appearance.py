"""Appearance is found in training faces: what explains their textures, and how they differ beyond that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..faces.appearance import SEX, Traits, causes
from ..faces.measures import measure
from ..faces.portrait import smooth_inside
from ..faces.semantic_map import draw_semantic_map
from ..faces.skin_colour import skin_colour
from ..models.face_warp import FaceWarp

SIZE, NUMBERS = 160, 40  # texels a side, directions of each sex
_TURNED = 0.45  # `measures.FaceMeasures.yaw` beyond which half of a face is hidden
_DARK = 0.03  # least value that a logarithm is taken of
_LIGHT = 0.33  # standard deviation that parts light from features, as a share of the texture's side
_ODD = 0.07  # share of the faces that is left out because they are explained worst: hands, glasses, hair in front
_USUAL = (0.04, 0.96)  # quantiles of the causes between which enough faces are known


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
        What `faces.appearance.appearance_basis` tells of.
    """
    torch.manual_seed(seed)
    chosen = [k for k in range(len(crops)) if not rows[k].get("grey") and abs(measure(meshes[k]).yaw) < _TURNED]
    chosen = sorted(np.random.default_rng(seed).permutation(chosen)[:most].tolist())
    warp = FaceWarp(SIZE)
    values, told = [], []
    for k in chosen:
        values.append(_features(warp, crops[k], meshes[k]))
        told.append(causes(_traits(rows[k], crops[k], meshes[k]), measure(meshes[k])))
    flat, known = torch.stack(values).flatten(1), torch.from_numpy(np.stack(told))
    apart = (flat - known @ _effects(known, flat)).square().mean(1)
    usual = apart <= apart.quantile(1 - _ODD)
    flat, known = flat[usual], known[usual]
    effects = _effects(known, flat)
    rest, man = flat - known @ effects, known[:, SEX] > 0
    women, men = _components(rest[~man]), _components(rest[man])
    directions = torch.cat([women, _turned_to(women, men)])
    squares = {
        name: warp.square(one.unflatten(1, (3, -1))).permute(0, 2, 3, 1).numpy().astype(np.float16)
        for name, one in (("effects", effects), ("directions", directions))
    }
    least, most = torch.quantile(known, torch.tensor(_USUAL), dim=0).numpy()
    return {**squares, "least": least, "most": most, "inside": warp.inside.numpy()}


def _features(warp: FaceWarp, crop: np.ndarray, mesh: np.ndarray) -> torch.Tensor:
    """(3, P) logarithms of a face's texture, over those of what surrounds each texel."""
    image = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None].float() / 255
    values = warp(image, torch.from_numpy(mesh)[None]).clamp(min=_DARK).log()
    inside = warp.inside.numpy()
    light = smooth_inside(warp.square(values)[0].permute(1, 2, 0).numpy(), inside, _LIGHT)
    return values[0] - torch.from_numpy(light[inside]).T


def _effects(known: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """(C, P) least squares of (N, P) textures on their (N, C) causes."""
    return torch.linalg.lstsq(known, flat, driver="gelsd").solution


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
