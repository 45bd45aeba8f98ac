"""Objective of the embedded autoencoder: reconstruct, regularise, and look sharp to a patch discriminator.

Follows the first stage of latent diffusion (Rombach et al., CVPR 2022), with a Laplacian pyramid in place of the
perceptual network, whose weights cannot be had offline, and feature matching (Wang et al., pix2pixHD, CVPR 2018).
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
from .generator import Objective
from .validation import reconstruction_sheet


def new_autoencoder(widths: tuple[int, ...], size: int) -> AutoencoderKL:
    """An untrained autoencoder.

    Args:
        widths: channels of its levels, finest first; each level after the first halves the side.
        size: of its crops, in pixels.
    """
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


def frozen_encoder(folder: Path) -> AutoencoderKL:
    """An autoencoder of which only the decoder learns: its latents stay what a generator knows.

    Raises:
        DeidError: when the folder is not there.
    """
    if not folder.is_dir():
        raise DeidError(f"{folder}: no such folder: give the output folder of an autoencoder's training")
    vae = AutoencoderKL.from_pretrained(folder)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    return vae


class PatchDiscriminator(nn.Module):
    """Convolutions that say of each patch whether it is a photograph's. (B, 3, H, W) -> features, logits last."""

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        stages, last = [], 3
        for width in channels:
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
    """Turn "autoencoder" reconstructs; turn "discriminator" joins after ``adversarial_start`` steps.

    Args:
        examples: (B, 3, S, S) crops in -1..1 that the latents' scale is measured on and contact sheets show; without
            them the scale stays and there are no sheets.
    """

    turns = ("autoencoder", "discriminator")
    description = "Autoencoder of aligned face crops (`AutoencoderKL`), trained from nothing."

    def __init__(
        self,
        vae: AutoencoderKL,
        *,
        adversarial_start: int,
        adversarial_weight: float = 0.01,
        matching_weight: float = 0.2,
        kl_weight: float = 1e-6,
        examples: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.vae, self.discriminator = vae, PatchDiscriminator()
        self.adversarial_start, self.adversarial_weight = adversarial_start, adversarial_weight
        self.matching_weight, self.kl_weight = matching_weight, kl_weight
        self.examples = examples  # no buffer: DDP would send it round every step

    def trained(self, turn: str) -> nn.Module:
        return self.vae if turn == "autoencoder" else self.discriminator

    def forward(self, batch: Mapping[str, torch.Tensor], turn: str, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        images = batch["pixels"].contiguous(memory_format=torch.channels_last)
        adversarial = step >= self.adversarial_start
        if turn == "discriminator":
            if not adversarial:
                return 0.0 * torch.stack([p.sum() for p in self.discriminator.parameters()]).sum(), {}
            images = images[: (len(images) + 1) // 2]  # half a batch: it learns faster than the autoencoder anyway
            with torch.no_grad():
                made = self.vae.decode(self.vae.encode(images).latent_dist.sample()).sample
            real, fake = self.discriminator(images)[-1].float(), self.discriminator(made)[-1].float()
            return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2, {"real": float(real.detach().mean())}
        latents = self.vae.encode(images).latent_dist
        made = self.vae.decode(latents.sample()).sample
        distance = pyramid_l1(made.float(), images.float())
        loss = distance + self.kl_weight * latents.kl().float().mean()
        if adversarial:
            fake = self.discriminator(made)
            with torch.no_grad():
                real = self.discriminator(images)
            matching = sum(
                (F.l1_loss(f.float(), r.float()) for f, r in zip(fake[:-1], real[:-1], strict=True)), torch.zeros(())
            )
            loss = (
                loss - self.adversarial_weight * fake[-1].float().mean() + self.matching_weight * matching / len(real)
            )
        return loss, {"reconstruction": float(F.l1_loss(made.detach().float(), images.float()))}

    def validate(self) -> np.ndarray | None:
        return None if self.examples is None else reconstruction_sheet(self.vae, self.examples[:8])

    def save(self, folder: Path) -> None:
        if self.examples is not None and next(self.vae.encoder.parameters()).requires_grad:
            self.vae.register_to_config(scaling_factor=measure_scaling_factor(self.vae, self.examples))
        self.vae.save_pretrained(folder)


def pyramid_l1(made: torch.Tensor, images: torch.Tensor, levels: int = 3) -> torch.Tensor:
    """Mean absolute error summed over a Laplacian pyramid, finest level first; fine detail counts as much as shade."""
    total = F.l1_loss(made, images)
    difference = made - images
    for _ in range(levels):
        smaller = F.avg_pool2d(difference, 2)
        total = total + (difference - F.interpolate(smaller, scale_factor=2, mode="nearest")).abs().mean()
        difference = smaller
    return total + difference.abs().mean()


@torch.no_grad()
def measure_scaling_factor(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """1 / standard deviation of the latents of (B, 3, H, W) images, as SD's ``scaling_factor``."""
    return float(1 / vae.encode(images.to(vae.device)).latent_dist.mode().float().std())
