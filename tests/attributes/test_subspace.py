import pytest
import torch
import torch.nn.functional as F

from deid_diffusion.attributes.subspace import FEATURE_NAMES, AttributeSubspace

WORDS = {"age": ("young", "old", "very old"), "gender": ("woman", "man"), "freckles": ("freckles",)}


def embed(texts: list[str]) -> torch.Tensor:
    """Return a fixed unit vector per text."""
    rows = [torch.randn(32, generator=torch.Generator().manual_seed(sum(text.encode()))) for text in texts]
    return F.normalize(torch.stack(rows), dim=-1)


@pytest.fixture
def subspace() -> AttributeSubspace:
    return AttributeSubspace.from_phrases(WORDS, embed)


def test_dimensions(subspace: AttributeSubspace) -> None:
    assert [subspace.dimensions([name]) for name in WORDS] == [2, 1, 1]
    assert subspace.dimensions(WORDS) == 4
    assert subspace.dimensions([]) == 0


def test_project_removes_other_attributes(subspace: AttributeSubspace) -> None:
    features, centre = F.normalize(torch.randn(3, 6, 32), dim=-1), 0.1 * torch.randn(6, 32)
    kept, other = subspace.bases["age"], subspace.bases["gender"][0]
    hidden = other - other @ kept.T @ kept  # the component of gender that is orthogonal to age
    changed = features + 0.5 * hidden
    for name, is_hidden in (("age", True), ("gender", False)):
        first, second = (subspace.project(vectors, [name], centre) for vectors in (features, changed))
        assert torch.equal(first, second) == is_hidden
    assert torch.equal(subspace.project(features, [], centre), centre.expand(3, -1, -1))


def test_project_keeps_attributes(subspace: AttributeSubspace) -> None:
    features, centre = torch.randn(3, 6, 32), torch.randn(6, 32)
    passed = subspace.project(features, ["age", "freckles"], centre)
    for name, row in (("age", 0), ("freckles", slice(None))):
        basis = subspace.bases[name]
        assert torch.allclose((passed - centre)[:, row] @ basis.T, (features - centre)[:, row] @ basis.T, atol=1e-3)


def test_project_by_region(subspace: AttributeSubspace) -> None:
    features, centre = torch.randn(3, 6, 32), torch.randn(6, 32)
    passed = subspace.project(features, ["age"], centre)
    assert not torch.allclose(passed[:, 0], centre[0])
    assert torch.equal(passed[:, 1:], centre[1:].expand(3, -1, -1))
    words = {"expression": ("smiling", "serious")}
    passed = AttributeSubspace.from_phrases(words, embed).project(features, ["expression"], centre)
    visible = [not torch.equal(passed[:, row], centre[row].expand(3, -1)) for row in range(6)]
    assert dict(zip(FEATURE_NAMES, visible, strict=True)) == {
        "face": True, "skin": False, "brows": True, "eyes": True, "nose": False, "mouth": True,
    }  # fmt: skip


def test_project_quantizes(subspace: AttributeSubspace) -> None:
    features, centre, quantization_step = torch.randn(30, 6, 32), torch.randn(6, 32), subspace.quantization_step(2.0)
    passed = subspace.project(features, ["gender"], centre, quantization_step)
    numbers = (passed - centre)[:, 0] @ subspace.bases["gender"].T / quantization_step
    assert torch.allclose(numbers, numbers.round(), atol=1e-4)
    assert len(numbers.round().unique()) > 1
    built_in = torch.cat([subspace.directions[name] for name in ("age", "gender")])
    assert quantization_step == pytest.approx(2 / 4 * float(built_in.norm(dim=1).mean()))  # independent of phrases


def test_change(subspace: AttributeSubspace) -> None:
    centre = torch.randn(6, 32)
    features = torch.randn(3, 6, 32)
    changed = subspace.change(features, "age", "old", centre, 2.0)
    basis, direction = subspace.bases["age"], subspace.directions["age"][1]
    assert torch.allclose((changed - centre)[:, 0] @ basis.T, (2 * direction @ basis.T).expand(3, -1), atol=1e-5)
    assert subspace.scores((changed - centre)[:, 0], "age", 100.0).argmax(-1).eq(1).all()
    assert torch.equal(changed[:, 1:], features[:, 1:])


def test_scores(subspace: AttributeSubspace) -> None:
    scores = subspace.scores(embed(["photo of a person, old"])[0], "age", 100.0)
    assert float(scores.sum()) == pytest.approx(1)
    assert int(scores.argmax()) == 1
    assert subspace.scores(embed(["photo of a person, freckles"])[0], "freckles", 100.0).item() > 0.9


@pytest.mark.parametrize("words", [[], ["old", " "]])
def test_attribute_without_words(words: list[str]) -> None:
    with pytest.raises(ValueError, match="age: an attribute needs words"):
        AttributeSubspace.from_phrases({"age": words}, embed)


def test_indistinguishable_words() -> None:
    with pytest.raises(ValueError, match="cannot distinguish these words: a, b"):
        AttributeSubspace.from_phrases({"x": ["a", "b"]}, lambda texts: torch.ones(len(texts), 4))
    vectors = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    subspace = AttributeSubspace.from_phrases({"age": ["child", "elderly", "young"]}, lambda texts: vectors)
    assert subspace.indistinguishable_from("age", "child") == ("elderly",)
    assert subspace.indistinguishable_from("age", "young") == ()
