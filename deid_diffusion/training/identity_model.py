"""Fitting of the identity model to textures, shapes and attributes of pictures of synthetic people."""

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
from .captions import GLASSES_THRESHOLD, eye_strip, glasses_probability, states_glasses

_LUMINANCE = np.array((0.299, 0.587, 0.114), np.float32)
_MIN_FACE_HEIGHT = 300.0  # pixels to which smaller faces are enlarged before they are unwrapped
_MAX_YAW = 0.55  # of `FaceMeasures`
_HAIR, _TINT = 0.42, 0.22  # residuals of luminance and of colour, in nats, above which hair covers a forehead
_LIMITS = {"hair": 0.55, "asymmetry": 0.055, "outliers": 0.45, "tint": 0.032, "contrast": 0.43, "lurid": 0.15}
_CONTRAST = 0.27  # standard deviation of luminance over skin, in nats, to which harsher pictures are softened
_SATURATION = 0.6  # factor of the colour differences: synthetic pictures are more colourful than photographs
_BORDER = 0.075  # depth, in sides, over which the border, often hair or background, is blended into smooth skin
_SHADOW_SIGMA, _LINE_SIGMA = 0.12, 0.015  # of the blurs, in sides, against which shadows and lines are measured
_MAX_SHADOW, _MAX_LINE, _MAX_AGED_LINE, _MAX_TINT = 0.14, 0.07, 0.14, 0.06  # limits of these residuals, in nats
_SHADE_SIGMA, _HIGHLIGHT_SIGMA = 1 / 40, 0.07  # of the blurs, in sides, for one-sided shade and a nose's highlights
_MAX_HIGHLIGHT = 0.2  # in nats
_LIPS, _MAX_LIPSTICK = np.array((-0.12, -0.32, -0.27), np.float32), 0.25  # typical lips relative to skin, in nats
_MARGIN = 0.012  # distance to eyes, brows and lips, in sides, over which skin smoothing fades in
_COARSE = 64  # side, in texels, of the square for low-pass filters
_LIGHT_SIGMA, _HUE_SIGMA = 1 / 12, 1 / 10  # of the low-pass filters, in sides, that separate light from features
_ENCODER_SIZE = 224  # side of the encoder's crop, in pixels
_MIN_LIKENESS, _MIN_LIKENESS_GLASSES = 0.45, 0.3  # correlation with the mean below which a texture is not clean
_MIN_PEOPLE = 8  # of a model
_BEARD_AGE, _LINE_AGE = 16.0, 50.0  # years from which a face may have a beard, and lines


@dataclass(frozen=True, eq=False)
class Portrait:
    """One synthetic person's picture, unwrapped and cleaned, with its row of the manifest.

    Attributes:
        texture: (T, T, 3) float16, logarithm of RGB without light.
        strip: see `captions.eye_strip`.
        solid: (478, 3) mesh with depth, pixels.
        features: (R, D) attribute features.
        faults: measures of unusable textures, compared with `_LIMITS`.
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
    """Return the rows of a folder's ``manifest.csv`` with columns ``file``, ``age``, ``male`` and perhaps ``text``.

    Raises UsageError if the file cannot be read or lacks a column.
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
    """Reader that unwraps pictures of single faces to textures without light."""

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
        """Return the portrait of a picture, (H, W, 3) uint8 RGB, with its row of the manifest.

        None if its largest face is missing, turned too far or hardly visible.
        """
        solids = self.landmarks.meshes_3d(picture)
        if not solids:
            return None
        solid = max(solids, key=lambda mesh: float(np.ptp(mesh[:, :2], axis=0).prod()))
        mesh, face = solid[:, :2], measure(solid[:, :2])
        if abs(face.yaw) > _MAX_YAW or not np.isfinite(solid).all():
            return None
        features, strip = self._features(picture, mesh), eye_strip(picture, mesh)
        if (factor := _MIN_FACE_HEIGHT / float(np.ptp(mesh[:, 1]))) > 1:
            picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
            mesh = mesh * factor
        texture, visibility = unwrap_face(picture, mesh, self.texels)
        texture = texture[self.nearest].astype(np.float32) / 255
        visibility = visibility / max(float(visibility[self.inside].max()), 1e-6)
        visible = self.skin & (visibility > 0.25)
        if visible.mean() < 0.05:
            return None
        light = fit_light(texture[visible], self.uv[visible])
        flat = to_log(texture) - light.at(self.uv.reshape(-1, 2)).reshape(texture.shape)
        cleaned, faults = self._clean(_fill_hidden(flat, visibility))
        measures = (face.smile, face.mouth_open, face.eyes_open, face.yaw)
        return Portrait(cleaned.astype(np.float16), strip, solid, features, row, faults, measures)

    @torch.no_grad()
    def _features(self, picture: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        """Return (R, D) features of the pipeline's own encoder."""
        matrix = frame_from_mesh(mesh, _ENCODER_SIZE)
        crop = torch.from_numpy(extract(picture, matrix, _ENCODER_SIZE)).permute(2, 0, 1)[None].float() / 127.5 - 1
        points = torch.from_numpy(transform(mesh, matrix))[None]
        return encode_attributes(self.encoder, crop, torch.zeros(1, 1, 1), points)[0].numpy()

    def _clean(self, texture: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """Return the texture without hair over the forehead, side light and colour cast, and measures of all three."""
        light = texture @ _LUMINANCE
        hair = (np.abs(light) > _HAIR) | (np.abs(texture - light[..., None]).max(2) > _TINT)
        hair = cv2.morphologyEx((hair & self.hairline).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        hair = cv2.dilate(hair, np.ones((9, 9), np.uint8)) > 0
        faults = {"hair": float(hair[self.hairline].mean())}
        if hair.any():
            smooth = self._low_pass(texture, self.both * ~hair * (np.abs(light) < 0.4), 1 / 14)
            other = np.where(hair[:, ::-1, None], smooth, texture[:, ::-1])
            weight = cv2.GaussianBlur(hair.astype(np.float32), (0, 0), 3)[..., None]
            texture = texture + weight * (other - texture)
            light = texture @ _LUMINANCE
        skin = self.both * np.exp(-0.5 * (light / 0.5) ** 2)
        slow = self._low_pass(light[..., None], skin, _LIGHT_SIGMA)
        hues = self._low_pass(texture - light[..., None], skin, _HUE_SIGMA)
        uneven, tinted = (slow - slow[:, ::-1]) / 2, (hues - hues[:, ::-1]) / 2
        texture = texture - uneven - tinted
        light = texture @ _LUMINANCE
        faults["asymmetry"] = float(np.abs(uneven[self.skin]).mean())
        faults["tint"] = float(np.abs(hues + hues[:, ::-1]).max(2)[self.skin].mean() / 2)
        faults["outliers"] = float((np.abs(light) > 0.25)[self.skin].mean())
        faults["contrast"] = float(light[self.skin].std())
        faults["lurid"] = float((texture[self.eyes] @ (1, 0, -1)).mean())
        inner = self.both * (self.border[..., 0] > 0.8) * np.exp(-0.5 * (light / 0.3) ** 2)
        smooth = self._low_pass(texture, inner, _HUE_SIGMA)
        texture = smooth + self.border * (texture - smooth)
        light = (texture @ _LUMINANCE)[..., None]
        softer = min(1.0, _CONTRAST / faults["contrast"])
        return softer * (light + _SATURATION * (texture - light)), faults

    def _low_pass(self, values: np.ndarray, weight: np.ndarray, share: float) -> np.ndarray:
        """Return (T, T, C) weighted means over a neighbourhood, computed at low resolution."""
        both = cv2.resize(
            np.dstack([values * weight[..., None], weight]), (_COARSE, _COARSE), None, 0, 0, cv2.INTER_AREA
        )
        total = cv2.resize(cv2.GaussianBlur(both, (0, 0), share * _COARSE), (self.texels, self.texels))
        return total[..., :-1] / (total[..., -1:] + 1e-3)


def even_light(texture: np.ndarray) -> np.ndarray:
    """Return a texture without side light at the scale of a nose and without the nose's highlights.

    Both are (T, T, 3) float32, logarithm of RGB without light.
    """
    size = len(texture)
    skin, _, _ = _bare_skin(size)
    nose = region_weight("nose", size)[..., None]
    coarse = cv2.GaussianBlur(texture, (0, 0), _SHADE_SIGMA * size)
    texture = texture - skin[..., None] * (coarse - coarse[:, ::-1]) / 2
    texture = texture + nose * (texture[:, ::-1] - texture) / 2
    light = texture @ _LUMINANCE
    shade = (light - cv2.GaussianBlur(light, (0, 0), _HIGHLIGHT_SIGMA * size)).clip(0)
    return texture + nose * (_MAX_HIGHLIGHT * np.tanh(shade / _MAX_HIGHLIGHT) - shade)[..., None]


def calm_skin(texture: np.ndarray, *, bearded: bool = False, lined: bool = False) -> np.ndarray:
    """Return a texture with weaker outliers on bare skin (hair, jewellery, shadows, lines) and weaker lipstick.

    Both are (T, T, 3) float32, logarithm of RGB without light. `bearded` keeps dark skin below the nose, which may be a
    beard, `lined` lines of age.
    """
    size = len(texture)
    skin, upper, lips = _bare_skin(size)
    shadows = skin * upper if bearded else skin
    lines = _MAX_AGED_LINE if lined else _MAX_LINE
    for sigma, limit, weight in ((_SHADOW_SIGMA, _MAX_SHADOW, shadows), (_LINE_SIGMA, lines, skin)):
        light = (texture @ _LUMINANCE)[..., None]
        hue = texture - light
        shade = light - cv2.GaussianBlur(light, (0, 0), sigma * size)[..., None]
        tint = hue - cv2.GaussianBlur(hue, (0, 0), sigma * size)
        less = limit * np.tanh(shade / limit) - shade + _MAX_TINT * np.tanh(tint / _MAX_TINT) - tint
        texture = texture + weight[..., None] * less
    painted = _LIPS + _MAX_LIPSTICK * np.tanh((texture - _LIPS) / _MAX_LIPSTICK)
    return texture + lips[..., None] * (painted - texture)


@cache
def _bare_skin(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (T, T) weights in 0..1: skin away from features, everything above the upper lip, and the lips."""
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


def _fill_hidden(texture: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """Return a texture whose far side, on a turned head, mirrors the near one."""
    share = visibility / (visibility + visibility[:, ::-1] + 1e-3)
    weight = ((share - 0.25) / 0.2).clip(0, 1)[..., None]
    weight = weight * weight * (3 - 2 * weight)
    return texture * weight + texture[:, ::-1] * (1 - weight)


def read_portraits(
    folder: Path, reader: PortraitReader, progress: Callable[[int, int], None] | None = None
) -> list[Portrait]:
    """Return the portraits of a folder's pictures, without those that are damaged or show no usable face."""
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
    """Fit at most K modes, codes and shapes to clean portraits of `PortraitReader`, with textures of T texels a side.

    Returns the model, and the share of the textures' variance that its modes explain. Raises DeidError if fewer than
    eight portraits are clean.
    """
    candidates = list(portraits)
    stated = np.array([states_glasses(portrait.row) for portrait in candidates])
    glasses = glasses_probability([portrait.strip for portrait in candidates], stated)
    rows = [
        row
        for row, portrait in enumerate(candidates)
        if all(portrait.faults[name] < limit for name, limit in _LIMITS.items())
    ]
    if len(rows) < _MIN_PEOPLE:
        raise DeidError(
            f"{len(rows)} of {len(candidates)} pictures are clean frontal faces: expected {_MIN_PEOPLE} or more"
        )
    model = IdentityModel(len(rows), min(modes, len(rows) - 1), texels, *candidates[rows[0]].features.shape)
    packed = np.stack([model.pack(_calm(candidates[row], glasses[row])) for row in rows])
    likeness = likeness_to_mean(packed)
    clean = likeness >= np.where(glasses[rows] < GLASSES_THRESHOLD, _MIN_LIKENESS, _MIN_LIKENESS_GLASSES)
    if clean.sum() >= _MIN_PEOPLE:
        rows = [row for row, is_clean in zip(rows, clean, strict=True) if is_clean]
        packed, likeness = packed[clean], likeness[clean]
    people = [candidates[row] for row in rows]
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
                (float(person.row["male"]), float(person.row["age"]), *person.measures, glasses[row], 1 - correlation)
                for row, person, correlation in zip(rows, people, likeness, strict=True)
            ]
        ),
    }
    for name, value in values.items():
        buffer = getattr(model, name)
        dtype = torch.int8 if name == "modes" else torch.float16  # 11 bits of precision suffice
        setattr(model, name, torch.from_numpy(np.ascontiguousarray(value)).to(dtype).reshape(buffer.shape))
    return model.eval(), float(variances.sum() / (packed**2).sum())


def _calm(portrait: Portrait, glasses: float) -> np.ndarray:
    """Return a portrait's calmed texture, (T, T, 3) float32; unchanged with glasses, whose frames are lines."""
    texture = portrait.texture.astype(np.float32)
    male, age = float(portrait.row["male"]) > 0.5, float(portrait.row["age"])
    calm = calm_skin(even_light(texture), bearded=male and age >= _BEARD_AGE, lined=age >= _LINE_AGE)
    return texture if glasses >= GLASSES_THRESHOLD else calm


def likeness_to_mean(packed: np.ndarray) -> np.ndarray:
    """Return (N,) correlations of (N, P) packed textures with their mean; shadows, hands, bad meshes lower them."""
    centred = packed - packed.mean(1, keepdims=True)
    mean = centred.mean(0)
    return centred @ mean / (np.linalg.norm(centred, axis=1) * np.linalg.norm(mean)).clip(1e-9)


def align_solids(solids: Iterable[np.ndarray]) -> np.ndarray:
    """Return N meshes, (478, 3) pixels, aligned to the frontal mean mesh and made symmetrical: (N, 478, 3) float32.

    Generalised Procrustes analysis (Gower, Psychometrika 1975): similarity transforms to the mean of all meshes.
    """
    flat = mean_mesh(1)
    aligned = [_rescale(solid, flat) for solid in solids]
    mean = np.median(np.stack(aligned), axis=0)
    for _ in range(4):
        aligned = [_align(solid, mean) for solid in aligned]
        mean = np.mean(np.stack(aligned), axis=0)
        mean = (mean + _mirrored(mean)) / 2
    return np.stack([(solid + _mirrored(solid)) / 2 for solid in aligned]).astype(np.float32)


def _rescale(solid: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Return a mesh moved and scaled to another's centre and size, without rotation."""
    centre, size = solid.mean(0), np.linalg.norm(solid[:, :2] - solid[:, :2].mean(0))
    target = flat.mean(0)
    return (solid - centre) * (np.linalg.norm(flat - target) / size) + [*target, 0]


def _align(solid: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return a mesh under the least-squares similarity transform to a target (Umeyama, 1991)."""
    from scipy.spatial.transform import Rotation

    centred, aim = solid - solid.mean(0), target - target.mean(0)
    rotated = Rotation.align_vectors(aim, centred)[0].apply(centred)
    return rotated * ((rotated * aim).sum() / (centred**2).sum()) + target.mean(0)


def _mirrored(solid: np.ndarray) -> np.ndarray:
    """Return a mesh's mirror image in place, in the order of its points."""
    middle = mean_mesh(1)
    axis = middle[:, 0].min() + middle[:, 0].max()
    mirrored = solid[mirrored_points()].copy()
    mirrored[:, 0] = axis - mirrored[:, 0]
    return mirrored
