"""A synthetic person in a photo's light, on the photo with the original face erased."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from .compositing import blur
from .landmarks import MESH_BROWS, MESH_LIPS, MESH_MOUTH, measure
from .lighting import COEFFICIENTS, FaceLight, bend_highlights, fit_light, from_log, polynomial, to_log
from .mesh_editing import EYE_CORNERS, MOUTH_CORNERS, frame
from .semantic_map import LABEL, draw_semantic_map
from .texture import face_coordinates, render_texture, texture_coordinates

_EDGE = 0.008  # standard deviation of the face's soft edge, as a share of the crop's side
_RIM = 0.04  # width of what surrounds the erased pixels and is compared with the face
_NEAR = 0.03  # standard deviation over which it tells whether the face goes on there
_SPREAD = 0.06  # standard deviation over which the difference is carried inwards
_SHADE, _HUE = 0.35, 0.09  # differences of luminance and of colour, in nats, up to which skin goes on
_UNKNOWN = 1e-3  # share of a neighbourhood under which what is beside the face is not known
_COLOURED = 0.5  # difference of colour from which dark is no hair
_ABOVE = 0.05  # height above the brows over which it begins to go on anyway, and below the mouth to end at the jaw
_FARTHEST = 0.07  # distance to the silhouette up to which it goes on
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)
_TEETH, _SMILING_TEETH = 0.13, 1.4  # height of visible teeth, in mouth widths, of a resting mouth, and more in smiles
_FLESH = np.array((1.15, 0.75, 0.75), np.float32)  # its tint beside the lips'
_DEEP, _INTO = 0.4, 0.25  # brightness of an open mouth's depth beside the lips', and share of the gap to get there
_FINE = 1 / 110  # standard deviation that parts fine detail from the rest, as a share of the crop's side
_GAIN = 1.12  # detail that resampling into the photo takes away again
_SHARPEN, _BLUR = 0.7, 0.02  # most sharpening, and standard deviation of the most blur as a share of the crop's side
_TINTED = 2.0  # mean distance, in levels, from the colour of one luminance up to which a photo has no other colours
_DOUBT = 0.015  # share of known rim under which the shift fades out


def light_texture(texture: np.ndarray, light: FaceLight) -> np.ndarray:
    """Light a texture.

    Args:
        texture: (T, T, 3) float32, logarithm of RGB without light; 0 outside the face.
        light: of the photo.

    Returns:
        (T, T, 3) float32 RGB in 0..1; outside the face what is nearest.
    """
    inside, terms, nearest = _texels(len(texture))
    return bend_highlights(from_log(texture[inside] + light.of_terms(terms)).clip(0))[nearest]


@cache
def _texels(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of (T, T) texels are on the face, (N, 6) terms of their light, and (T, T) the nearest of the N to each."""
    uv = texture_coordinates(size)
    inside = uv[..., 0] >= 0
    _, labels = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    number = np.zeros(int(labels.max()) + 1, np.int64)
    number[labels[inside]] = np.arange(int(inside.sum()))
    return inside, polynomial(uv[inside]).astype(np.float32), number[labels]


def render_person(picture: np.ndarray, mesh: np.ndarray, ground: np.ndarray, erased: np.ndarray) -> np.ndarray:
    """Draw a lit texture on the photo.

    The face goes on past its silhouette where the photo shows skin there, and above the brows to where the mask ends,
    where skin or dark hair begins; elsewhere it has a soft edge. Its colours are shifted to meet that skin.

    Args:
        picture: (T, T, 3) float32 RGB in 0..1, from `light_texture`.
        mesh: (478, 2) crop pixels.
        ground: (S, S, 3) float32 RGB in 0..1, the photo, filled where it is erased, as by `fill_from_surroundings`.
        erased: (S, S) bool.

    Returns:
        (S, S, 3) float32 RGB in 0..1.
    """
    size = len(ground)
    face, inside = render_texture(picture, mesh, size)
    if not inside.any():
        return ground
    darken_mouth(face, mesh)
    distance = cv2.distanceTransform((~erased).astype(np.uint8), cv2.DIST_L2, 5)
    rim = (distance > 0) & (distance < _RIM * size)
    face, beyond = _continue(face, inside, erased | rim)
    away = to_log(ground[rim]) - to_log(face[rim].clip(0))
    skin, hair = _skin_and_hair(away)
    sums = np.zeros((size, size, 6), np.float32)
    sums[rim] = np.column_stack([away * skin[:, None], skin, np.maximum(skin, hair), np.ones_like(skin)])
    shift = blur(sums[..., :4], _SPREAD * size)
    near = blur(sums[..., 3:], _NEAR * size)
    forehead, jaw = _heights(mesh, size)
    share = np.maximum(near[..., 0] * (1 - jaw), near[..., 1] * forehead) / (near[..., 2] + _UNKNOWN)
    share *= 1 - (beyond / (_FARTHEST * size) - 1).clip(0, 0.25) * 4
    weight = blur(inside.astype(np.float32), _EDGE * size)
    weight = (weight + (1 - weight) * share)[erased][:, None]
    shift = shift[erased]
    shown = from_log(to_log(face[erased].clip(0)) + shift[:, :3] / (shift[:, 3:] + _DOUBT))
    drawn = ground.copy()
    drawn[erased] += weight * (shown - drawn[erased])
    return drawn.clip(0, 1)


def darken_mouth(face: np.ndarray, mesh: np.ndarray) -> None:
    """Darken an open mouth below the upper teeth, in place.

    A texture knows what is between the lips as a slit: stretched over an open mouth it would be teeth or tongue alone.

    Args:
        face: (S, S, 3) float32 RGB in 0..1.
        mesh: (478, 2) its pixels.
    """
    shown = measure(mesh)
    lifted = max(shown.smile - shown.mouth_open / 4, 0.0)  # parted lips lower the mouth's middle, too
    teeth = (_TEETH + _SMILING_TEETH * lifted) / max(shown.mouth_open, 1e-6)
    if teeth >= 1:
        return
    middle = len(MESH_MOUTH) // 2
    outline = mesh[list(MESH_MOUTH)]
    low, high = np.floor(outline.min(0)).astype(int) - 1, np.ceil(outline.max(0)).astype(int) + 2
    low, high = low.clip(0, len(face)), high.clip(0, len(face))
    if (high <= low).any():
        return
    shape = (high[1] - low[1], high[0] - low[0])
    opening, away = np.zeros(shape, np.uint8), []
    cv2.fillPoly(opening, [np.round(outline - low).astype(np.int32)], (1,))
    for lip in (outline[: middle + 1], np.concatenate([outline[middle:], outline[:1]])):
        line = np.ones(shape, np.uint8)
        cv2.polylines(line, [np.round(lip - low).astype(np.int32)], isClosed=False, color=(0,))
        away.append(cv2.distanceTransform(line, cv2.DIST_L2, 5))
    depth = away[0] / np.maximum(away[0] + away[1], 1e-3)
    share = ((depth - teeth) / _INTO).clip(0, 1) * opening
    share = cv2.GaussianBlur(share.astype(np.float32), (0, 0), max(0.5, _EDGE * len(face) / 2))[..., None]
    places = np.round(mesh[list(MESH_LIPS)]).astype(int).clip(0, len(face) - 1)
    deep = _DEEP * _FLESH * np.median(face[places[:, 1], places[:, 0]], axis=0)
    window = face[low[1] : high[1], low[0] : high[0]]
    window += share * (np.minimum(window, deep) - window)


def _skin_and_hair(away: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how like the face's skin, and how like dark hair, N colours beside it are, (N,) float32 in 0..1 each.

    Args:
        away: (N, 3) differences of their logarithms from the face's.
    """
    shade = away @ _LUMA
    hue = np.abs(away - shade[:, None]).max(1)
    skin = np.exp(-0.5 * ((shade / _SHADE) ** 2 + (hue / _HUE) ** 2))
    hair = ((-shade - _SHADE) / _SHADE).clip(0, 1) * (hue < _COLOURED)
    return skin.astype(np.float32), hair.astype(np.float32)


def _heights(mesh: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two (S, S) float32: 0 below the brows to 1 well above, and 0 above the mouth's corners to 1 well below."""
    down = frame(mesh[EYE_CORNERS[1][1]] - mesh[EYE_CORNERS[0][0]])[1]
    brows = mesh[[point for brow in MESH_BROWS for point in brow]]
    places = np.arange(size, dtype=np.float32) + 0.5
    height = places[None] * down[0] + places[:, None] * down[1]
    above = float((brows @ down).min()) - height
    below = height - float((mesh[list(MOUTH_CORNERS)] @ down).mean())
    return tuple((depth / (_ABOVE * size)).clip(0, 1).astype(np.float32) for depth in (above, below))


def _continue(face: np.ndarray, inside: np.ndarray, needed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Continue a face past its silhouette as its mirror image; return the distance to it, too, (S, S) pixels.

    Args:
        face: (S, S, 3) float32.
        inside: (S, S) bool, the silhouette.
        needed: (S, S) bool, which pixels are.
    """
    distance, nearest = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.nonzero(inside)
    places = np.zeros((int(nearest.max()) + 1, 2), np.int32)
    places[nearest[rows, columns]] = np.stack([rows, columns], 1)
    rows, columns = np.nonzero(needed & ~inside)
    edge = places[nearest[rows, columns]]
    at = (2 * edge - np.stack([rows, columns], 1)).clip(0, len(face) - 1)
    at = np.where(inside[at[:, 0], at[:, 1], None], at, edge)
    continued = face.copy()
    continued[rows, columns] = face[at[:, 0], at[:, 1]]
    return continued, distance


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


def keep_tint(crop: np.ndarray, context: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Give a generated crop the photo's tint where the photo has one alone, as grey, sepia and blued photographs.

    Args:
        crop: (S, S, 3) uint8 RGB, generated.
        context: (S, S, 3) uint8 RGB, the photo's crop.
        mask: (S, S) bool, True where the photo is erased and says nothing.
    """
    seen = context[~mask].astype(np.float32)
    if not len(seen):
        return crop
    light = seen @ _LUMA
    tint, *_ = np.linalg.lstsq(_powers(light), seen - light[:, None], rcond=None)
    if np.abs(seen - light[:, None] - _powers(light) @ tint).max(1).mean() > _TINTED:
        return crop
    drawn = crop[mask].astype(np.float32) @ _LUMA
    toned = crop.copy()
    toned[mask] = (drawn[:, None] + _powers(drawn.clip(light.min(), light.max())) @ tint).round().clip(0, 255)
    return toned


def _powers(light: np.ndarray) -> np.ndarray:
    """(N,) luminances in 0..255 -> (N, 3) terms of a quadratic."""
    return np.stack([np.ones_like(light), light / 255, (light / 255) ** 2], 1)


def _hull(mesh: np.ndarray, size: int) -> np.ndarray:
    face = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(face, np.round(cv2.convexHull(mesh.astype(np.float32))[:, 0]).astype(np.int32), (1,))
    return cv2.erode(face, np.ones((5, 5), np.uint8)) > 0


def _fine_detail(picture: np.ndarray, face: np.ndarray) -> float:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    fine = grey - blur(grey, _FINE * len(grey))
    values = fine[face]
    return float(values.std() / max(float(grey[face].mean()), 0.02)) if values.size else 0.0
