import numpy as np
import pytest
import torch

from deid_diffusion.attributes.subspace import AttributeSubspace
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.training.erasure import fit_erasure, pairs_of, phrase_scale, teach_adapter


def people(count: int = 4000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two pictures each: axis 0 is the person, axis 1 a known attribute, the others are noise of each picture."""
    generator = torch.Generator().manual_seed(0)
    person, known = (torch.randn(count, 1, generator=generator) for _ in range(2))
    pictures = [
        torch.cat([2 * person, known, torch.zeros(count, 3)], 1) + 0.3 * torch.randn(count, 5, generator=generator)
        for _ in range(2)
    ]
    return pictures[0], pictures[1], known


def test_the_person_is_erased_and_what_is_known_stays() -> None:
    first, second, known = people()
    erasure = fit_erasure(first, second, known, rank=1)
    left = (first - first.mean(0)) @ erasure.T
    assert float(left[:, 0].std()) < 0.1 * float(first[:, 0].std())
    assert float(left[:, 1].std()) > 0.9 * float(first[:, 1].std())
    assert torch.allclose(erasure @ erasure, erasure, atol=1e-4)  # once erased, nothing is left to erase
    assert torch.allclose(fit_erasure(first, second, known, rank=0), torch.eye(5), atol=1e-4)


def test_pairs_are_two_crops_of_one_photograph() -> None:
    files = ["a", "b", "a", "c", "a", "b"]
    pairs = pairs_of(files, np.random.default_rng(0))
    assert len(pairs) == 2
    assert all(files[i] == files[k] and i != k for i, k in pairs)


def test_the_scale_is_that_of_faces_against_captions() -> None:
    subspace = AttributeSubspace.from_phrases({"gender": ("woman", "man")}, lambda texts: torch.eye(len(texts), 4))
    said = [{"person": "man" if k % 2 else "woman"} for k in range(80)]
    direction = subspace.directions["gender"]
    features = torch.stack([0.25 * direction[k % 2] for k in range(80)])
    assert phrase_scale(features, subspace, said) == pytest.approx(0.25)
    assert phrase_scale(features, subspace, [{}] * 80) == 1.0


def test_an_adapter_is_taught() -> None:
    torch.manual_seed(0)
    subspace = AttributeSubspace.from_phrases({"gender": ("woman", "man")}, lambda texts: torch.eye(len(texts), 4))
    adapter, features = AttributeAdapter(4, 6, 2, 8), torch.randn(40, 6, 4) + 1
    said = [{"person": "man"} for _ in range(40)]
    files = [f"{k // 2}.jpg" for k in range(40)]
    teach_adapter(adapter, features, said, files, subspace, rank=1, seed=0)
    assert torch.allclose(adapter.centre, features.mean(0))
    assert not torch.equal(adapter.erasure, torch.eye(4))
