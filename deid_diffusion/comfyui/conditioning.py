"""Attribute tokens for a CONDITIONING, read from the faces of Crop Faces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..attributes.encoding import embed_phrases, encode_attributes, labels_tensor, pool_patches
from ..attributes.selection import AttributeSelection, filter_features, validate_selection
from ..attributes.subspace import AttributeSubspace
from ..attributes.vocabulary import VOCABULARY
from ..errors import DeidError, UsageError
from ..generation import to_tensor
from ..models.attribute_adapter import AttributeAdapter
from ..models.face_encoder import FaceEncoder
from ..pipelines.repositories import load_part
from .faces import FaceCrops


class LoadedAdapter:
    """Attribute adapter of a model, with its image and text encoders.

    Attributes:
        name: of the model's folder.
        attribute_adapter: maps features to tokens.
        image_encoder: the face network; None where the features come from a CLIP vision model.
    """

    def __init__(self, folder: str | Path) -> None:
        """Load from a whole model's folder, as `FaceDeidPipeline.save_pretrained` writes it. Raises DeidError."""
        self._folder = Path(folder)
        self.name = self._folder.name
        self.attribute_adapter: AttributeAdapter | None = load_part(
            AttributeAdapter, self._folder / "attribute_adapter", torch.float32
        )
        encoder = self._folder / "image_encoder"
        self.image_encoder = load_part(FaceEncoder, encoder, torch.float32) if _kind(encoder) == "FaceEncoder" else None
        self._subspaces: dict[tuple[str, ...], AttributeSubspace] = {}

    def subspace(self, phrases: Sequence[str] = ()) -> AttributeSubspace:
        """Return the subspaces of the built-in attributes and of more phrases; loads the text encoder.

        Raises:
            DeidError: the folder lacks the text side of the image encoder.
            ValueError: the text encoder does not distinguish a phrase from "a person".
        """
        key = tuple(phrases)
        if key not in self._subspaces:
            words = {**VOCABULARY, **{phrase: (phrase,) for phrase in phrases}}
            self._subspaces[key] = AttributeSubspace.from_phrases(words, self._embed)
        return self._subspaces[key]

    def _embed(self, texts: list[str]) -> torch.Tensor:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        projected = self._folder / "phrase_encoder"
        own = self._folder / "text_encoder"  # beside a small face network, which was trained with it
        if not projected.is_dir() and self.image_encoder is None:
            raise DeidError(
                f"{self.name}: this model cannot read words: save it with phrase_encoder=, the text side of its "
                "image_encoder (CLIPTextModelWithProjection.from_pretrained of the same CLIP)"
            )
        tokenizer = CLIPTokenizer.from_pretrained(self._folder / "tokenizer")
        kind, home = (CLIPTextModelWithProjection, projected) if projected.is_dir() else (CLIPTextModel, own)
        return embed_phrases(kind.from_pretrained(home).float().eval(), tokenizer, texts)


@torch.no_grad()
def encoder_features(adapter: LoadedAdapter, crops: FaceCrops) -> torch.Tensor:
    """Return (N, R + 1, D) features of the original crops by the adapter's image encoder. Raises UsageError."""
    if adapter.image_encoder is None:
        raise UsageError(
            f"clip_vision_output: {adapter.name} has no small image encoder of its own: connect CLIP Vision Encode of "
            "Crop Faces' original_image"
        )
    pixels = torch.stack([to_tensor(crop) for crop in crops.originals()])
    return encode_attributes(adapter.image_encoder, pixels * 2 - 1, _labels(crops), _meshes(crops))


@torch.no_grad()
def clip_features(adapter: LoadedAdapter, crops: FaceCrops, output: Any, vision: Any) -> torch.Tensor:
    """Return (N, R + 1, D) features of the original crops from a CLIP_VISION_OUTPUT.

    Its patches precede CLIP's last norm and projection: with the CLIP model they are averaged per region; without it,
    the regions get the mean features.

    Args:
        adapter: for which the features are.
        crops: in the order in which they were encoded.
        output: its ``image_embeds`` are (N, D), its ``last_hidden_state`` (N, 1 + P, H).
        vision: the CLIP model, with ``vision_model.post_layernorm`` and ``visual_projection``; or None.

    Raises:
        UsageError: the output is of other crops or another CLIP.
    """
    tokens = adapter.attribute_adapter
    assert tokens is not None
    embeds = output.image_embeds.float()
    width = tokens.config.feature_dim
    if tuple(embeds.shape) != (len(crops.faces), width):
        raise UsageError(
            f"clip_vision_output: expected {len(crops.faces)} pictures and {width} numbers per picture, got "
            f"{tuple(embeds.shape)}: encode all of Crop Faces' original_image by the CLIP of {adapter.name}'s training"
        )
    if vision is None:
        regions = tokens.centre[1:].to(embeds).expand(len(embeds), -1, -1)
        return torch.cat([F.normalize(embeds, dim=-1)[:, None], regions], 1)
    weight = next(vision.parameters())
    patches = vision.vision_model.post_layernorm(output.last_hidden_state[:, 1:].to(weight.device, torch.float32))
    regions = vision.visual_projection(pool_patches(patches, _labels(crops).to(weight.device))).to(embeds)
    return F.normalize(torch.cat([embeds[:, None], regions], 1), dim=-1)


@torch.no_grad()
def make_tokens(
    adapter: LoadedAdapter, features: torch.Tensor, selection: AttributeSelection
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (N, T, W) tokens of the selected part of N faces' features, (N, R + 1, D), and as many null tokens.

    Raises:
        UsageError: the model's text encoder does not understand a word.
        DeidError: the model has no text encoder.
    """
    validate_selection(adapter, selection)
    network = adapter.attribute_adapter
    assert network is not None
    tokens = network(filter_features(adapter, features.cpu(), [selection] * len(features)))
    return tokens, network.null(len(tokens))


def append_tokens(conditioning: list[list[Any]], tokens: torch.Tensor, name: str) -> list[list[Any]]:
    """Append (N, T, W) tokens to the text of a CONDITIONING: N rows, one per face crop.

    Args:
        conditioning: pairs of an embedding, (1, L, W) or (N, L, W), and a dictionary.
        tokens: to append.
        name: of the input, for errors.

    Raises:
        UsageError: the widths or the numbers of rows differ.
    """
    result = []
    for embedding, extras in conditioning:
        count, _, width = embedding.shape
        if width != tokens.shape[-1]:
            raise UsageError(
                f"{name}: {width} numbers wide, but this adapter's tokens are {tokens.shape[-1]} wide: load an adapter "
                "that was trained for this checkpoint's text encoder"
            )
        if count not in (1, len(tokens)):
            raise UsageError(f"{name}: holds {count} texts for {len(tokens)} face crops: give one for all or one each")
        rows = embedding.expand(len(tokens), -1, -1)
        result.append([torch.cat([rows, tokens.to(rows)], 1), extras])
    return result


def _labels(crops: FaceCrops) -> torch.Tensor:
    return labels_tensor([face.semantic_map for _, face in crops.faces])


def _meshes(crops: FaceCrops) -> torch.Tensor:
    return torch.from_numpy(np.stack([face.map_mesh for _, face in crops.faces]).astype(np.float32))


def _kind(folder: Path) -> str:
    """Return the class that a component's config names; "" where there is no config."""
    config = folder / "config.json"
    return str(json.loads(config.read_text()).get("_class_name", "")) if config.is_file() else ""
