"""Attribute features of faces and phrases in a joint space, and zero-shot attribute tokens.

Without a trained adapter, CLIP classifies each attribute zero-shot (Radford et al., "Learning Transferable Visual
Models From Natural Language Supervision", ICML 2021). The embeddings of the attribute's words by the generator's own
text encoder, averaged with the class probabilities as weights, are appended to the prompt's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ..faces.semantic_map import LABEL, REGIONS
from ..models.face_encoder import FaceEncoder
from .subspace import MEAN_PHRASE, AttributeSubspace
from .vocabulary import sentence

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return (B, model_max_length) int64 token ids."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def embed_ids(text: CLIPTextModel | CLIPTextModelWithProjection, input_ids: torch.Tensor) -> torch.Tensor:
    """Embed (C, T) token ids as (C, D) unit vectors; padding common to all rows is skipped.

    The joint space is the projection of a ``CLIPTextModelWithProjection``, and the pooled output of a plain
    ``CLIPTextModel``, as in the built-in model.
    """
    end = int((input_ids == input_ids[:, -1:]).int().argmax(1).max()) + 1
    output = text(input_ids=input_ids[:, :end])
    joint = output.text_embeds if isinstance(text, CLIPTextModelWithProjection) else output.pooler_output
    return F.normalize(joint.float(), dim=-1)


@torch.no_grad()
def embed_phrases(
    text: CLIPTextModel | CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: list[str]
) -> torch.Tensor:
    """Embed K captions as (K, D) float32 unit vectors, on the text model's device."""
    return embed_ids(text, tokenize(tokenizer, texts).to(text.device))


_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize (B, 3, H, W) in -1..1 to (B, 3, size, size), and normalise as CLIP's preprocessor does."""
    if images.shape[-1] != size:
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (_CLIP_MEAN, _CLIP_STD))
    return ((images + 1) / 2 - mean) / std


def region_weights(labels: torch.Tensor, grid: int) -> torch.Tensor:
    """Compute pooling weights of patches for the face and each of its regions.

    Args:
        labels: (B, H, W) integer semantic maps.
        grid: number of patches per side.

    Returns:
        (B, 1 + R, grid * grid) float32 in the order of ``subspace.FEATURE_NAMES``, each row summing to 1; the row of a
        region that the map lacks covers the entire face.
    """
    groups = [torch.tensor([LABEL[name] for name in names], device=labels.device) for names in REGIONS.values()]
    face = F.adaptive_avg_pool2d((labels > 0).float()[:, None], grid).flatten(2) + 1e-6
    occupied = torch.stack([torch.isin(labels, group) for group in groups], 1).float()
    pooled = F.adaptive_avg_pool2d(occupied, grid).flatten(2)
    pooled = torch.cat([face, torch.where(pooled.sum(-1, keepdim=True) > 1e-6, pooled, face)], 1)
    return pooled / pooled.sum(-1, keepdim=True)


def encode_attributes(
    encoder: CLIPVisionModelWithProjection | FaceEncoder,
    images: torch.Tensor,
    labels: torch.Tensor,
    meshes: torch.Tensor | None = None,
) -> torch.Tensor:
    """Encode face crops in the joint space of images and texts.

    Args:
        encoder: CLIP's vision tower with its projection, or the small convolutional network.
        images: (B, 3, H, W) face crops in -1..1.
        labels: (B, H', W') semantic maps of the same crops.
        meshes: (B, 478, 2) crop pixels; required by the small network.

    Returns:
        (B, 1 + R, D) unit vectors: the embedding of the entire face, then the patch features averaged per region.

    Raises:
        ValueError: the small network needs `meshes`.
    """
    dtype = next(encoder.parameters()).dtype
    if not isinstance(encoder, FaceEncoder):
        features = _clip_features(encoder, clip_pixels(images.float(), encoder.config.image_size).to(dtype), labels)
    elif meshes is None:
        raise ValueError("meshes: required by the attribute encoder of this model")
    else:
        features = encoder(images.to(dtype), meshes, both_ways=not encoder.training)
    return F.normalize(features.float(), dim=-1)


def pool_patches(patches: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Average (B, P, H) patches of a vision transformer per region of (B, H', W') maps; returns (B, R, H)."""
    return region_weights(labels, round(patches.shape[1] ** 0.5))[:, 1:].to(patches) @ patches


def _clip_features(encoder: CLIPVisionModelWithProjection, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Encode with a vision transformer as (B, 1 + R, D); the first row is CLIP's own embedding of the crop."""
    output = encoder(pixel_values=pixels)  # not its vision_model, because offloading hooks into this call
    patches = encoder.vision_model.post_layernorm(output.last_hidden_state[:, 1:])
    return torch.cat([output.image_embeds[:, None], encoder.visual_projection(pool_patches(patches, labels))], 1)


def labels_tensor(labels: list[np.ndarray]) -> torch.Tensor:
    """Stack (H, W) uint8 maps as (B, H, W) int64."""
    return torch.from_numpy(np.stack(labels)).long()


SHARPNESS = 100.0
"""CLIP's logit scale."""


def zero_shot_tokens(
    features: torch.Tensor,
    subspace: AttributeSubspace,
    names: Sequence[str],
    embed: Callable[[list[str]], tuple[torch.Tensor, int]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert attribute features to tokens of the generator's text encoder.

    Args:
        features: (B, N, D), of which the first row, the entire face, is used. They may be projected on the kept
            attributes with 0 as centre: the words of an attribute that was projected out get equal weights.
        subspace: of the attributes.
        names: attributes to encode, at least one.
        embed: K captions -> their embeddings by the generator's text encoder, (K, T, W), and the length of the longest
            in tokens, including start and end.

    Returns:
        (B, S, W) attribute tokens, and (S, W) null tokens, the words' averages, for the unconditional branch.
    """
    attribute_tokens, null_tokens = [], []
    for name in names:
        words = subspace.words[name]
        weights = subspace.scores(features[:, 0], name, SHARPNESS)
        captions = [sentence(word) for word in words]
        if len(words) == 1:
            weights, captions = torch.cat([weights, 1 - weights], -1), [*captions, MEAN_PHRASE]
        embeddings, length = embed(captions)
        embeddings = embeddings[:, 1:length].to(weights)  # the prompt has a start token already
        attribute_tokens.append(torch.einsum("bk,ktw->btw", weights, embeddings))
        null_tokens.append(embeddings.mean(0))
    return torch.cat(attribute_tokens, 1), torch.cat(null_tokens)
