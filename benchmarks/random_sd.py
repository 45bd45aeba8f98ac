"""A pipeline folder as large as one on Stable Diffusion 1.5, with random weights: to measure its speed.

    python benchmarks/random_sd.py FOLDER [--steps 25] [--guidance 5]

UNet, ControlNet and autoencoder have SD 1.5's shapes, text encoder and adapter are the embedded model's. It paints
noise. 2.6 GB on disk. Pass FOLDER to `side_by_side.py --model-dir FOLDER --speed-only`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.pipelines.face_deid import FaceDeidPipeline

LEVELS = 4
VAE_WIDTHS = (128, 256, 512, 512)


def make(steps: int, guidance: float) -> FaceDeidPipeline:
    """The pipeline in half precision. The defaults of diffusers' networks are SD 1's, but for those that are named."""
    parts = dict(Anonymizer.from_pretrained("builtin", device="cpu").pipeline.components)
    words = parts["text_encoder"].config.hidden_size
    parts["unet"] = UNet2DConditionModel(
        sample_size=64, in_channels=9, attention_head_dim=8, cross_attention_dim=words
    ).half()
    parts["controlnet"] = ControlNetModel(attention_head_dim=8, cross_attention_dim=words).half()
    parts["vae"] = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * LEVELS,
        up_block_types=("UpDecoderBlock2D",) * LEVELS,
        block_out_channels=VAE_WIDTHS,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    ).half()
    return FaceDeidPipeline(**parts, default_steps=steps, default_guidance=guidance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=5.0)
    args = parser.parse_args()
    torch.manual_seed(0)
    make(args.steps, args.guidance).save_pretrained(args.folder)


if __name__ == "__main__":
    main()
