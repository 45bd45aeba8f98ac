"""From what the training scripts wrote to one pipeline folder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

from ..models.attribute_adapter import AttributeAdapter
from ..models.identity_model import IdentityModel
from ..pipelines.building import build_trained, distilled_sampler, load_image_encoder
from ..pipelines.face_deid import FaceDeidPipeline
from ..presets import CLIP, INPAINTING
from ..repositories import fetch, load_part
from .builtin import make_scheduler


def assemble_embedded(
    vae: Path, clip: Path, generator: Path, identity_model: Path, *, steps: int, guidance: float, strength: float
) -> FaceDeidPipeline:
    """A float16 pipeline of the output folders of the three trainings of an embedded model.

    Args:
        vae, clip, generator: output folders of train_vae, train_attribute_encoder and train_face_deid.
        identity_model: output folder of fit_identity_model.
        steps: the pipeline's default number of denoising steps.
        guidance: its default guidance scale.
        strength: its default share of the steps that are done from a composite, 0 to 1.
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
        identity_model=load_part(IdentityModel, identity_model, half),
        default_steps=steps,
        default_guidance=guidance,
        default_strength=strength,
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
