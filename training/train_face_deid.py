r"""Train the generator: a ControlNet for semantic maps and an adapter for attributes.

    accelerate launch training/train_face_deid.py --train_data_dir CACHE --output_dir OUT \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-inpainting

The checkpoint's UNet stays frozen. With --vae and --clip instead, the built-in model's own UNet is trained as well;
--start_strength then trains the result (--initial_generator) for the last denoising steps, from composites.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState

from deid_diffusion.attributes.encoding import tokenize
from deid_diffusion.attributes.subspace import AttributeSubspace
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.models.identity_model import IdentityModel
from deid_diffusion.pipelines.presets import BUILTIN_IDENTITY
from deid_diffusion.training.attribute_encoder import all_facts
from deid_diffusion.training.components import Components, builtin_components, pretrained_components, warm_start
from deid_diffusion.training.config import TrainConfig, parse, run_script
from deid_diffusion.training.data import FaceCache, LatentFaces, encode_cache, is_encoded, sample_items
from deid_diffusion.training.generator import FaceDeidObjective, IdentityRepulsion, initialize_adapter
from deid_diffusion.training.loop import train


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(TrainConfig):
    """Options of the generator."""

    pretrained_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Stable Diffusion inpainting checkpoint, folder or hub name, whose UNet stays frozen"},
    )
    image_encoder: str = field(
        default="openai/clip-vit-large-patch14",
        metadata={"help": "CLIP vision model that encodes the attributes, for such a checkpoint"},
    )
    vae: Path | None = field(default=None, metadata={"help": "instead of a checkpoint: output folder of train_vae.py"})
    clip: Path | None = field(
        default=None, metadata={"help": "with --vae: output folder of train_attribute_encoder.py"}
    )
    block_out_channels: str = field(
        default="64,128,192", metadata={"help": "widths of the built-in model's UNet, finest level first"}
    )
    train_unet: bool = field(default=False, metadata={"help": "train the UNet as well; always so with --vae"})
    initial_generator: Path | None = field(
        default=None, metadata={"help": "output folder of an earlier training whose weights are the start"}
    )
    bottleneck_dim: int = field(default=16, metadata={"help": "width of the adapter's bottleneck per region"})
    erased_directions: int = field(
        default=4, metadata={"help": "directions of identity erased from the features before the bottleneck"}
    )
    snr_gamma: float = field(default=5.0, metadata={"help": "gamma of the min-SNR loss weights"})
    rim_weight: float = field(default=0.5, metadata={"help": "weight of the colour loss at the mask's rim"})
    identity_recogniser: Path | None = field(
        default=None,
        metadata={
            "help": "TorchScript face recogniser, (B, 3, 112, 112) in -1..1 to (B, D); enables the identity repulsion"
        },
    )
    identity_weight: float = field(default=0.1, metadata={"help": "weight of the identity repulsion"})
    start_strength: float | None = field(
        default=None, metadata={"help": "train only this share of the denoising steps, the last ones, from composites"}
    )
    identity_model: Path = field(
        default=BUILTIN_IDENTITY, metadata={"help": "identity model that renders the composites"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.pretrained_model_name_or_path is None) == (self.vae is None or self.clip is None):
            raise ValueError("give either --pretrained_model_name_or_path, or --vae and --clip")
        if self.start_strength is not None and not 0 < self.start_strength <= 1:
            raise ValueError(f"--start_strength must be greater than 0 and at most 1, got {self.start_strength}")


def load(config: GeneratorConfig, crop_size: int) -> Components:
    if config.pretrained_model_name_or_path is not None:
        components = pretrained_components(
            config.pretrained_model_name_or_path, config.image_encoder, config.bottleneck_dim
        )
    else:
        assert config.vae is not None  # GeneratorConfig checks both
        assert config.clip is not None
        widths = tuple(int(width) for width in config.block_out_channels.split(","))
        components = builtin_components(config.vae, config.clip, widths, crop_size, config.bottleneck_dim)
    if config.initial_generator is not None:
        warm_start(components, config.initial_generator)
    return components


def main() -> None:
    config = parse(GeneratorConfig, __doc__ or "")
    cache = FaceCache(config.train_data_dir)
    torch.manual_seed(config.seed)
    components, state = load(config, cache.size), PartialState()
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(config.mixed_precision, torch.float32)
    for model in (components.vae, components.image_encoder, components.text_encoder):
        model.requires_grad_(False).eval().to(state.device)
    train_unet = config.train_unet or config.pretrained_model_name_or_path is None
    components.unet.to(state.device, torch.float32 if train_unet else half)
    encoded = config.output_dir / "encoded"
    with state.main_process_first():
        if not is_encoded(encoded):
            identity_model = (
                None if config.start_strength is None else IdentityModel.from_pretrained(config.identity_model)
            )
            encode_cache(
                cache,
                encoded,
                components.vae,
                components.image_encoder,
                seed=config.seed,
                identity_model=identity_model,
            )
    repulsion = None
    if config.identity_recogniser is not None:
        recogniser = torch.jit.load(config.identity_recogniser, map_location=state.device).eval()
        repulsion = IdentityRepulsion(components.vae, recogniser, weight=config.identity_weight)
    facts = all_facts(cache)
    subspace = AttributeSubspace.from_phrases(VOCABULARY, components.embed)
    features = torch.from_numpy(np.load(encoded / "features.npy").astype(np.float32))
    files = [row["file"] for row in cache.rows]
    initialize_adapter(
        components.adapter, features, facts, files, subspace, rank=config.erased_directions, seed=config.seed
    )
    dataset = LatentFaces(cache, encoded, components.tokenizer, facts, config.seed)
    objective = FaceDeidObjective(
        components.unet,
        components.controlnet,
        components.adapter,
        components.scheduler,
        components.text_encoder,
        tokenize(components.tokenizer, [""]),
        subspace=subspace,
        train_unet=train_unet,
        snr_gamma=config.snr_gamma,
        rim_weight=config.rim_weight,
        start_strength=config.start_strength,
        repulsion=repulsion,
        vae=components.vae,
        examples=sample_items(dataset, 8),
    )
    if config.pretrained_model_name_or_path is not None:
        objective.license = "creativeml-openrail-m"  # inherited from Stable Diffusion 1.x
    train(objective, dataset, config)


if __name__ == "__main__":
    run_script(main)
