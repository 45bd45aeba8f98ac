"""Objective of the generator: ControlNet, adapter and, for the embedded model, the UNet itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, SchedulerMixin, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from ..attributes.encoder import encode_attributes
from ..faces.mask import face_outline
from ..faces.semantic_map import control_image, draw_semantic_map, mean_mesh
from ..models.attribute_adapter import AttributeAdapter
from ..pipelines.face_deid import ERASED
from .data import FaceCache, FaceDataset, to_tensor
from .loop import Objective


def random_mask(mesh: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size) bool mask around a face, its reach and roundness drawn anew; sometimes a plain ellipse or box."""
    outline = face_outline(mesh)
    kind = rng.random()
    if kind > 0.85:
        x, y, width, height = cv2.boundingRect(outline)
        outline = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], np.float32)
        if kind > 0.92:
            turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            rim = np.stack([width * np.cos(turn), height * np.sin(turn)], 1)
            outline = (1.15 / 2 * rim + np.array([x + width / 2, y + height / 2])).astype(np.float32)
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], (1,))
    reach = int(rng.uniform(0.03, 0.10) * size)
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)) > 0


class LatentFaces(FaceDataset):
    """Faces whose latents, masks and features were computed once, by ``encode_cache``.

    Items: ``latents`` and ``masked_latents`` (4, h, w), ``mask`` (1, h, w), ``control`` (3, S, S) in 0..1, ``features``
    (N, D), ``text`` (T, W).
    """

    def __init__(self, cache: FaceCache, encoded: Path, seed: int) -> None:
        super().__init__(cache, seed)
        self.arrays = {name: np.load(encoded / f"{name}.npy", mmap_mode="r") for name in _ENCODED}

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = {name: torch.from_numpy(np.array(array[index], np.float32)) for name, array in self.arrays.items()}
        mesh, size = self.cache.meshes[index], self.cache.size
        if (
            self.rng(index).random() < 0.06
        ):  # a face without a mesh gets the mean one: be ready for maps that do not fit
            mesh = mean_mesh(size)
        labels = draw_semantic_map(mesh, size)
        item["control"] = torch.from_numpy(control_image(labels)).permute(2, 0, 1).float() / 255
        return item


_ENCODED = ("latents", "masked_latents", "mask", "features", "text")


def is_encoded(folder: Path) -> bool:
    """Whether ``encode_cache`` has finished in this folder."""
    return all((folder / f"{name}.npy").is_file() for name in _ENCODED)


@torch.no_grad()
def encode_cache(
    cache: FaceCache,
    output: Path,
    vae: AutoencoderKL,
    image_encoder: CLIPVisionModelWithProjection,
    text_encoder: CLIPTextModel,
    input_ids: torch.Tensor,
    *,
    seed: int,
    batch: int = 64,
) -> None:
    """Compute once what no step changes, and write it to ``output`` as float16 arrays.

    Args:
        input_ids: (N, T) token ids of one caption a crop.
    """
    output.mkdir(parents=True, exist_ok=True)
    device, rng = next(vae.parameters()).device, np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _ENCODED}
    scale = vae.config.scaling_factor

    def keep(name: str, value: torch.Tensor) -> None:
        parts[name].append(value.float().cpu().numpy().astype(np.float16))

    for start in range(0, len(cache), batch):
        rows = range(start, min(len(cache), start + batch))
        pixels = torch.stack([to_tensor(cache.crops[i]) for i in rows]).to(device)
        labels = torch.stack([torch.from_numpy(draw_semantic_map(cache.meshes[i], cache.size)) for i in rows])
        masks = torch.stack([torch.from_numpy(random_mask(cache.meshes[i], cache.size, rng)) for i in rows])[:, None]
        erased = torch.where(masks.to(device), torch.full_like(pixels, 2 * ERASED - 1), pixels)
        with torch.autocast(device.type, torch.bfloat16):
            latents = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latent_dist.mode() * scale
            masked = vae.encode(erased.contiguous(memory_format=torch.channels_last)).latent_dist.mode() * scale
        keep("latents", latents)
        keep("masked_latents", masked)
        keep("mask", nn.functional.interpolate(masks.float(), latents.shape[-2:]))
        keep("features", encode_attributes(image_encoder, pixels, labels.long().to(device)))
        keep("text", text_encoder(input_ids=input_ids[rows.start : rows.stop].to(device)).last_hidden_state)
    for name, arrays in parts.items():
        np.save(output / f"{name}.npy", np.concatenate(arrays))


class FaceDeidObjective(Objective):
    """Denoising with the map, the masked picture, text and attribute tokens as conditions.

    Velocity or noise prediction, min-SNR weights (Hang et al., ICCV 2023), loss weighted to the masked region, and each
    condition dropped at times for classifier-free guidance (Ho and Salimans, 2021).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        adapter: AttributeAdapter,
        scheduler: SchedulerMixin,
        empty_text: torch.Tensor,
        *,
        train_unet: bool,
        snr_gamma: float = 5.0,
        outside_weight: float = 0.1,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        self.unet, self.controlnet, self.adapter, self.scheduler = unet, controlnet, adapter, scheduler
        unet.requires_grad_(train_unet)
        self.snr_gamma, self.outside_weight, self.drop = snr_gamma, outside_weight, drop
        self.empty_text: torch.Tensor
        self.register_buffer("empty_text", empty_text, persistent=False)

    def trained(self, turn: str) -> nn.Module:
        return self

    def forward(self, batch: Mapping[str, torch.Tensor], turn: str, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        latents = batch["latents"].contiguous(memory_format=torch.channels_last)
        noise = torch.randn_like(latents)
        count, device = len(latents), latents.device
        steps = torch.randint(0, self.scheduler.config.num_train_timesteps, (count,), device=device)
        noisy = self.scheduler.add_noise(latents, noise, steps)
        tokens = self.conditions(batch)
        control = batch["control"].contiguous(memory_format=torch.channels_last)
        control = control * (torch.rand(count, 1, 1, 1, device=device) > self.drop / 2)
        down, middle = self.controlnet(noisy, steps, tokens, control, return_dict=False)
        predicted = self.unet(
            torch.cat([noisy, batch["mask"], batch["masked_latents"]], 1),
            steps,
            tokens,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample.float()
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, steps) if velocity else noise
        alphas = self.scheduler.alphas_cumprod.to(device)[steps]
        snr = alphas / (1 - alphas).clamp(min=1e-8)
        weight = snr.clamp(max=self.snr_gamma) / (snr + 1 if velocity else snr.clamp(min=1e-8))
        where = self.outside_weight + (1 - self.outside_weight) * batch["mask"]
        error = ((predicted - target).square() * where).sum((1, 2, 3)) / where.sum((1, 2, 3)) / predicted.shape[1]
        return (weight * error).mean(), {"error": float(error.detach().mean())}

    def conditions(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, T + N, W) text and attribute tokens; text, all tokens, or single tokens are dropped at random."""
        count, device = len(batch["features"]), batch["features"].device
        texts = torch.where(
            torch.rand(count, 1, 1, device=device) < 0.3, batch["text"], self.empty_text.to(batch["text"])
        )
        tokens = self.adapter(batch["features"])
        whole = torch.rand(count, 1, 1, device=device) < self.drop
        single = torch.rand(count, tokens.shape[1], 1, device=device) < self.drop
        return torch.cat([texts, torch.where(whole | single, self.adapter.null(count).to(tokens), tokens)], 1)

    def save(self, folder: Path) -> None:
        self.unet.save_pretrained(folder / "unet")
        self.controlnet.save_pretrained(folder / "controlnet")
        self.adapter.save_pretrained(folder / "attribute_adapter")
