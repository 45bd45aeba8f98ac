"""Random weights in the shapes of Stable Diffusion 1.5, in a ComfyUI's model folders: for the trial, 3.5 GB on disk.

They generate noise, and show that ComfyUI's own loaders and sampler accept our ControlNet, our adapter's tokens and
our crops. Run with ComfyUI's folder as working directory.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

_WIDTH = 768  # of SD 1.5's text embedding, and of CLIP ViT-L/14's joint space
_UNET = {
    "image_size": 32, "in_channels": 9, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "num_heads": 8, "use_spatial_transformer": True, "context_dim": _WIDTH,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1, "legacy": False,
}  # fmt: skip
_VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def random_weights(model: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """Small normal weights in half precision; one-dimensional weights are norms and biases."""
    weights = {}
    for name, value in model.state_dict().items():
        if value.ndim > 1:
            values = torch.randn(value.shape) * 0.02
        else:
            values = torch.ones(value.shape) if name.endswith("weight") else torch.zeros(value.shape)
        weights[prefix + name] = values.half() if value.is_floating_point() else value.clone()
    return weights


def checkpoint() -> dict[str, torch.Tensor]:
    """An inpainting checkpoint in the original layout."""
    import comfy.ops
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNetModel(**_UNET, dtype=torch.float16, device="cpu", operations=comfy.ops.disable_weight_init)
    vae = AutoencoderKL(ddconfig=_VAE, embed_dim=4)
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=_WIDTH, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    )
    words = random_weights(text)
    words = {name.removeprefix("text_model."): value for name, value in words.items()}
    return {
        **random_weights(unet, "model.diffusion_model."),
        **random_weights(vae, "first_stage_model."),
        **{f"cond_stage_model.transformer.text_model.{name}": value for name, value in words.items()},
    }


def controlnet() -> dict[str, torch.Tensor]:
    """A ControlNet as training saves it, in diffusers' layout."""
    from diffusers import ControlNetModel

    return random_weights(ControlNetModel(cross_attention_dim=_WIDTH))


def clip_vision() -> dict[str, torch.Tensor]:
    """CLIP ViT-L/14's image side, in transformers' layout."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    return random_weights(
        CLIPVisionModelWithProjection(CLIPVisionConfig(patch_size=14, projection_dim=_WIDTH, **shape))
    )


def save_adapter(folder: Path) -> None:
    """Write the parts of a model that Load Attribute Adapter reads, with a small text side of that CLIP."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from deid_diffusion.models.attribute_adapter import AttributeAdapter
    from deid_diffusion.pipelines.loading import BUILTIN

    AttributeAdapter(feature_dim=_WIDTH, cross_attention_dim=_WIDTH).save_pretrained(folder / "attribute_adapter")
    shutil.copytree(BUILTIN / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    known = json.loads((BUILTIN / "text_encoder" / "config.json").read_text())
    words = {name: known[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "max_position_embeddings")}
    text = CLIPTextConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=2, projection_dim=_WIDTH, **words)
    CLIPTextModelWithProjection(text).save_pretrained(folder / "phrase_encoder")


def main() -> None:
    models = Path(sys.argv[1])
    sys.argv = ["main.py", "--cpu"]  # ComfyUI reads it
    sys.path.insert(0, str(Path.cwd()))
    import comfy.options

    comfy.options.enable_args_parsing()
    torch.manual_seed(0)
    with torch.no_grad():
        makers = {
            "checkpoints/sd-v1-5-inpainting": checkpoint,
            "controlnet/face_deid_controlnet": controlnet,
            "clip_vision/clip_vit_l14": clip_vision,
        }
        for name, make in makers.items():
            path = models / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: value.contiguous() for key, value in make().items()}, path)
    save_adapter(models / "attribute_adapters" / "face_deid")


if __name__ == "__main__":
    main()
