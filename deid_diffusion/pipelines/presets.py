"""Presets: pipelines assembled from a Stable Diffusion inpainting checkpoint and the parts that condition it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ConfigMixin,
    ControlNetModel,
    DDIMScheduler,
    LCMScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from ..errors import DeidError, needed_for
from ..models.attribute_adapter import AttributeAdapter
from ..models.face_encoder import FaceEncoder
from ..models.identity_model import IdentityModel
from .face_deid import FaceDeidPipeline
from .repositories import Repository, fetch, load_part

_UNET = "diffusion_pytorch_model.safetensors"

INPAINTING = Repository(
    "stable-diffusion-v1-5/stable-diffusion-inpainting",
    licence="CreativeML OpenRAIL-M",
    weights=(f"unet/{_UNET}", f"vae/{_UNET}", "text_encoder/model.safetensors"),
    others=(
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/*",
        "scheduler/scheduler_config.json",
    ),
    revision="8a4288a76071f7280aedbdb3253bdb9e9d5d84bb",
)
"""Stable Diffusion 1.5's inpainting checkpoint; its UNet and VAE exist as safetensors in half precision only."""

FACE_LINES = Repository(
    "CrucibleAI/ControlNetMediaPipeFace",
    licence="OpenRAIL",
    weights=(f"diffusion_sd15/{_UNET}",),
    others=("diffusion_sd15/config.json",),
    revision="f6ed75cc495674bea8bf7409ef3d0e5bfb7d8c90",
)
CLIP = Repository(
    "openai/clip-vit-large-patch14",
    licence="none stated; its code is under MIT",
    weights=("model.safetensors",),
    others=("config.json",),
    revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
)
LCM_LORA = Repository(
    "latent-consistency/lcm-lora-sdv1-5",
    licence="OpenRAIL++",
    weights=("pytorch_lora_weights.safetensors",),
    revision="cf2fced511dbe7e26c8d1d397e728fbab875db4b",
)
TRAINED = Repository(
    "",
    licence="",
    weights=(f"controlnet/{_UNET}", f"attribute_adapter/{_UNET}"),
    others=("controlnet/config.json", "attribute_adapter/config.json", "unet/*", "scheduler/*"),
)
"""The output folder of ``train_face_deid.py``, which the user names."""


@dataclass(frozen=True)
class Preset:
    """A model assembled from third-party parts.

    Attributes:
        name: for ``--model``.
        base: an inpainting checkpoint of Stable Diffusion 1.
        clip: encodes attributes and words.
        controlnet: follows the line drawing of a face; None where ``trained`` has one for our semantic map.
        trained: ControlNet and attribute adapter, as ``train_face_deid.py`` writes them.
        lora: reduces the number of steps.
        steps: default denoising steps.
        guidance: default guidance scale.
    """

    name: str
    base: Repository = INPAINTING
    clip: Repository = CLIP
    controlnet: Repository | None = None
    trained: Repository | None = None
    lora: Repository | None = None
    steps: int = 25
    guidance: float = 5.0

    @property
    def repositories(self) -> tuple[Repository, ...]:
        """The repositories of all parts."""
        parts = (self.base, self.controlnet, self.clip, self.trained, self.lora)
        return tuple(repository for repository in parts if repository is not None)


SD15 = Preset("sd15", controlnet=FACE_LINES)
SD15_LCM = Preset("sd15-lcm", controlnet=FACE_LINES, lora=LCM_LORA, steps=8, guidance=1.5)
SD15_SEMANTIC = Preset("sd15-semantic", trained=TRAINED)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in (SD15, SD15_LCM, SD15_SEMANTIC)}


def find_preset(model: str) -> Preset | None:
    """Return the preset of a name; None for any other name.

    >>> find_preset("sd15").base.name
    'stable-diffusion-v1-5/stable-diffusion-inpainting'
    >>> find_preset("sd15-semantic=OUT").trained.name
    'OUT'

    Args:
        model: NAME or NAME=SOURCE, a folder or hub id: of another inpainting checkpoint, or, for "sd15-semantic", of
            the trained ControlNet and adapter.

    Raises:
        DeidError: when the source is missing or empty.
    """
    name, sign, source = model.partition("=")
    preset = PRESETS.get(name)
    if preset is None:
        return None
    if preset.trained is not None:
        if not source:
            raise DeidError(
                f"model {name}: needs a source: --model {name}=FOLDER, the output of train_face_deid.py, or a hub id"
            )
        return replace(preset, trained=preset.trained.at(source))
    if sign and not source:
        raise DeidError(f"model {model}: nothing after =: expected the folder or hub id of an inpainting checkpoint")
    return replace(preset, base=preset.base.at(source)) if source else preset


BUILTIN_IDENTITY = Path(__file__).parent.parent / "builtin" / "identity_model"
"""The built-in identity model, from which the faces of every checkpoint start."""


def build_preset(preset: Preset, dtype: torch.dtype) -> FaceDeidPipeline:
    """Assemble the pipeline of a preset.

    Args:
        preset: its repositories; missing files are downloaded.
        dtype: of its weights.

    Raises:
        DeidError: for files that cannot be downloaded, parts that do not fit each other, or a missing package.
    """
    if preset.lora is not None:  # before gigabytes are loaded
        with needed_for("a LoRA", "peft"):
            import peft  # noqa: F401, diffusers needs it
    # the user's own parts first: an error in them is raised before gigabytes are downloaded
    trained = None if preset.trained is None else fetch(preset.trained)
    base, clip = fetch(preset.base), fetch(preset.clip)
    lora = None if preset.lora is None else fetch(preset.lora)
    if trained is not None:
        pipeline = build_trained(base, clip, trained, preset.steps, preset.guidance, dtype)
    else:
        assert preset.controlnet is not None
        controlnet = fetch(preset.controlnet) / "diffusion_sd15"
        config = {"control": "mediapipe_face", "default_steps": preset.steps, "default_guidance": preset.guidance}
        pipeline = _build(base, clip, base / "unet", controlnet, dtype, **config)
    if lora is not None:  # Luo et al., "LCM-LoRA: A Universal Stable-Diffusion Acceleration Module", 2023
        pipeline.load_lora_weights(lora, weight_name="pytorch_lora_weights.safetensors")
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    return pipeline


def build_trained(
    base: Path, clip: Path, trained: Path, steps: int, guidance: float, dtype: torch.dtype
) -> FaceDeidPipeline:
    """Assemble a checkpoint with our own ControlNet, which follows the semantic map, and attribute adapter.

    Args:
        base: an inpainting checkpoint.
        clip: the image encoder that the adapter was trained with, and its text side.
        trained: output folder of train_face_deid.
        steps, guidance: the pipeline's defaults.
        dtype: of its weights.
    """
    unet = trained / "unet" if (trained / "unet").is_dir() else base / "unet"
    adapter = load_part(AttributeAdapter, trained / "attribute_adapter", dtype)
    config = {"control": "semantic_map", "default_steps": steps, "default_guidance": guidance}
    return _build(base, clip, unet, trained / "controlnet", dtype, adapter, distilled_sampler(trained), **config)


def distilled_sampler(generator: Path) -> LCMScheduler | None:
    """Return the sampler of a distilled generator; None for any other generator."""
    config = generator / "scheduler" / "scheduler_config.json"
    if not config.is_file() or json.loads(config.read_text())["_class_name"] != LCMScheduler.__name__:
        return None
    return LCMScheduler.from_pretrained(generator / "scheduler")


def load_image_encoder(folder: str | Path, dtype: torch.dtype) -> CLIPVisionModelWithProjection | FaceEncoder:
    """Load a CLIP vision tower or a `FaceEncoder` from a folder."""
    config = Path(folder) / "config.json"
    if config.is_file() and FaceEncoder.__name__ in config.read_text():
        return load_part(FaceEncoder, folder, dtype)
    return load_part(CLIPVisionModelWithProjection, folder, dtype)


def _build(
    base: Path,
    clip: Path,
    unet_folder: Path,
    controlnet_folder: Path,
    dtype: torch.dtype,
    adapter: Any = None,
    scheduler: SchedulerMixin | None = None,
    **config: Any,
) -> FaceDeidPipeline:
    unet = load_part(UNet2DConditionModel, unet_folder, dtype)
    controlnet = load_part(ControlNetModel, controlnet_folder, dtype)
    _check_fit(unet, controlnet, adapter)
    return FaceDeidPipeline(
        vae=load_part(AutoencoderKL, base / "vae", dtype),
        text_encoder=load_part(CLIPTextModel, base / "text_encoder", dtype),
        tokenizer=load_part(CLIPTokenizer, base / "tokenizer", dtype),
        unet=unet,
        controlnet=controlnet,
        scheduler=scheduler or load_part(DDIMScheduler, base / "scheduler", dtype),
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(),
        image_encoder=load_image_encoder(clip, dtype),
        attribute_adapter=adapter,
        phrase_encoder=load_part(CLIPTextModelWithProjection, clip, dtype),
        identity_model=load_part(IdentityModel, BUILTIN_IDENTITY, dtype),
        **config,
    )


def _check_fit(unet: UNet2DConditionModel, *others: ConfigMixin | None) -> None:
    """Raise DeidError for a checkpoint that is not for inpainting, or of another family than its other parts."""
    if unet.config.in_channels != 9:
        raise DeidError(
            f"this checkpoint's UNet takes {unet.config.in_channels} channels, not an inpainting model's 9 (latents, "
            "mask, masked latents): use an inpainting checkpoint"
        )
    width = unet.config.cross_attention_dim
    for part in others:
        if part is not None and part.config.cross_attention_dim != width:
            raise DeidError(
                f"{type(part).__name__} has text embeddings of width {part.config.cross_attention_dim}, this "
                f"checkpoint {width}: it belongs to another family of models"
            )
