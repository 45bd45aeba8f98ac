"""Objective of the attribute encoder: CLIP's InfoNCE on face crops and captions, for the face and for its regions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from ..attributes.encoder import encode_attributes
from ..faces.semantic_map import draw_semantic_map
from .captions import caption, facts
from .data import FaceCache, FaceDataset, to_tensor
from .loop import Objective

_START, _END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Sequence[str], folder: Path, *, vocab_size: int, model_max_length: int) -> CLIPTokenizer:
    """A byte-pair tokenizer of CLIP's kind and file layout, learned from captions and saved to ``folder``."""
    tokenizer = Tokenizer(models.BPE(unk_token=_END, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(
        Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    # Every character can also end a word, and the two marks come last, as in CLIP's own vocabulary.
    vocab = json.loads((folder / "vocab.json").read_text())
    for token in [*(f"{letter}</w>" for letter in alphabet), _START, _END]:
        vocab.setdefault(token, len(vocab))
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "tokenizer.json").unlink(missing_ok=True)  # of an earlier run; it would win over the two files
    saved = CLIPTokenizer.from_pretrained(folder, model_max_length=model_max_length)
    saved.save_pretrained(folder)
    return saved


class CaptionedFaces(FaceDataset):
    """Crops with their maps and a caption drawn anew each time.

    Items: ``pixels`` (3, S, S) in -1..1, ``labels`` (S, S) int64, ``input_ids`` (T,) int64.
    """

    def __init__(
        self, cache: FaceCache, tokenizer: CLIPTokenizer, said: Sequence[Mapping[str, str]], seed: int
    ) -> None:
        super().__init__(cache, seed)
        self.tokenizer, self.said = tokenizer, said

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = tokenize(self.tokenizer, [caption(self.said[index], self.rng(index))])[0]
        labels = draw_semantic_map(self.cache.meshes[index], self.cache.size)
        pixels = to_tensor(self.cache.crops[index])
        return {"pixels": pixels, "labels": torch.from_numpy(labels).long(), "input_ids": ids}


def all_facts(cache: FaceCache) -> list[dict[str, str]]:
    """``captions.facts`` of every row of a cache."""
    return [facts(cache.rows[i], cache.crops[i], cache.meshes[i]) for i in range(len(cache))]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """(B, model_max_length) int64 token ids."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


class AttributeEncoderObjective(Objective):
    """Symmetric InfoNCE (Radford et al., 2021) of captions against the face's embedding and, lighter, each region's.

    The text tower's pooled output is the joint space itself, so that a plain ``CLIPTextModel`` holds all of it.
    """

    def __init__(
        self, vision: CLIPVisionModelWithProjection, text: CLIPTextModel, *, region_weight: float = 0.1
    ) -> None:
        super().__init__()
        self.vision, self.text, self.region_weight = vision, text, region_weight
        self.log_scale = nn.Parameter(torch.tensor(2.66))  # ln(1 / 0.07), CLIP's start

    def trained(self, turn: str) -> nn.Module:
        return self

    def forward(self, batch: Mapping[str, torch.Tensor], turn: str, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        features = encode_attributes(self.vision, batch["pixels"], batch["labels"])
        texts = F.normalize(self.text(input_ids=batch["input_ids"]).pooler_output.float(), dim=-1)
        logits = self.log_scale.clamp(max=4.6).exp() * torch.einsum("bnd,cd->nbc", features, texts)
        same = (batch["input_ids"][:, None] == batch["input_ids"][None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)  # equal captions are no negatives of each other
        losses = [(cross_entropy(one, target) + cross_entropy(one.T, target.T)) / 2 for one in logits]
        loss = losses[0] + self.region_weight * torch.stack(losses[1:]).sum()
        right = (logits[0].argmax(1) == torch.arange(len(texts), device=texts.device)).float().mean()
        return loss, {"matched": float(right)}

    def save(self, folder: Path) -> None:
        self.vision.save_pretrained(folder / "image_encoder")
        self.text.save_pretrained(folder / "text_encoder")


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of (B, C) logits against (B, C) target probabilities."""
    return -(target * logits.log_softmax(1)).sum(1).mean()
