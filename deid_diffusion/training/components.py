"""Components of a generator's training, and their assembly into a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from ..attributes.encoding import embed_phrases
from ..attributes.subspace import FEATURE_NAMES
from ..errors import DeidError
from ..models.attribute_adapter import AttributeAdapter
from ..models.face_encoder import FaceEncoder
from ..models.identity_model import IdentityModel
from ..pipelines.face_deid import FaceDeidPipeline
from ..pipelines.presets import CLIP, INPAINTING, build_trained, distilled_sampler, load_image_encoder
from ..pipelines.repositories import fetch, load_part


def make_scheduler() -> DDIMScheduler:
    """Return a scheduler with velocity prediction and zero terminal SNR (Lin et al., WACV 2024)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


def make_unet(widths: tuple[int, ...], *, sample_size: int, cross_attention_dim: int) -> UNet2DConditionModel:
    """Return an untrained 9-channel inpainting UNet whose cross-attention is at the coarsest level only."""
    count = len(widths)
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=9,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * (count - 1) + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (count - 1),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=8,
        norm_num_groups=16,
    )


def make_controlnet(unet: UNet2DConditionModel, vae_scale_factor: int) -> ControlNetModel:
    """Return an untrained ControlNet of the UNet's shape for 4-channel latents.

    Its zero convolutions, which protect a trained UNet, are initialized at random, since here both are untrained.
    """
    levels = vae_scale_factor.bit_length()
    controlnet = ControlNetModel(
        in_channels=4,
        conditioning_channels=3,
        layers_per_block=unet.config.layers_per_block,
        block_out_channels=unet.config.block_out_channels,
        down_block_types=unet.config.down_block_types,
        cross_attention_dim=unet.config.cross_attention_dim,
        attention_head_dim=unet.config.attention_head_dim,
        norm_num_groups=unet.config.norm_num_groups,
        conditioning_embedding_out_channels=tuple(16 * 2**i for i in range(levels)),
    )
    zero_convolutions = (
        *controlnet.controlnet_down_blocks,
        controlnet.controlnet_mid_block,
        controlnet.controlnet_cond_embedding.conv_out,
    )
    for layer in zero_convolutions:
        layer.reset_parameters()
    return controlnet


@dataclass(frozen=True)
class Components:
    """Models of one training.

    ``unet`` takes 9 channels: noisy latents, mask, latents of the masked picture. ``embed`` maps K captions to (K, D)
    unit vectors in the image encoder's space.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    image_encoder: CLIPVisionModelWithProjection | FaceEncoder
    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    adapter: AttributeAdapter
    scheduler: SchedulerMixin
    embed: Callable[[list[str]], torch.Tensor]


def builtin_components(
    vae: Path, clip: Path, widths: tuple[int, ...], crop_size: int, bottleneck_dim: int
) -> Components:
    """Return a new UNet, ControlNet and adapter with a trained autoencoder and attribute encoder.

    Args:
        vae, clip: output folders of train_vae.py and train_attribute_encoder.py; DeidError without them.
        widths: channels of the UNet's levels, finest first.
        crop_size, bottleneck_dim: side of the training's crops, in pixels, and the adapter's bottleneck.
    """
    for folder in (vae, clip):
        if not folder.is_dir():
            raise DeidError(f"{folder}: no such folder: give the output folder of the earlier training")
    autoencoder = AutoencoderKL.from_pretrained(vae)
    text_encoder = CLIPTextModel.from_pretrained(clip / "text_encoder").float()  # transformers keeps the file's dtype
    image_encoder = load_image_encoder(clip / "image_encoder", torch.float32)
    factor, width = 2 ** (len(autoencoder.config.block_out_channels) - 1), text_encoder.config.hidden_size
    unet = make_unet(widths, sample_size=crop_size // factor, cross_attention_dim=width)
    tokenizer = CLIPTokenizer.from_pretrained(clip / "tokenizer")
    return Components(
        autoencoder,
        text_encoder,
        tokenizer,
        image_encoder,
        unet.to(memory_format=torch.channels_last),
        make_controlnet(unet, factor).to(memory_format=torch.channels_last),
        _make_adapter(image_encoder, width, bottleneck_dim),
        make_scheduler(),
        partial(embed_phrases, text_encoder, tokenizer),
    )


def pretrained_components(model: str | Path, image_encoder: str | Path, bottleneck_dim: int) -> Components:
    """Return a Stable Diffusion inpainting checkpoint with a ControlNet copied from its UNet and a new adapter.

    Both names are folders or on the hub, such as stable-diffusion-v1-5/stable-diffusion-inpainting and
    openai/clip-vit-large-patch14; `bottleneck_dim` is the adapter's.

    Raises:
        ValueError: the checkpoint's UNet is not an inpainting one.
        DeidError: a checkpoint or encoder does not exist or cannot be downloaded.
    """
    base, clip = fetch(INPAINTING.at(str(model))), fetch(CLIP.at(str(image_encoder)))
    unet = load_part(UNet2DConditionModel, base / "unet", torch.float32)
    if unet.config.in_channels != 9:
        raise ValueError(
            f"{model}: its UNet takes {unet.config.in_channels} channels, not an inpainting model's 9 (latents, mask, "
            "masked latents): name an inpainting checkpoint"
        )
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    phrase_encoder = load_part(CLIPTextModelWithProjection, clip, torch.float32)
    encoder = load_image_encoder(clip, torch.float32)
    return Components(
        load_part(AutoencoderKL, base / "vae", torch.float32),
        load_part(CLIPTextModel, base / "text_encoder", torch.float32),
        tokenizer,
        encoder,
        unet,
        controlnet_from_inpainting(unet),
        _make_adapter(encoder, unet.config.cross_attention_dim, bottleneck_dim),
        DDPMScheduler.from_pretrained(base / "scheduler"),
        partial(embed_phrases, phrase_encoder, tokenizer),
    )


def controlnet_from_inpainting(unet: UNet2DConditionModel) -> ControlNetModel:
    """Return a ControlNet with a 9-channel UNet's weights for its first 4 channels, the noisy latents.

    ``ControlNetModel.from_unet`` copies all 9 input channels, which pipelines do not feed to a ControlNet.
    """
    controlnet = ControlNetModel.from_unet(unet)
    wide = controlnet.conv_in
    narrow = nn.Conv2d(4, wide.out_channels, wide.kernel_size, wide.stride, wide.padding)
    narrow.load_state_dict({"weight": wide.weight.data[:, :4], "bias": wide.bias.data})
    controlnet.conv_in = narrow
    controlnet.register_to_config(in_channels=4)
    return controlnet


def warm_start(components: Components, folder: Path) -> None:
    """Load the weights of an earlier training's output folder; of the adapter's, those whose shape is the same."""
    for name, model in (("unet", components.unet), ("controlnet", components.controlnet)):
        if (folder / name).is_dir():
            model.load_state_dict(type(model).from_pretrained(folder / name).state_dict())
    weights = load_file(folder / "attribute_adapter" / SAFETENSORS_WEIGHTS_NAME)
    own = components.adapter.state_dict()
    matching = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    components.adapter.load_state_dict(matching, strict=False)


def _make_adapter(
    image_encoder: CLIPVisionModelWithProjection | FaceEncoder, width: int, bottleneck_dim: int
) -> AttributeAdapter:
    return AttributeAdapter(image_encoder.config.projection_dim, len(FEATURE_NAMES), bottleneck_dim, width)


def assemble_builtin(
    vae: Path, clip: Path, generator: Path, identity_model: Path, *, steps: int, guidance: float, strength: float
) -> FaceDeidPipeline:
    """Return a float16 pipeline from the output folders of the built-in model's trainings.

    Args:
        vae, clip, generator: output folders of train_vae.py, train_attribute_encoder.py and train_face_deid.py.
        identity_model: output folder of fit_identity_model.py.
        steps, guidance, strength: the pipeline's defaults; strength is the share of steps that denoise a composite.
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
    """Return a float16 pipeline from an inpainting checkpoint and train_face_deid.py's output folder.

    Its model and image encoder are those that the generator was trained with; steps and guidance are its defaults.
    """
    base, clip = fetch(INPAINTING.at(str(model))), fetch(CLIP.at(str(image_encoder)))
    return build_trained(base, clip, generator, steps, guidance, torch.float16)
