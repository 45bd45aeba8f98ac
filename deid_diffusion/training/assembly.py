"""From what the training scripts wrote to one pipeline folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, LCMScheduler, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ..models.attribute_adapter import AttributeAdapter
from ..pipelines.face_deid import FaceDeidPipeline
from .builtin import make_scheduler
from .components import load_image_encoder


def assemble_embedded(
    vae: Path, clip: Path, generator: Path, *, steps: int, guidance: float, sharpening: float
) -> FaceDeidPipeline:
    """A float16 pipeline of the output folders of the three trainings of an embedded model.

    Args:
        vae, clip, generator: output folders of train_vae, train_attribute_encoder and train_face_deid.
        steps: the pipeline's default number of denoising steps.
        guidance: its default guidance scale.
        sharpening: what the small decoder's blur is answered with, as in ``blend.sharpen``.
    """
    half = torch.float16
    return FaceDeidPipeline(
        vae=AutoencoderKL.from_pretrained(vae, dtype=half),
        text_encoder=CLIPTextModel.from_pretrained(clip / "text_encoder", dtype=half),
        tokenizer=CLIPTokenizer.from_pretrained(clip / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(generator / "unet", dtype=half),
        controlnet=ControlNetModel.from_pretrained(generator / "controlnet", dtype=half),
        scheduler=distilled_sampler(generator) or make_scheduler(),
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(),
        image_encoder=load_image_encoder(clip / "image_encoder").half(),
        attribute_adapter=AttributeAdapter.from_pretrained(generator / "attribute_adapter", dtype=half),
        phrase_encoder=None,
        default_steps=steps,
        default_guidance=guidance,
        default_sharpening=sharpening,
    )


def assemble_pretrained(
    model: str | Path, image_encoder: str | Path, generator: Path, *, steps: int, guidance: float
) -> FaceDeidPipeline:
    """A float16 pipeline of a Stable Diffusion inpainting checkpoint and the output folder of train_face_deid.

    Args:
        model, image_encoder: as that training was given them.
        generator: its output folder.
        steps: the pipeline's default number of denoising steps.
        guidance: its default guidance scale.
    """
    half = torch.float16
    trained_unet = generator / "unet"
    unet = trained_unet if trained_unet.is_dir() else None
    return FaceDeidPipeline(
        vae=AutoencoderKL.from_pretrained(model, subfolder="vae", dtype=half),
        text_encoder=CLIPTextModel.from_pretrained(model, subfolder="text_encoder", dtype=half),
        tokenizer=CLIPTokenizer.from_pretrained(model, subfolder="tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(unet or model, subfolder=None if unet else "unet", dtype=half),
        controlnet=ControlNetModel.from_pretrained(generator / "controlnet", dtype=half),
        scheduler=distilled_sampler(generator) or DDIMScheduler.from_pretrained(model, subfolder="scheduler"),
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(),
        image_encoder=load_image_encoder(image_encoder).half(),
        attribute_adapter=AttributeAdapter.from_pretrained(generator / "attribute_adapter", dtype=half),
        phrase_encoder=CLIPTextModelWithProjection.from_pretrained(image_encoder, dtype=half),
        default_steps=steps,
        default_guidance=guidance,
    )


def distilled_sampler(generator: Path) -> LCMScheduler | None:
    """The sampler that a distilled generator needs; None for one that was not distilled."""
    config = generator / "scheduler" / "scheduler_config.json"
    if not config.is_file() or json.loads(config.read_text())["_class_name"] != LCMScheduler.__name__:
        return None
    return LCMScheduler.from_pretrained(generator / "scheduler")
