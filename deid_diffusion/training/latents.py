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
from ..faces.looks import LOOK_DIM, paint_look
from ..faces.semantic_map import control_image, draw_semantic_map, mean_mesh
from ..models.face_encoder import FaceEncoder
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
    all of it, ``mesh`` (478, 2) crop pixels, that ``control`` was drawn from, ``look`` (L,) of nobody, and ``painted``,
    a ``control`` that shows it. An item is of a face drawn at random, women as often as men: else the many decide what
    faces look like whose tokens say little.
    """

    def __init__(
        self, cache: FaceCache, encoded: Path, tokenizer: CLIPTokenizer, said: Sequence[Mapping[str, str]], seed: int
    ) -> None:
        super().__init__(cache, seed)
        self.arrays = {
            name: np.load(encoded / f"{name}.npy", mmap_mode="r")
            for name in ("latents", "masked_latents", "mask", "features")
        }
        self.tokenizer, self.said, self.balance = tokenizer, said, by_sex_age_and_turn(said, cache.meshes)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng, size = self.rng(index), self.cache.size
        row = self.balance.draw(rng)
        item = {name: torch.from_numpy(np.array(array[row], np.float32)) for name, array in self.arrays.items()}
        mesh = self.cache.meshes[row]
        if rng.random() < _MEAN_MAP:
            mesh = mean_mesh(size)
        labels = draw_semantic_map(mesh, size)
        control, look = control_image(labels), rng.standard_normal(LOOK_DIM).astype(np.float32)
        for name, picture in (("control", control), ("painted", paint_look(control, mesh, look))):
            item[name] = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
        item["look"] = torch.from_numpy(look)
        item["mesh"] = torch.from_numpy(mesh.astype(np.float32))
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
    batch: int = 64,
) -> None:
    """Compute once what no step changes, and write it to ``output`` as float16 arrays.

    Args:
        cache: N faces.
        output: gets latents.npy and masked_latents.npy (N, C, h, w), mask.npy (N, 1, h, w), features.npy (N, R, D).
        vae, image_encoder: in eval mode, on the device to use.
        seed: of the masks.
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
        with torch.autocast(device.type, torch.bfloat16):
            for name, value in (("latents", pixels), ("masked_latents", erased)):
                found = vae.encode(value.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
                arrays[name][rows.start : rows.stop] = (found.float() * vae.config.scaling_factor).cpu().numpy()
        arrays["mask"][rows.start : rows.stop] = nn.functional.interpolate(masks.float(), (side, side)).numpy()
        meshes = torch.from_numpy(cache.meshes[rows.start : rows.stop].astype(np.float32)).to(device)
        found = encode_attributes(image_encoder, pixels, labels.long().to(device), meshes)
        arrays["features"][rows.start : rows.stop] = found.cpu().numpy()
    for array in arrays.values():
        array.flush()
    (output / _DONE).touch()
