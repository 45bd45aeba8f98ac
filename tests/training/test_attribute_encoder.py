from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTextModelWithProjection

from deid_diffusion.attributes.encoding import tokenize
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.training import attribute_encoder as module
from deid_diffusion.training.captions import FACTS
from deid_diffusion.training.config import TrainConfig, read_log
from deid_diffusion.training.data import FaceCache
from deid_diffusion.training.loop import train


@pytest.mark.parametrize("small", [True, False])
def test_loss_decreases(tiny_pipeline, cache: FaceCache, tmp_path: Path, small: bool) -> None:
    torch.manual_seed(0)
    configs = tiny_pipeline.image_encoder.config, tiny_pipeline.text_encoder.config
    if small:
        vision, text = FaceEncoder(16, 8), type(tiny_pipeline.text_encoder)(configs[1])
    else:
        vision, text = type(tiny_pipeline.image_encoder)(configs[0]), CLIPTextModelWithProjection(configs[1])
    facts = [{"person": "man" if k % 2 else "woman"} for k in range(8)]
    questions = module.common_questions(facts, min_count=4)
    dataset = module.CaptionedFaces(cache, tiny_pipeline.tokenizer, facts, 0)
    config = TrainConfig(tmp_path, tmp_path, train_batch_size=8, max_train_steps=30, learning_rate=3e-3)
    answers = tokenize(tiny_pipeline.tokenizer, list(questions.texts))
    train(module.AttributeEncoderObjective(vision, text, questions, answers), dataset, config)
    log = list(read_log(tmp_path))
    assert np.mean([row["loss"] for row in log[-5:]]) < np.mean([row["loss"] for row in log[:5]])
    assert 0 <= log[-1]["person"] <= 1
    assert (tmp_path / "image_encoder" / "config.json").is_file()


def test_common_questions() -> None:
    groups = {"man": {"text": "hat"}, "woman": {"pose": "looking left"}}
    facts = [{"person": person, **others} for person, others in groups.items() for _ in range(5)] + [{"age": "old"}]
    questions = module.common_questions(facts, min_count=5)
    assert [FACTS[index] for index in questions.fact] == ["person", "person", "pose"]
    assert len(set(questions.code.tolist())) == 3


def test_attribute_overlap() -> None:
    fact = torch.tensor([FACTS.index(name) for name in ("person", "person", "age", "age", "years", "years")])
    directions = torch.eye(6)[[0, 1, 2, 3, 2, 3]]
    assert module.attribute_overlap(directions, fact) == 0  # age and years speak of one attribute
    directions[2:4] = directions[:2]  # 8 of the 16 pairs are the same direction
    assert float(module.attribute_overlap(directions, fact)) == pytest.approx(0.5)


def test_captioned_faces(tiny_pipeline, cache: FaceCache) -> None:
    facts = module.all_facts(cache)
    assert {face["person"] for face in facts} == {"man"}
    dataset = module.CaptionedFaces(cache, tiny_pipeline.tokenizer, facts, 0)
    item, same = dataset[0], dataset[0]
    dataset.set_epoch(1)
    assert (item["input_ids"].shape, item["labels"].shape) == ((24,), (32, 32))
    assert torch.equal(item["pixels"], same["pixels"])
    assert not torch.equal(item["pixels"], dataset[0]["pixels"])
