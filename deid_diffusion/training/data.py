"""The data sets that the objectives learn from, all read from a cache made by ``prepare``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.utils.data import Dataset
from transformers import CLIPTokenizer, CLIPVisionModelWithProjection

from ..attributes.encoding import encode_attributes, tokenize
from ..attributes.subspace import FEATURE_NAMES
from ..faces.compositing import fill_from_surroundings
from ..faces.landmarks import measure
from ..faces.lighting import FaceLight, to_log
from ..faces.masks import face_outline
from ..faces.rendering import light_texture, read_light, render_person
from ..faces.semantic_map import control_image, draw_semantic_map, mean_mesh
from ..faces.texture import texture_coordinates, unwrap_face
from ..models.face_encoder import FaceEncoder
from ..models.identity_model import IdentityModel
from ..pipelines.face_deid import ERASED
from .captions import codes, phrase, sample_facts

_BOXES, _ELLIPSES, _EVERYTHING = 0.07, 0.08, 0.04  # shares of the shapes that are not the face's own outline


def random_mask(mesh: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size) bool mask around a face, its reach and roundness drawn anew.

    Mostly the face's outline, sometimes an ellipse or a box around it. Now and then all of the crop is masked: a model
    that has to invent a whole head learns what heads are, and can make people who never lived for documentation.

    Args:
        mesh: (478, 2) float32 crop pixels.
        size: side of the crop, in pixels.
        rng: draws the shape.
    """
    kind = rng.random()
    if kind < _EVERYTHING:
        return np.ones((size, size), bool)
    outline = max(face_outline(mesh, size), key=len)
    x, y, width, height = cv2.boundingRect(outline)
    if kind < _EVERYTHING + _BOXES:
        outline = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], np.float32)
    elif kind < _EVERYTHING + _BOXES + _ELLIPSES:
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        rim = np.stack([width * np.cos(turn), height * np.sin(turn)], 1)
        outline = (1.15 / 2 * rim + np.array([x + width / 2, y + height / 2])).astype(np.float32)
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], (1,))
    reach = int(rng.uniform(0.03, 0.13) * size)
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)) > 0


def random_view(
    crop: np.ndarray, mesh: np.ndarray, rng: np.random.Generator, turn: float = 0.15, zoom: float = 0.12
) -> tuple[np.ndarray, np.ndarray]:
    """The crop turned, scaled and shifted, and its mesh with it.

    Args:
        crop: (S, S, 3) uint8.
        mesh: (K, 2) float32 crop pixels.
        rng: draws the view.
        turn: standard deviation of the rotation, in radians.
        zoom: standard deviation of the scale's logarithm.
    """
    size = len(crop)
    centre, angle = (size - 1) / 2, float(rng.normal(0, turn))
    matrix = cv2.getRotationMatrix2D((centre, centre), np.degrees(angle), float(np.exp(rng.normal(0, zoom))))
    matrix = matrix + np.array([[0, 0, 1], [0, 0, 1]]) * rng.normal(0, 0.03, (2, 1)) * size
    view = cv2.warpAffine(crop, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return view, (mesh @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def random_mesh(mesh: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A mesh of (K, 2) crop pixels that fits as badly as they do on worse photos; size is the crop's side."""
    middle = mesh.mean(0)
    scaled = (mesh - middle) * np.exp(rng.normal(0, 0.03, 2)) + middle
    return (scaled + rng.normal(0, 0.012 * size, 2)).astype(np.float32)


def random_look(crop: np.ndarray, rng: np.random.Generator, *, grey: bool) -> np.ndarray:
    """Another light, camera and obstacle: gamma, contrast, tint, a light from one side, blur, noise, a covered patch,
    and the blocks of a small JPEG file.

    Args:
        crop: (S, S, 3) uint8.
        rng: draws all of it.
        grey: whether the colour is taken out.
    """
    size = len(crop)
    values: np.ndarray = crop.astype(np.float32) / 255
    if grey:
        values = np.repeat(values.mean(2, keepdims=True), 3, 2)
    values = values ** np.float32(np.exp(rng.normal(0, 0.3)))
    values = (values - 0.5) * np.float32(np.exp(rng.normal(0, 0.25))) + 0.5
    if not grey:
        values *= np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
    if rng.random() < 0.4:  # light that falls off from one side to the other
        direction = rng.normal(0, 0.6, 2)
        line = np.linspace(-1, 1, size, dtype=np.float32)
        values *= np.exp(direction[0] * line[None, :] + direction[1] * line[:, None])[..., None].astype(np.float32)
    if rng.random() < 0.4:
        small = int(size * rng.uniform(0.2, 0.7))
        values = cv2.resize(cv2.resize(values, (small, small), interpolation=cv2.INTER_AREA), (size, size))
    values = values + rng.normal(0, 1, values.shape).astype(np.float32) * np.float32(rng.uniform(0, 0.05))
    if rng.random() < 0.5:
        width, height = (int(size * side) for side in rng.uniform(0.1, 0.4, 2))
        x, y = rng.integers(0, size - width), rng.integers(0, size - height)
        values[y : y + height, x : x + width] = rng.random(3)
    seen: np.ndarray = np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, data = cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 60))])
        seen = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return seen


_TURN = 0.35  # of `measures.FaceMeasures.yaw`, from which on captions speak of a turned head

SEX: Mapping[str, str] = {"man": "male", "boy": "male", "woman": "female", "girl": "female"}
"""Of the words for a person in captions."""


class Balance:
    """Says which of N faces is drawn.

    Args:
        outer: N groups that are drawn equally often, or None for a face of no known group. Those keep their share.
        inner: N groups within these, drawn in proportion to the root of their size: equally often would show the few
            of a small group over and over.
    """

    def __init__(self, outer: Sequence[Hashable | None], inner: Sequence[Hashable]) -> None:
        self.ends = np.arange(1, len(outer) + 1) / len(outer)
        groups = set(outer) - {None}
        if not groups:
            return
        known = sum(group is not None for group in outer) / len(outer)
        both = list(zip(outer, inner, strict=True))
        sizes = Counter(both)
        roots = {group: sum(n**0.5 for (one, _), n in sizes.items() if one == group) for group in groups}
        shares = [
            1 / len(both) if one[0] is None else known / len(groups) / roots[one[0]] * sizes[one] ** -0.5
            for one in both
        ]
        self.ends = np.cumsum(shares)

    def draw(self, rng: np.random.Generator) -> int:
        """The index of a face."""
        return min(int(np.searchsorted(self.ends, rng.random() * self.ends[-1], "right")), len(self.ends) - 1)


def by_sex_age_and_turn(said: Sequence[Mapping[str, str]], meshes: np.ndarray) -> Balance:
    """Sexes equally often, ages and turns of the head by the roots of their numbers.

    Args:
        said: what captions know of N faces.
        meshes: (N, 478, 2), in any pixels.
    """
    turns = [int(abs(measure(mesh).yaw) / _TURN) for mesh in meshes]
    inner = [(one.get("age", ""), turn) for one, turn in zip(said, turns, strict=True)]
    return Balance([SEX.get(one.get("person", "")) for one in said], inner)


class FaceCache:
    """A prepared cache on disk.

    Attributes:
        crops: (N, S, S, 3) uint8 RGB, memory-mapped.
        meshes: (N, 478, 2) float32 crop pixels.
        rows: N dictionaries: the file's name, whether it is grey, and the manifest's columns.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "crops.npy").is_file():
            raise FileNotFoundError(f"{folder} is no cache of faces; make one: deid-diffusion prepare DATA -o CACHE")
        self.crops = np.load(folder / "crops.npy", mmap_mode="r")
        self.meshes = np.load(folder / "meshes.npy")
        self.rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def size(self) -> int:
        return int(self.crops.shape[1])


class FaceDataset(Dataset[dict[str, torch.Tensor]]):
    """A data set over a cache whose random choices follow from seed, epoch and index alone.

    So a resumed training sees what the uninterrupted one would have seen.
    """

    def __init__(self, cache: FaceCache, seed: int) -> None:
        self.cache, self.seed, self.epoch = cache, seed, 0

    def __len__(self) -> int:
        return len(self.cache)

    def set_epoch(self, epoch: int) -> None:
        """Called by the loop before each epoch."""
        self.epoch = epoch

    def rng(self, index: int) -> np.random.Generator:
        """The random generator of one item in this epoch."""
        return np.random.default_rng((self.seed, self.epoch, index))


class CropDataset(FaceDataset):
    """Face crops alone: ``pixels`` (3, S, S) float32 in -1..1."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixels": to_tensor(self.cache.crops[index])}


def to_tensor(crop: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in -1..1."""
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 127.5 - 1


_MEAN_MAP = 0.06  # share of faces whose map is the mean face's: what a face without a mesh gets
_DONE = "complete"


class LatentFaces(FaceDataset):
    """Faces whose latents, masks and features were computed once, by ``encode_cache``.

    Items: ``latents`` and ``masked_latents`` (C, h, w), ``mask`` (1, h, w), ``control`` (3, S, S) in 0..1, ``features``
    (N, D), ``input_ids`` (T,) int64 of a caption that says some of what is known, ``facts`` (F,) int64, codes of
    all of it, and, where they were computed, ``start`` (C, h, w), latents of composites.

    An item is of a face drawn at random, women as often as men: else the many decide what
    faces look like whose tokens say little.
    """

    def __init__(
        self, cache: FaceCache, encoded: Path, tokenizer: CLIPTokenizer, said: Sequence[Mapping[str, str]], seed: int
    ) -> None:
        super().__init__(cache, seed)
        self.arrays = {
            name: np.load(encoded / f"{name}.npy", mmap_mode="r")
            for name in ("latents", "masked_latents", "mask", "features", "start")
            if (encoded / f"{name}.npy").is_file()
        }
        self.tokenizer, self.said, self.balance = tokenizer, said, by_sex_age_and_turn(said, cache.meshes)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng, size = self.rng(index), self.cache.size
        row = self.balance.draw(rng)
        item = {name: torch.from_numpy(np.array(array[row], np.float32)) for name, array in self.arrays.items()}
        mesh = self.cache.meshes[row]
        if rng.random() < _MEAN_MAP:
            mesh = mean_mesh(size)
        control = control_image(draw_semantic_map(mesh, size))
        item["control"] = torch.from_numpy(control).permute(2, 0, 1).float() / 255
        item["input_ids"] = tokenize(self.tokenizer, [phrase(sample_facts(self.said[row], rng))])[0]
        item["facts"] = codes(self.said[row])
        return item


def is_encoded(folder: Path) -> bool:
    """Whether ``encode_cache`` has finished in this folder."""
    return (folder / _DONE).is_file()


@torch.no_grad()
def encode_cache(
    cache: FaceCache,
    output: Path,
    vae: AutoencoderKL,
    image_encoder: CLIPVisionModelWithProjection | FaceEncoder,
    *,
    seed: int,
    identity_model: IdentityModel | None = None,
    batch: int = 64,
) -> None:
    """Compute once what no step changes, and write it to ``output`` as float16 arrays.

    Args:
        cache: N faces.
        output: gets latents.npy and masked_latents.npy (N, C, h, w), mask.npy (N, 1, h, w), features.npy (N, R, D).
        vae, image_encoder: in eval mode, on the device to use.
        seed: of the masks.
        identity_model: makes composites of the faces with themselves, and start.npy (N, C, h, w) of these.
        batch: crops encoded at once.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / _DONE).unlink(missing_ok=True)
    device, rng = next(vae.parameters()).device, np.random.default_rng(seed)
    side = cache.size // 2 ** (len(vae.config.block_out_channels) - 1)
    latent, features = (
        (vae.config.latent_channels, side, side),
        (len(FEATURE_NAMES), image_encoder.config.projection_dim),
    )
    shapes = {"latents": latent, "masked_latents": latent, "mask": (1, side, side), "features": features}
    if identity_model is not None:
        shapes["start"] = latent
    arrays = {
        name: np.lib.format.open_memmap(output / f"{name}.npy", "w+", np.float16, (len(cache), *shape))
        for name, shape in shapes.items()
    }
    for start in range(0, len(cache), batch):
        rows = range(start, min(len(cache), start + batch))
        pixels = torch.stack([to_tensor(cache.crops[i]) for i in rows]).to(device)
        labels = torch.stack([torch.from_numpy(draw_semantic_map(cache.meshes[i], cache.size)) for i in rows])
        masks = torch.stack([torch.from_numpy(random_mask(cache.meshes[i], cache.size, rng)) for i in rows])[:, None]
        erased = torch.where(masks.to(device), torch.full_like(pixels, 2 * ERASED - 1), pixels)
        pictures = {"latents": pixels, "masked_latents": erased}
        if identity_model is not None:
            composites = [
                compose_self(identity_model, cache.crops[i], cache.meshes[i], mask[0].numpy())
                for i, mask in zip(rows, masks, strict=True)
            ]
            pictures["start"] = torch.from_numpy(np.stack(composites)).permute(0, 3, 1, 2).to(device) * 2 - 1
        with torch.autocast(device.type, torch.bfloat16):
            for name, value in pictures.items():
                found = vae.encode(value.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
                arrays[name][rows.start : rows.stop] = (found.float() * vae.config.scaling_factor).cpu().numpy()
        arrays["mask"][rows.start : rows.stop] = nn.functional.interpolate(masks.float(), (side, side)).numpy()
        meshes = torch.from_numpy(cache.meshes[rows.start : rows.stop].astype(np.float32)).to(device)
        found = encode_attributes(image_encoder, pixels, labels.long().to(device), meshes)
        arrays["features"][rows.start : rows.stop] = found.cpu().numpy()
    for array in arrays.values():
        array.flush()
    (output / _DONE).touch()


def compose_self(model: IdentityModel, crop: np.ndarray, mesh: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compose a face with its own nearest texture in an identity model: the pair of a photo that needs no label.

    Args:
        model: whose modes the face's texture is projected on.
        crop: (S, S, 3) uint8 RGB.
        mesh: (478, 2) its pixels.
        mask: (S, S) bool, what is erased.

    Returns:
        (S, S, 3) float32 RGB in 0..1.
    """
    mesh, size = mesh.astype(np.float32), int(model.config.texels)
    light = read_light(crop, mesh) or FaceLight(np.zeros((6, 3)))
    uv = texture_coordinates(size)
    texture = to_log(unwrap_face(crop, mesh, size)[0].clip(0, 255) / 255) - light.at(uv.reshape(-1, 2)).reshape(
        size, size, 3
    )
    ground = fill_from_surroundings(crop.astype(np.float32) / 255, mask)
    return render_person(light_texture(model.project(texture), light), mesh, ground, mask)
