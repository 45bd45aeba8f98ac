import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPVisionModelWithProjection

from deid_diffusion.attributes.encoding import tokenize
from deid_diffusion.attributes.subspace import AttributeSubspace
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.errors import DeidError
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.pipelines.presets import CLIP, INPAINTING
from deid_diffusion.training.attribute_encoder import all_facts
from deid_diffusion.training.components import (
    assemble_pretrained,
    builtin_components,
    controlnet_from_inpainting,
    load_image_encoder,
    pretrained_components,
    warm_start,
)
from deid_diffusion.training.data import FaceCache, LatentFaces, encode_cache
from deid_diffusion.training.generator import FaceDeidObjective
from deid_diffusion.training.loop import train
from deid_diffusion.training.validation import sample_items
from tests.training.line import line_config


def tiny_unet(channels: int = 9) -> UNet2DConditionModel:
    """Stable Diffusion 1.5's levels at a few channels."""
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=channels,
        layers_per_block=2,
        block_out_channels=(8, 8, 16, 16),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=4,
    )


@pytest.fixture(scope="module")
def checkpoint(tiny_pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of a Stable Diffusion inpainting checkpoint, and CLIP's two towers beside it."""
    folder = tmp_path_factory.mktemp("sd")
    text = CLIPTextModel(tiny_pipeline.text_encoder.config)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    parts = {"vae": vae, "text_encoder": text, "tokenizer": tiny_pipeline.tokenizer, "unet": tiny_unet()}
    optional = {"scheduler": scheduler, "safety_checker": None, "feature_extractor": CLIPImageProcessor()}
    StableDiffusionInpaintPipeline(**parts, **optional, requires_safety_checker=False).save_pretrained(folder)
    towers = {"text_config": text.config.to_dict(), "vision_config": tiny_pipeline.image_encoder.config.to_dict()}
    CLIPModel(CLIPConfig(**towers, projection_dim=16)).save_pretrained(folder / "vision")
    tiny_pipeline.tokenizer.save_pretrained(folder / "vision")
    return folder


def test_pretrained_training_and_assembly(checkpoint: Path, cache: FaceCache, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = pretrained_components(checkpoint, checkpoint / "vision", 4)
    encode_cache(cache, tmp_path / "encoded", parts.vae.eval(), parts.image_encoder.eval(), seed=0)
    dataset = LatentFaces(cache, tmp_path / "encoded", parts.tokenizer, all_facts(cache), 0)
    before = {name: value.clone() for name, value in parts.unet.state_dict().items()}
    objective = FaceDeidObjective(
        parts.unet,
        parts.controlnet,
        parts.adapter,
        parts.scheduler,
        parts.text_encoder,
        tokenize(parts.tokenizer, [""]),
        subspace=AttributeSubspace.from_phrases(VOCABULARY, parts.embed),
        train_unet=False,
        vae=parts.vae,
        examples=sample_items(dataset, 2),
    )
    assert not any(name.startswith("unet") for name in objective.state_dict())
    config = line_config(tmp_path, 2, gradient_checkpointing=True, validation_steps=1)
    train(objective, dataset, config)
    assert all(torch.equal(before[name], value) for name, value in parts.unet.state_dict().items())
    assert list((tmp_path / "validation").glob("*.png"))
    pipeline = assemble_pretrained(checkpoint, checkpoint / "vision", tmp_path, steps=2, guidance=3.0).to(
        "cpu", torch.float32
    )
    assert pipeline.crop_size == 32
    pipeline.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["attribute_adapter"] == ["deid_diffusion.models.attribute_adapter", "AttributeAdapter"]


def test_controlnet_from_inpainting(checkpoint: Path) -> None:
    controlnet = controlnet_from_inpainting(tiny_unet())
    down, middle = controlnet(
        torch.randn(1, 4, 16, 16), 5, torch.randn(1, 3, 16), torch.rand(1, 3, 128, 128), return_dict=False
    )
    assert all(not residual.any() for residual in [*down, middle])
    assert controlnet.config.in_channels == 4


def test_not_an_inpainting_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    tiny_unet(4).save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="4 channels, not an inpainting model's 9"):
        pretrained_components(tmp_path, checkpoint / "vision", 4)


def test_half_precision_checkpoint(hub: dict[str, Path]) -> None:
    """As Stable Diffusion's: in half precision as safetensors, in single precision as pickles, which are not read."""
    parts = pretrained_components(hub[INPAINTING.name], hub[CLIP.name], 4)
    models = (parts.unet, parts.vae, parts.text_encoder, parts.image_encoder)
    assert {value.dtype for model in models for value in model.parameters()} == {torch.float32}
    assert parts.embed(["a man"]).dtype == torch.float32


def test_load_image_encoder(checkpoint: Path, tmp_path: Path) -> None:
    FaceEncoder(16, 8).save_pretrained(tmp_path)
    assert isinstance(load_image_encoder(tmp_path, torch.float32), FaceEncoder)
    assert isinstance(load_image_encoder(checkpoint / "vision", torch.float32), CLIPVisionModelWithProjection)


def test_warm_start(tiny_pipeline, tmp_path: Path) -> None:
    tiny_pipeline.vae.save_pretrained(tmp_path / "vae")
    deepcopy(tiny_pipeline.text_encoder).half().save_pretrained(
        tmp_path / "clip" / "text_encoder"
    )  # as in the built-in model
    tiny_pipeline.tokenizer.save_pretrained(tmp_path / "clip" / "tokenizer")
    FaceEncoder(16, 8).save_pretrained(tmp_path / "clip" / "image_encoder")
    parts = builtin_components(tmp_path / "vae", tmp_path / "clip", (16, 32), 32, 4)
    assert parts.text_encoder.dtype == torch.float32  # as mixed precision needs
    for name, model in (
        ("unet", tiny_pipeline.unet),
        ("controlnet", tiny_pipeline.controlnet),
        ("attribute_adapter", tiny_pipeline.attribute_adapter),
    ):
        model.save_pretrained(tmp_path / "generator" / name)
    warm_start(parts, tmp_path / "generator")
    assert torch.equal(parts.unet.conv_in.weight, tiny_pipeline.unet.conv_in.weight)
    assert torch.equal(parts.adapter.null_tokens, tiny_pipeline.attribute_adapter.null_tokens)


def test_missing_models(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DeidError, match=r"nope: no such folder: give the output folder"):
        builtin_components(tmp_path / "nope", tmp_path, (8, 8, 8), 32, 4)
    for name in ("me/model", "nope"):
        with pytest.raises(DeidError, match=rf"^{name}: .* run: hf download {name} "):
            pretrained_components(name, checkpoint, 4)
    with pytest.raises(DeidError, match=r"^me/clip: .* run: hf download me/clip "):
        pretrained_components(checkpoint, "me/clip", 4)
