"""CLIP features of a face, pooled per region of its semantic map."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPVisionModelWithProjection

from ..faces.labels import LABEL, REGIONS

#: Rows of the features: the whole face first, then each region in the order of ``labels.REGIONS``.
FEATURE_NAMES: tuple[str, ...] = ("face", *REGIONS)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 3, H, W) in -1..1 -> (B, 3, size, size), normalised as CLIP's preprocessor does (Radford et al., 2021)."""
    if images.shape[-1] != size:
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
    mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (_CLIP_MEAN, _CLIP_STD))
    return ((images + 1) / 2 - mean) / std


def region_weights(labels: torch.Tensor, grid: int) -> torch.Tensor:
    """How much of each patch belongs to each region.

    Args:
        labels: (B, H, W) integer semantic maps.
        grid: patches a side.

    Returns:
        (B, R, grid * grid) float32, each row summing to 1; a region that the map lacks takes the whole face evenly.
    """
    groups = [torch.tensor([LABEL[name] for name in names], device=labels.device) for names in REGIONS.values()]
    occupied = torch.stack([torch.isin(labels, group) for group in groups], 1).float()
    pooled = F.adaptive_avg_pool2d(occupied, grid).flatten(2)
    face = F.adaptive_avg_pool2d((labels > 0).float()[:, None], grid).flatten(2) + 1e-6
    pooled = torch.where(pooled.sum(-1, keepdim=True) > 1e-6, pooled, face)
    return pooled / pooled.sum(-1, keepdim=True)


def encode_attributes(
    encoder: CLIPVisionModelWithProjection, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Features of face crops in CLIP's joint space of images and texts.

    Args:
        encoder: a CLIP vision tower with its projection.
        images: (B, 3, H, W) face crops in -1..1.
        labels: (B, H', W') semantic maps of the same crops.

    Returns:
        (B, 1 + R, D) unit vectors: CLIP's own embedding, then its patch tokens averaged per region.
    """
    vision = encoder.vision_model
    pixels = clip_pixels(images.float(), encoder.config.image_size).to(encoder.dtype)
    output = vision(pixel_values=pixels)
    patches = vision.post_layernorm(output.last_hidden_state[:, 1:])
    weights = region_weights(labels, round(patches.shape[1] ** 0.5)).to(patches.dtype)
    tokens = torch.cat([output.pooler_output[:, None], weights @ patches], 1)
    return F.normalize(encoder.visual_projection(tokens).float(), dim=-1)


def labels_tensor(labels: list[np.ndarray]) -> torch.Tensor:
    """A list of (H, W) uint8 maps -> (B, H, W) int64."""
    return torch.from_numpy(np.stack(labels)).long()
