"""Fit an IdentityModel: pictures of synthetic people in, textures, shapes and attributes as weights out."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch

from ..attributes.encoding import encode_attributes
from ..errors import DeidError, ImageError, UsageError
from ..faces.alignment import extract, frame_from_mesh, transform
from ..faces.landmarks import MESH_BROWS, MESH_EYES, MESH_LIPS, MESH_MOUTH, MESH_NOSE, FaceMesh, measure
from ..faces.lighting import fit_light, to_log
from ..faces.semantic_map import LABEL, draw_semantic_map, mean_mesh
from ..faces.texture import face_coordinates, mirrored_points, texture_mesh, unwrap_face
from ..io.images import read
from ..models.face_encoder import FaceEncoder
from ..models.identity_model import IdentityModel, region_weight
from .captions import SURE, eye_strip, glasses_probability, states_glasses

_GREY = np.array((0.299, 0.587, 0.114), np.float32)
_FACE = 300.0  # height of a face, in pixels, to which smaller ones are enlarged before they are unwrapped
_MOST_TURNED = 0.55  # `measures.FaceMeasures.yaw`
_HAIR, _TINT = 0.42, 0.22  # residual of luminance and of colour, in nats, from which a forehead is covered by hair
_LIMITS = {"hair": 0.55, "asymmetry": 0.055, "outliers": 0.45, "tint": 0.032, "contrast": 0.43, "lurid": 0.15}
_CONTRAST = 0.27  # standard deviation of luminance over skin, in nats, down to which harsher pictures are softened
_TINTED = 0.6  # share of the colours' differences that stays: synthetic pictures are more colourful than photographs
_BORDER = 0.075  # depth over which the border, often hair or background, makes way for smooth skin, in sides
_SHADOWS, _LINES = 0.12, 0.015  # standard deviations, in sides, beside which shadows and lines stand out
_MOST_SHADOW, _MOST_LINE, _MOST_LINED, _MOST_TINT = 0.14, 0.07, 0.14, 0.06  # how far they may, in nats
_ONE_SIDED, _HIGHLIGHTS, _MOST_HIGHLIGHT = 1 / 40, 0.07, 0.2  # of shade on one side, of a nose's highlights; in nats
_LIPS, _MOST_PAINT = np.array((-0.12, -0.32, -0.27), np.float32), 0.25  # usual lips beside skin, likewise
_MARGIN = 0.012  # distance to eyes, brows and lips over which that begins to hold, in sides
_SMOOTH = 64  # side of the square on which slow changes are computed, in texels
_LOW_LIGHT, _LOW_HUE = 1 / 12, 1 / 10  # standard deviation that parts light from features, in sides
_ENCODED = 224  # side of the crop that the encoder reads
_LEAST_LIKE, _LEAST_LIKE_WITH_GLASSES = 0.45, 0.3  # correlation with the mean under which a texture shows no clean face
_FEWEST = 8  # people of a model
_BEARDED, _LINED = 16.0, 50.0  # years from which a face may have a beard, and lines


@dataclass(frozen=True, eq=False)
class Portrait:
    """One synthetic person's picture, unwrapped and cleaned.

    Attributes:
        texture: (T, T, 3) float16, logarithm of RGB without light.
        strip: of `glasses.eye_strip`.
        solid: (478, 3) mesh with depth, pixels.
        features: (R, D) attribute features.
        row: the manifest's columns.
        faults: what `_LIMITS` are for.
        measures: smile, mouth_open, eyes_open, yaw.
    """

    texture: np.ndarray
    strip: np.ndarray
    solid: np.ndarray
    features: np.ndarray
    row: Mapping[str, str]
    faults: Mapping[str, float]
    measures: tuple[float, float, float, float]


def read_manifest(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a folder's ``manifest.csv``: a ``file`` column and, where known, ``age``, ``male``, ``text``.

    Raises:
        UsageError: when there is none, or it lacks a column.
    """
    path = folder / "manifest.csv"
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: give a folder of pictures with a manifest.csv") from error
    if missing := [name for name in ("file", "age", "male") if not rows or name not in rows[0]]:
        raise UsageError(f"{path}: lacks the column {', '.join(missing)}: expected file, age (years), male (0 to 1)")
    return rows


class PortraitReader:
    """Unwraps pictures of single faces and takes the light out of them."""

    def __init__(self, texels: int, encoder: FaceEncoder) -> None:
        """Take the side of the textures and the pipeline's attribute encoder."""
        self.texels, self.encoder, self.landmarks = texels, encoder.eval(), FaceMesh()
        frame = texture_mesh(texels)
        self.uv = face_coordinates(frame, texels)
        self.inside = self.uv[..., 0] >= 0
        labels = draw_semantic_map(frame, texels)
        self.skin = np.isin(labels, (LABEL["skin"], LABEL["nose"])) & self.inside
        self.both = (self.skin & self.skin[:, ::-1]).astype(np.float32)
        brows = float(frame[[brow[2] for brow in MESH_BROWS], 1].mean())
        rows = np.arange(texels)[:, None]
        depth = cv2.distanceTransform(np.pad(self.inside.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        above, beside = rows < brows - 0.02 * texels, (depth < 0.12 * texels) & (rows < 0.6 * texels)
        self.hairline = (above | beside) & self.skin
        eyes = np.zeros((texels, texels), np.uint8)
        cv2.fillPoly(eyes, [np.round(frame[list(eye)]).astype(np.int32) for eye in MESH_EYES], (1,))
        self.eyes = eyes > 0
        border = (depth / (_BORDER * texels)).clip(0, 1)
        self.border = (border * border * (3 - 2 * border)).astype(np.float32)[..., None]
        from scipy.ndimage import distance_transform_edt  # takes long to import

        self.nearest = tuple(distance_transform_edt(~self.inside, return_distances=False, return_indices=True))

    def __call__(self, picture: np.ndarray, row: Mapping[str, str]) -> Portrait | None:
        """Return a picture's portrait; None without a face, or with one that is turned too far.

        Args:
            picture: (H, W, 3) uint8 RGB.
            row: of the manifest.
        """
        solids = self.landmarks.solids(picture)
        if not solids:
            return None
        solid = max(solids, key=lambda mesh: float(np.ptp(mesh[:, :2], axis=0).prod()))
        mesh, found = solid[:, :2], measure(solid[:, :2])
        if abs(found.yaw) > _MOST_TURNED or not np.isfinite(solid).all():
            return None
        features, strip = self._features(picture, mesh), eye_strip(picture, mesh)
        if (factor := _FACE / float(np.ptp(mesh[:, 1]))) > 1:
            picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
            mesh = mesh * factor
        texture, seen = unwrap_face(picture, mesh, self.texels)
        texture, seen = texture[self.nearest].astype(np.float32) / 255, seen / max(float(seen[self.inside].max()), 1e-6)
        visible = self.skin & (seen > 0.25)
        if visible.mean() < 0.05:
            return None
        light = fit_light(texture[visible], self.uv[visible])
        flat = to_log(texture) - light.at(self.uv.reshape(-1, 2)).reshape(texture.shape)
        cleaned, faults = self._clean(_fill_hidden(flat, seen))
        turns = (found.smile, found.mouth_open, found.eyes_open, found.yaw)
        return Portrait(cleaned.astype(np.float16), strip, solid, features, row, faults, turns)

    @torch.no_grad()
    def _features(self, picture: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        """(R, D) of the pipeline's own encoder."""
        matrix = frame_from_mesh(mesh, _ENCODED)
        crop = torch.from_numpy(extract(picture, matrix, _ENCODED)).permute(2, 0, 1)[None].float() / 127.5 - 1
        points = torch.from_numpy(transform(mesh, matrix))[None]
        return encode_attributes(self.encoder, crop, torch.zeros(1, 1, 1), points)[0].numpy()

    def _clean(self, texture: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """Fill hair over the forehead with skin, take out light from one side, and measure what is left of both."""
        light = texture @ _GREY
        hair = (np.abs(light) > _HAIR) | (np.abs(texture - light[..., None]).max(2) > _TINT)
        hair = cv2.morphologyEx((hair & self.hairline).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        hair = cv2.dilate(hair, np.ones((9, 9), np.uint8)) > 0
        faults = {"hair": float(hair[self.hairline].mean())}
        if hair.any():
            smooth = self._slow(texture, self.both * ~hair * (np.abs(light) < 0.4), 1 / 14)
            other = np.where(hair[:, ::-1, None], smooth, texture[:, ::-1])
            weight = cv2.GaussianBlur(hair.astype(np.float32), (0, 0), 3)[..., None]
            texture = texture + weight * (other - texture)
            light = texture @ _GREY
        skin = self.both * np.exp(-0.5 * (light / 0.5) ** 2)
        slow = self._slow(light[..., None], skin, _LOW_LIGHT)
        hues = self._slow(texture - light[..., None], skin, _LOW_HUE)
        uneven, tinted = (slow - slow[:, ::-1]) / 2, (hues - hues[:, ::-1]) / 2
        texture = texture - uneven - tinted
        light = texture @ _GREY
        faults["asymmetry"] = float(np.abs(uneven[self.skin]).mean())
        faults["tint"] = float(np.abs(hues + hues[:, ::-1]).max(2)[self.skin].mean() / 2)
        faults["outliers"] = float((np.abs(light) > 0.25)[self.skin].mean())
        faults["contrast"] = float(light[self.skin].std())
        faults["lurid"] = float((texture[self.eyes] @ (1, 0, -1)).mean())
        inner = self.both * (self.border[..., 0] > 0.8) * np.exp(-0.5 * (light / 0.3) ** 2)
        smooth = self._slow(texture, inner, _LOW_HUE)
        texture = smooth + self.border * (texture - smooth)
        light = (texture @ _GREY)[..., None]
        softer = min(1.0, _CONTRAST / faults["contrast"])
        return softer * (light + _TINTED * (texture - light)), faults

    def _slow(self, values: np.ndarray, weight: np.ndarray, share: float) -> np.ndarray:
        """(T, T, C) weighted means over a neighbourhood; what is so smooth needs few texels."""
        both = cv2.resize(
            np.dstack([values * weight[..., None], weight]), (_SMOOTH, _SMOOTH), None, 0, 0, cv2.INTER_AREA
        )
        total = cv2.resize(cv2.GaussianBlur(both, (0, 0), share * _SMOOTH), (self.texels, self.texels))
        return total[..., :-1] / (total[..., -1:] + 1e-3)


def even_light(texture: np.ndarray) -> np.ndarray:
    """Take out light from one side that is as fine as a nose, and the nose's highlights.

    Args:
        texture: (T, T, 3) float32, logarithm of RGB without light.
    """
    size = len(texture)
    skin, _, _ = _bare_skin(size)
    nose = region_weight("nose", size)[..., None]
    coarse = cv2.GaussianBlur(texture, (0, 0), _ONE_SIDED * size)
    texture = texture - skin[..., None] * (coarse - coarse[:, ::-1]) / 2
    texture = texture + nose * (texture[:, ::-1] - texture) / 2
    light = texture @ _GREY
    shade = (light - cv2.GaussianBlur(light, (0, 0), _HIGHLIGHTS * size)).clip(0)
    return texture + nose * (_MOST_HIGHLIGHT * np.tanh(shade / _MOST_HIGHLIGHT) - shade)[..., None]


def calm_skin(texture: np.ndarray, *, bearded: bool = False, lined: bool = False) -> np.ndarray:
    """Weaken what stands out on bare skin: strands of hair, jewels, hard shadows, harsh lines; and lurid lips.

    Args:
        texture: (T, T, 3) float32, logarithm of RGB without light.
        bearded: whether what is dark below the nose may be a beard, which stays.
        lined: whether lines are those of age, which stay stronger.
    """
    size = len(texture)
    skin, upper, lips = _bare_skin(size)
    shadows = skin * upper if bearded else skin
    lines = _MOST_LINED if lined else _MOST_LINE
    for sigma, limit, weight in ((_SHADOWS, _MOST_SHADOW, shadows), (_LINES, lines, skin)):
        light = (texture @ _GREY)[..., None]
        hue = texture - light
        shade = light - cv2.GaussianBlur(light, (0, 0), sigma * size)[..., None]
        tint = hue - cv2.GaussianBlur(hue, (0, 0), sigma * size)
        less = limit * np.tanh(shade / limit) - shade + _MOST_TINT * np.tanh(tint / _MOST_TINT) - tint
        texture = texture + weight[..., None] * less
    painted = _LIPS + _MOST_PAINT * np.tanh((texture - _LIPS) / _MOST_PAINT)
    return texture + lips[..., None] * (painted - texture)


@cache
def _bare_skin(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (T, T) weights in 0..1: skin well away from features, all above the upper lip, and the lips."""
    frame = texture_mesh(size)
    labels = draw_semantic_map(frame, size)
    depth = cv2.distanceTransform((labels == LABEL["skin"]).astype(np.uint8), cv2.DIST_L2, 5) / size
    below = (np.arange(size) - float(frame[list(MESH_NOSE), 1].max())) / size
    upper = (0.25 - below / 0.2).clip(0, 1).astype(np.float32)
    ring = np.zeros((size, size), np.uint8)
    cv2.fillPoly(ring, [np.round(frame[list(MESH_LIPS)]).astype(np.int32)], (1,))
    cv2.fillPoly(ring, [np.round(frame[list(MESH_MOUTH)]).astype(np.int32)], (0,))
    lips = cv2.GaussianBlur(ring.astype(np.float32), (0, 0), _MARGIN * size / 2)
    return ((depth - _MARGIN) / _MARGIN).clip(0, 1).astype(np.float32), upper[:, None], lips


def _fill_hidden(texture: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Take the far side of a turned head from the near one."""
    share = seen / (seen + seen[:, ::-1] + 1e-3)
    weight = ((share - 0.25) / 0.2).clip(0, 1)[..., None]
    weight = weight * weight * (3 - 2 * weight)
    return texture * weight + texture[:, ::-1] * (1 - weight)


def read_portraits(
    folder: Path, reader: PortraitReader, progress: Callable[[int, int], None] | None = None
) -> list[Portrait]:
    """Return the portraits of a folder's usable pictures; those that cannot be read or show no face are left out."""
    rows, portraits = read_manifest(folder), []
    for index, row in enumerate(rows):
        try:
            portrait = reader(read(folder / row["file"]).pixels, row)
        except ImageError:
            portrait = None
        if portrait is not None:
            portraits.append(portrait)
        if progress is not None:
            progress(index + 1, len(rows))
    return portraits


def fit_identity_model(portraits: Iterable[Portrait], texels: int, modes: int) -> tuple[IdentityModel, float]:
    """Fit modes, codes and shapes to clean portraits.

    Args:
        portraits: of `PortraitReader`, any number of unfit ones among them.
        texels: T, of the reader.
        modes: K, at most.

    Returns:
        The model, and the share of the textures' variance that its modes hold.

    Raises:
        DeidError: when fewer than eight portraits are clean.
    """
    every = list(portraits)
    told = np.array([states_glasses(portrait.row) for portrait in every])
    glasses = glasses_probability([portrait.strip for portrait in every], told)
    chosen = [k for k, portrait in enumerate(every) if _is_clean(portrait)]
    if len(chosen) < _FEWEST:
        raise DeidError(f"{len(chosen)} of {len(every)} pictures are clean frontal faces: expected {_FEWEST} or more")
    model = IdentityModel(len(chosen), min(modes, len(chosen) - 1), texels, *every[chosen[0]].features.shape)
    packed = np.stack([model.pack(_calmed(every[k], glasses[k])) for k in chosen])
    likeness = likeness_to_mean(packed)
    clean = likeness >= np.where(glasses[chosen] < SURE, _LEAST_LIKE, _LEAST_LIKE_WITH_GLASSES)
    if clean.sum() >= _FEWEST:
        chosen = [k for k, stays in zip(chosen, clean, strict=True) if stays]
        packed, likeness = packed[clean], likeness[clean]
    people = [every[k] for k in chosen]
    model = IdentityModel(len(people), min(modes, len(people) - 1), texels, *people[0].features.shape)
    mean = packed.mean(0)
    packed -= mean
    variances, vectors = np.linalg.eigh(packed @ packed.T)
    variances, vectors = (part[..., ::-1][..., : model.config.num_modes] for part in (variances, vectors))
    directions = (vectors / np.sqrt(variances.clip(1e-9))).T @ packed
    scales = np.abs(directions).max(1) / 127
    values = {
        "mean": mean,
        "modes": np.round(directions / scales[:, None]).astype(np.int8),
        "codes": packed @ directions.T * scales,
        "shapes": align_solids([person.solid for person in people]),
        "features": np.stack([person.features for person in people]),
        "measures": np.array(
            [
                (float(one.row["male"]), float(one.row["age"]), *one.measures, glasses[k], 1 - alike)
                for k, one, alike in zip(chosen, people, likeness, strict=True)
            ]
        ),
    }
    for name, value in values.items():
        buffer = getattr(model, name)
        dtype = torch.int8 if name == "modes" else torch.float16  # half the size, in 11 digits
        setattr(model, name, torch.from_numpy(np.ascontiguousarray(value)).to(dtype).reshape(buffer.shape))
    return model.eval(), float(variances.sum() / (packed**2).sum())


def _calmed(portrait: Portrait, glasses: float) -> np.ndarray:
    """Return a portrait's texture for the modes, (T, T, 3) float32: calmed, but for glasses, whose frames are lines."""
    texture = portrait.texture.astype(np.float32)
    male, age = float(portrait.row["male"]) > 0.5, float(portrait.row["age"])
    calm = calm_skin(even_light(texture), bearded=male and age >= _BEARDED, lined=age >= _LINED)
    return texture if glasses >= SURE else calm


def likeness_to_mean(packed: np.ndarray) -> np.ndarray:
    """Return (N,) correlations, -1 to 1, of textures with their mean: shadows, hands and misplaced meshes lower it.

    Args:
        packed: (N, P) from `IdentityModel.pack`.
    """
    centred = packed - packed.mean(1, keepdims=True)
    mean = centred.mean(0)
    return centred @ mean / (np.linalg.norm(centred, axis=1) * np.linalg.norm(mean)).clip(1e-9)


def _is_clean(portrait: Portrait) -> bool:
    return all(portrait.faults[name] < limit for name, limit in _LIMITS.items())


def align_solids(solids: Iterable[np.ndarray]) -> np.ndarray:
    """Turn meshes with depth to the front, at the mean mesh's place and size, and make them symmetrical.

    Generalised Procrustes analysis (Gower, Psychometrika 1975): each is aligned by a similarity to the mean of all.

    Args:
        solids: N of (478, 3), pixels.

    Returns:
        (N, 478, 3) float32.
    """
    flat = mean_mesh(1)
    first = [_similar(solid, flat) for solid in solids]
    mean = np.median(np.stack(first), axis=0)
    for _ in range(4):
        first = [_rigid(solid, mean) for solid in first]
        mean = np.mean(np.stack(first), axis=0)
        mean = (mean + _mirrored(mean)) / 2
    return np.stack([(solid + _mirrored(solid)) / 2 for solid in first]).astype(np.float32)


def _similar(solid: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """A mesh at the place and size of another, unturned."""
    middle, size = solid.mean(0), np.linalg.norm(solid[:, :2] - solid[:, :2].mean(0))
    aim = flat.mean(0)
    return (solid - middle) * (np.linalg.norm(flat - aim) / size) + [*aim, 0]


def _rigid(solid: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The mesh turned, scaled and moved to a target with the least squares (Umeyama, 1991)."""
    a, b = solid - solid.mean(0), target - target.mean(0)
    u, sizes, vt = np.linalg.svd(a.T @ b)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    return a @ u @ sign @ vt * (np.trace(np.diag(sizes) @ sign) / (a**2).sum()) + target.mean(0)


def _mirrored(solid: np.ndarray) -> np.ndarray:
    """The mesh's mirror image at its own place, point by point."""
    middle = mean_mesh(1)
    axis = middle[:, 0].min() + middle[:, 0].max()
    other = solid[mirrored_points()].copy()
    other[:, 0] = axis - other[:, 0]
    return other
