from __future__ import annotations

import numpy as np
import pytest
import torch

from deid_diffusion.attributes.subspace import AttributeSubspace
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.faces.semantic_map import draw_semantic_map, mean_mesh
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.training.captions import (
    RandomSelection,
    describe_face,
    fact_codes,
    matching_captions,
    sample_facts,
    skin_tone,
    without_colour,
    write_caption,
)


def embed(texts: list[str]) -> torch.Tensor:
    """One-hot vectors by a checksum of each text."""
    indices = torch.tensor([sum(text.encode()) * 7 % 97 for text in texts])
    return torch.nn.functional.one_hot(indices, 97).float()


def test_random_selection() -> None:
    torch.manual_seed(0)
    subspace, adapter = AttributeSubspace.from_phrases(VOCABULARY, embed), AttributeAdapter(97, 6, 4, 8)
    features = 20 * torch.nn.functional.normalize(torch.randn(200, 6, 97), dim=-1)  # long enough to survive rounding
    facts = torch.stack([fact_codes({"person": "man", "age": "young", "years": "about 30 years old"})] * 200)
    selected = RandomSelection(subspace)(features, facts, adapter)
    spanned = subspace.project(selected, tuple(VOCABULARY), adapter.centre)
    assert torch.allclose(spanned, selected, atol=2e-3)  # nothing passes that the words do not span
    length = (selected - adapter.centre).norm(dim=-1)[:, 0]
    assert 0.02 < float((length < 1e-4).float().mean()) < 0.3  # faces that keep no attribute
    assert len(torch.unique(length.round(decimals=3))) > 20
    man = subspace.change(features, "gender", "man", adapter.centre, float(adapter.phrase_scale))
    basis = subspace.bases["gender"].T
    is_word = torch.isclose(selected[:, 0] @ basis, man[:, 0] @ basis, atol=1e-2).all(-1)
    assert 0.05 < float(is_word.float().mean()) < 0.35  # faces whose sex is encoded from its word


def test_describe_face() -> None:
    crop = np.full((64, 64, 3), (200, 160, 140), np.uint8)
    row = {"predicted_age": "43", "predicted_male": "0.02", "text": "person wearing a hat; hat"}
    facts = describe_face(row, crop, mean_mesh(64))
    expected = {"person": "woman", "age": "middle-aged", "years": "about 45 years old", "pose": "facing the camera"}
    assert facts.items() >= (expected | {"text": "person wearing a hat", "picture": "colour photo"}).items()


@pytest.mark.parametrize(
    ("male", "text", "age", "person"),
    [("0.9", "a 2.5 year old toddler", "toddler", "boy"), ("0.1", "asian small child", "child", "girl")],
)
def test_age_in_text(male: str, text: str, age: str, person: str) -> None:
    row = {"predicted_age": "21", "predicted_male": male, "text": text}
    facts = describe_face(row, np.zeros((64, 64, 3), np.uint8), mean_mesh(64))
    assert (facts["age"], facts["person"]) == (age, person)


def test_unknown_facts() -> None:
    facts = describe_face({"grey": True}, np.zeros((64, 64, 3), np.uint8), mean_mesh(64))
    assert not facts.keys() & {"person", "age", "skin", "text"}
    assert write_caption(facts).startswith("black and white photo of a person, ")


@pytest.mark.parametrize(("colour", "word"), [((250, 225, 210), "very light"), ((60, 40, 30), "dark")])
def test_skin_tone(colour: tuple[int, int, int], word: str) -> None:
    crop = np.full((64, 64, 3), colour, np.uint8)
    assert skin_tone(crop, draw_semantic_map(mean_mesh(64), 64)) == word


def test_captions_of_facts() -> None:
    facts = {"person": "man", "age": "young", "pose": "looking left", "skin": "light skin", "picture": "colour photo"}
    rng = np.random.default_rng(0)
    assert write_caption(sample_facts(facts, rng, keep=0)) == "photo of a person"
    caption = write_caption(sample_facts(facts, rng, keep=1))
    assert caption.startswith("colour photo of a man, ")
    assert {"young", "looking left", "light skin"} <= set(caption.split(", "))
    assert "light skin" not in write_caption(without_colour(facts))


def test_matching_captions() -> None:
    faces = [{"person": "man", "age": "young"}, {"person": "man", "age": "elderly"}, {"person": "woman"}]
    captions = [{}, {"person": "man"}, {"person": "man", "age": "young"}, {"age": "young"}]
    codes, caption_codes = (torch.stack([fact_codes(facts) for facts in side]) for side in (faces, captions))
    matches = [[True, True, True, True], [True, True, False, False], [True, False, False, False]]
    assert matching_captions(codes, caption_codes).tolist() == matches
