"""What is let through of faces' features: the kept attributes' part, and words in place of what is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from ..errors import UsageError
from .choice import MAP_BORNE, AttributeChoice
from .subspace import AttributeSubspace

if TYPE_CHECKING:
    from ..models.attribute_tokens import AttributeTokens


class ReadsWords(Protocol):
    """What knows an adapter and the words of attributes, as `FaceDeidPipeline` does."""

    attribute_adapter: AttributeTokens | None

    def subspace(self, phrases: Sequence[str] = ()) -> AttributeSubspace:
        """The subspaces of the built-in attributes and of more phrases."""
        ...


def check_words(model: ReadsWords, choice: AttributeChoice) -> None:
    """See that a model's text encoder understands the words of a choice.

    Raises:
        UsageError: for a phrase that says nothing to it, or a change to a word that it takes for another.
        DeidError: when the model cannot read words.
    """
    try:
        subspace = model.subspace(choice.phrases)
    except ValueError as error:
        raise UsageError(f"keep: {error}: use other words") from error
    for name, word in choice.change.items():
        if name not in MAP_BORNE and (same := subspace.same_as(name, word)):
            raise UsageError(
                f"change: {name}={word}: this model does not tell {word} from {', '.join(same)}: leave it out, or use "
                "a model whose text encoder does"
            )


def let_through(pipeline: ReadsWords, features: torch.Tensor, choices: Sequence[AttributeChoice]) -> torch.Tensor:
    """Features of which nothing is left but what each face's choice names.

    Args:
        pipeline: embeds the attributes' words; its adapter knows the features of nobody in particular.
        features: (B, N, D) from ``FaceDeidPipeline.encode_attributes``.
        choices: B of them.

    Returns:
        (B, N, D) float32.

    Raises:
        DeidError: when the pipeline cannot read words.
        ValueError: for a phrase that says nothing to its encoder.
    """
    features, adapter = features.float(), pipeline.attribute_adapter
    subspace = pipeline.subspace(tuple(dict.fromkeys(name for one in choices for name in one.phrases)))
    if adapter is None:
        centre, scale, grain = torch.zeros_like(features[0]), 1.0, 0.0
    else:
        centre, scale = adapter.centre.to(features), float(adapter.phrase_scale)
        grain = subspace.grain(scale)
    made = []
    for feature, choice in zip(features, choices, strict=True):
        passed = subspace.project(feature, choice.keep, centre, grain)
        for name, word in choice.change.items():
            passed = subspace.change(passed, name, word, centre, scale)
        made.append(passed)
    return torch.stack(made)
