"""Train the attribute encoder (a small CLIP) on a cache of face crops and the captions made for them.

accelerate launch training/train_attribute_encoder.py --train_data_dir CACHE --output_dir OUT/clip
"""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from deid_diffusion.training.attribute_encoder import (
    AttributeEncoderObjective,
    CaptionedFaces,
    all_facts,
    train_tokenizer,
)
from deid_diffusion.training.captions import caption
from deid_diffusion.training.config import TrainConfig, parse
from deid_diffusion.training.data import FaceCache
from deid_diffusion.training.loop import train


@dataclass(frozen=True)
class EncoderConfig(TrainConfig):
    """Attributes: hidden_size: width of both towers and of the joint space."""

    hidden_size: int = 192
    num_hidden_layers: int = 4
    patch_size: int = 16
    vocab_size: int = 1024
    model_max_length: int = 48


def main() -> None:
    config = parse(EncoderConfig, __doc__ or "")
    cache = FaceCache(config.train_data_dir)
    said, rng = all_facts(cache), np.random.default_rng(config.seed)
    tokenizer = train_tokenizer(
        [caption(one, rng, keep=1.0) for one in said],
        config.output_dir / "tokenizer",
        vocab_size=config.vocab_size,
        model_max_length=config.model_max_length,
    )
    torch.manual_seed(config.seed)
    width = {"hidden_size": config.hidden_size, "intermediate_size": 3 * config.hidden_size}
    depth = {"num_hidden_layers": config.num_hidden_layers, "num_attention_heads": max(1, config.hidden_size // 64)}
    shape = {**width, **depth, "projection_dim": config.hidden_size}
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(image_size=cache.size, patch_size=config.patch_size, **shape)
    )
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=config.model_max_length,
            pad_token_id=tokenizer.pad_token_id,
            **ids,
            **shape,
        )
    )
    dataset = CaptionedFaces(cache, tokenizer, said, config.seed)
    train(AttributeEncoderObjective(vision, text), dataset, config)


if __name__ == "__main__":
    main()
