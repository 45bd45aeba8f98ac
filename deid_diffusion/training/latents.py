"""Faces as the generator's training sees them: latents, masks and features computed once, captions drawn anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTokenizer, CLIPVisionModelWithProjection

from ..attributes.encoder import encode_attributes
from ..attributes.phrases import tokenize
from ..attributes.subspace import FEATURE_NAMES
from ..faces.inpainting import fill_from_surroundings
from ..faces.lighting import FaceLight, to_log
from ..faces.rendering import light_texture, read_light, render_person
from ..faces.semantic_map import control_image, draw_semantic_map, mean_mesh
from ..faces.texture import texture_coordinates, unwrap_face
from ..models.face_encoder import FaceEncoder
from ..models.identity_model import IdentityModel
from ..pipelines.face_deid import ERASED
from .balance import by_sex_age_and_turn
from .captions import choose, codes, phrase
from .data import FaceCache, FaceDataset, to_tensor
from .masks import random_mask

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
        item["input_ids"] = tokenize(self.tokenizer, [phrase(choose(self.said[row], rng))])[0]
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
