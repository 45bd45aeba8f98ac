import json
import shutil
from copy import deepcopy
from pathlib import Path

import diffusers
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPVisionModelWithProjection

from deid_diffusion.attributes.encoding import tokenize
from deid_diffusion.attributes.subspace import AttributeSubspace
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.errors import DeidError
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.pipelines.presets import CLIP, INPAINTING
from deid_diffusion.training import components
from deid_diffusion.training.attribute_encoder import all_facts
from deid_diffusion.training.data import FaceCache, LatentFaces, encode_cache, sample_items
from deid_diffusion.training.generator import FaceDeidObjective
from deid_diffusion.training.loop import train
from tests.tiny_hub import UNET
from tests.training.line import line_config


def tiny_unet(channels: int = 9) -> diffusers.UNet2DConditionModel:
    """Return Stable Diffusion 1.5's levels and layers at a few channels."""
    return diffusers.UNet2DConditionModel(**UNET | {"in_channels": channels, "layers_per_block": 2})


@pytest.fixture(scope="module")
def checkpoint(tiny_pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of a Stable Diffusion inpainting checkpoint, and CLIP's two towers beside it."""
    folder = tmp_path_factory.mktemp("sd")
    text = CLIPTextModel(tiny_pipeline.text_encoder.config)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    scheduler = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    parts = {"vae": vae, "text_encoder": text, "tokenizer": tiny_pipeline.tokenizer, "unet": tiny_unet()}
    optional = {"scheduler": scheduler, "safety_checker": None, "feature_extractor": CLIPImageProcessor()}
    pipeline = diffusers.StableDiffusionInpaintPipeline(**parts, **optional, requires_safety_checker=False)
    pipeline.save_pretrained(folder)
    towers = {"text_config": text.config.to_dict(), "vision_config": tiny_pipeline.image_encoder.config.to_dict()}
    CLIPModel(CLIPConfig(**towers, projection_dim=16)).save_pretrained(folder / "vision")
    tiny_pipeline.tokenizer.save_pretrained(folder / "vision")
    return folder


def test_pretrained_training_and_assembly(checkpoint: Path, cache: FaceCache, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = components.pretrained_components(checkpoint, checkpoint / "vision", 4)
    encode_cache(cache, tmp_path / "encoded", parts.vae.eval(), parts.image_encoder.eval(), seed=0)
    dataset = LatentFaces(cache, tmp_path / "encoded", parts.tokenizer, all_facts(cache), 0)
    before = deepcopy(parts.unet.state_dict())
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
    train(objective, dataset, line_config(tmp_path, 2, gradient_checkpointing=True, validation_steps=1))
    assert all(torch.equal(before[name], value) for name, value in parts.unet.state_dict().items())
    assert list((tmp_path / "validation").glob("*.png"))
    pipeline = components.assemble_pretrained(checkpoint, checkpoint / "vision", tmp_path, steps=2, guidance=3.0)
    assert pipeline.crop_size == 32
    pipeline.to("cpu", torch.float32).save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["attribute_adapter"] == ["deid_diffusion.models.attribute_adapter", "AttributeAdapter"]


def test_controlnet_from_inpainting() -> None:
    controlnet = components.controlnet_from_inpainting(tiny_unet())
    inputs = torch.randn(1, 4, 16, 16), 5, torch.randn(1, 3, 16), torch.rand(1, 3, 128, 128)
    down, middle = controlnet(*inputs, return_dict=False)
    assert not any(residual.any() for residual in [*down, middle])
    assert controlnet.config.in_channels == 4


def test_not_an_inpainting_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    tiny_unet(4).save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="4 channels, not an inpainting model's 9"):
        components.pretrained_components(tmp_path, checkpoint / "vision", 4)


def test_half_precision_checkpoint(hub: dict[str, Path]) -> None:
    """As Stable Diffusion's: in half precision as safetensors, in single precision as pickles, which are not read."""
    parts = components.pretrained_components(hub[INPAINTING.name], hub[CLIP.name], 4)
    models = (parts.unet, parts.vae, parts.text_encoder, parts.image_encoder)
    assert {value.dtype for model in models for value in model.parameters()} == {torch.float32}
    assert parts.embed(["a man"]).dtype == torch.float32


def test_load_image_encoder(checkpoint: Path, tmp_path: Path) -> None:
    FaceEncoder(16, 8).save_pretrained(tmp_path)
    for folder, kind in ((tmp_path, FaceEncoder), (checkpoint / "vision", CLIPVisionModelWithProjection)):
        assert isinstance(components.load_image_encoder(folder, torch.float32), kind)


def test_warm_start(tiny_pipeline, tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    tiny_pipeline.vae.save_pretrained(tmp_path / "vae")
    deepcopy(tiny_pipeline.text_encoder).half().save_pretrained(clip / "text_encoder")  # as in the built-in model
    tiny_pipeline.tokenizer.save_pretrained(clip / "tokenizer")
    FaceEncoder(16, 8).save_pretrained(clip / "image_encoder")
    parts = components.builtin_components(tmp_path / "vae", clip, (16, 32), 32, 4)
    assert parts.text_encoder.dtype == torch.float32  # as mixed precision needs
    for name in ("unet", "controlnet", "attribute_adapter"):
        getattr(tiny_pipeline, name).save_pretrained(tmp_path / "generator" / name)
    components.warm_start(parts, tmp_path / "generator")
    assert torch.equal(parts.unet.conv_in.weight, tiny_pipeline.unet.conv_in.weight)
    assert torch.equal(parts.adapter.null_tokens, tiny_pipeline.attribute_adapter.null_tokens)


def test_missing_models(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DeidError, match=r"nope: no such folder: give the output folder"):
        components.builtin_components(tmp_path / "nope", tmp_path, (8, 8, 8), 32, 4)
    sources = {"me/model": ("me/model", checkpoint), "nope": ("nope", checkpoint), "me/clip": (checkpoint, "me/clip")}
    for name, folders in sources.items():
        with pytest.raises(DeidError, match=rf"^{name}: .* run: hf download {name} "):
            components.pretrained_components(*folders, 4)
