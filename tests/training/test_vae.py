from pathlib import Path

import pytest
import torch

from deid_diffusion.errors import DeidError
from deid_diffusion.training import vae as module
from deid_diffusion.training.config import read_log
from deid_diffusion.training.data import CropDataset, FaceCache
from deid_diffusion.training.loop import train
from tests.training.line import line_config


@pytest.fixture
def dataset(cache: FaceCache) -> CropDataset:
    return CropDataset(cache, 0)


def test_loss_decreases(tiny_pipeline, dataset: CropDataset, tmp_path: Path) -> None:
    vae = type(tiny_pipeline.vae).from_config(tiny_pipeline.vae.config)
    config = line_config(tmp_path, 20, learning_rate=1e-3, ema_decay=0.5, checkpointing_steps=100)
    train(module.AutoencoderObjective(vae, adversarial_start=10), dataset, config)
    log = list(read_log(tmp_path))
    assert log[9]["reconstruction"] < log[0]["reconstruction"]
    assert log[9]["loss_discriminator"] == 0 < max(row["loss_discriminator"] for row in log[10:])
    assert module.measure_scaling_factor(vae, dataset[0]["pixels"][None]) > 0
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()


def test_pyramid_l1() -> None:
    flat, checks = torch.zeros(1, 3, 32, 32), (torch.arange(32) % 2 * 2.0 - 1).expand(1, 3, 32, 32)
    assert module.pyramid_l1(flat, flat) == 0
    assert module.pyramid_l1(checks, flat) > module.pyramid_l1(torch.ones_like(flat), flat) * 0.9


def test_frozen_encoder_keeps_latents(dataset: CropDataset, tmp_path: Path) -> None:
    module.new_autoencoder((8, 16), 32).save_pretrained(tmp_path / "before")
    vae = module.load_with_frozen_encoder(tmp_path / "before")
    vae.register_to_config(scaling_factor=0.7)
    crops, ones = torch.stack([dataset[k]["pixels"] for k in range(4)]), torch.ones(1, 4, 16, 16)
    latents, colours = vae.encode(crops).latent_dist.mode(), vae.decode(ones).sample
    objective = module.AutoencoderObjective(vae, adversarial_start=0, examples=crops)
    train(objective, dataset, line_config(tmp_path / "after", 2, learning_rate=2e-4, lr_warmup_steps=1))
    after = type(vae).from_pretrained(tmp_path / "after")
    assert torch.equal(after.encode(crops).latent_dist.mode(), latents)
    assert after.config.scaling_factor == 0.7
    assert not torch.allclose(after.decode(ones).sample, colours)
    with pytest.raises(DeidError, match=r"none: no such folder: give the output folder of train_vae\.py"):
        module.load_with_frozen_encoder(tmp_path / "none")
