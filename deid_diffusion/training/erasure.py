"""What the adapter knows of features before it learns: their mean and scale, and which directions tell people apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..attributes.subspace import AttributeSubspace
from ..models.attribute_adapter import AttributeAdapter


def fit_erasure(first: torch.Tensor, second: torch.Tensor, known: torch.Tensor, rank: int) -> torch.Tensor:
    """(D, D) projection after which no linear reader finds the person, as far as ``rank`` directions tell.

    Closed-form concept erasure (LEACE; Belrose et al., NeurIPS 2023), P = I - W^+ V V^T W, W the whitening of the
    features: the least change to features in their own metric after which they do not covary with the concept. The
    concept is what two pictures of a person share beyond what is known of them: V are the leading directions of the
    whitened covariance between the residuals of the two, once a linear regression on the known attributes is taken out.

    Args:
        first, second: (N, D) features of two pictures of each of N people.
        known: (N, K) attributes of each person, as numbers; what they explain is no identity.
        rank: directions to erase, 0 to D.
    """
    first, second = (one.double() - one.double().mean(0) for one in (first, second))
    facts = known.double() - known.double().mean(0)
    rest, other = (one - facts @ torch.linalg.lstsq(facts, one, driver="gelsd").solution for one in (first, second))
    shared = rest.T @ other / len(rest)
    shared = (shared + shared.T) / 2
    both = torch.cat([first, second])
    sizes, vectors = torch.linalg.eigh(both.T @ both / len(both))
    held = sizes > 1e-6 * sizes[-1]
    sizes, vectors = sizes[held], vectors[:, held]
    whiten, colour = (vectors * sizes.pow(power) @ vectors.T for power in (-0.5, 0.5))
    _, directions = torch.linalg.eigh(whiten @ shared @ whiten)
    leading = directions[:, directions.shape[1] - rank :]
    return (torch.eye(first.shape[1], dtype=first.dtype) - colour @ leading @ leading.T @ whiten).float()


@torch.no_grad()
def teach_adapter(
    adapter: AttributeAdapter,
    features: torch.Tensor,
    said: Sequence[Mapping[str, str]],
    files: Sequence[str],
    subspace: AttributeSubspace,
    *,
    rank: int,
    seed: int,
) -> None:
    """Fill an adapter's buffers: centre, erasure and scale of phrases.

    Args:
        adapter: gets them.
        features: (N, R, D) of the training's faces.
        said: what is known of each.
        files: the photograph of each; those with two crops make the pairs that the erasure is fitted on.
        subspace: of all attributes; the erasure is fitted to what it lets through.
        rank: directions of identity to erase.
        seed: of the choice of pairs.
    """
    adapter.centre.copy_(features.mean(0))
    adapter.phrase_scale.fill_(phrase_scale(features[:, 0], subspace, said))
    pairs = pairs_of(files, np.random.default_rng(seed))
    if not rank or not len(pairs):
        return
    passed = subspace.project(features, tuple(subspace.words), features.mean(0))[:, 0]
    erasure = fit_erasure(passed[pairs[:, 0]], passed[pairs[:, 1]], one_hot([said[row] for row in pairs[:, 0]]), rank)
    adapter.erasure.copy_(erasure)


def one_hot(said: Sequence[Mapping[str, str]]) -> torch.Tensor:
    """(N, K) 1 where a fact's phrase is true of a face; free text left out."""
    answers = sorted({answer for one in said for answer in one.items() if answer[0] != "text"})
    return torch.tensor([[one.get(name) == text for name, text in answers] for one in said]).float()


def pairs_of(files: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """(N, 2) rows of two crops of each file that has two or more."""
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(files):
        rows.setdefault(name, []).append(index)
    return np.array([rng.choice(found, 2, replace=False) for found in rows.values() if len(found) > 1])


def phrase_scale(features: torch.Tensor, subspace: AttributeSubspace, said: Sequence[Mapping[str, str]]) -> float:
    """How much longer the directions between faces are than those between captions, by least squares.

    Args:
        features: (N, D) whole-face features.
        subspace: of the captions' space.
        said: N faces' facts; those whose phrase is a word of an attribute count.
    """
    above = below = 0.0
    for name, words in subspace.words.items():
        found = {word: [k for k, one in enumerate(said) if word in one.values()] for word in words}
        used = [word for word in words if len(found[word]) >= 20]
        if len(used) < 2:
            continue
        images = torch.stack([features[found[word]].mean(0) for word in used])
        texts = torch.stack([subspace.directions[name][words.index(word)] for word in used]).to(images)
        images, texts = images - images.mean(0), texts - texts.mean(0)
        above, below = above + float((images * texts).sum()), below + float(texts.square().sum())
    return max(above / below, 0.1) if below else 1.0
