"""Objective of the attribute encoder: CLIP's InfoNCE on face crops and captions, for the face and for its regions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

from ..attributes.encoder import encode_attributes
from ..faces.semantic_map import draw_semantic_map
from ..models.face_encoder import FaceEncoder
from .augment import random_look, random_view
from .captions import FACTS, agree, choose, codes, facts, greyed, phrase
from .data import FaceCache, FaceDataset, to_tensor
from .objective import Objective

_KEEP = (0.15, 0.4, 0.8)  # share of the known facts that a caption says: some say one thing, some nearly all
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
    """Crops in a random view and look, with their maps and a caption drawn anew each time.

    Items: ``pixels`` (3, S, S) in -1..1, ``labels`` (S, S) int64, ``input_ids`` (T,) int64, ``facts`` and ``caption``
    (F,) int64, codes of what is known and of what the caption says.
    """

    def __init__(
        self, cache: FaceCache, tokenizer: CLIPTokenizer, said: Sequence[Mapping[str, str]], seed: int
    ) -> None:
        super().__init__(cache, seed)
        self.tokenizer, self.said = tokenizer, said

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = self.rng(index)
        said = self.said[index]
        grey = bool(rng.random() < 0.25)
        if grey:
            said = greyed(said)
        crop, mesh = random_view(self.cache.crops[index], self.cache.meshes[index], rng)
        chosen = choose(said, rng, keep=float(rng.choice(_KEEP)))
        return {
            "pixels": to_tensor(random_look(crop, rng, grey=grey)),
            "labels": torch.from_numpy(draw_semantic_map(mesh, self.cache.size)).long(),
            "input_ids": tokenize(self.tokenizer, [phrase(chosen)])[0],
            "facts": codes(said),
            "caption": codes(chosen),
        }


def all_facts(cache: FaceCache) -> list[dict[str, str]]:
    """``captions.facts`` of every row of a cache."""
    return [facts(cache.rows[i], cache.crops[i], cache.meshes[i]) for i in range(len(cache))]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """(B, model_max_length) int64 token ids."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


@dataclass(frozen=True)
class Questions:
    """What each face is asked beside being matched with captions: one question per fact, with a fixed set of answers.

    Attributes:
        fact: (P,) int64, the place in ``captions.FACTS`` of the fact that an answer speaks of.
        code: (P,) int64, what it says, as in ``captions.codes``.
        weight: (P,) float32, how much an answer counts: the rarer among its question's, the more.
    """

    fact: torch.Tensor
    code: torch.Tensor
    weight: torch.Tensor


def common_questions(said: Sequence[Mapping[str, str]], least: int = 20) -> Questions:
    """A question for each fact, its answers all phrases that at least that many faces share; free text asks nothing."""
    counts = Counter((name, text) for one in said for name, text in one.items() if name != "text")
    answers = sorted(answer for answer, count in counts.items() if count >= least)
    facts = torch.tensor([FACTS.index(name) for name, _ in answers], dtype=torch.long)
    code = torch.tensor([int(codes({name: text}).max()) for name, text in answers], dtype=torch.long)
    weight = torch.tensor([1 / counts[answer] for answer in answers])
    for fact in facts.unique():
        weight[facts == fact] *= 1 / weight[facts == fact].mean()
    return Questions(facts, code, weight.clamp(max=3))


class AttributeEncoderObjective(Objective):
    """Symmetric InfoNCE of captions against the face's embedding and, lighter, each region's; and questions.

    InfoNCE as in CLIP (Radford et al., 2021), but every caption of the batch that is true of a face is a positive of it
    (UniCL's objective; Yang et al., CVPR 2022): "photo of a woman" is no negative of another woman. Beside that, each
    face is asked one question per fact, "is this a man, a woman, a boy or a girl?", by a linear head that is thrown
    away: few faces teach that long before the two towers have found a common language. The pooled output of a plain
    ``CLIPTextModel`` is the joint space itself; one with a projection is taken as CLIP's.
    """

    description = "Attribute encoder: a small CLIP for aligned face crops, trained from nothing."

    def __init__(
        self,
        vision: CLIPVisionModelWithProjection | FaceEncoder,
        text: CLIPTextModel | CLIPTextModelWithProjection,
        questions: Questions,
        *,
        region_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.questions = questions
        self.vision, self.text, self.region_weight = vision, text, region_weight
        self.answers = nn.Linear(vision.config.projection_dim, len(questions.fact))
        self.log_scale = nn.Parameter(torch.tensor(2.66))  # ln(1 / 0.07), CLIP's start

    def trained(self, turn: str) -> nn.Module:
        return self

    def forward(self, batch: Mapping[str, torch.Tensor], turn: str, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        features = encode_attributes(self.vision, batch["pixels"], batch["labels"])
        scale = self.log_scale.clamp(max=4.6).exp()
        logits = scale * torch.einsum("bnd,cd->nbc", features, self.embed(batch["input_ids"]))
        true = agree(batch["facts"], batch["caption"])
        of_face, of_caption = (t / t.sum(1, keepdim=True) for t in (true.float(), true.T.float()))
        losses = [(cross_entropy(one, of_face) + cross_entropy(one.T, of_caption)) / 2 for one in logits]
        contrast = losses[0] + self.region_weight * torch.stack(losses[1:]).sum()
        answered, right = self.answer(features[:, 0], batch["facts"])
        return contrast + answered, {"contrast": float(contrast.detach()), **right}

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(C, T) token ids -> (C, D) unit vectors; padding that all share is not computed."""
        end = int((input_ids == input_ids[:, -1:]).int().argmax(1).max()) + 1
        output = self.text(input_ids=input_ids[:, :end])
        joint = output.text_embeds if isinstance(self.text, CLIPTextModelWithProjection) else output.pooler_output
        return F.normalize(joint.float(), dim=-1)

    def answer(self, features: torch.Tensor, facts: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum of the questions' mean cross-entropies, and the share of right answers to each.

        Args:
            features: (B, D) embeddings of faces, unit vectors.
            facts: (B, F) codes of what is known of them.
        """
        device = features.device
        logits = self.answers(features * features.shape[1] ** 0.5)  # components of size 1
        fact, code = self.questions.fact.to(device), self.questions.code.to(device)
        losses, right = [], {}
        for index, name in enumerate(FACTS):
            answers = fact == index
            true = facts[:, index : index + 1] == code[answers]
            known = true.any(1)
            if answers.sum() < 2:
                continue
            target, asked = true[known].int().argmax(1), logits[known][:, answers]
            weight = self.questions.weight.to(device)[answers]
            total = F.cross_entropy(asked, target, weight, reduction="sum")
            losses.append(total / weight[target].sum().clamp(min=1e-6))
            right[name] = float((asked.argmax(1) == target).float().sum() / max(1, len(asked)))
        return torch.stack(losses).sum() if losses else logits.sum() * 0, right

    def save(self, folder: Path) -> None:
        self.vision.save_pretrained(folder / "image_encoder")
        self.text.save_pretrained(folder / "text_encoder")


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of (B, C) logits against (B, C) target probabilities."""
    return -(target * logits.log_softmax(1)).sum(1).mean()
