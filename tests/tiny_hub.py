"""Small random models in the layouts of the hub, and a cache of the hub's client that holds them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

PICKLE = b"not to be read"
"""Content of a repository's ``.bin`` files."""

UNET = {
    "sample_size": 4,
    "in_channels": 9,
    "layers_per_block": 1,
    "block_out_channels": (8, 8, 16, 16),
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}
"""An inpainting UNet of Stable Diffusion 1.5's levels."""


def models(tokenizer) -> dict[str, torch.nn.Module]:
    """Return Stable Diffusion 1.5's parts with few channels: 32 px crops, texts of width 16."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig

    from deid_diffusion.training.components import controlnet_from_inpainting

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    unet = UNet2DConditionModel(**UNET)
    controlnet = controlnet_from_inpainting(unet)
    for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        layer.reset_parameters()
    controlnet.controlnet_cond_embedding.conv_out.reset_parameters()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape["projection_dim"] = 16
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=24, **ends, **shape)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **shape)
    clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16))
    return {"vae": vae, "unet": unet, "controlnet": controlnet, "text_encoder": CLIPTextModel(text), "clip": clip}


def make_hub(folder: Path) -> dict[str, Path]:
    """Write all repositories of the presets, in the layout of their pinned commits; return folders by name."""
    from diffusers import PNDMScheduler
    from transformers import CLIPImageProcessor

    from deid_diffusion.pipelines.presets import CLIP, FACE_LINES, INPAINTING, LCM_LORA
    from deid_diffusion.training.attribute_encoder import train_tokenizer

    tokenizer = train_tokenizer(["photo of a person"], folder / "tok", vocab_size=600, model_max_length=24)
    parts = models(tokenizer)
    base, lines, clip, lcm = (folder / str(k) for k in range(4))
    for name in ("unet", "vae"):  # no safetensors in single precision
        parts[name].save_pretrained(base / name, variant="fp16")
        (base / name / "diffusion_pytorch_model.bin").write_bytes(PICKLE)
    for variant in ("fp16", None):
        parts["text_encoder"].save_pretrained(base / "text_encoder", variant=variant)
        _as_in_2022(base / "text_encoder" / ("model.fp16.safetensors" if variant else "model.safetensors"))
        parts["controlnet"].save_pretrained(lines / "diffusion_sd15", variant=variant)
    (base / "text_encoder" / "pytorch_model.bin").write_bytes(PICKLE)
    (lines / "diffusion_sd15" / "diffusion_pytorch_model.bin").write_bytes(PICKLE)
    tokenizer.save_pretrained(base / "tokenizer")
    PNDMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(base / "scheduler")
    CLIPImageProcessor().save_pretrained(base / "feature_extractor")
    index = {
        "_class_name": "StableDiffusionInpaintPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (base / "model_index.json").write_text(json.dumps(index))
    parts["clip"].save_pretrained(clip)
    tokenizer.save_pretrained(clip)
    lcm.mkdir()
    lora(lcm, parts["unet"])
    return {INPAINTING.name: base, FACE_LINES.name: lines, CLIP.name: clip, LCM_LORA.name: lcm}


def _as_in_2022(path: Path) -> None:
    """Name the weights of a text encoder as those of the hub's checkpoints, which transformers 5 does not do."""
    from safetensors.torch import load_file, save_file

    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()}
    positions = torch.arange(24)[None]
    save_file({**weights, "text_model.embeddings.position_ids": positions}, path, {"format": "pt"})


def add_to_cache(cache: Path, name: str, folder: Path, revision: str = "0" * 40) -> Path:
    """Copy a folder into the cache of huggingface_hub as a repository's newest commit; return its snapshot."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    shutil.copytree(folder, snapshot)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(revision)
    return snapshot


def fill_cache(cache: Path, hub: dict[str, Path]) -> None:
    """Fill a cache with all repositories of the presets at their pinned commits."""
    from deid_diffusion.pipelines.presets import CLIP, FACE_LINES, INPAINTING, LCM_LORA

    for repository in (INPAINTING, FACE_LINES, CLIP, LCM_LORA):
        assert repository.revision is not None
        add_to_cache(cache, repository.name, hub[repository.name], repository.revision)


def lora(folder: Path, unet, rank: int = 2) -> Path:
    """Write a LoRA like latent-consistency/lcm-lora-sdv1-5: for convolutions and attention, with kohya's names."""
    from diffusers.utils import convert_state_dict_to_kohya
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_v", "conv1"]), "lcm")
    names = get_peft_model_state_dict(unet, adapter_name="lcm")
    unet.delete_adapters("lcm")
    unet.unload_lora()
    generator = torch.Generator().manual_seed(0)
    weights = {f"unet.{name}": torch.randn(value.shape, generator=generator) for name, value in names.items()}
    path = folder / "pytorch_lora_weights.safetensors"
    save_file(convert_state_dict_to_kohya(weights), path)
    return path


def ip_adapter(unet, width: int) -> dict[str, dict[str, torch.Tensor]]:
    """Return weights of an IP-Adapter for image embeddings of a width, as in h94/IP-Adapter's files."""
    generator = torch.Generator().manual_seed(0)
    text, tokens = unet.config.cross_attention_dim, 4
    projection = {
        "proj.weight": torch.randn(tokens * text, width, generator=generator),
        "proj.bias": torch.zeros(tokens * text),
        "norm.weight": torch.ones(text),
        "norm.bias": torch.zeros(text),
    }
    layers = {}
    crossing = [name for name in unet.attn_processors if "attn2" in name]
    for number, name in enumerate(crossing):
        block = unet.get_submodule(name.removesuffix(".processor"))
        for side in ("k", "v"):
            shape = getattr(block, f"to_{side}").weight.shape
            layers[f"{2 * number + 1}.to_{side}_ip.weight"] = torch.randn(shape, generator=generator)
    return {"image_proj": projection, "ip_adapter": layers}


def ip_adapter_repository(folder: Path, width: int = 12) -> None:
    """Write an image encoder and a file of weights in h94/IP-Adapter's layout, for the presets' UNet."""
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=width, **shape)
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "models" / "image_encoder")
    weights = ip_adapter(UNet2DConditionModel(**UNET), width)
    named = {f"{kind}.{name}": value for kind, group in weights.items() for name, value in group.items()}
    save_file(named, folder / "models" / "ip-adapter_sd15.safetensors")


def parser_repository(folder: Path, names: tuple[str, ...], sees: str) -> Path:
    """Write a tiny segmentation model that predicts a single class everywhere."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 8],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 1],
        mlp_ratios=[1, 1],
        decoder_hidden_size=8,
        id2label=dict(enumerate(names)),
        label2id={name: k for k, name in enumerate(names)},
    )
    model = SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        model.decode_head.classifier.weight.zero_()
        model.decode_head.classifier.bias.copy_(torch.eye(len(names))[names.index(sees)])
    model.save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder
