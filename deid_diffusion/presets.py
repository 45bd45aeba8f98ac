"""Models by name: which repositories of the hub a preset is made of, and how it samples.

The commits were taken from public projects that name them beside the repository; the hub was not asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .errors import DeidError
from .repositories import Repository

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
"""Stable Diffusion 1.5's inpainting checkpoint; of its UNet and VAE, safetensors exist in half precision only."""

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
"""The output folder of ``train_face_deid.py``, which only its user can name."""


@dataclass(frozen=True)
class Preset:
    """A model that is put together of other people's parts.

    Attributes:
        name: for ``--model``.
        base: an inpainting checkpoint of Stable Diffusion 1.
        clip: its two sides read attributes and words.
        controlnet: follows the line drawing of a face; None where ``trained`` brings one for our semantic map.
        trained: ControlNet and attribute adapter, as ``train_face_deid.py`` writes them.
        lora: makes few steps do.
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
        """All that it is made of."""
        return tuple(one for one in (self.base, self.controlnet, self.clip, self.trained, self.lora) if one is not None)


SD15 = Preset("sd15", controlnet=FACE_LINES)
SD15_LCM = Preset("sd15-lcm", controlnet=FACE_LINES, lora=LCM_LORA, steps=8, guidance=1.5)
SD15_SEMANTIC = Preset("sd15-semantic", trained=TRAINED)
PRESETS: dict[str, Preset] = {one.name: one for one in (SD15, SD15_LCM, SD15_SEMANTIC)}


def find_preset(model: str) -> Preset | None:
    """The preset that a user names; None where it is no preset's name.

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
                f"model {name}: say whose: --model {name}=FOLDER, the output of train_face_deid.py, or a hub id"
            )
        return replace(preset, trained=preset.trained.at(source))
    if sign and not source:
        raise DeidError(f"model {model}: nothing after =: expected the folder or hub id of an inpainting checkpoint")
    return replace(preset, base=preset.base.at(source)) if source else preset
