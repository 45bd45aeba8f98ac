"""ComfyUI's IMAGE and MASK tensors to the library's arrays, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import UsageError


def to_photos(image: torch.Tensor) -> list[np.ndarray]:
    """IMAGE, (B, H, W, 3) in 0..1 -> B arrays (H, W, 3) uint8, each value rounded.

    Raises:
        UsageError: for another shape, as of a picture with transparency, or values that are no numbers.
    """
    if image.ndim != 4 or image.shape[-1] != 3 or not image.numel():
        raise UsageError(
            f"image: expected a batch of RGB pictures, (B, H, W, 3), got {tuple(image.shape)}: "
            "take transparency off first (node Split Image with Alpha)"
        )
    if not torch.isfinite(image).all():
        raise UsageError("image: holds values that are no numbers (NaN or infinity): look at the node that made it")
    values = (image.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return list(values.numpy())


def to_image(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """B arrays (H, W, 3) uint8, of one size -> IMAGE, (B, H, W, 3) float32 in 0..1."""
    return torch.from_numpy(np.stack(pictures).astype(np.float32) / 255)


def to_mask(masks: Sequence[np.ndarray]) -> torch.Tensor:
    """B arrays (H, W), bool or float in 0..1 -> MASK, (B, H, W) float32."""
    return torch.from_numpy(np.stack(masks).astype(np.float32))


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(H, W) bool, True where two (H, W, 3) pictures differ."""
    return (before != after).any(-1)
