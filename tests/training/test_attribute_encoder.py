from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTextModelWithProjection

from deid_diffusion.attributes.encoding import tokenize
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.training.attribute_encoder import (
    AttributeEncoderObjective,
    CaptionedFaces,
    all_facts,
    attribute_overlap,
    common_questions,
)
from deid_diffusion.training.captions import (
    FACTS,
    eye_strip,
    glasses_probability,
    glasses_word,
    label_glasses,
    states_glasses,
)
from deid_diffusion.training.config import TrainConfig, read_log
from deid_diffusion.training.data import FaceCache
from deid_diffusion.training.loop import train


def faces(count: int, glasses: bool) -> list[np.ndarray]:
    """Grey noise, with or without two dark rings."""
    mesh, pictures = mean_mesh(96), []
    rows, columns = np.mgrid[:96, :96]
    for seed in range(count):
        rng = np.random.default_rng(seed + 100 * glasses)
        picture = rng.integers(120, 160, (96, 96, 3)).astype(np.uint8)
        for eye in (468, 473):
            distance = np.hypot(columns - mesh[eye, 0], rows - mesh[eye, 1])
            if glasses:
                picture[np.abs(distance - 10) < 1.5] = 20
        pictures.append(picture)
    return pictures


def test_glasses_without_text() -> None:
    pictures = [*faces(24, True), *faces(24, False)]
    stated = np.arange(48) < 16
    probability = glasses_probability([eye_strip(picture, mean_mesh(96)) for picture in pictures], stated)
    assert probability[16:24].min() > probability[24:].max()


def test_glasses_label_per_file() -> None:
    pictures = [*faces(10, True), *faces(10, False)]
    texts = ["man with glasses"] * 8 + [""] * 12
    rows = [{"file": f"{k}.jpg", "text": text} for k, text in enumerate(texts)]
    labelled = label_glasses([*rows, rows[9]], [*pictures, pictures[0]], [mean_mesh(96)] * 21)
    assert labelled[20]["glasses_probability"] == labelled[9]["glasses_probability"]
    assert glasses_word(labelled[0]) == "reading glasses"


def test_glasses_unknown_without_examples() -> None:
    rows = [{"file": f"{k}.jpg", "text": ""} for k in range(20)]
    labelled = label_glasses(rows, faces(20, False), [mean_mesh(96)] * 20)
    assert {glasses_word(row) for row in labelled} == {None}


@pytest.mark.parametrize(
    ("text", "probability", "word"),
    [
        ("person wearing sunglasses", None, "sunglasses"),
        ("a woman with glasses", None, "reading glasses"),
        ("a woman", None, None),
        ("a woman", 0.5, None),
        ("a woman", 0.01, "no glasses"),
        ("a woman", 0.9, "reading glasses"),
    ],
)
def test_glasses_word(text: str, probability: float | None, word: str | None) -> None:
    row = {"text": text} if probability is None else {"text": text, "glasses_probability": probability}
    assert glasses_word(row) == word
    assert states_glasses(row) == ("glasses" in text)


def untrained(model):
    return type(model)(model.config)


@pytest.mark.parametrize("small", [True, False])
def test_loss_decreases(tiny_pipeline, cache: FaceCache, tmp_path: Path, small: bool) -> None:
    torch.manual_seed(0)
    vision, text = FaceEncoder(16, 8), untrained(tiny_pipeline.text_encoder)
    if not small:
        vision, text = untrained(tiny_pipeline.image_encoder), CLIPTextModelWithProjection(text.config)
    facts = [{"person": "man" if k % 2 else "woman"} for k in range(8)]
    questions = common_questions(facts, min_count=4)
    dataset = CaptionedFaces(cache, tiny_pipeline.tokenizer, facts, 0)
    config = TrainConfig(tmp_path, tmp_path, train_batch_size=8, max_train_steps=30, learning_rate=3e-3)
    answers = tokenize(tiny_pipeline.tokenizer, list(questions.texts))
    train(AttributeEncoderObjective(vision, text, questions, answers), dataset, config)
    log = list(read_log(tmp_path))
    assert np.mean([row["loss"] for row in log[-5:]]) < np.mean([row["loss"] for row in log[:5]])
    assert 0 <= log[-1]["person"] <= 1
    assert (tmp_path / "image_encoder" / "config.json").is_file()


def test_common_questions() -> None:
    facts = (
        [{"person": "man", "text": "hat"}] * 5 + [{"person": "woman", "pose": "looking left"}] * 5 + [{"age": "old"}]
    )
    questions = common_questions(facts, min_count=5)
    assert [FACTS[index] for index in questions.fact] == ["person", "person", "pose"]
    assert len(set(questions.code.tolist())) == 3


def test_attribute_overlap() -> None:
    fact = torch.tensor([FACTS.index(name) for name in ("person", "person", "age", "age", "years", "years")])
    directions = torch.eye(6)[[0, 1, 2, 3, 2, 3]]
    assert float(attribute_overlap(directions, fact)) == 0  # age and years speak of one attribute
    directions[2:4] = directions[:2]
    assert float(attribute_overlap(directions, fact)) == pytest.approx(0.5)  # 8 of the 16 pairs are the same direction


def test_captioned_faces(tiny_pipeline, cache: FaceCache) -> None:
    facts = all_facts(cache)
    assert all(face["person"] == "man" for face in facts)
    dataset = CaptionedFaces(cache, tiny_pipeline.tokenizer, facts, 0)
    item, same = dataset[0], dataset[0]
    dataset.set_epoch(1)
    other = dataset[0]
    assert item["input_ids"].shape == (24,)
    assert item["labels"].shape == (32, 32)
    assert torch.equal(item["pixels"], same["pixels"])
    assert not torch.equal(item["pixels"], other["pixels"])
