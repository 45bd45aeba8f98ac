"""Checks and resampling of the tensors that a pipeline call takes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def resize_area(pictures: torch.Tensor, size: int) -> torch.Tensor:
    """Return (B, C, size, size) of (B, C, H, W), without aliasing."""
    if pictures.shape[-2:] == (size, size):
        return pictures
    return F.interpolate(pictures.float(), (size, size), mode="area").to(pictures)


def join(composite: torch.Tensor, denoised: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Add to composites what denoising changed of them at the generator's resolution.

    Args:
        composite: (B, 3, H, W) in 0..1.
        denoised: (B, 3, S, S) in 0..1.
        mask: (B, 1, S, S), 0.5 and more where it was denoised.

    Returns:
        (B, 3, H, W) in 0..1.
    """
    change = (denoised.to(composite) - resize_area(composite, denoised.shape[-1])) * (mask >= 0.5)
    change = F.interpolate(change, composite.shape[-2:], mode="bilinear", align_corners=False)
    return (composite + change).clamp(0, 1)


def texts_for(text: str | list[str] | None, embeds: torch.Tensor | None, batch: int) -> list[str] | None:
    """Return one text per crop, empty by default; None if there are embeddings instead."""
    if embeds is not None:
        return None
    return list(text) if isinstance(text, (list, tuple)) else [text or ""] * batch


def check_positive(**given: int) -> None:
    """Raise ValueError for a number under 1."""
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name}: expected 1 or more, got {value}")


def check_counts(**given: torch.Tensor | list[str] | None) -> None:
    """Raise ValueError unless all arguments have the same length."""
    counts = {name: len(value) for name, value in given.items() if value is not None}
    if len(set(counts.values())) > 1:
        raise ValueError(f"expected the same number of each, got {', '.join(f'{v} {k}' for k, v in counts.items())}")


def match_precision(encoder: Any, unet: Any) -> None:
    """Convert a half-precision encoder of a single-precision UNet: transformers 5 loads it as it was saved."""
    quantized = getattr(encoder, "quantization_method", None) is not None
    if encoder is not None and unet is not None and unet.dtype == torch.float32 != encoder.dtype and not quantized:
        encoder.float()
