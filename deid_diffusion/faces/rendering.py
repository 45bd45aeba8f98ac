"""Rendering of a synthetic person into a photo: light, silhouette, colours, sharpness and tint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from .compositing import blur
from .landmarks import MESH_BROWS, MESH_LIPS, MESH_MOUTH, measure
from .lighting import COEFFICIENTS, LUMA, FaceLight, bend_highlights, fit_light, from_log, polynomial, to_log
from .mesh_editing import MOUTH_CORNERS, face_axes
from .semantic_map import LABEL, draw_semantic_map
from .texture import face_coordinates, nearest_inside, render_texture, texture_coordinates, texture_mesh

_EDGE_SIGMA = 0.008  # standard deviation of the face's soft edge, in crop sides
_RIM_WIDTH = 0.04  # of the ring around the erased pixels that is compared with the face, in crop sides
_CONTINUATION_SIGMA = 0.06  # standard deviation over which the ring's colour difference is carried inwards, likewise
_NEIGHBOURHOOD_SIGMA = 0.03  # standard deviation over which the ring decides whether the face continues, likewise
_MAX_CONTINUATION = 0.07  # distance to the silhouette over which the face may continue, likewise
_HEIGHT_RAMP = 0.05  # height above the brows, or below the mouth, over which forehead or jaw begins, likewise
_LUMINANCE_SIGMA, _CHROMA_SIGMA = 0.35, 0.09  # differences, in nats, up to which neighbouring pixels are skin
_MAX_HAIR_CHROMA = 0.5  # difference of colour, in nats, up to which dark pixels are hair
_MIN_RING_SHARE = 1e-3  # of a neighbourhood, below which its ring is unknown
_SHIFT_FADE = 0.015  # share of known skin in the ring below which the colour shift fades out
_TEETH_HEIGHT, _TEETH_PER_SMILE = 0.13, 1.4  # of visible teeth at rest, in mouth widths, and its increase with `smile`
_CAVITY_TINT = np.array((1.15, 0.75, 0.75), np.float32)  # RGB relative to the lips
_CAVITY_LUMINANCE, _CAVITY_RAMP = 0.4, 0.25  # of an open mouth, relative to the lips; share of the opening to reach it
_MOUTH_SAMPLING, _MAX_MOUTH_SCALE = 90, 4  # width, in pixels, at which teeth are read, and largest enlargement for it
_MIN_MOUTH_OPEN, _MIN_MOUTH_PIXELS = 0.03, 40  # `FaceMeasures.mouth_open` and pixels from which teeth are read
_DEPTH_STEPS = 8  # between the lips, in which luminance is compared
_TEETH_CHANGE = (-0.5, 0.7)  # of the colour of a donor's mouth, in nats
_LIP_SIGMA = 0.006  # standard deviation of the edge between lips and teeth, in sides of the texture
_DARK_MOUTH, _TEETH_EDGE = -0.5, 0.5  # `Teeth.brightness` without teeth, and fall of the luminance at their edge
_DETAIL_SIGMA = 1 / 110  # standard deviation that separates fine detail, in crop sides
_RESAMPLING_GAIN = 1.12  # detail that resampling into the photo removes again
_MAX_SHARPENING, _MAX_BLUR_SIGMA = 0.7, 0.02  # the latter in crop sides
_MIN_BLUR_SIGMA, _BLUR_SEARCH_STEPS = 0.05, 4  # pixels; steps of bisection
_MAX_TINT_ERROR = 2.0  # mean distance, in levels of 0..255, of a photo's colours from functions of its luminance
_MIN_SKIN_PIXELS = 2 * COEFFICIENTS


def light_texture(texture: np.ndarray, light: FaceLight) -> np.ndarray:
    """Light a texture.

    Args:
        texture: (T, T, 3) float32, logarithm of RGB without light; 0 outside the face.
        light: light of the photo.

    Returns:
        (T, T, 3) float32 RGB in 0..1, extrapolated outside the face by the nearest texel.
    """
    inside, terms, nearest = _texels(len(texture))
    return bend_highlights(from_log(texture[inside] + light.of_terms(terms)).clip(0))[nearest]


@cache
def _texels(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (T, T) bool texels of the face, (N, 6) `polynomial` terms of them, and (T, T) indices of the nearest."""
    uv = texture_coordinates(size)
    inside = uv[..., 0] >= 0
    return inside, polynomial(uv[inside]).astype(np.float32), nearest_inside(inside)[1]


def render_person(
    picture: np.ndarray, mesh: np.ndarray, ground: np.ndarray, erased: np.ndarray, teeth: Teeth | None = None
) -> np.ndarray:
    """Render a lit texture into a photo.

    The face is continued past its silhouette where the ring around the erased pixels shows skin and, above the brows,
    dark hair as well; elsewhere its edge is soft. Its colours are shifted to match that skin.

    Args:
        picture: (T, T, 3) float32 RGB in 0..1, from `light_texture`.
        mesh: (478, 2) crop pixels.
        ground: (S, S, 3) float32 RGB in 0..1, the photo, filled where it is erased, as by `fill_from_surroundings`.
        erased: (S, S) bool, the pixels to render.
        teeth: of the original, if kept.

    Returns:
        (S, S, 3) float32 RGB in 0..1.
    """
    size = len(ground)
    face, inside = render_texture(picture, mesh, size)
    if not inside.any():
        return ground
    darken_mouth(face, mesh, teeth)
    distance = cv2.distanceTransform((~erased).astype(np.uint8), cv2.DIST_L2, 5)
    ring = (distance > 0) & (distance < _RIM_WIDTH * size)
    face, beyond = _continue(face, inside, erased | ring)
    difference = to_log(ground[ring]) - to_log(face[ring].clip(0))
    skin, hair = _skin_and_hair(difference)
    sums = np.zeros((size, size, 6), np.float32)
    sums[ring] = np.column_stack([difference * skin[:, None], skin, np.maximum(skin, hair), np.ones_like(skin)])
    shift = blur(sums[..., :4], _CONTINUATION_SIGMA * size)
    nearby = blur(sums[..., 3:], _NEIGHBOURHOOD_SIGMA * size)
    forehead, jaw = _forehead_and_jaw(mesh, size)
    share = np.maximum(nearby[..., 0] * (1 - jaw), nearby[..., 1] * forehead) / (nearby[..., 2] + _MIN_RING_SHARE)
    share *= 1 - (beyond / (_MAX_CONTINUATION * size) - 1).clip(0, 0.25) * 4
    weight = blur(inside.astype(np.float32), _EDGE_SIGMA * size)
    weight = (weight + (1 - weight) * share)[erased][:, None]
    shift = shift[erased]
    shifted = from_log(to_log(face[erased].clip(0)) + shift[:, :3] / (shift[:, 3:] + _SHIFT_FADE))
    rendered = ground.copy()
    rendered[erased] += weight * (shifted - rendered[erased])
    return rendered.clip(0, 1)


@dataclass(frozen=True)
class Teeth:
    """Appearance of a mouth's opening.

    Attributes:
        brightness: mean logarithm of its luminance without light, as of `IdentityModel.teeth`: about 0 for teeth, -1
            for a dark mouth.
        extent: share of the opening's height, from the upper lip, that teeth fill.
        colour: (3,) mean logarithm of RGB without light of what they fill, of the full opening without any.
    """

    brightness: float
    extent: float
    colour: tuple[float, float, float]


def read_teeth(crop: np.ndarray, mesh: np.ndarray, light: FaceLight | None) -> Teeth | None:
    """Read the teeth of a face; return None if its mouth is closed or too small, or its light unknown.

    Args:
        crop: (S, S, 3) uint8 RGB, the original.
        mesh: (478, 2) crop pixels.
        light: of the face, from `read_light`.
    """
    if light is None or measure(mesh).mouth_open < _MIN_MOUTH_OPEN:
        return None
    width = float(np.ptp(mesh[list(MESH_MOUTH)], axis=0).max())
    scale = int(np.clip(np.ceil(_MOUTH_SAMPLING / max(width, 1)), 1, _MAX_MOUTH_SCALE))
    picture = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    window, opening, depth = _opening(mesh * scale, len(picture))
    if window is None:
        return None
    uv = face_coordinates(mesh * scale, len(picture))[window]
    opening = (opening > 0) & (uv[..., 0] >= 0)
    if opening.sum() < _MIN_MOUTH_PIXELS:
        return None
    colours = to_log(picture[window][opening].astype(np.float32) / 255) - light.at(uv[opening])
    values = colours @ LUMA
    across = uv[opening][:, 0]
    central = np.abs(across - np.median(across)) < np.ptp(across) / 4  # the corners are dark
    steps = np.minimum((depth[opening] * _DEPTH_STEPS).astype(int), _DEPTH_STEPS - 1)
    rows = [values[central & (steps == step)] for step in range(_DEPTH_STEPS)]
    profile = np.array([np.median(row) if len(row) else -np.inf for row in rows])
    brightest = int(profile[: _DEPTH_STEPS // 2 + 1].argmax())  # further down the lower lip or lower teeth are
    dark = np.flatnonzero(profile[brightest:] < profile[brightest] - _TEETH_EDGE)
    end = int(brightest + dark[0]) if len(dark) else _DEPTH_STEPS
    if profile[brightest] < _DARK_MOUTH:
        end = 0
    filled = steps < (end or _DEPTH_STEPS)
    red, green, blue = colours[filled].mean(0).tolist()
    return Teeth(float(values.mean()), end / _DEPTH_STEPS, (red, green, blue))


def match_mouth(texture: np.ndarray, teeth: Teeth) -> np.ndarray:
    """Change the colour of a texture's mouth towards that of teeth.

    Args:
        texture: (T, T, 3) float32, logarithm of RGB without light.
        teeth: of the original.

    Returns:
        (T, T, 3) float32.
    """
    window, opening, depth = _opening(texture_mesh(len(texture)), len(texture))
    filled = (opening > 0) & (depth <= (teeth.extent or 1.0))
    if window is None or not filled.any():
        return texture
    change = (np.array(teeth.colour, np.float32) - texture[window][filled].mean(0)).clip(*_TEETH_CHANGE)
    weight = cv2.GaussianBlur(opening.astype(np.float32), (0, 0), _LIP_SIGMA * len(texture))
    changed = texture.copy()
    changed[window] += weight[..., None] * change
    return changed


def darken_mouth(face: np.ndarray, mesh: np.ndarray, teeth: Teeth | None = None) -> None:
    """Darken an open mouth below the upper teeth, in place.

    Where the original is dark, the donor's mouth may show teeth or tongue.

    Args:
        face: (S, S, 3) float32 RGB in 0..1.
        mesh: (478, 2) pixels of the face.
        teeth: of the original; without them, their extent follows from the mesh.
    """
    measures = measure(mesh)
    smile = max(measures.smile - measures.mouth_open / 4, 0.0)  # parted lips also lower the mouth's centre
    extent = (_TEETH_HEIGHT + _TEETH_PER_SMILE * smile) / max(measures.mouth_open, 1e-6)
    extent = extent if teeth is None else teeth.extent
    if extent >= 1:
        return
    window, opening, depth = _opening(mesh, len(face))
    if window is None:
        return
    share = ((depth - extent) / _CAVITY_RAMP).clip(0, 1) * opening
    share = cv2.GaussianBlur(share.astype(np.float32), (0, 0), max(0.5, _EDGE_SIGMA * len(face) / 2))[..., None]
    lips = np.round(mesh[list(MESH_LIPS)]).astype(int).clip(0, len(face) - 1)
    cavity = _CAVITY_LUMINANCE * _CAVITY_TINT * np.median(face[lips[:, 1], lips[:, 0]], axis=0)
    pixels = face[window]
    pixels += share * (np.minimum(pixels, cavity) - pixels)


def _opening(mesh: np.ndarray, size: int) -> tuple[tuple[slice, slice] | None, np.ndarray, np.ndarray]:
    """Find a mouth's opening.

    Returns:
        Rows and columns around it, None outside the crop; for their pixels, (H, W) uint8 that is 1 within it, and (H,
        W) depths from 0 at the upper lip to 1 at the lower one.
    """
    half = len(MESH_MOUTH) // 2
    outline = mesh[list(MESH_MOUTH)]
    low, high = np.floor(outline.min(0)).astype(int) - 1, np.ceil(outline.max(0)).astype(int) + 2
    low, high = low.clip(0, size), high.clip(0, size)
    shape = tuple((high - low).clip(0)[::-1].tolist())
    opening, distances = np.zeros(shape, np.uint8), []
    if (high <= low).any():
        return None, opening, opening
    cv2.fillPoly(opening, [np.round(outline - low).astype(np.int32)], (1,))
    for lip in (outline[: half + 1], np.concatenate([outline[half:], outline[:1]])):
        line = np.ones(shape, np.uint8)
        cv2.polylines(line, [np.round(lip - low).astype(np.int32)], isClosed=False, color=(0,))
        distances.append(cv2.distanceTransform(line, cv2.DIST_L2, 5))
    depth = distances[0] / np.maximum(distances[0] + distances[1], 1e-3)
    return (slice(low[1], high[1]), slice(low[0], high[0])), opening, depth


def _skin_and_hair(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the likelihoods, (N,) float32 in 0..1, that pixels next to the face are skin, and that they are dark hair.

    Args:
        difference: (N, 3) logarithms of the pixels' RGB minus those of the face's.
    """
    luminance = difference @ LUMA
    chroma = np.abs(difference - luminance[:, None]).max(1)
    skin = np.exp(-0.5 * ((luminance / _LUMINANCE_SIGMA) ** 2 + (chroma / _CHROMA_SIGMA) ** 2))
    hair = ((-luminance - _LUMINANCE_SIGMA) / _LUMINANCE_SIGMA).clip(0, 1) * (chroma < _MAX_HAIR_CHROMA)
    return skin.astype(np.float32), hair.astype(np.float32)


def _forehead_and_jaw(mesh: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two (S, S) float32 ramps: 0 to 1 upwards from the brows, and 0 to 1 downwards from the mouth's corners."""
    down = face_axes(mesh)[1]
    brows = mesh[[point for brow in MESH_BROWS for point in brow]]
    pixels = np.arange(size, dtype=np.float32) + 0.5
    position = pixels[None] * down[0] + pixels[:, None] * down[1]
    above = float((brows @ down).min()) - position
    below = position - float((mesh[list(MOUTH_CORNERS)] @ down).mean())
    forehead, jaw = ((distance / (_HEIGHT_RAMP * size)).clip(0, 1).astype(np.float32) for distance in (above, below))
    return forehead, jaw


def _continue(face: np.ndarray, inside: np.ndarray, needed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Continue a face past its silhouette by its mirror image.

    Args:
        face: (S, S, 3) float32.
        inside: (S, S) bool, the silhouette.
        needed: (S, S) bool, the pixels to continue it to.

    Returns:
        (S, S, 3) float32, and (S, S) float32 distances to the silhouette, in pixels.
    """
    distance, nearest = nearest_inside(inside)
    rows, columns = np.nonzero(needed & ~inside)
    edge = np.argwhere(inside)[nearest[rows, columns]]
    source = (2 * edge - np.stack([rows, columns], 1)).clip(0, len(face) - 1)
    source = np.where(inside[source[:, 0], source[:, 1], None], source, edge)
    continued = face.copy()
    continued[rows, columns] = face[source[:, 0], source[:, 1]]
    return continued, distance


@dataclass(frozen=True)
class Camera:
    """Sharpness of a photographed face.

    Attributes:
        detail: standard deviation of the luminance's fine detail over the face, relative to the mean luminance.
    """

    detail: float


def read_light(crop: np.ndarray, mesh: np.ndarray) -> FaceLight | None:
    """Fit light and skin tone to a face; return None if hardly any skin is visible.

    Args:
        crop: (S, S, 3) uint8 RGB, the original.
        mesh: (478, 2) crop pixels.
    """
    size = len(crop)
    uv = face_coordinates(mesh, size)
    skin = np.isin(draw_semantic_map(mesh, size), (LABEL["skin"], LABEL["nose"])) & (uv[..., 0] >= 0)
    if skin.sum() < _MIN_SKIN_PIXELS:
        return None
    return fit_light(crop[skin].astype(np.float32) / 255, uv[skin])


def read_camera(crop: np.ndarray, mesh: np.ndarray) -> Camera:
    """Measure the sharpness of a face; arguments as of `read_light`."""
    return Camera(_fine_detail(crop.astype(np.float32) / 255, _hull(mesh, len(crop))))


def match_camera(picture: np.ndarray, mesh: np.ndarray, mask: np.ndarray, camera: Camera) -> np.ndarray:
    """Blur or slightly sharpen a new face to the original's sharpness.

    Args:
        picture: (S, S, 3) float32 RGB in 0..1.
        mesh: (478, 2) crop pixels of the new face.
        mask: (S, S) bool, the pixels that may change.
        camera: sharpness of the original.

    Returns:
        (S, S, 3) float32 RGB in 0..1.
    """
    face = _hull(mesh, len(picture))
    detail = _fine_detail(picture, face)
    if detail <= 1e-6:
        return picture
    target = _RESAMPLING_GAIN * camera.detail
    gain = target / detail
    if gain >= 1:
        blurred = cv2.GaussianBlur(picture, (0, 0), _DETAIL_SIGMA * len(picture))
        filtered = picture + min(_MAX_SHARPENING, gain - 1) * (picture - blurred)
    else:
        low, high, filtered = 0.0, _MAX_BLUR_SIGMA * len(picture), picture
        for _ in range(_BLUR_SEARCH_STEPS):
            sigma = (low + high) / 2
            filtered = blur(picture, max(sigma, _MIN_BLUR_SIGMA))
            low, high = (low, sigma) if _fine_detail(filtered, face) < target else (sigma, high)
    return np.where(mask[..., None], filtered.clip(0, 1), picture)


def keep_tint(crop: np.ndarray, context: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Tint a generated crop as the photo if the photo is monochrome, such as grey, sepia or blue-toned.

    Args:
        crop: (S, S, 3) uint8 RGB, generated.
        context: (S, S, 3) uint8 RGB crop of the photo.
        mask: (S, S) bool, the erased pixels: ignored in the context, tinted in the crop.

    Returns:
        (S, S, 3) uint8 RGB.
    """
    surroundings = context[~mask].astype(np.float32)
    if not len(surroundings):
        return crop
    luminance = surroundings @ LUMA
    tint, *_ = np.linalg.lstsq(_powers(luminance), surroundings - luminance[:, None], rcond=None)
    if np.abs(surroundings - luminance[:, None] - _powers(luminance) @ tint).max(1).mean() > _MAX_TINT_ERROR:
        return crop
    generated = crop[mask].astype(np.float32) @ LUMA
    in_range = generated.clip(luminance.min(), luminance.max())
    tinted = crop.copy()
    tinted[mask] = (generated[:, None] + _powers(in_range) @ tint).round().clip(0, 255)
    return tinted


def _powers(luminance: np.ndarray) -> np.ndarray:
    """Return the (N, 3) terms of a quadratic in (N,) luminances of 0..255."""
    return np.stack([np.ones_like(luminance), luminance / 255, (luminance / 255) ** 2], 1)


def _hull(mesh: np.ndarray, size: int) -> np.ndarray:
    """Return (size, size) bool, the convex hull of a mesh without its edge."""
    face = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(face, np.round(cv2.convexHull(mesh.astype(np.float32))[:, 0]).astype(np.int32), (1,))
    return cv2.erode(face, np.ones((5, 5), np.uint8)) > 0


def _fine_detail(picture: np.ndarray, face: np.ndarray) -> float:
    """Return `Camera.detail` of the pixels `face`, (S, S) bool, of a float32 picture."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    fine = grey - blur(grey, _DETAIL_SIGMA * len(grey))
    values = fine[face]
    return float(values.std() / max(float(grey[face].mean()), 0.02)) if values.size else 0.0
