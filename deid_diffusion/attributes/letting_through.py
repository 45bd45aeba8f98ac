"""What is let through of faces' features: the kept attributes' part, and words in place of what is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .choice import AttributeChoice

if TYPE_CHECKING:
    from ..pipelines.face_deid import FaceDeidPipeline


def let_through(pipeline: FaceDeidPipeline, features: torch.Tensor, choices: Sequence[AttributeChoice]) -> torch.Tensor:
    """Features of which nothing is left but what each face's choice names.

    An adapter without looks was trained before there were choices: for the default choice it gets the whole features.

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
    subspace = pipeline.subspace(tuple(dict.fromkeys(name for one in choices for name in one.phrases)))
    features, adapter = features.float(), pipeline.attribute_adapter
    if adapter is None:
        centre, scale = torch.zeros_like(features[0]), 1.0
    else:
        centre, scale = adapter.centre.to(features), float(adapter.phrase_scale)
    made = []
    for feature, choice in zip(features, choices, strict=True):
        if choice == AttributeChoice() and adapter is not None and not adapter.config.look_dim:
            made.append(feature)  # an adapter that was trained on whole features alone does best with them
            continue
        passed = subspace.project(feature, choice.keep, centre)
        for name, word in choice.change.items():
            passed = subspace.change(passed, name, word, centre, scale)
        made.append(passed)
    return torch.stack(made)
