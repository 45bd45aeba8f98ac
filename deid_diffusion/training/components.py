"""What a generator's training starts from: the embedded model's own parts, or a Stable Diffusion checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

from ..attributes.phrases import embed_phrases
from ..attributes.subspace import FEATURE_NAMES
from ..errors import DeidError
from ..models.attribute_adapter import AttributeAdapter
from ..models.face_encoder import FaceEncoder
from ..pipelines.building import load_image_encoder
from .builtin import make_controlnet, make_scheduler, make_unet


@dataclass(frozen=True)
class Components:
    """Models of one training.

    ``unet`` takes 9 channels: noisy latents, mask, latents of the masked picture. ``embed`` takes captions to (K, D)
    unit vectors of the image encoder's space.
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


def embedded_components(
    vae: Path, clip: Path, widths: tuple[int, ...], crop_size: int, bottleneck_dim: int
) -> Components:
    """A new UNet, ControlNet and adapter for a trained autoencoder and attribute encoder.

    Args:
        vae, clip: output folders of the two earlier trainings.
        widths: channels of the UNet's levels, finest first.
        crop_size: side of the training's crops, in pixels.
        bottleneck_dim: of the adapter.

    Raises:
        DeidError: when a folder is not there.
    """
    for folder in (vae, clip):
        if not folder.is_dir():
            raise DeidError(f"{folder}: no such folder: give the output folder of the training before")
    autoencoder = AutoencoderKL.from_pretrained(vae)
    text_encoder = CLIPTextModel.from_pretrained(clip / "text_encoder").float()  # transformers keeps the files' type
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
    """A Stable Diffusion inpainting checkpoint with a new ControlNet, copied from its UNet, and a new adapter.

    Args:
        model: folder or hub name, such as stable-diffusion-v1-5/stable-diffusion-inpainting.
        image_encoder: folder or hub name, such as openai/clip-vit-large-patch14.
        bottleneck_dim: of the adapter.

    Raises:
        ValueError: when the checkpoint's UNet is not an inpainting one.
        DeidError: when there is no such checkpoint or encoder, or it cannot be downloaded.
    """
    with _had(model):
        unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    if unet.config.in_channels != 9:
        raise ValueError(
            f"{model}: its UNet takes {unet.config.in_channels} channels, not an inpainting model's 9 (latents, mask, "
            "masked latents): name an inpainting checkpoint"
        )
    with _had(model):
        vae = AutoencoderKL.from_pretrained(model, subfolder="vae")
        text_encoder = CLIPTextModel.from_pretrained(model, subfolder="text_encoder").float()
        tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
        scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
    with _had(image_encoder):
        words = CLIPTokenizer.from_pretrained(image_encoder)
        phrases = CLIPTextModelWithProjection.from_pretrained(image_encoder).float()
        encoder = load_image_encoder(image_encoder, torch.float32)
    return Components(
        vae,
        text_encoder,
        tokenizer,
        encoder,
        unet,
        controlnet_from_inpainting(unet),
        _make_adapter(encoder, unet.config.cross_attention_dim, bottleneck_dim),
        scheduler,
        partial(embed_phrases, phrases, words),
    )


@contextmanager
def _had(name: str | Path) -> Iterator[None]:
    """Raises DeidError, with what to do about it, for OSError: what happens inside loads a folder, or from the hub."""
    try:
        yield
    except OSError as error:
        raise DeidError(
            f"{name}: no such folder, or not complete, and not to be had from the hub: give a folder, or while online, "
            f"run: hf download {name}"
        ) from error


def controlnet_from_inpainting(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet with a 9-channel UNet's weights that takes its first 4 channels, the noisy latents.

    ``ControlNetModel.from_unet`` copies all 9, and no pipeline feeds a ControlNet so many.
    """
    controlnet = ControlNetModel.from_unet(unet)
    wide = controlnet.conv_in
    narrow = nn.Conv2d(4, wide.out_channels, wide.kernel_size, wide.stride, wide.padding)
    narrow.load_state_dict({"weight": wide.weight.data[:, :4], "bias": wide.bias.data})
    controlnet.conv_in = narrow
    controlnet.register_to_config(in_channels=4)
    return controlnet


def warm_start(components: Components, folder: Path) -> None:
    """Take over the weights of an earlier training's output folder; of the adapter, those of the same shape."""
    for name, model in (("unet", components.unet), ("controlnet", components.controlnet)):
        if (folder / name).is_dir():
            model.load_state_dict(type(model).from_pretrained(folder / name).state_dict())
    adapter = load_file(folder / "attribute_adapter" / SAFETENSORS_WEIGHTS_NAME)
    own = components.adapter.state_dict()
    same = {name: one for name, one in adapter.items() if name in own and one.shape == own[name].shape}
    components.adapter.load_state_dict(same, strict=False)


def _make_adapter(
    image_encoder: CLIPVisionModelWithProjection | FaceEncoder, width: int, bottleneck_dim: int
) -> AttributeAdapter:
    return AttributeAdapter(image_encoder.config.projection_dim, len(FEATURE_NAMES), bottleneck_dim, width)
