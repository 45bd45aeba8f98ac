"""What a projection lets through, and what it does not."""

import pytest
import torch
import torch.nn.functional as F

from deid_diffusion.attributes.subspace import FEATURE_NAMES, AttributeSubspace

WORDS = {"age": ("young", "old", "very old"), "gender": ("woman", "man"), "freckles": ("freckles",)}


def embed(texts: list[str]) -> torch.Tensor:
    """Another unit vector for each text, always the same one."""
    rows = [torch.randn(32, generator=torch.Generator().manual_seed(sum(text.encode()))) for text in texts]
    return F.normalize(torch.stack(rows), dim=-1)


@pytest.fixture
def subspace() -> AttributeSubspace:
    return AttributeSubspace.from_phrases(WORDS, embed)


def test_words_that_contrast_have_one_dimension_less(subspace: AttributeSubspace) -> None:
    assert [subspace.dimensions([name]) for name in WORDS] == [2, 1, 1]
    assert subspace.dimensions(WORDS) == 4
    assert subspace.dimensions([]) == 0


def test_nothing_kept_leaves_nothing(subspace: AttributeSubspace) -> None:
    centre = torch.randn(6, 32)
    assert torch.equal(subspace.project(torch.randn(3, 6, 32), [], centre), centre.expand(3, -1, -1))


def test_what_no_kept_word_names_does_not_pass_in_a_single_bit(subspace: AttributeSubspace) -> None:
    features, centre = F.normalize(torch.randn(3, 6, 32), dim=-1), 0.1 * torch.randn(6, 32)
    kept, other = subspace.bases["age"], subspace.bases["gender"][0]
    hidden = other - other @ kept.T @ kept  # the part of gender that no word for age speaks of
    changed = features + 0.5 * hidden
    assert torch.equal(subspace.project(features, ["age"], centre), subspace.project(changed, ["age"], centre))
    assert not torch.equal(
        subspace.project(features, ["gender"], centre), subspace.project(changed, ["gender"], centre)
    )


def test_what_a_kept_word_names_passes(subspace: AttributeSubspace) -> None:
    features, centre = torch.randn(3, 6, 32), torch.randn(6, 32)
    passed = subspace.project(features, ["age", "freckles"], centre)
    for name, row in (("age", 0), ("freckles", slice(None))):
        basis = subspace.bases[name]
        assert torch.allclose((passed - centre)[:, row] @ basis.T, (features - centre)[:, row] @ basis.T, atol=1e-3)


def test_regions_tell_only_of_what_is_seen_in_them(subspace: AttributeSubspace) -> None:
    features, centre = torch.randn(3, 6, 32), torch.randn(6, 32)
    passed = subspace.project(features, ["age"], centre)
    assert not torch.allclose(passed[:, 0], centre[0])
    assert torch.equal(passed[:, 1:], centre[1:].expand(3, -1, -1))
    words = {"expression": ("smiling", "serious")}
    passed = AttributeSubspace.from_phrases(words, embed).project(features, ["expression"], centre)
    told = [not torch.equal(passed[:, row], centre[row].expand(3, -1)) for row in range(6)]
    assert dict(zip(FEATURE_NAMES, told, strict=True)) == {
        "face": True, "skin": False, "brows": True, "eyes": True, "nose": False, "mouth": True,
    }  # fmt: skip


def test_what_is_finer_than_the_grain_does_not_pass(subspace: AttributeSubspace) -> None:
    features, centre, grain = torch.randn(3, 6, 32), torch.randn(6, 32), subspace.grain(2.0)
    passed = subspace.project(features, ["age"], centre, grain)
    numbers = (passed - centre)[:, 0] @ subspace._span(["age"]).T / grain
    assert torch.allclose(numbers, numbers.round(), atol=1e-4)
    assert len(numbers.round().unique()) > 1
    built_in = torch.cat([subspace.directions[name] for name in ("age", "gender")])
    assert grain == pytest.approx(2 / 4 * float(built_in.norm(dim=1).mean()))  # and no phrase changes it


def test_a_change_sets_one_attribute_to_a_word(subspace: AttributeSubspace) -> None:
    centre = torch.randn(6, 32)
    features = torch.randn(3, 6, 32)
    made = subspace.change(features, "age", "old", centre, 2.0)
    basis, direction = subspace.bases["age"], subspace.directions["age"][1]
    assert torch.allclose((made - centre)[:, 0] @ basis.T, (2 * direction @ basis.T).expand(3, -1), atol=1e-5)
    assert subspace.scores((made - centre)[:, 0], "age", 100.0).argmax(-1).eq(1).all()
    assert torch.equal(made[:, 1:], features[:, 1:])


def test_scores_are_shares_of_an_attributes_words(subspace: AttributeSubspace) -> None:
    scores = subspace.scores(embed(["photo of a person, old"])[0], "age", 100.0)
    assert float(scores.sum()) == pytest.approx(1)
    assert int(scores.argmax()) == 1
    assert subspace.scores(embed(["photo of a person, freckles"])[0], "freckles", 100.0).item() > 0.9


@pytest.mark.parametrize("words", [[], ["old", " "]])
def test_an_attribute_without_words_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match="age: an attribute needs words"):
        AttributeSubspace.from_phrases({"age": words}, embed)


def test_words_that_are_the_same_to_the_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match="does not tell these words apart: a, b"):
        AttributeSubspace.from_phrases({"x": ["a", "b"]}, lambda texts: torch.ones(len(texts), 4))


def test_words_that_an_encoder_takes_for_one_are_named() -> None:
    vectors = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    subspace = AttributeSubspace.from_phrases({"age": ["child", "elderly", "young"]}, lambda texts: vectors)
    assert subspace.same_as("age", "child") == ("elderly",)
    assert subspace.same_as("age", "young") == ()
