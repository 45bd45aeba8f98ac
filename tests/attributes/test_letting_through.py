"""What reaches the generator of a face's features, with random components."""

import pytest
import torch
import torch.nn.functional as F

from deid_diffusion.attributes.choice import choose
from deid_diffusion.attributes.letting_through import let_through
from deid_diffusion.attributes.subspace import FEATURE_NAMES
from deid_diffusion.errors import DeidError


@pytest.fixture
def features() -> torch.Tensor:
    """Far enough from the centre to be more than nothing after rounding."""
    return 8 * F.normalize(torch.randn(2, len(FEATURE_NAMES), 16, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_each_face_has_its_own_choice(tiny_pipeline, features: torch.Tensor) -> None:
    subspace, centre = tiny_pipeline.subspace(), tiny_pipeline.attribute_adapter.centre
    grain = subspace.grain(float(tiny_pipeline.attribute_adapter.phrase_scale))
    features[0] = centre + 3 * grain * subspace.bases["gender"][0]
    both = let_through(tiny_pipeline, features, [choose(["gender"]), choose(())])
    assert torch.equal(both[1], centre)
    assert torch.equal(both[0], subspace.project(features[0], ["gender"], centre, grain))
    assert not torch.equal(both[0], centre)


def test_a_new_phrase_needs_no_training(tiny_pipeline, features: torch.Tensor) -> None:
    """The same weights: a phrase adds its own dimension to what passes."""
    weights = [p.clone() for p in tiny_pipeline.attribute_adapter.parameters()]
    without, kept = (let_through(tiny_pipeline, features[:1], [choose(words)]) for words in (["age"], ["age", "scar"]))
    assert not torch.equal(without, kept)
    subspace = tiny_pipeline.subspace(["scar"])
    assert subspace.dimensions(["age", "scar"]) == subspace.dimensions(["age"]) + 1
    assert all(torch.equal(p, q) for p, q in zip(weights, tiny_pipeline.attribute_adapter.parameters(), strict=True))


def test_a_change_takes_the_faces_place(tiny_pipeline, features: torch.Tensor) -> None:
    """What two faces show of an attribute is the same once it is changed to one word."""
    made = let_through(tiny_pipeline, features, [choose((), {"gender": "man"})] * 2)
    assert torch.allclose(made[0], made[1], atol=1e-6)
    other = let_through(tiny_pipeline, features, [choose((), {"gender": "woman"})] * 2)
    assert not torch.allclose(made, other, atol=1e-3)


def test_a_model_that_reads_no_words_lets_nothing_through(tiny_pipeline, features: torch.Tensor) -> None:
    pipeline = type(tiny_pipeline)(**{**tiny_pipeline.components, "phrase_encoder": None})
    with pytest.raises(DeidError, match="phrase_encoder="):
        let_through(pipeline, features, [choose(())] * 2)
