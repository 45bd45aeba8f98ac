"""From what the training scripts wrote to one pipeline folder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

from ..models.attribute_adapter import AttributeAdapter
from ..pipelines.building import build_trained, distilled_sampler, load_image_encoder, trained_control
from ..pipelines.face_deid import FaceDeidPipeline
from ..presets import CLIP, INPAINTING
from ..repositories import fetch, load_part
from .builtin import make_scheduler


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
        vae=load_part(AutoencoderKL, vae, half),
        text_encoder=load_part(CLIPTextModel, clip / "text_encoder", half),
        tokenizer=CLIPTokenizer.from_pretrained(clip / "tokenizer"),
        unet=load_part(UNet2DConditionModel, generator / "unet", half),
        controlnet=load_part(ControlNetModel, generator / "controlnet", half),
        scheduler=distilled_sampler(generator) or make_scheduler(),
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(),
        image_encoder=load_image_encoder(clip / "image_encoder", half),
        attribute_adapter=load_part(AttributeAdapter, generator / "attribute_adapter", half),
        phrase_encoder=None,
        default_steps=steps,
        default_guidance=guidance,
        default_sharpening=sharpening,
        control=trained_control(generator),
        draws_features=True,
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
    base, clip = fetch(INPAINTING.at(str(model))), fetch(CLIP.at(str(image_encoder)))
    return build_trained(base, clip, generator, steps, guidance, torch.float16)
