"""Train the embedded autoencoder on a cache of face crops.

accelerate launch training/train_vae.py --train_data_dir CACHE --output_dir OUT/vae --max_train_steps 1600
"""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL

from deid_diffusion.training.config import TrainConfig, parse, run_script
from deid_diffusion.training.data import CropDataset, FaceCache
from deid_diffusion.training.loop import train
from deid_diffusion.training.vae import AutoencoderObjective
from deid_diffusion.training.validation import sample_items


@dataclass(frozen=True)
class VaeConfig(TrainConfig):
    """Options of the autoencoder.

    Attributes:
        block_out_channels: widths, finest first; each level after the first halves the side.
        adversarial_start: steps before the discriminator joins.
    """

    block_out_channels: str = "32,64,96"
    adversarial_start: int = 500


def main() -> None:
    config = parse(VaeConfig, __doc__ or "")
    cache = FaceCache(config.train_data_dir)
    widths = tuple(int(width) for width in config.block_out_channels.split(","))
    torch.manual_seed(config.seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=cache.size,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)
    dataset = CropDataset(cache, config.seed)
    objective = AutoencoderObjective(
        vae, adversarial_start=config.adversarial_start, examples=sample_items(dataset, 64)["pixels"]
    )
    train(objective, dataset, config)


if __name__ == "__main__":
    run_script(main)
