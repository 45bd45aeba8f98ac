import json
from pathlib import Path

import torch

from deid_diffusion.training.config import TrainConfig
from deid_diffusion.training.data import CropDataset, FaceCache
from deid_diffusion.training.loop import train
from deid_diffusion.training.vae import AutoencoderObjective, measure_scaling_factor, pyramid_l1


def test_autoencoder_learns_with_and_without_its_discriminator(tiny_pipeline, cache: FaceCache, tmp_path: Path) -> None:
    vae = type(tiny_pipeline.vae).from_config(tiny_pipeline.vae.config)
    config = TrainConfig(
        tmp_path, tmp_path, train_batch_size=4, max_train_steps=20, learning_rate=1e-3, lr_warmup_steps=1, ema_decay=0.5
    )
    train(AutoencoderObjective(vae, adversarial_start=10), CropDataset(cache, 0), config)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[9]["reconstruction"] < log[0]["reconstruction"]
    assert log[9]["loss_discriminator"] == 0
    assert max(row["loss_discriminator"] for row in log[10:]) > 0
    assert measure_scaling_factor(vae, CropDataset(cache, 0)[0]["pixels"][None]) > 0
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()


def test_pyramid_counts_fine_detail() -> None:
    flat, checks = torch.zeros(1, 3, 32, 32), (torch.arange(32) % 2 * 2.0 - 1).expand(1, 3, 32, 32)
    assert pyramid_l1(flat, flat) == 0
    assert pyramid_l1(checks, flat) > pyramid_l1(torch.ones_like(flat), flat) * 0.9
