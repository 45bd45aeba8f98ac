"""Data sets over a face cache, their augmentation, and their sampling."""

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
from torch.utils.data import Dataset, default_collate
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
from .captions import fact_codes, sample_facts, write_caption

SEX: Mapping[str, str] = {"man": "male", "boy": "male", "woman": "female", "girl": "female"}
"""Sex of the nouns for a person in captions."""
_TURNED = 0.35  # yaw of `FaceMeasures`, from which captions call a head turned
_FULL, _BOX, _ELLIPSE = 0.04, 0.07, 0.08  # shares of masks that are not the face's own outline
_MEAN_MAP = 0.06  # share of items with the mean face's map, which inference uses where no mesh is found
_DONE = "complete"  # file that `encode_cache` leaves when it is finished


def random_mask(mesh: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random (size, size) bool mask that covers a face, given its mesh, (478, 2) float32 crop pixels.

    Mostly the face's dilated outline, sometimes an ellipse or box around it. A few masks cover the whole crop, which
    teaches the model complete heads.
    """
    kind = rng.random()
    if kind < _FULL:
        return np.ones((size, size), bool)
    outline = max(face_outline(mesh, size), key=len)
    x, y, width, height = cv2.boundingRect(outline)
    if kind < _FULL + _BOX:
        outline = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], np.float32)
    elif kind < _FULL + _BOX + _ELLIPSE:
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        rim = np.stack([width * np.cos(turn), height * np.sin(turn)], 1)
        outline = (1.15 / 2 * rim + np.array([x + width / 2, y + height / 2])).astype(np.float32)
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], (1,))
    reach = int(rng.uniform(0.03, 0.13) * size)
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)) > 0


def random_affine(
    crop: np.ndarray, mesh: np.ndarray, rng: np.random.Generator, rotation: float = 0.15, scale: float = 0.12
) -> tuple[np.ndarray, np.ndarray]:
    """Return a (S, S, 3) uint8 crop randomly rotated, scaled and shifted, and its (K, 2) float32 mesh likewise.

    `rotation` is the standard deviation of the angle, in radians, `scale` that of the scale's logarithm.
    """
    size = len(crop)
    centre, angle = (size - 1) / 2, float(rng.normal(0, rotation))
    matrix = cv2.getRotationMatrix2D((centre, centre), np.degrees(angle), float(np.exp(rng.normal(0, scale))))
    matrix = matrix + np.array([[0, 0, 1], [0, 0, 1]]) * rng.normal(0, 0.03, (2, 1)) * size
    warped = cv2.warpAffine(crop, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return warped, (mesh @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def jitter_mesh(mesh: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a mesh of (K, 2) pixels of a crop of side `size`, with the errors of meshes on poor photos."""
    middle = mesh.mean(0)
    scaled = (mesh - middle) * np.exp(rng.normal(0, 0.03, 2)) + middle
    return (scaled + rng.normal(0, 0.012 * size, 2)).astype(np.float32)


def jitter_appearance(crop: np.ndarray, rng: np.random.Generator, *, grey: bool) -> np.ndarray:
    """Vary gamma, contrast, tint, side light, blur, noise, occlusion and JPEG quality of a crop at random.

    The crop, (S, S, 3) uint8 RGB, loses its colour first if `grey`.
    """
    size = len(crop)
    values: np.ndarray = crop.astype(np.float32) / 255
    if grey:
        values = np.repeat(values.mean(2, keepdims=True), 3, 2)
    values = values ** np.float32(np.exp(rng.normal(0, 0.3)))
    values = (values - 0.5) * np.float32(np.exp(rng.normal(0, 0.25))) + 0.5
    if not grey:
        values *= np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
    if rng.random() < 0.4:  # side light
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
    jittered: np.ndarray = np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, data = cv2.imencode(".jpg", jittered, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 60))])
        jittered = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return jittered


class BalancedSampler:
    """Random choice among N faces that balances groups, and up-weights rare subgroups.

    Groups are drawn equally often; faces of the group None keep their share. Subgroups are drawn in proportion to the
    square root of their size: equal shares would repeat the few faces of small subgroups too often.
    """

    def __init__(self, groups: Sequence[Hashable | None], subgroups: Sequence[Hashable]) -> None:
        pairs = list(zip(groups, subgroups, strict=True))
        sizes, known = Counter(pairs), set(groups) - {None}
        weights = np.array([1.0 if pair[0] is None else sizes[pair] ** -0.5 for pair in pairs])
        for name in known:
            rows = np.array([group == name for group in groups])
            weights[rows] *= sum(group is not None for group in groups) / len(known) / weights[rows].sum()
        self.cumulative = np.cumsum(weights) / len(weights)

    def draw(self, rng: np.random.Generator) -> int:
        """Return the index of a random face."""
        index = int(np.searchsorted(self.cumulative, rng.random() * self.cumulative[-1], "right"))
        return min(index, len(self.cumulative) - 1)


def sex_age_pose_sampler(facts: Sequence[Mapping[str, str]], meshes: np.ndarray) -> BalancedSampler:
    """Return a sampler of N faces, by facts and (N, 478, 2) meshes, that balances sexes, rare ages and turned heads."""
    poses = [int(abs(measure(mesh).yaw) / _TURNED) for mesh in meshes]
    subgroups = [(face.get("age", ""), pose) for face, pose in zip(facts, poses, strict=True)]
    return BalancedSampler([SEX.get(face.get("person", "")) for face in facts], subgroups)


class FaceCache:
    """Face cache on disk, as `prepare` writes it. Raises FileNotFoundError if the folder is none.

    Attributes:
        crops: (N, S, S, 3) uint8 RGB, memory-mapped.
        meshes: (N, 478, 2) float32 crop pixels.
        rows: N dictionaries: the photograph's file name, ``grey``, and its other columns.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "crops.npy").is_file():
            raise FileNotFoundError(
                f"{folder}: not a face cache: create one with deid-diffusion prepare DATA -o {folder}"
            )
        self.crops = np.load(folder / "crops.npy", mmap_mode="r")
        self.meshes = np.load(folder / "meshes.npy")
        self.rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def size(self) -> int:
        """Side of a crop, in pixels."""
        return int(self.crops.shape[1])


class FaceDataset(Dataset[dict[str, torch.Tensor]]):
    """Data set over a face cache; its randomness depends on seed, epoch and index alone."""

    def __init__(self, cache: FaceCache, seed: int) -> None:
        self.cache, self.seed, self.epoch = cache, seed, 0

    def __len__(self) -> int:
        return len(self.cache)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the training loop calls it before each one."""
        self.epoch = epoch

    def rng(self, index: int) -> np.random.Generator:
        """Return the random generator of an item in this epoch."""
        return np.random.default_rng((self.seed, self.epoch, index))


def sample_items(dataset: FaceDataset, count: int) -> dict[str, torch.Tensor]:
    """Return ``count`` items spread evenly over a data set, or all if it has fewer, as one batch."""
    count = min(count, len(dataset))
    return default_collate([dataset[index * len(dataset) // count] for index in range(count)])


class CropDataset(FaceDataset):
    """Face crops: items of ``pixels`` (3, S, S) float32 in -1..1."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixels": to_tensor(self.cache.crops[index])}


def to_tensor(crop: np.ndarray) -> torch.Tensor:
    """Return a (H, W, 3) uint8 image as a (3, H, W) float32 tensor in -1..1."""
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 127.5 - 1


class LatentFaces(FaceDataset):
    """Faces with the latents, masks and features of `encode_cache`, for the generator.

    Items: ``latents`` and ``masked_latents`` (C, h, w), ``mask`` (1, h, w), ``control`` (3, S, S) in 0..1, ``features``
    (N, D), ``input_ids`` (T,) int64 of a caption with some of the facts, ``facts`` (F,) int64 codes of all facts and,
    where encoded, ``start`` (C, h, w), latents of composites.

    Each item is a random face, balanced by sex, age and pose: otherwise the majority defines how faces look whose
    tokens carry little information.
    """

    def __init__(
        self, cache: FaceCache, encoded: Path, tokenizer: CLIPTokenizer, facts: Sequence[Mapping[str, str]], seed: int
    ) -> None:
        super().__init__(cache, seed)
        self.arrays = {
            name: np.load(encoded / f"{name}.npy", mmap_mode="r")
            for name in ("latents", "masked_latents", "mask", "features", "start")
            if (encoded / f"{name}.npy").is_file()
        }
        self.tokenizer, self.facts, self.sampler = tokenizer, facts, sex_age_pose_sampler(facts, cache.meshes)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng, size = self.rng(index), self.cache.size
        row = self.sampler.draw(rng)
        item = {name: torch.from_numpy(np.array(array[row], np.float32)) for name, array in self.arrays.items()}
        mesh = self.cache.meshes[row]
        if rng.random() < _MEAN_MAP:
            mesh = mean_mesh(size)
        control = control_image(draw_semantic_map(mesh, size))
        item["control"] = torch.from_numpy(control).permute(2, 0, 1).float() / 255
        item["input_ids"] = tokenize(self.tokenizer, [write_caption(sample_facts(self.facts[row], rng))])[0]
        item["facts"] = fact_codes(self.facts[row])
        return item


def is_encoded(folder: Path) -> bool:
    """Return whether `encode_cache` has finished in this folder."""
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
    """Encode a cache of N faces with frozen models and write the results to ``output`` as float16 arrays.

    Args:
        cache: the faces.
        output: receives latents.npy and masked_latents.npy (N, C, h, w), mask.npy (N, 1, h, w), features.npy (N, R, D).
        vae, image_encoder: in eval mode, on the device to use.
        seed: of the masks.
        identity_model: renders a composite of each face with itself; adds start.npy (N, C, h, w).
        batch: crops per forward pass.
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
        images = {"latents": pixels, "masked_latents": erased}
        if identity_model is not None:
            composites = [
                compose_self(identity_model, cache.crops[i], cache.meshes[i], mask[0].numpy())
                for i, mask in zip(rows, masks, strict=True)
            ]
            images["start"] = torch.from_numpy(np.stack(composites)).permute(0, 3, 1, 2).to(device) * 2 - 1
        with torch.autocast(device.type, torch.bfloat16):
            for name, value in images.items():
                encoded = vae.encode(value.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
                arrays[name][rows.start : rows.stop] = (encoded.float() * vae.config.scaling_factor).cpu().numpy()
        arrays["mask"][rows.start : rows.stop] = nn.functional.interpolate(masks.float(), (side, side)).numpy()
        meshes = torch.from_numpy(cache.meshes[rows.start : rows.stop].astype(np.float32)).to(device)
        regions = encode_attributes(image_encoder, pixels, labels.long().to(device), meshes)
        arrays["features"][rows.start : rows.stop] = regions.cpu().numpy()
    for array in arrays.values():
        array.flush()
    (output / _DONE).touch()


def compose_self(model: IdentityModel, crop: np.ndarray, mesh: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a composite of a face with its own projection on an identity model: a training pair without labels.

    Args:
        model: on whose modes the face's texture is projected.
        crop: (S, S, 3) uint8 RGB; the composite is float32 in 0..1.
        mesh: (478, 2) crop pixels.
        mask: (S, S) bool, the erased area.
    """
    mesh, size = mesh.astype(np.float32), int(model.config.texels)
    light = read_light(crop, mesh) or FaceLight(np.zeros((6, 3)))
    uv = texture_coordinates(size)
    texture = to_log(unwrap_face(crop, mesh, size)[0].clip(0, 255) / 255) - light.at(uv.reshape(-1, 2)).reshape(
        size, size, 3
    )
    ground = fill_from_surroundings(crop.astype(np.float32) / 255, mask)
    return render_person(light_texture(model.project(texture), light), mesh, ground, mask)
