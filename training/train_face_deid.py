"""Train the generator: ControlNet and adapter and, with --train_unet, the UNet (the embedded model).

    accelerate launch training/train_face_deid.py --train_data_dir CACHE --vae OUT/vae --clip OUT/clip \
        --output_dir OUT/generator --train_unet
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from deid_diffusion.attributes.encoder import FEATURE_NAMES
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.training.attribute_encoder import all_facts, tokenize
from deid_diffusion.training.builtin import make_controlnet, make_scheduler, make_unet
from deid_diffusion.training.captions import caption
from deid_diffusion.training.config import TrainConfig, parse
from deid_diffusion.training.data import FaceCache
from deid_diffusion.training.face_deid import FaceDeidObjective, LatentFaces, encode_cache, is_encoded
from deid_diffusion.training.loop import train


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(TrainConfig):
    """Attributes: vae, clip: folders of the earlier trainings. block_out_channels: of the UNet, finest first."""

    vae: Path
    clip: Path
    block_out_channels: str = "64,128,192"
    bottleneck_dim: int = 16
    snr_gamma: float = 5.0
    train_unet: bool = False


def main() -> None:
    config = parse(GeneratorConfig, __doc__ or "")
    cache = FaceCache(config.train_data_dir)
    torch.manual_seed(config.seed)
    vae = AutoencoderKL.from_pretrained(config.vae).eval()
    text_encoder = CLIPTextModel.from_pretrained(config.clip / "text_encoder").eval()
    image_encoder = CLIPVisionModelWithProjection.from_pretrained(config.clip / "image_encoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(config.clip / "tokenizer")
    state = PartialState()
    for model in (vae, text_encoder, image_encoder):
        model.to(state.device)
    encoded = config.output_dir / "encoded"
    with state.main_process_first():
        if not is_encoded(encoded):
            rng = np.random.default_rng(config.seed)
            ids = tokenize(tokenizer, [caption(said, rng) for said in all_facts(cache)])
            encode_cache(cache, encoded, vae, image_encoder, text_encoder, ids, seed=config.seed)
    with torch.no_grad():
        empty = text_encoder(input_ids=tokenize(tokenizer, [""]).to(state.device)).last_hidden_state.float().cpu()
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    width = text_encoder.config.hidden_size
    widths = tuple(int(one) for one in config.block_out_channels.split(","))
    unet = make_unet(widths, sample_size=cache.size // factor, cross_attention_dim=width)
    objective = FaceDeidObjective(
        unet.to(memory_format=torch.channels_last),
        make_controlnet(unet, factor).to(memory_format=torch.channels_last),
        AttributeAdapter(image_encoder.config.projection_dim, len(FEATURE_NAMES), config.bottleneck_dim, width),
        make_scheduler(),
        empty,
        train_unet=config.train_unet,
        snr_gamma=config.snr_gamma,
    )
    train(objective, LatentFaces(cache, encoded, config.seed), config)


if __name__ == "__main__":
    main()
