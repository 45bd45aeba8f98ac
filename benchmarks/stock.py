"""The same denoising three ways: by our pipeline, by the stock one of diffusers, and by its two networks alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import StableDiffusionControlNetInpaintPipeline

from deid_diffusion.faces.semantic_map import draw_semantic_map, mean_mesh
from deid_diffusion.pipelines.face_deid import FaceDeidPipeline


@dataclass(frozen=True, eq=False)
class Work:
    """Everything that one call for `count` faces takes.

    Attributes:
        count: faces.
        steps: denoising steps.
        ours: what our pipeline is called with.
        stock: what it calls diffusers' own with, so erased pictures, and embeddings of text and attributes.
    """

    count: int
    steps: int
    ours: dict[str, Any]
    stock: dict[str, Any]


def work(pipeline: FaceDeidPipeline, count: int, steps: int | None = None) -> Work:
    """Inputs of noise: what the pictures show makes no difference to the time."""
    size, noise = pipeline.crop_size, torch.Generator().manual_seed(0)
    crops, control = torch.rand(2, count, 3, size, size, generator=noise)
    mask = torch.zeros(count, 1, size, size)
    mask[..., size // 4 : -size // 4, size // 4 : -size // 4] = 1
    steps = steps or int(pipeline.config.default_steps)
    ours = {
        "image": crops,
        "mask_image": mask,
        "control_image": control,
        "attribute_features": pipeline.encode_attributes(
            crops, [draw_semantic_map(mean_mesh(size), size)] * count, [mean_mesh(size)] * count
        ),
        "num_inference_steps": steps,
        "output_type": "np",
        "return_dict": False,
    }
    stock: dict[str, Any] = {}

    def record(*_: object, **given: object) -> tuple[None]:
        stock.update(given)
        return (None,)

    with patch.object(StableDiffusionControlNetInpaintPipeline, "__call__", record):
        pipeline(**ours)
    return Work(count, steps, ours, stock)


def stock_pipeline(pipeline: FaceDeidPipeline) -> StableDiffusionControlNetInpaintPipeline:
    """The pipeline of diffusers itself around the same components."""
    names = ("vae", "text_encoder", "tokenizer", "unet", "controlnet", "scheduler", "safety_checker")
    parts = {name: pipeline.components[name] for name in (*names, "feature_extractor")}
    stock = StableDiffusionControlNetInpaintPipeline(**parts, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    return stock


def by_ours(pipeline: FaceDeidPipeline, given: Work) -> np.ndarray:
    """(B, S, S, 3) by our pipeline, from crops and features to pictures."""
    return pipeline(**given.ours, generator=_seeds(given.count))[0]


def by_stock(stock: StableDiffusionControlNetInpaintPipeline, given: Work) -> np.ndarray:
    """The same pictures by diffusers' own, which encodes texts, too, but paints by embeddings with attribute tokens."""
    nothing = [""] * given.count
    stock.encode_prompt(nothing, stock.device, 1, given.stock["guidance_scale"] > 1, nothing)
    return stock(**{**given.stock, "generator": _seeds(given.count)})[0]


@torch.no_grad()
def floor(pipeline: FaceDeidPipeline, given: Work) -> None:
    """ControlNet and UNet alone, as often as a call runs them, on latents of noise."""
    device, dtype, unet = pipeline.device, pipeline.unet.dtype, pipeline.unet
    sides = (given.stock["negative_prompt_embeds"], given.stock["prompt_embeds"])
    guided = given.stock["guidance_scale"] > 1
    told = torch.cat(sides) if guided else sides[1]
    control = given.stock["control_image"].to(device, dtype).repeat(1 + guided, 1, 1, 1)
    side = int(unet.config.sample_size)
    latents = torch.randn(len(told), unet.config.in_channels, side, side).to(device, dtype)
    seen = latents[:, : pipeline.controlnet.config.in_channels]
    for step in range(given.steps, 0, -1):
        t = torch.tensor(999 * step // given.steps, device=device)
        down, mid = pipeline.controlnet(seen, t, told, controlnet_cond=control, return_dict=False)
        unet(latents, t, told, down_block_additional_residuals=down, mid_block_additional_residual=mid)


def _seeds(count: int) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(k) for k in range(count)]
