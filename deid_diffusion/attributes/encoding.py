"""Attributes without a trained adapter: a face's likeness to phrases becomes a weighting of the phrases' embeddings.

CLIP says which word of an attribute suits the face, as in its zero-shot classification (Radford et al., "Learning
Transferable Visual Models From Natural Language Supervision", ICML 2021); the words' embeddings by the generator's own
text encoder, averaged by these weights, are appended to the prompt's. Nothing is trained.
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


_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 3, H, W) in -1..1 -> (B, 3, size, size), normalised as CLIP's preprocessor does (Radford et al., 2021)."""
    if images.shape[-1] != size:
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
    mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (_CLIP_MEAN, _CLIP_STD))
    return ((images + 1) / 2 - mean) / std


def region_weights(labels: torch.Tensor, grid: int) -> torch.Tensor:
    """How much of each patch belongs to the face and to each of its regions.

    Args:
        labels: (B, H, W) integer semantic maps.
        grid: patches a side.

    Returns:
        (B, 1 + R, grid * grid) float32 in the order of ``subspace.FEATURE_NAMES``, each row summing to 1; a region that
        the map lacks takes the whole face evenly.
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
    """Features of face crops in a joint space of images and texts.

    Args:
        encoder: a CLIP vision tower with its projection, or the small convolutional one.
        images: (B, 3, H, W) face crops in -1..1.
        labels: (B, H', W') semantic maps of the same crops.
        meshes: (B, 478, 2) crop pixels; the small network needs them.

    Returns:
        (B, 1 + R, D) unit vectors: the whole face's embedding, then the patch features averaged per region.

    Raises:
        ValueError: without meshes, from the small network.
    """
    dtype = next(encoder.parameters()).dtype
    if not isinstance(encoder, FaceEncoder):
        features = _clip_features(encoder, clip_pixels(images.float(), encoder.config.image_size).to(dtype), labels)
    elif meshes is None:
        raise ValueError("the attribute encoder of this model sees faces through their meshes: give meshes")
    else:
        features = encoder(images.to(dtype), meshes, both_ways=not encoder.training)
    return F.normalize(features.float(), dim=-1)


def pool_patches(patches: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A vision transformer's patches averaged per region: (B, P, H) and (B, H', W') maps -> (B, R, H)."""
    return region_weights(labels, round(patches.shape[1] ** 0.5))[:, 1:].to(patches) @ patches


def _clip_features(encoder: CLIPVisionModelWithProjection, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B, 1 + R, D) of a vision transformer; the whole face's is CLIP's own embedding of the crop."""
    output = encoder(pixel_values=pixels)  # the model as a whole, because offloading hooks into that call
    patches = encoder.vision_model.post_layernorm(output.last_hidden_state[:, 1:])
    return torch.cat([output.image_embeds[:, None], encoder.visual_projection(pool_patches(patches, labels))], 1)


def labels_tensor(labels: list[np.ndarray]) -> torch.Tensor:
    """A list of (H, W) uint8 maps -> (B, H, W) int64."""
    return torch.from_numpy(np.stack(labels)).long()


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
            weights, captions = torch.cat([weights, 1 - weights], -1), [*captions, MEAN_PHRASE]
        embedded, length = embed(captions)
        embedded = embedded[:, 1:length].to(weights)  # the prompt has brought the start's embedding
        told.append(torch.einsum("bk,ktw->btw", weights, embedded))
        untold.append(embedded.mean(0))
    return torch.cat(told, 1), torch.cat(untold)
