import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTextModelWithProjection

from deid_diffusion.attributes.phrases import tokenize
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.training.attribute_encoder import (
    AttributeEncoderObjective,
    CaptionedFaces,
    all_facts,
    common_questions,
    overlap_of,
)
from deid_diffusion.training.captions import FACTS
from deid_diffusion.training.config import TrainConfig
from deid_diffusion.training.data import FaceCache
from deid_diffusion.training.loop import train


def rebuilt(model):
    return type(model)(model.config)


@pytest.mark.parametrize("small", [True, False])
def test_it_learns_from_captions_and_questions(tiny_pipeline, cache: FaceCache, tmp_path: Path, small: bool) -> None:
    torch.manual_seed(0)
    vision, text = FaceEncoder(16, 8), rebuilt(tiny_pipeline.text_encoder)
    if not small:
        vision, text = rebuilt(tiny_pipeline.image_encoder), CLIPTextModelWithProjection(text.config)
    said = [{"person": "man" if k % 2 else "woman"} for k in range(8)]
    questions = common_questions(said, least=4)
    dataset = CaptionedFaces(cache, tiny_pipeline.tokenizer, said, 0)
    config = TrainConfig(tmp_path, tmp_path, train_batch_size=8, max_train_steps=30, learning_rate=3e-3)
    answers = tokenize(tiny_pipeline.tokenizer, list(questions.texts))
    train(AttributeEncoderObjective(vision, text, questions, answers), dataset, config)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert np.mean([row["loss"] for row in log[-5:]]) < np.mean([row["loss"] for row in log[:5]])
    assert 0 <= log[-1]["person"] <= 1
    assert (tmp_path / "image_encoder" / "config.json").is_file()


def test_questions_are_asked_of_common_facts_only() -> None:
    said = [{"person": "man", "text": "hat"}] * 5 + [{"person": "woman", "pose": "looking left"}] * 5 + [{"age": "old"}]
    questions = common_questions(said, least=5)
    assert [FACTS[index] for index in questions.fact] == ["person", "person", "pose"]
    assert len(set(questions.code.tolist())) == 3


def test_overlap_is_of_directions_of_different_attributes() -> None:
    fact = torch.tensor([FACTS.index(name) for name in ("person", "person", "age", "age", "years", "years")])
    directions = torch.eye(6)[[0, 1, 2, 3, 2, 3]]
    assert float(overlap_of(directions, fact)) == 0  # age and years speak of one attribute
    directions[2:4] = directions[:2]
    assert float(overlap_of(directions, fact)) == pytest.approx(0.5)  # 8 of the 16 pairs are the same direction


def test_items_come_in_a_view_a_look_and_a_caption_of_their_own(tiny_pipeline, cache: FaceCache) -> None:
    said = all_facts(cache)
    assert all(one["person"] == "man" for one in said)
    dataset = CaptionedFaces(cache, tiny_pipeline.tokenizer, said, 0)
    one, again = dataset[0], dataset[0]
    dataset.set_epoch(1)
    other = dataset[0]
    assert one["input_ids"].shape == (24,)
    assert one["labels"].shape == (32, 32)
    assert torch.equal(one["pixels"], again["pixels"])
    assert not torch.equal(one["pixels"], other["pixels"])
