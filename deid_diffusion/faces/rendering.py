"""A synthetic person in a photo's light, on the photo with the original face erased."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .inpainting import blur, fill_from_surroundings
from .labels import LABEL
from .lighting import COEFFICIENTS, FaceLight, bend_highlights, fit_light, from_log
from .semantic_map import draw_semantic_map
from .texture import face_coordinates, render_texture, texture_coordinates

_EDGE = 0.018  # width of the face's soft edge, inside its silhouette, as a share of the crop's side
_RIM = 0.045  # depth, inside the silhouette, over which the face is compared with what surrounds it
_SPREAD = 0.06  # standard deviation over which the difference is carried inwards
_ALIKE = 0.12  # distance of two colours, in 0..1, up to which they belong to the same surface
_FINE = 1 / 110  # standard deviation that parts fine detail from the rest, as a share of the crop's side
_GAIN = 1.12  # detail that resampling into the photo takes away again
_SHARPEN, _BLUR = 1.2, 0.02  # most sharpening, and standard deviation of the most blur as a share of the crop's side
_GREY = 2.0  # mean difference of a pixel's channels, in levels, up to which a photo has no colours
_DOUBT = 0.04  # share of known rim under which the shift fades out


def light_texture(texture: np.ndarray, light: FaceLight) -> np.ndarray:
    """Light a texture.

    Args:
        texture: (T, T, 3) float32, logarithm of RGB without light; 0 outside the face.
        light: of the photo.

    Returns:
        (T, T, 3) float32 RGB in 0..1, continued smoothly outside the face.
    """
    size = len(texture)
    uv = texture_coordinates(size)
    inside = uv[..., 0] >= 0
    picture = np.zeros_like(texture)
    picture[inside] = bend_highlights(from_log(texture[inside] + light.at(uv[inside])).clip(0))
    return fill_from_surroundings(picture, ~inside)


def render_person(picture: np.ndarray, mesh: np.ndarray, context: np.ndarray, erased: np.ndarray) -> np.ndarray:
    """Draw a lit texture on the photo.

    What is erased is filled from its surroundings first, and the face, with a soft edge, laid over it; its rim takes
    over the colours that it meets, where they are skin's.

    Args:
        picture: (T, T, 3) float32 RGB in 0..1, from `light_texture`.
        mesh: (478, 2) crop pixels.
        context: (S, S, 3) float32 RGB in 0..1, read where nothing is erased.
        erased: (S, S) bool.

    Returns:
        (S, S, 3) float32 RGB in 0..1.
    """
    size = len(context)
    face, inside = render_texture(picture, mesh, size)
    ground = fill_from_surroundings(context, erased)
    depth = cv2.distanceTransform(np.pad(inside.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    away = ground - face
    near = np.exp(-0.5 * (np.linalg.norm(away, axis=2) / _ALIKE) ** 2)
    rim = (near * ((depth > 0) & (depth < _RIM * size))).astype(np.float32)[..., None]
    spread, known = _smooth(np.dstack([away * rim, rim]), _SPREAD * size)
    face = face + spread / (known + _DOUBT)
    weight = (depth / (_EDGE * size)).clip(0, 1)[..., None]
    weight = weight * weight * (3 - 2 * weight)
    return (ground + weight * (face - ground)).clip(0, 1).astype(np.float32)


def _smooth(both: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Blur (S, S, 4) sums and weights; return them apart."""
    smooth = blur(both, sigma)
    return smooth[..., :3], smooth[..., 3:]


@dataclass(frozen=True)
class Camera:
    """What blur and noise leave of a face's finest detail.

    Attributes:
        detail: standard deviation of luminance's fine structure over the face, as a share of its mean.
    """

    detail: float


def read_light(crop: np.ndarray, mesh: np.ndarray) -> FaceLight | None:
    """Fit light and skin tone to a face; None where hardly any skin is seen.

    Args:
        crop: (S, S, 3) uint8 RGB, the original.
        mesh: (478, 2) its pixels.
    """
    size = len(crop)
    uv = face_coordinates(mesh, size)
    skin = np.isin(draw_semantic_map(mesh, size), (LABEL["skin"], LABEL["nose"])) & (uv[..., 0] >= 0)
    if skin.sum() < 2 * COEFFICIENTS:
        return None
    return fit_light(crop[skin].astype(np.float32) / 255, uv[skin])


def read_camera(crop: np.ndarray, mesh: np.ndarray) -> Camera:
    """Measure how sharp a face is, arguments as `read_light`."""
    return Camera(_fine_detail(crop.astype(np.float32) / 255, _hull(mesh, len(crop))))


def match_camera(picture: np.ndarray, mesh: np.ndarray, mask: np.ndarray, camera: Camera) -> np.ndarray:
    """Blur or, a little, sharpen a new face until its finest detail is the original's.

    Args:
        picture: (S, S, 3) float32 RGB in 0..1.
        mesh: (478, 2) the new face's pixels.
        mask: (S, S) bool, what may be changed.
        camera: of the original.
    """
    face = _hull(mesh, len(picture))
    own = _fine_detail(picture, face)
    if own <= 1e-6:
        return picture
    wanted = _GAIN * camera.detail / own
    if wanted >= 1:
        blurred = cv2.GaussianBlur(picture, (0, 0), _FINE * len(picture))
        changed = picture + min(_SHARPEN, wanted - 1) * (picture - blurred)
    else:
        low, high, changed = 0.0, _BLUR * len(picture), picture
        for _ in range(4):
            sigma = (low + high) / 2
            changed = blur(picture, max(sigma, 0.05))
            low, high = (low, sigma) if _fine_detail(changed, face) < _GAIN * camera.detail else (sigma, high)
    return np.where(mask[..., None], changed.clip(0, 1), picture)


def keep_grey(crop: np.ndarray, context: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Take the colours out of a generated crop where the photo has none, as in black and white photographs.

    Args:
        crop: (S, S, 3) uint8 RGB, generated.
        context: (S, S, 3) uint8 RGB, the photo's crop.
        mask: (S, S) bool, True where the photo is erased and says nothing.
    """
    seen = context[~mask]
    if not len(seen) or np.ptp(seen, axis=1).mean() > _GREY:
        return crop
    return cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _hull(mesh: np.ndarray, size: int) -> np.ndarray:
    face = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(face, np.round(cv2.convexHull(mesh.astype(np.float32))[:, 0]).astype(np.int32), (1,))
    return cv2.erode(face, np.ones((5, 5), np.uint8)) > 0


def _fine_detail(picture: np.ndarray, face: np.ndarray) -> float:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    fine = grey - blur(grey, _FINE * len(grey))
    values = fine[face]
    return float(values.std() / max(float(grey[face].mean()), 0.02)) if values.size else 0.0
