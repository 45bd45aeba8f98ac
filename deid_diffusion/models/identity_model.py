"""IdentityModel: textures, shapes and attributes of synthetic people, from which new identities are mixed.

A texture model in the tradition of active appearance models (Cootes et al., ECCV 1998) and 3D morphable models (Blanz &
Vetter, SIGGRAPH 1999): light-free textures on the mean mesh are a mean plus principal modes, a person is a code and a
shape. Independent random codes average to mud, so a new person is a mixture of a few training people, region by region,
joined by soft masks. The training people do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # the name must stand here: diffusers looks it up when loading

from ..faces.landmarks import MESH_BROWS, MESH_EYES, MESH_LIPS, MESH_MOUTH, MESH_NOSE
from ..faces.texture import silhouette, texture_mesh

MEASURES: tuple[str, ...] = ("male", "age", "smile", "mouth_open", "eyes_open", "yaw", "glasses", "oddity")
"""Columns of `IdentityModel.measures`: probability, years, `faces.measures` (four), probability, and how far, 0 to 1, a
texture is from correlating with the mean: remaining shadows and hair raise it."""

_GREY = np.array((0.299, 0.587, 0.114), np.float32)
_SOFT = 0.035  # standard deviation of the regions' edges, as a share of the texture's side
_LIP = 0.006  # of the edge between lips and teeth
_GROWTH = {"eyes": 0.055, "nose": 0.02, "mouth": 0.055, "inner": 0.004}  # reach past the landmarks, likewise


@dataclass(frozen=True)
class Donors:
    """The training people from whom a new person is mixed.

    Attributes:
        skin: index of the donor of forehead, cheeks, jaw and the rest of the face.
        eyes: index of the donor of eyes and brows.
        nose: index of the donor of the nose.
        mouth: index of the donor of the lips.
        inner: index of the donor of the mouth's inside: teeth or dark.
        emphasis: how far a photo's proportions move towards theirs, in percent; over 100 exaggerates the difference.
    """

    skin: int
    eyes: int
    nose: int
    mouth: int
    inner: int
    emphasis: int = 130

    @property
    def people(self) -> tuple[int, int, int, int, int]:
        """The five indices."""
        return self.skin, self.eyes, self.nose, self.mouth, self.inner

    def to_bytes(self) -> bytes:
        """Return twelve bytes, two per number."""
        return np.array(astuple(self), "<u2").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Donors:
        """Invert `to_bytes`; ten bytes lack the emphasis. Raises ValueError for data of another length."""
        if len(data) not in (2 * len(fields(cls)) - 2, 2 * len(fields(cls))):
            raise ValueError(f"donors: expected 10 or 12 bytes, got {len(data)}")
        return cls(*np.frombuffer(data, "<u2").tolist())


class IdentityModel(ModelMixin, ConfigMixin):
    """Textures, shapes and attributes of N synthetic people.

    Args:
        num_people: N.
        num_modes: K, principal modes of the textures.
        texels: T, side of the square of textures; a multiple of 2. Colours have half of it.
        num_features: R, rows of the attribute features.
        feature_dim: D, width of the attribute features.

    Attributes:
        mean: (P,) buffer, packed texture, see `pack`.
        modes: (K, P) int8 buffer, principal modes on a scale of their own.
        codes: (N, K) buffer, on that scale.
        shapes: (N, 478, 3) buffer, frontal meshes in units of the mean mesh, y down, z away from the camera.
        features: (N, R, D) buffer, features of each person by the pipeline's attribute encoder.
        measures: (N, 8) buffer, see `MEASURES`.
    """

    if TYPE_CHECKING:  # diffusers' part, which mypy cannot see
        config: Any
        save_pretrained: Any
        from_pretrained: Any

    #: Points of shapes and years of ages need more digits than half precision has, which would save no time here.
    _keep_in_fp32_modules: ClassVar[list[str]] = ["mean", "codes", "shapes", "features", "measures"]

    mean: torch.Tensor
    modes: torch.Tensor
    codes: torch.Tensor
    shapes: torch.Tensor
    features: torch.Tensor
    measures: torch.Tensor

    @register_to_config
    def __init__(
        self,
        num_people: int = 4,
        num_modes: int = 2,
        texels: int = 32,
        num_features: int = 6,
        feature_dim: int = 192,
    ) -> None:
        super().__init__()
        self._light, self._hue = (silhouette(texture_mesh(side), side) for side in (texels, texels // 2))
        width = int(self._light.sum()) + 2 * int(self._hue.sum())
        # a cast to half precision does not touch integers
        for name, shape, dtype in (
            ("mean", (width,), torch.float32),
            ("modes", (num_modes, width), torch.int8),
            ("codes", (num_people, num_modes), torch.float32),
            ("shapes", (num_people, 478, 3), torch.float32),
            ("features", (num_people, num_features, feature_dim), torch.float32),
            ("measures", (num_people, len(MEASURES)), torch.float32),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    def __len__(self) -> int:
        return len(self.codes)

    def to(self, *args: Any, **kwargs: Any) -> IdentityModel:
        """Move the model to a device; the types of its buffers stay, without diffusers' warning that they do."""
        return torch.nn.Module.to(self, *args, **kwargs)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> IdentityModel:
        """Move the buffers, as `torch.nn.Module.to` does, but leave their types."""
        self.__dict__.pop("_float_modes", None)  # four times the modes' size, and on the device that is left
        return super()._apply(lambda buffer: buffer.to(fn(buffer).device), recurse)

    def pack(self, texture: np.ndarray) -> np.ndarray:
        """Pack a (T, T, 3) light-free texture as (P,) float32: luminance, then colours."""
        light = texture @ _GREY
        hue = cv2.resize(texture[..., [0, 2]] - light[..., None], self._hue.shape[::-1], interpolation=cv2.INTER_AREA)
        return np.concatenate([light[self._light], *hue[self._hue].T]).astype(np.float32)

    def unpack(self, values: np.ndarray) -> np.ndarray:
        """Invert `pack`: (P,) -> (T, T, 3) float32, 0 outside the face."""
        side, (inside, few) = int(self.config.texels), (self._light, self._hue)
        count, hues = int(inside.sum()), int(few.sum())
        light, hue = np.zeros((side, side), np.float32), np.zeros((*few.shape, 2), np.float32)
        light[inside] = values[:count]
        hue[few] = values[count:].reshape(2, hues).T
        red, blue = (cv2.resize(hue[..., k], (side, side), interpolation=cv2.INTER_LINEAR) for k in (0, 1))
        green = -(red * _GREY[0] + blue * _GREY[2]) / _GREY[1]  # colours add nothing to the luminance
        return np.stack([red, green, blue], 2) * inside[..., None] + light[..., None]

    def project(self, texture: np.ndarray) -> np.ndarray:
        """Return the nearest texture in the span of the modes, both (T, T, 3) float32."""
        away = torch.from_numpy(self.pack(texture)) - self.mean.float().cpu()
        modes = self._float_modes.cpu()
        codes = (modes @ away) / modes.square().sum(1).clamp(min=1e-6)  # the modes are orthogonal
        return self.unpack((self.mean.float().cpu() + codes @ modes).numpy())

    def texture(self, donors: Donors) -> np.ndarray:
        """Return a new person's texture, (T, T, 3) float32: logarithm of RGB without light; 0 outside the face."""
        people = donors.people
        distinct = sorted(set(people))
        packed = self.mean.float() + self.codes[distinct].float() @ self._float_modes.to(self.codes.device)
        values = dict(zip(distinct, packed.cpu().numpy(), strict=True))
        mixed = values[people[0]]
        for weight, person in zip(self._packed_weights, people[1:], strict=True):
            if person != people[0]:
                mixed = mixed + weight * (values[person] - mixed)
        return self.unpack(mixed)

    def shape(self, donors: Donors) -> np.ndarray:
        """Return a new person's frontal shape, (478, 3) float32."""
        skin, *others = (self.shapes[person].float().cpu().numpy() for person in donors.people)
        shape = skin
        for weight, other in zip(self._point_weights, others, strict=True):
            shape = shape + weight[:, None] * (other - shape)
        return shape

    @cached_property
    def teeth(self) -> np.ndarray:
        """Brightness between the lips, (N,) float32, as in textures: -1 is dark, 0 bright."""
        return self._values_within([MESH_MOUTH]).mean(1)

    @cached_property
    def eye_whites(self) -> np.ndarray:
        """Brightness of the brightest eighth between the lids, (N,) float32, as in textures."""
        return np.quantile(self._values_within(MESH_EYES), 7 / 8, axis=1).astype(np.float32)

    @cached_property
    def eye_highlights(self) -> np.ndarray:
        """Brightness of the brightest fiftieth of the skin around the eyes, (N,) float32, as in textures."""
        side = int(self.config.texels)
        around = ((region_weight("eyes", side) > 0.5) & self._light).astype(np.uint8)
        for eye in MESH_EYES:
            lids = np.round(texture_mesh(side)[list(eye)]).astype(np.int32)
            cv2.fillPoly(around, [lids], (0,))
            cv2.polylines(around, [lids], isClosed=True, color=(0,), thickness=max(1, side // 50))
        return np.quantile(self._values_at(around), 0.98, axis=1).astype(np.float32)

    def _values_within(self, outlines: Sequence[Sequence[int]]) -> np.ndarray:
        """Return (N, n) luminances of the texels within outlines on the mesh."""
        side = int(self.config.texels)
        opening = np.zeros((side, side), np.uint8)
        for outline in outlines:
            cv2.fillPoly(opening, [np.round(texture_mesh(side)[list(outline)]).astype(np.int32)], (1,))
        return self._values_at(opening)

    def _values_at(self, mask: np.ndarray) -> np.ndarray:
        """Return (N, n) luminances of the face's texels where a (T, T) mask is not 0."""
        texels = torch.from_numpy(np.flatnonzero(mask[self._light]))
        modes = self.modes[:, texels].float().cpu()
        return (self.mean[texels].float().cpu() + self.codes.float().cpu() @ modes).numpy()

    def asymmetry(self, region: str) -> np.ndarray:
        """Return the asymmetry of a region, (N,) float32: 0 for equal sides, about 1.4 for random ones.

        Args:
            region: as in `region_weight`.
        """
        if region not in self._asymmetries:
            covered = (region_weight(region, int(self.config.texels)) > 0.5) & self._light
            covered &= covered[:, ::-1]
            covered[::2], covered[:, ::2] = False, False  # a quarter of the texels is enough
            numbers = np.cumsum(self._light).reshape(self._light.shape) - 1
            texels = torch.from_numpy(np.stack([numbers[covered], numbers[:, ::-1][covered]]))
            modes = self.modes[:, texels].float().cpu()
            sides = self.mean.float().cpu()[texels] + torch.einsum("nk,kst->nst", self.codes.float().cpu(), modes)
            away = (sides[:, 0] - sides[:, 1]).square().mean(1).sqrt() / sides[:, 0].std(1).clamp(min=1e-6)
            self._asymmetries[region] = away.numpy()
        return self._asymmetries[region]

    @cached_property
    def _asymmetries(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def _float_modes(self) -> torch.Tensor:
        """(K, P) float32: integers multiply five times slower."""
        return self.modes.float()

    @cached_property
    def _packed_weights(self) -> list[np.ndarray]:
        """(P,) float32 in 0..1 for eyes, nose, mouth and inner mouth, packed as textures are."""
        weights = []
        for name in _GROWTH:
            weight = region_weight(name, int(self.config.texels))
            small = cv2.resize(weight, self._hue.shape[::-1], interpolation=cv2.INTER_AREA)[self._hue]
            weights.append(np.concatenate([weight[self._light], small, small]).astype(np.float32))
        return weights

    @cached_property
    def _point_weights(self) -> list[np.ndarray]:
        """(478,) float32 in 0..1 for the same regions."""
        side = int(self.config.texels)
        points = texture_mesh(side).round().astype(int).clip(0, side - 1)
        return [region_weight(name, side)[points[:, 1], points[:, 0]] for name in _GROWTH]


def region_weight(name: str, size: int) -> np.ndarray:
    """Return the weight of a region, (size, size) float32 in 0..1 on the mean face, with a soft edge.

    Args:
        name: "eyes" (brows included), "nose", "mouth" or "inner" (between the lips).
        size: side of the texture, in texels.
    """
    mesh = texture_mesh(size)
    regions: dict[str, list[tuple[int, ...]]] = {
        "eyes": [(*eye, *brow) for eye, brow in zip(MESH_EYES, MESH_BROWS, strict=True)],
        "nose": [MESH_NOSE],
        "mouth": [(*MESH_LIPS, *MESH_MOUTH)],
        "inner": [MESH_MOUTH],
    }
    region = np.zeros((size, size), np.uint8)
    for points in regions[name]:
        cv2.fillConvexPoly(region, np.round(cv2.convexHull(mesh[list(points)])[:, 0]).astype(np.int32), (1,))
    reach = max(1, round(_GROWTH[name] * size))
    grown = cv2.dilate(region, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2))
    soft = _SOFT if name != "inner" else _LIP
    return cv2.GaussianBlur(grown.astype(np.float32), (0, 0), soft * size)
