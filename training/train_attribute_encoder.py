"""Train a small CLIP as attribute encoder, or fine-tune a large one, on face crops and captions.

accelerate launch training/train_attribute_encoder.py --train_data_dir CACHE --output_dir OUT/clip
"""

from dataclasses import dataclass, field

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
from deid_diffusion.training.captions import write_caption
from deid_diffusion.training.config import TrainConfig, parse, run_script
from deid_diffusion.training.data import FaceCache
from deid_diffusion.training.loop import train


@dataclass(frozen=True)
class EncoderConfig(TrainConfig):
    """Options of the attribute encoder."""

    pretrained_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "CLIP to fine-tune, such as openai/clip-vit-large-patch14; if unset, a small one is trained"},
    )
    hidden_size: int = field(default=192, metadata={"help": "width of the small text encoder and of the joint space"})
    num_hidden_layers: int = field(default=2, metadata={"help": "layers of the small text encoder"})
    hidden_dim: int = field(default=256, metadata={"help": "hidden width of the face encoder's projection"})
    vocab_size: int = field(default=1024, metadata={"help": "vocabulary size of the tokenizer, learned from captions"})
    model_max_length: int = field(default=48, metadata={"help": "longest caption, in tokens"})


def small_clip(config: EncoderConfig, captions: list[str]) -> tuple[FaceEncoder, CLIPTextModel, CLIPTokenizer]:
    """Return an untrained image encoder, an untrained text encoder and a tokenizer learned from captions."""
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
    facts = all_facts(cache)
    source = config.pretrained_model_name_or_path
    if source is None:
        vision, text, tokenizer = small_clip(config, [write_caption(face) for face in facts])
    else:
        vision = CLIPVisionModelWithProjection.from_pretrained(source)
        text = CLIPTextModelWithProjection.from_pretrained(source)
        tokenizer = CLIPTokenizer.from_pretrained(source)
        tokenizer.save_pretrained(config.output_dir / "tokenizer")
    dataset = CaptionedFaces(cache, tokenizer, facts, config.seed)
    questions = common_questions(facts)
    answer_ids = tokenize(tokenizer, list(questions.texts))
    train(AttributeEncoderObjective(vision, text, questions, answer_ids), dataset, config)


if __name__ == "__main__":
    run_script(main)
