"""Shared fixtures: a photo of scikit-image, a pipeline of tiny random components, the built-in model, and the CLI."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_home_")  # downloads of this machine must not influence tests
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of several workers slow each other down

import numpy as np
import pytest

atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """(512, 512, 3) uint8 RGB, one face near (220, 120)."""
    from skimage.data import astronaut

    return astronaut()


def make_tiny_people(people: int = 12):
    """Return an IdentityModel of random people: 32 texels, features of 16 numbers."""
    import torch

    from deid_diffusion.faces.semantic_map import mean_mesh
    from deid_diffusion.models.identity_model import IdentityModel

    generator = torch.Generator().manual_seed(0)
    model = IdentityModel(people, 3, 32, 6, 16).eval()
    model.modes.copy_(torch.randint(-127, 128, model.modes.shape, generator=generator))
    model.codes.copy_(torch.randn(model.codes.shape, generator=generator) * 2e-3)
    depth = torch.zeros(478, 1)
    shape = torch.cat([torch.from_numpy(mean_mesh(1)), depth], 1)
    model.shapes.copy_(shape + 0.02 * torch.randn(people, 1, 3, generator=generator) * shape)
    model.features.copy_(torch.nn.functional.normalize(torch.randn(model.features.shape, generator=generator), dim=-1))
    for k in range(people):
        model.measures[k] = torch.tensor([k % 2, 20.0 + 4 * k, 0.05, 0.02 * (k % 4), 0.3, 0.0, 0.9 * (k == 11), 0.2])
    return model


def make_tiny_pipeline(folder: Path, *, with_adapter: bool = True):
    """Return a FaceDeidPipeline with random weights: 32 px crops, 16 px latents."""
    import torch
    from diffusers import AutoencoderKL
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    from deid_diffusion.attributes.subspace import FEATURE_NAMES
    from deid_diffusion.models.attribute_adapter import AttributeAdapter
    from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
    from deid_diffusion.training.attribute_encoder import train_tokenizer
    from deid_diffusion.training.components import make_controlnet, make_scheduler, make_unet

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["photo of a person"], folder / "tok", vocab_size=600, model_max_length=24)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=24,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **shape,
    )
    unet = make_unet((16, 32), sample_size=16, cross_attention_dim=16)
    controlnet = make_controlnet(unet, 2)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=16, **shape)
    pipeline = FaceDeidPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        controlnet=controlnet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(),
        image_encoder=CLIPVisionModelWithProjection(vision) if with_adapter else None,
        attribute_adapter=AttributeAdapter(16, len(FEATURE_NAMES), 4, 16) if with_adapter else None,
        phrase_encoder=CLIPTextModelWithProjection(text) if with_adapter else None,
        identity_model=make_tiny_people(),
        default_steps=2,
        default_guidance=1.5,
    )
    pipeline.set_progress_bar_config(disable=True)
    for model in pipeline.components.values():
        if isinstance(model, torch.nn.Module):
            model.eval()
    return pipeline


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory):
    return make_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny(tiny_pipeline):
    """Anonymizer of the tiny pipeline that detects two given faces."""
    from tests.given_faces import FACE, OTHER, given_anonymizer

    return given_anonymizer(tiny_pipeline, FACE, OTHER)


@pytest.fixture
def batch_sizes(tiny_pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of faces of each denoising run."""
    sizes: list[int] = []
    denoise = type(tiny_pipeline).__call__

    def count(self, **inputs):
        sizes.append(len(inputs["image"]))
        return denoise(self, **inputs)

    monkeypatch.setattr(type(tiny_pipeline), "__call__", count)
    return sizes


@pytest.fixture
def key():
    """A key of pseudonyms."""
    from deid_diffusion.identity.keys import Key

    return Key(bytes(range(32)))


@pytest.fixture(scope="session")
def anonymizer():
    """The built-in model, in single precision: the fastest type differs from processor to processor."""
    import torch

    from deid_diffusion import Anonymizer

    return Anonymizer.from_pretrained("builtin", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small random models in the layouts of the presets' repositories: folders by repository name."""
    from tests.tiny_hub import make_hub

    return make_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    return tmp_path / "hub_cache"


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty; no variable of the environment changes the output."""
    monkeypatch.chdir(tmp_path)
    for name in ("DEID_DEBUG", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `deid-diffusion` with arguments: exit code, lines on standard output, lines on standard error."""

    def run(*arguments: str) -> tuple[int, list[str], list[str]]:
        from deid_diffusion.cli import main

        monkeypatch.setattr(sys, "argv", ["deid-diffusion", *arguments])
        with pytest.raises(SystemExit) as caught:
            main.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err or "--debug" in arguments
        return caught.value.code or 0, out.splitlines(), err.splitlines()

    return run
