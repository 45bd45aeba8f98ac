import torch

from deid_diffusion.attributes.subspace import AttributeSubspace
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.training.captions import FACTS, codes
from deid_diffusion.training.wishes import RandomWishes


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
    found = RandomWishes(subspace)(features, facts, torch.full((count,), free), adapter)
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
