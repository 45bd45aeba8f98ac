from __future__ import annotations

import numpy as np
import pytest
import torch

from deid_diffusion.attributes.subspace import AttributeSubspace
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.faces.semantic_map import draw_semantic_map, mean_mesh
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.training.captions import (
    FACTS,
    RandomSelection,
    codes,
    facts,
    greyed,
    matching_captions,
    phrase,
    sample_facts,
    skin_tone,
)


def draw(count: int = 200, *, free: bool = True):
    torch.manual_seed(0)
    subspace = AttributeSubspace.from_phrases(
        VOCABULARY,
        lambda texts: torch.nn.functional.one_hot(
            torch.tensor([sum(text.encode()) * 7 % 97 for text in texts]), 97
        ).float(),
    )
    adapter = AttributeAdapter(97, 6, 4, 8)
    features = 20 * torch.nn.functional.normalize(torch.randn(count, 6, 97), dim=-1)  # over what rounding takes
    facts = torch.stack([codes({"person": "man", "age": "young", "years": "about 30 years old"})] * count)
    found = RandomSelection(subspace)(features, facts, torch.full((count,), free), adapter)
    return subspace, adapter, features, facts, found


def test_nothing_passes_but_what_the_words_span() -> None:
    subspace, adapter, _, _, found = draw()
    every = subspace.project(found.features, tuple(VOCABULARY), adapter.centre)
    assert torch.allclose(every, found.features, atol=2e-3)
    assert torch.equal(found.kept, found.features - adapter.centre)
    length = found.kept.norm(dim=-1)[:, 0]
    assert 0.02 < float((length < 1e-4).float().mean()) < 0.3  # of some nothing is kept
    assert len(torch.unique(length.round(decimals=3))) > 20


def test_what_is_changed_is_changed_in_the_facts_as_well() -> None:
    *_, facts, found = draw()
    other = (found.facts != facts).any(1)
    assert torch.equal(other, found.changed)
    assert 0.05 < float(found.changed.float().mean()) < 0.35
    aged = found.facts[:, FACTS.index("age")] != facts[:, FACTS.index("age")]
    assert bool(aged.any())
    assert not found.facts[aged][:, FACTS.index("years")].any()  # no longer true


def test_faces_that_show_in_the_noise_are_not_changed() -> None:
    *_, facts, found = draw(free=False)
    assert not found.changed.any()
    assert torch.equal(found.facts, facts)


def test_facts_of_a_row() -> None:
    crop = np.full((64, 64, 3), (200, 160, 140), np.uint8)
    row = {"predicted_age": "43", "predicted_male": "0.02", "text": "person wearing a hat; hat"}
    said = facts(row, crop, mean_mesh(64))
    assert said["person"] == "woman"
    assert said["age"] == "middle-aged"
    assert said["years"] == "about 45 years old"
    assert said["pose"] == "facing the camera"
    assert said["text"] == "person wearing a hat"
    assert said["picture"] == "colour photo"


def test_a_written_age_and_a_child_win_over_the_classifier() -> None:
    crop = np.zeros((64, 64, 3), np.uint8)
    toddler = facts(
        {"predicted_age": "21", "predicted_male": "0.9", "text": "a 2.5 year old toddler"}, crop, mean_mesh(64)
    )
    assert toddler["age"] == "toddler"
    assert toddler["person"] == "boy"
    child = facts({"predicted_age": "21", "predicted_male": "0.1", "text": "asian small child"}, crop, mean_mesh(64))
    assert child["age"] == "child"
    assert child["person"] == "girl"


def test_what_is_not_known_is_not_said() -> None:
    said = facts({"grey": True}, np.zeros((64, 64, 3), np.uint8), mean_mesh(64))
    assert not said.keys() & {"person", "age", "skin", "text"}
    assert phrase(said).startswith("black and white photo of a person, ")


@pytest.mark.parametrize(("colour", "word"), [((250, 225, 210), "very light"), ((60, 40, 30), "dark")])
def test_skin_tones_run_from_light_to_dark(colour: tuple[int, int, int], word: str) -> None:
    crop = np.full((64, 64, 3), colour, np.uint8)
    assert skin_tone(crop, draw_semantic_map(mean_mesh(64), 64)) == word


def test_captions_say_what_was_chosen() -> None:
    said = {"person": "man", "age": "young", "pose": "looking left", "skin": "light skin", "picture": "colour photo"}
    rng = np.random.default_rng(0)
    assert phrase(sample_facts(said, rng, keep=0)) == "photo of a person"
    full = phrase(sample_facts(said, rng, keep=1))
    assert full.startswith("colour photo of a man, ")
    assert {"young", "looking left", "light skin"} <= set(full.split(", "))
    assert "light skin" not in phrase(greyed(said))


def test_a_caption_is_true_of_every_face_that_it_fits() -> None:
    faces = [{"person": "man", "age": "young"}, {"person": "man", "age": "elderly"}, {"person": "woman"}]
    said = [{}, {"person": "man"}, {"person": "man", "age": "young"}, {"age": "young"}]
    found = matching_captions(torch.stack([codes(face) for face in faces]), torch.stack([codes(one) for one in said]))
    assert found.tolist() == [[True, True, True, True], [True, True, False, False], [True, False, False, False]]
