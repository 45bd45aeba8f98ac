"""Attributes without a trained adapter: a face's likeness to phrases becomes a weighting of the phrases' embeddings.

CLIP says which word of an attribute suits the face, as in its zero-shot classification (Radford et al., "Learning
Transferable Visual Models From Natural Language Supervision", ICML 2021); the words' embeddings by the generator's own
text encoder, averaged by these weights, are appended to the prompt's. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .subspace import ANYBODY, AttributeSubspace
from .vocabulary import sentence

SHARPNESS = 100.0
"""CLIP's own factor on cosines before its softmax."""


def zero_shot_tokens(
    features: torch.Tensor,
    subspace: AttributeSubspace,
    names: Sequence[str],
    embed: Callable[[list[str]], tuple[torch.Tensor, int]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens that tell a generator of some attributes of faces.

    Args:
        features: (B, N, D), of which the first row, the whole face's, is read. They may be projected on the kept
            attributes, with 0 as centre: an attribute of which nothing is left weighs its words alike.
        subspace: of the attributes.
        names: those to tell of, at least one.
        embed: K captions -> their embeddings by the generator's text encoder, (K, T, W), and the length of the longest
            in tokens, start and end included.

    Returns:
        (B, S, W), and (S, W) tokens that say as much as the words' average, for the negative side of guidance.
    """
    told, untold = [], []
    for name in names:
        words = subspace.words[name]
        weights = subspace.scores(features[:, 0], name, SHARPNESS)
        captions = [sentence(word) for word in words]
        if len(words) == 1:
            weights, captions = torch.cat([weights, 1 - weights], -1), [*captions, ANYBODY]
        embedded, length = embed(captions)
        embedded = embedded[:, 1:length].to(weights)  # the prompt has brought the start's embedding
        told.append(torch.einsum("bk,ktw->btw", weights, embedded))
        untold.append(embedded.mean(0))
    return torch.cat(told, 1), torch.cat(untold)
