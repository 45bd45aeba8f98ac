"""Train the built-in model's autoencoder on a face cache.

accelerate launch training/train_vae.py --train_data_dir CACHE --output_dir OUT/vae --max_train_steps 1600
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from deid_diffusion.training.config import TrainConfig, parse, run_script
from deid_diffusion.training.data import CropDataset, FaceCache, sample_items
from deid_diffusion.training.loop import train
from deid_diffusion.training.vae import AutoencoderObjective, load_with_frozen_encoder, new_autoencoder


@dataclass(frozen=True)
class VaeConfig(TrainConfig):
    """Options of the autoencoder."""

    block_out_channels: str = field(
        default="32,64,96", metadata={"help": "widths, finest level first; each further level halves the side"}
    )
    adversarial_start: int = field(default=500, metadata={"help": "step at which the discriminator joins"})
    initial_vae: Path | None = field(
        default=None,
        metadata={"help": "trained autoencoder whose decoder alone is trained further, so that its latents stay valid"},
    )


def main() -> None:
    config = parse(VaeConfig, __doc__ or "")
    cache = FaceCache(config.train_data_dir)
    widths = tuple(int(width) for width in config.block_out_channels.split(","))
    torch.manual_seed(config.seed)
    vae = (
        new_autoencoder(widths, cache.size)
        if config.initial_vae is None
        else load_with_frozen_encoder(config.initial_vae)
    )
    dataset = CropDataset(cache, config.seed)
    objective = AutoencoderObjective(
        vae.to(memory_format=torch.channels_last),
        adversarial_start=config.adversarial_start,
        examples=sample_items(dataset, 64)["pixels"],
    )
    train(objective, dataset, config)


if __name__ == "__main__":
    run_script(main)
