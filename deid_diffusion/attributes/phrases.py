"""Captions to unit vectors of the joint space, by CLIP's text side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """(B, model_max_length) int64 token ids."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def embed_ids(text: CLIPTextModel | CLIPTextModelWithProjection, input_ids: torch.Tensor) -> torch.Tensor:
    """(C, T) token ids -> (C, D) unit vectors; padding that all share is not computed.

    The pooled output of a plain ``CLIPTextModel`` is the joint space itself, as in the embedded model; one with a
    projection is taken as CLIP's.
    """
    end = int((input_ids == input_ids[:, -1:]).int().argmax(1).max()) + 1
    output = text(input_ids=input_ids[:, :end])
    joint = output.text_embeds if isinstance(text, CLIPTextModelWithProjection) else output.pooler_output
    return F.normalize(joint.float(), dim=-1)


@torch.no_grad()
def embed_phrases(
    text: CLIPTextModel | CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: list[str]
) -> torch.Tensor:
    """(K, D) float32 unit vectors of K captions, on the text model's device."""
    return embed_ids(text, tokenize(tokenizer, texts).to(text.device))
