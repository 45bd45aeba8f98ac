"""Training of the built-in autoencoder: reconstruction, KL regularisation and a patch discriminator.

Follows the first stage of latent diffusion (Rombach et al., CVPR 2022), with a Laplacian pyramid instead of the
perceptual network, whose weights are not available offline, and feature matching (Wang et al., pix2pixHD, CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from ..errors import DeidError
from .generator import Objective, tile

_ADVERSARIAL_WEIGHT, _MATCHING_WEIGHT, _KL_WEIGHT = 0.01, 0.2, 1e-6  # of the loss's terms
_DISCRIMINATOR_CHANNELS = (32, 64, 128)
_PYRAMID_LEVELS = 3


def new_autoencoder(widths: tuple[int, ...], size: int) -> AutoencoderKL:
    """Return an untrained autoencoder of crops of this size; `widths` are its levels' channels, finest first."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=size,
        mid_block_add_attention=False,
    )


def load_with_frozen_encoder(folder: Path) -> AutoencoderKL:
    """Return a trained autoencoder with its encoder frozen, so that its latents stay valid.

    Raises DeidError if the folder does not exist.
    """
    if not folder.is_dir():
        raise DeidError(f"{folder}: no such folder: give the output folder of train_vae.py")
    vae = AutoencoderKL.from_pretrained(folder)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    return vae


class PatchDiscriminator(nn.Module):
    """PatchGAN discriminator: (B, 3, H, W) to a list of feature maps, the logits last."""

    def __init__(self) -> None:
        super().__init__()
        stages, last = [], 3
        for width in _DISCRIMINATOR_CHANNELS:
            norm = nn.Identity() if last == 3 else nn.GroupNorm(8, width)
            stages.append(nn.Sequential(nn.Conv2d(last, width, 4, 2, 1), norm, nn.LeakyReLU(0.2)))
            last = width
        self.stages = nn.ModuleList([*stages, nn.Conv2d(last, 1, 3, padding=1)])

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return features


class AutoencoderObjective(Objective):
    """Autoencoder loss, and the discriminator's hinge loss from step ``adversarial_start`` on.

    Args:
        examples: (B, 3, S, S) crops in -1..1 for measuring the scaling factor and for contact sheets; without them
            the factor stays and there are no sheets.
    """

    phases = ("autoencoder", "discriminator")
    description = "Autoencoder of aligned face crops (`AutoencoderKL`), trained from scratch."

    def __init__(
        self,
        vae: AutoencoderKL,
        *,
        adversarial_start: int,
        examples: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.vae, self.discriminator = vae, PatchDiscriminator()
        self.adversarial_start = adversarial_start
        self.examples = examples  # not a buffer, which DDP would broadcast every step

    def trainable(self, phase: str) -> nn.Module:
        return self.vae if phase == "autoencoder" else self.discriminator

    def forward(
        self, batch: Mapping[str, torch.Tensor], phase: str, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        images = batch["pixels"].contiguous(memory_format=torch.channels_last)
        adversarial = step >= self.adversarial_start
        if phase == "discriminator":
            if not adversarial:
                return 0.0 * torch.stack([p.sum() for p in self.discriminator.parameters()]).sum(), {}
            images = images[: (len(images) + 1) // 2]  # half a batch suffices: it learns faster than the autoencoder
            with torch.no_grad():
                decoded = self.vae.decode(self.vae.encode(images).latent_dist.sample()).sample
            real, fake = self.discriminator(images)[-1].float(), self.discriminator(decoded)[-1].float()
            return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2, {"real": float(real.detach().mean())}
        latents = self.vae.encode(images).latent_dist
        decoded = self.vae.decode(latents.sample()).sample
        distance = pyramid_l1(decoded.float(), images.float())
        loss = distance + _KL_WEIGHT * latents.kl().float().mean()
        if adversarial:
            fake = self.discriminator(decoded)
            with torch.no_grad():
                real = self.discriminator(images)
            pairs = zip(fake[:-1], real[:-1], strict=True)
            matching = torch.stack([F.l1_loss(f.float(), r.float()) for f, r in pairs]).sum() / len(real)
            loss = loss - _ADVERSARIAL_WEIGHT * fake[-1].float().mean() + _MATCHING_WEIGHT * matching
        return loss, {"reconstruction": float(F.l1_loss(decoded.detach().float(), images.float()))}

    def validate(self) -> np.ndarray | None:
        return None if self.examples is None else reconstruction_sheet(self.vae, self.examples[:8])

    def save(self, folder: Path) -> None:
        if self.examples is not None and next(self.vae.encoder.parameters()).requires_grad:
            self.vae.register_to_config(scaling_factor=measure_scaling_factor(self.vae, self.examples))
        self.vae.save_pretrained(folder)


def pyramid_l1(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute error of (B, C, H, W) images, plus that of each level of their Laplacian pyramid."""
    total = F.l1_loss(decoded, images)
    difference = decoded - images
    for _ in range(_PYRAMID_LEVELS):
        smaller = F.avg_pool2d(difference, 2)
        total = total + (difference - F.interpolate(smaller, scale_factor=2, mode="nearest")).abs().mean()
        difference = smaller
    return total + difference.abs().mean()


@torch.no_grad()
def measure_scaling_factor(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Return 1 / standard deviation of the latents of (B, 3, H, W) images, as SD's ``scaling_factor``."""
    return float(1 / vae.encode(images.to(vae.device)).latent_dist.mode().float().std())


@torch.no_grad()
def reconstruction_sheet(vae: AutoencoderKL, pixels: torch.Tensor) -> np.ndarray:
    """Return a sheet of originals and reconstructions of (B, 3, S, S) crops in -1..1."""
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
    return tile([pixels, vae.decode(latents).sample])
