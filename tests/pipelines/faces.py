"""Inputs of the tiny pipeline: three noisy crops with a square mask."""

from collections.abc import Iterable

import numpy as np
import torch

from deid_diffusion.attributes.subspace import FEATURE_NAMES


def inputs(batch: int = 3) -> dict[str, torch.Tensor]:
    """Return all conditions of `batch` crops."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(batch, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    features = torch.nn.functional.normalize(torch.randn(batch, len(FEATURE_NAMES), 16, generator=generator), dim=-1)
    return {
        "image": torch.rand(batch, 3, 32, 32, generator=generator),
        "mask_image": mask,
        "control_image": torch.rand(batch, 3, 32, 32, generator=generator),
        "attribute_features": features,
    }


def generators(seeds: Iterable[int] = range(3)) -> list[torch.Generator]:
    """Return a generator per result."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipeline, given: dict[str, object], **options: object) -> np.ndarray:
    """Return (N, 32, 32, 3) float32 results in 0..1."""
    options = {"generator": generators(range(len(given["image"]))), "output_type": "np", **options}
    return pipeline(**given, **options).images
