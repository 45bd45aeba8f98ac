"""Train the attribute encoder, a small CLIP, or tune a large one, on face crops and the captions made for them.

accelerate launch training/train_attribute_encoder.py --train_data_dir CACHE --output_dir OUT/clip
"""

from dataclasses import dataclass

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from deid_diffusion.attributes.encoding import tokenize
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.training.attribute_encoder import (
    AttributeEncoderObjective,
    CaptionedFaces,
    all_facts,
    common_questions,
    train_tokenizer,
)
from deid_diffusion.training.captions import phrase
from deid_diffusion.training.config import TrainConfig, parse, run_script
from deid_diffusion.training.data import FaceCache
from deid_diffusion.training.loop import train


@dataclass(frozen=True)
class EncoderConfig(TrainConfig):
    """Attributes:
    pretrained_model_name_or_path: CLIP to tune, as openai/clip-vit-large-patch14; a small one is made without it.
    hidden_size: width of the small text tower and of the joint space.
    num_hidden_layers: of the text tower.
    hidden_dim: width of the projection's nonlinear branch on the image side.
    vocab_size: of the tokenizer that is learned from the captions.
    model_max_length: of a caption, in tokens.
    """

    pretrained_model_name_or_path: str | None = None
    hidden_size: int = 192
    num_hidden_layers: int = 2
    hidden_dim: int = 256
    vocab_size: int = 1024
    model_max_length: int = 48


def small_towers(config: EncoderConfig, captions: list[str]) -> tuple[FaceEncoder, CLIPTextModel, CLIPTokenizer]:
    """An image side, a text side and a tokenizer of the config's shapes, to be trained from nothing."""
    folder = config.output_dir / "tokenizer"
    tokenizer = train_tokenizer(
        captions, folder, vocab_size=config.vocab_size, model_max_length=config.model_max_length
    )
    torch.manual_seed(config.seed)
    vision = FaceEncoder(config.hidden_size, config.hidden_dim)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=config.model_max_length,
            hidden_size=config.hidden_size,
            intermediate_size=3 * config.hidden_size,
            projection_dim=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=max(1, config.hidden_size // 64),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    return vision, text, tokenizer


def main() -> None:
    config = parse(EncoderConfig, __doc__ or "")
    cache = FaceCache(config.train_data_dir)
    said = all_facts(cache)
    source = config.pretrained_model_name_or_path
    if source is None:
        vision, text, tokenizer = small_towers(config, [phrase(one) for one in said])
    else:
        vision = CLIPVisionModelWithProjection.from_pretrained(source)
        text = CLIPTextModelWithProjection.from_pretrained(source)
        tokenizer = CLIPTokenizer.from_pretrained(source)
        tokenizer.save_pretrained(config.output_dir / "tokenizer")
    dataset = CaptionedFaces(cache, tokenizer, said, config.seed)
    questions = common_questions(said)
    answer_ids = tokenize(tokenizer, list(questions.texts))
    train(AttributeEncoderObjective(vision, text, questions, answer_ids), dataset, config)


if __name__ == "__main__":
    run_script(main)
