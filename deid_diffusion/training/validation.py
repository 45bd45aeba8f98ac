"""Contact sheets of a training's current results on fixed faces, one face per row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, SchedulerMixin
from torchvision.utils import make_grid

from .data import FaceDataset


def sample_items(dataset: FaceDataset, count: int) -> dict[str, torch.Tensor]:
    """Return ``count`` items spread evenly over a data set, or all if it has fewer, as one batch."""
    count = min(count, len(dataset))
    items = [dataset[index * len(dataset) // count] for index in range(count)]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def tile(columns: Sequence[torch.Tensor]) -> np.ndarray:
    """Return columns of (B, 3, S, S) images in -1..1 as one (H, W, 3) uint8 sheet, separated by thin white lines."""
    images = torch.stack([column.detach().float().cpu() for column in columns], 1).flatten(0, 1)
    grid = make_grid((images.clamp(-1, 1) + 1) * 127.5, nrow=len(columns), padding=2, pad_value=255)
    return grid.round().byte().permute(1, 2, 0).contiguous().numpy()


@torch.no_grad()
def reconstruction_sheet(vae: AutoencoderKL, pixels: torch.Tensor) -> np.ndarray:
    """Return a sheet of originals and reconstructions of (B, 3, S, S) crops in -1..1."""
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
    return tile([pixels, vae.decode(latents).sample])


@torch.no_grad()
def generation_sheet(
    unet: Callable[..., Any],
    controlnet: ControlNetModel,
    scheduler: SchedulerMixin,
    vae: AutoencoderKL,
    batch: Mapping[str, torch.Tensor],
    tokens: torch.Tensor,
    *,
    steps: int,
    seed: int = 0,
) -> np.ndarray:
    """Return a sheet of semantic map, erased face, generated face and original, the last three decoded.

    Samples without guidance from the seed's noise; no other random state is read or changed.

    Args:
        unet: inpainting UNet of 9 channels, or a callable with its signature.
        scheduler: of the training; a copy of it samples.
        vae: decoder; ``batch`` holds its scaled latents.
        batch: ``latents`` and ``masked_latents`` (B, 4, h, w), ``mask`` (B, 1, h, w), ``control`` (B, 3, S, S) in 0..1.
        tokens: (B, T, W) text and attribute tokens.
        steps: denoising steps.
        seed: of the initial noise.
    """
    device = controlnet.device
    mask, masked, control = (batch[name].to(device) for name in ("mask", "masked_latents", "control"))
    sampler = type(scheduler).from_config(scheduler.config)
    sampler.set_timesteps(steps, device=device)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(masked.shape, generator=generator).to(masked) * sampler.init_noise_sigma
    for time in sampler.timesteps:
        noisy = sampler.scale_model_input(latents, time)
        down, middle = controlnet(noisy, time, tokens, control, return_dict=False)
        predicted = unet(
            torch.cat([noisy, mask, masked], 1),
            time,
            tokens,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample.float()
        latents = sampler.step(predicted, time, latents, return_dict=False)[0]
    decoded = [_decode(vae, column) for column in (masked, latents, batch["latents"])]
    return tile([control * 2 - 1, *decoded])


def _decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    return vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample
