from pathlib import Path

import pytest
import torch

from deid_diffusion.errors import DeidError
from deid_diffusion.training.config import TrainConfig, read_log
from deid_diffusion.training.data import CropDataset, FaceCache
from deid_diffusion.training.loop import train
from deid_diffusion.training.vae import (
    AutoencoderObjective,
    load_with_frozen_encoder,
    measure_scaling_factor,
    new_autoencoder,
    pyramid_l1,
)
from tests.training.line import line_config


def test_loss_decreases(tiny_pipeline, cache: FaceCache, tmp_path: Path) -> None:
    vae = type(tiny_pipeline.vae).from_config(tiny_pipeline.vae.config)
    config = line_config(tmp_path, 20, learning_rate=1e-3, ema_decay=0.5, checkpointing_steps=100)
    train(AutoencoderObjective(vae, adversarial_start=10), CropDataset(cache, 0), config)
    log = list(read_log(tmp_path))
    assert log[9]["reconstruction"] < log[0]["reconstruction"]
    assert log[9]["loss_discriminator"] == 0
    assert max(row["loss_discriminator"] for row in log[10:]) > 0
    assert measure_scaling_factor(vae, CropDataset(cache, 0)[0]["pixels"][None]) > 0
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()


def test_pyramid_l1() -> None:
    flat, checks = torch.zeros(1, 3, 32, 32), (torch.arange(32) % 2 * 2.0 - 1).expand(1, 3, 32, 32)
    assert pyramid_l1(flat, flat) == 0
    assert pyramid_l1(checks, flat) > pyramid_l1(torch.ones_like(flat), flat) * 0.9


def test_frozen_encoder_keeps_latents(cache: FaceCache, tmp_path: Path) -> None:
    new_autoencoder((8, 16), 32).save_pretrained(tmp_path / "before")
    vae = load_with_frozen_encoder(tmp_path / "before")
    vae.register_to_config(scaling_factor=0.7)
    dataset = CropDataset(cache, 0)
    crops = torch.stack([dataset[k]["pixels"] for k in range(4)])
    latents, colours = vae.encode(crops).latent_dist.mode(), vae.decode(torch.ones(1, 4, 16, 16)).sample
    config = TrainConfig(tmp_path, tmp_path / "after", train_batch_size=4, max_train_steps=2, lr_warmup_steps=1)
    train(AutoencoderObjective(vae, adversarial_start=0, examples=crops), dataset, config)
    after = type(vae).from_pretrained(tmp_path / "after")
    assert torch.equal(after.encode(crops).latent_dist.mode(), latents)
    assert after.config.scaling_factor == 0.7
    assert not torch.allclose(after.decode(torch.ones(1, 4, 16, 16)).sample, colours)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match=r"none: no such folder: give the output folder of train_vae\.py"):
        load_with_frozen_encoder(tmp_path / "none")
